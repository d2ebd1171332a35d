//! An engine that serves, and what a disk that runs full makes of it.

use std::time::Duration;

use bytes::Bytes;
use tandem_failover_core::{Desired, Epoch};
use tandem_replication_core::{Role, Slot};
use tandem_sip::{
    config::{CallTimers, Limits, Realm, Route, SipConfig, Target, TargetGroup},
    flow::RealmId,
    transaction::TimerConfig,
};

use crate::{Command, Committed, Engine, Now, Settings};

const TERM: u64 = 7;
const INVITE: &str = "INVITE sip:+4930123@10.0.0.100:5060 SIP/2.0\r\n\
    Via: SIP/2.0/UDP 10.0.1.1:5060;branch=z9hG4bK-1\r\n\
    Max-Forwards: 70\r\n\
    From: <sip:alice@10.0.1.1>;tag=a\r\n\
    To: <sip:+4930123@10.0.0.100>\r\n\
    Call-ID: one\r\n\
    CSeq: 1 INVITE\r\n\
    Contact: <sip:alice@10.0.1.1:5060>\r\n\
    Content-Length: 0\r\n\r\n";

fn now(millis: u64) -> Now {
    Now::new(
        Duration::from_millis(millis),
        Duration::from_secs(1_700_000_000),
    )
}

fn config() -> SipConfig {
    let realm = |id, bound: &str| Realm {
        id: RealmId(id),
        name: format!("realm-{id}"),
        bound: bound.parse().expect("an address"),
        advertised: bound.parse().expect("an address"),
    };
    let target = Target {
        address: "198.51.100.1:5060".parse().expect("an address"),
        priority: 1,
        weight: 1,
    };
    SipConfig {
        realms: vec![realm(0, "10.0.0.100:5060"), realm(1, "10.0.0.100:5070")],
        groups: vec![TargetGroup {
            name: "carrier".to_owned(),
            realm: RealmId(1),
            targets: vec![target],
        }],
        routes: vec![Route {
            from: RealmId(0),
            group: 0,
        }],
        timers: TimerConfig::default(),
        call_timers: CallTimers::default(),
        limits: Limits::default(),
        user_agent: "tandem".to_owned(),
    }
}

fn drain(engine: &mut Engine) -> Vec<Command> {
    engine.flush(Vec::new);
    std::iter::from_fn(|| engine.next_command()).collect()
}

/// Leads, has its owner entry committed, holds a lease.
fn serving() -> Engine {
    let mut engine = Engine::new(Settings {
        slot: Slot::A,
        sip: config(),
        media_ports: vec![20_000..=20_999; 2],
        seed: 1,
    });
    engine.handle_committed(Committed::Role(Role::Leader { term: TERM }), now(0));
    let proposed = drain(&mut engine);
    let Some(Command::Propose { batch, changes }) = proposed
        .into_iter()
        .find(|command| matches!(command, Command::Propose { .. }))
    else {
        panic!("the owner entry is proposed");
    };
    let batch = Some(batch);
    engine.handle_committed(Committed::Applied { batch, changes }, now(1));
    let until = Duration::from_secs(60);
    engine.handle_committed(Committed::Lease { term: TERM, until }, now(2));
    drain(&mut engine);
    assert_eq!(engine.ownership().until, Some(until));
    engine
}

fn invite(engine: &mut Engine, millis: u64) -> Vec<Command> {
    let source = "10.0.1.1:5060".parse().expect("an address");
    engine.handle_datagram(
        RealmId(0),
        source,
        Bytes::from_static(INVITE.as_bytes()),
        now(millis),
    );
    drain(engine)
}

fn refuses(commands: &[Command]) -> bool {
    commands.iter().any(|command| match command {
        Command::Send { bytes, .. } => bytes.starts_with(b"SIP/2.0 503"),
        _ => false,
    })
}

#[test]
fn an_owner_whose_disk_runs_full_hands_over_behind_a_closed_gate() {
    let mut engine = serving();
    engine.handle_disk_low(true, now(10));
    let commands = drain(&mut engine);
    let place = |wanted: &Command| commands.iter().position(|command| command == wanted);
    let closed = place(&Command::CloseGate).expect("the gate closes");
    let asked = place(&Command::Transfer { epoch: Epoch(TERM) }).expect("a transfer");
    assert!(closed < asked && place(&Command::Desire(Desired::Release)).is_some());
    assert_eq!(engine.counters().handed_over_disk_low, 1);
}

#[test]
fn without_a_standby_it_serves_on_and_takes_no_new_calls_until_there_is_room() {
    let mut engine = serving();
    engine.handle_disk_low(false, now(10));
    assert_eq!(drain(&mut engine), []);
    assert!(refuses(&invite(&mut engine, 20)), "503");
    engine.handle_disk_recovered();
    let taken = invite(&mut engine, 30);
    assert!(!refuses(&taken) && !taken.is_empty(), "{taken:?}");
}

/// Or two nodes with full disks would go on handing each other what neither can keep.
#[test]
fn a_standby_whose_disk_is_full_takes_over_and_keeps_what_it_got() {
    let mut engine = Engine::new(Settings {
        slot: Slot::A,
        sip: config(),
        media_ports: vec![20_000..=20_999; 2],
        seed: 1,
    });
    engine.handle_disk_low(true, now(0));
    assert_eq!(drain(&mut engine), []);
    assert_eq!(engine.counters().handed_over_disk_low, 0);
}

//! Records that version 1 wrote into the log, read and served by the code of today.

use std::time::Duration;

use prost::Message as _;
use tandem_golden::{Corpus, wire};

use super::calls::{START, alice, bob, carol, finish, hunting, pair};
use super::media::held;
use crate::cdr::CdrRecord;
use crate::command::{Command, MediaEvent};
use crate::core::Sip;
use crate::phone::{Action, Phone, step};
use crate::record::{CALLEE, CallRecord, Phase};
use crate::testing::{Pool, World, address, config, target};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");

const CALLS: [(&str, Phase); 6] = [
    ("ringing", Phase::Calling),
    ("hunting", Phase::Calling),
    ("answered", Phase::Answered),
    ("established", Phase::Established),
    ("changed", Phase::Established),
    ("ending", Phase::Ended),
];

const CDRS: [&str; 3] = ["completed", "cancelled", "refused"];

/// Messages inside a call record, as field paths: legs, their flows, exchanges, transactions and the machines in them,
/// streams, their sides and their addresses, facts.
const INSIDE: [&[u64]; 12] = [
    &[],
    &[4],
    &[4, 12],
    &[7],
    &[8],
    &[8, 5],
    &[8, 5, 1],
    &[9],
    &[9, 1],
    &[9, 1, 2],
    &[9, 2, 4],
    &[13],
];

fn calls() -> Corpus {
    Corpus::open(format!("{DIRECTORY}/call"))
}

fn cdrs() -> Corpus {
    Corpus::open(format!("{DIRECTORY}/cdr"))
}

fn call(bytes: &[u8]) -> CallRecord {
    CallRecord::from_bytes(bytes).unwrap()
}

/// Audio and video.
fn two_streams(ip: &str) -> String {
    format!(
        "v=0\r\no=x 1 2 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 31\r\n"
    )
}

fn with_video(mut phone: Phone, ip: &str) -> Phone {
    phone.description = Some(two_streams(ip));
    phone
}

/// A call brought into the state that the name says.
fn fresh_call(name: &str) -> Vec<u8> {
    let video = || {
        (
            with_video(alice(), "10.0.0.5"),
            with_video(bob(), "198.51.100.20"),
        )
    };
    let (mut world, until) = match name {
        "ringing" => (pair(alice(), bob()), 1000),
        // The first target has refused, the second one rings.
        "hunting" => (
            hunting(alice(), bob().answers(vec![step(10, 503)]), carol()),
            1000,
        ),
        // Our 2xx is on its way to the caller, its ACK not there.
        "answered" => (pair(alice(), bob()), 2017),
        "established" => {
            let (alice, bob) = video();
            (pair(alice, bob), 5000)
        }
        "changed" => (
            pair(
                alice().when_up(1000, Action::Change(held("10.0.0.5"))),
                bob(),
            ),
            5000,
        ),
        // The BYE has been passed on and is not answered.
        "ending" => (pair(alice().when_up(1000, Action::HangUp), bob()), 3032),
        other => panic!("{other}"),
    };
    world.run_for(Duration::from_millis(until));
    if name == "established" {
        latch(&mut world);
    }
    let mut log = world.log.values();
    let record = log.next().unwrap().to_vec();
    assert!(log.next().is_none(), "one call");
    record
}

fn latch(world: &mut World) {
    let key = *world.log.keys().next().unwrap();
    let source = address("198.51.100.20:4000");
    let event = MediaEvent::Latched {
        key,
        stream: 0,
        leg: CALLEE,
        source,
    };
    world.sip.handle_media(event, world.now);
    let replicated =
        std::iter::from_fn(|| world.sip.next_command()).find_map(|command| match command {
            Command::Replicate { record, .. } => record,
            Command::Send { .. } | Command::Media { .. } | Command::Cdr(_) => None,
        });
    world
        .log
        .insert(key, replicated.expect("a latch is replicated"));
}

#[test]
fn call_records() {
    let check = |name: &str, bytes: &[u8]| {
        let record = call(bytes);
        let (_, phase) = CALLS.into_iter().find(|(known, _)| *known == name).unwrap();
        assert_eq!((record.version, record.phase()), (1, phase), "{name}");
        match name {
            "hunting" => assert_eq!((record.legs.len(), record.callee()), (3, 2)),
            "established" => {
                assert_eq!(record.streams.len(), 2);
                assert!(record.streams[0].callee.latched.is_some());
            }
            "changed" => assert!(!record.streams[0].caller.send, "on hold"),
            _ => {}
        }
        record
    };
    let names = CALLS.map(|(name, _)| name);
    calls().check(&names, fresh_call, check, |_, record| {
        record.to_bytes().to_vec()
    });
}

/// A standby that finds these records in its table takes the calls over and brings each to its end.
#[test]
fn call_records_are_served() {
    for (name, bytes) in calls().samples() {
        let record = call(bytes);
        let key = record.call_key();
        let mut sip = Sip::new(config(vec![target(super::calls::BOB, 1)]), 9);
        let mut pool = Pool {
            size: 100,
            ..Pool::default()
        };
        sip.apply(key, Some(record.clone()), &mut pool);
        let mut now = START + Duration::from_secs(6);
        sip.activate(9);
        assert_eq!(sip.calls(), 1, "{name}");
        let ports = record
            .streams
            .iter()
            .filter(|stream| stream.caller.port != 0)
            .count()
            * 2;
        assert_eq!(
            (pool.taken.len(), sip.counters().port_conflicts),
            (ports, 0),
            "{name}"
        );

        let mut written = usize::from(record.cdr_written);
        for _ in 0..1000 {
            while let Some(command) = sip.next_command() {
                match command {
                    Command::Replicate { sequence, .. } => sip.handle_committed(sequence),
                    Command::Cdr(cdr) => {
                        assert_eq!((cdr.call, cdr.epoch), (key.0, 9), "{name}");
                        written += 1;
                    }
                    Command::Send { .. } | Command::Media { .. } => {}
                }
            }
            let Some((next, _)) = sip.poll_timeout() else {
                break;
            };
            now = now.max(next);
            sip.handle_timeout(now, &mut pool);
        }
        assert_eq!(
            (sip.calls(), written, pool.taken.len()),
            (0, 1, 0),
            "{name} never ends"
        );
    }
}

#[test]
fn call_records_of_a_later_version_are_read() {
    let mut changed = 0;
    for path in INSIDE {
        for (name, bytes) in calls().samples() {
            let later = wire::with_unknown_fields(bytes, path);
            changed += usize::from(later != bytes);
            assert_eq!(call(&later), call(bytes), "{name} {path:?}");
        }
    }
    assert!(
        changed > CALLS.len() * INSIDE.len() / 2,
        "the paths lead somewhere"
    );
}

/// Without the newest fields: those of a record (15), of a leg (22) and of an exchange (15).
#[test]
fn call_records_of_an_earlier_version_are_read() {
    for (name, bytes) in calls().samples() {
        let mut expected = call(bytes);
        expected.cdr_written = false;
        expected.legs.iter_mut().for_each(|leg| leg.forks.clear());
        expected
            .exchanges
            .iter_mut()
            .for_each(|exchange| exchange.streams_before = 0);
        let earlier = wire::without_field(bytes, &[], 15);
        let earlier = wire::without_field(&earlier, &[4], 22);
        let earlier = wire::without_field(&earlier, &[7], 15);
        assert_eq!(call(&earlier), expected, "{name}");
    }
}

fn fresh_cdr(name: &str) -> Vec<u8> {
    let mut world = match name {
        "completed" => pair(alice().when_up(10_000, Action::HangUp), bob()),
        "cancelled" => {
            let alice = alice().plan(START + Duration::from_secs(3), Action::Cancel);
            pair(
                alice,
                bob().answers(vec![step(100, 180), step(60_000, 200)]),
            )
        }
        "refused" => pair(alice(), bob().answers(vec![step(100, 486)])),
        other => panic!("{other}"),
    };
    finish(&mut world).encode_to_vec()
}

#[test]
fn call_detail_records() {
    cdrs().check(
        &CDRS,
        fresh_cdr,
        |_, bytes| CdrRecord::decode(bytes).unwrap(),
        |_, cdr| cdr.encode_to_vec(),
    );
}

#[test]
fn call_detail_records_of_other_versions_are_read() {
    for (name, bytes) in cdrs().samples() {
        let cdr = CdrRecord::decode(bytes).unwrap();
        let later = wire::with_unknown_fields(bytes, &[]);
        assert_eq!(CdrRecord::decode(later.as_slice()).unwrap(), cdr, "{name}");
        let earlier = wire::without_field(bytes, &[], 19);
        let expected = CdrRecord {
            reason: String::new(),
            ..cdr
        };
        assert_eq!(
            CdrRecord::decode(earlier.as_slice()).unwrap(),
            expected,
            "{name}"
        );
    }
}

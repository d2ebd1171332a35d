//! The relay between real sockets.
#![allow(clippy::unwrap_used)]

mod rig;

use rig::{FIRST_PORT, LAST_PORT, Phone, RECEIVER_REPORT, Rig, plan, rig, rig_with, rtp};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};
use tandem_datapath::{Datapath, Gate, MediaEvent, MediaRealm, SessionKey, SetError, boottime};
use tandem_media::{LegPlan, LocalPort, PlanError, RealmNumber, Side, StreamPlan};

const KEY: SessionKey = SessionKey(1);
const IN: u16 = FIRST_PORT;
const OUT: u16 = FIRST_PORT + 50;

/// A call between two phones on the first ports.
fn call(rig: &Rig) -> (Phone, Phone) {
    let (caller, callee) = (rig.phone(), rig.phone());
    let streams = vec![plan((IN, caller.address()), (OUT, callee.address()))];
    rig.datapath.set(KEY, streams).unwrap();
    (caller, callee)
}

/// Sends and receives in bursts, so that batches fill and no receive buffer overflows.
fn talk(phone: &Phone, to: SocketAddr, count: u16) {
    const BURST: u16 = 40;
    for first in (0..count).step_by(BURST.into()) {
        let burst = first..count.min(first + BURST);
        for sequence in burst.clone() {
            phone.send(&rtp(sequence), to);
        }
        for sequence in burst {
            assert_eq!(phone.receive(), (rtp(sequence), to));
        }
    }
}

#[test]
fn a_thousand_packets_each_way_without_loss() {
    for relay_threads in [1, 3] {
        let rig = rig_with(relay_threads);
        let (caller, callee) = call(&rig);
        let (inside, outside) = (rig.inside(IN), rig.outside(OUT));
        thread::scope(|scope| {
            scope.spawn(|| talk(&caller, inside, 1_000));
            scope.spawn(|| talk(&callee, outside, 1_000));
        });
        let statistics = rig.datapath.session(KEY).unwrap();
        for leg in &statistics.streams[0].legs {
            assert_eq!(leg.received.packets, 1_000);
            assert_eq!(leg.sent.packets, 1_000);
            assert_eq!(leg.reception.lost(), 0);
            assert_eq!(leg.drops.total(), 0);
        }
        assert!(rig.datapath.last_activity(KEY).unwrap() <= boottime());
        let stats = rig.datapath.stats();
        assert_eq!(stats.value("tandem_media_sent_packets_total", &[]), 2_000);
        assert_eq!(stats.value("tandem_media_sessions", &[]), 1);
        assert_eq!(
            stats.value("tandem_media_relay_up", &[]),
            relay_threads as u64
        );
    }
}

#[test]
fn rtcp_on_its_own_port_and_multiplexed() {
    let rig = rig();
    let phones = [(); 4].map(|()| rig.phone());
    let [caller, caller_rtcp, callee, callee_rtcp] = &phones;
    let mut stream = plan((IN, caller.address()), (OUT, callee.address()));
    stream.legs[0].remote_rtcp = Some(caller_rtcp.address());
    stream.legs[1].remote_rtcp = Some(callee_rtcp.address());
    rig.datapath.set(KEY, vec![stream.clone()]).unwrap();
    caller_rtcp.send(&RECEIVER_REPORT, rig.inside(IN + 1));
    assert_eq!(
        callee_rtcp.receive(),
        (RECEIVER_REPORT.to_vec(), rig.outside(OUT + 1))
    );

    stream.legs[1].remote_rtcp = Some(callee.address());
    rig.datapath.set(KEY, vec![stream]).unwrap();
    callee.send(&RECEIVER_REPORT, rig.outside(OUT));
    assert_eq!(
        caller_rtcp.receive(),
        (RECEIVER_REPORT.to_vec(), rig.inside(IN + 1))
    );
    caller_rtcp.send(&RECEIVER_REPORT, rig.inside(IN + 1));
    assert_eq!(
        callee.receive(),
        (RECEIVER_REPORT.to_vec(), rig.outside(OUT))
    );
}

/// Contract 1: what may not leave does not leave, and is not kept for later either.
#[test]
fn a_closed_gate_blocks_and_opening_it_releases() {
    let rig = rig();
    let (caller, callee) = call(&rig);
    rig.gate.close();
    for sequence in 0..5 {
        caller.send(&rtp(sequence), rig.inside(IN));
    }
    rig.await_drops("gate_closed", 5);
    callee.assert_silence();
    assert!(
        rig.events.try_recv().is_err(),
        "nothing is learnt while the gate is closed"
    );

    // A lease that has run out is a closed gate.
    rig.gate
        .open_until(u64::try_from(boottime().as_nanos()).unwrap());
    caller.send(&rtp(5), rig.inside(IN));
    rig.await_drops("gate_closed", 6);
    callee.assert_silence();

    rig.gate.open_until(u64::MAX);
    caller.send(&rtp(6), rig.inside(IN));
    assert_eq!(callee.receive().0, rtp(6));
    callee.assert_silence();
}

#[test]
fn a_foreign_source_is_dropped_and_the_latch_is_reported() {
    let rig = rig();
    let (caller, callee) = call(&rig);
    caller.send(&rtp(1), rig.inside(IN));
    assert_eq!(callee.receive().0, rtp(1));
    assert_eq!(
        rig.events.recv_timeout(rig::PATIENCE).unwrap(),
        MediaEvent::Latched {
            key: KEY,
            stream: 0,
            leg: Side::Caller,
            source: caller.address(),
        }
    );
    let stranger = rig.phone();
    stranger.send(&rtp(2), rig.inside(IN));
    rig.await_drops("foreign", 1);
    callee.assert_silence();
    callee.send(&rtp(9), rig.outside(OUT));
    assert_eq!(caller.receive().0, rtp(9));
    stranger.assert_silence();
}

/// The standby binds the floating address before it has it; sending too early is counted and harms nothing.
#[test]
fn sockets_bind_before_the_address_is_here() {
    let here = rig().inside(0).ip();
    let away = ["198.51.100.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let gate = Arc::new(Gate::new());
    gate.open_until(u64::MAX);
    // Below the range from which the kernel gives ports to others, and another one for each process.
    let port = 10_000 + 4 * (process::id() % 5_000) as u16;
    let realms = [here, away[0], away[1]]
        .into_iter()
        .zip(1..)
        .map(|(bind, realm)| MediaRealm {
            realm: RealmNumber(realm),
            bind,
            ports: port..=port + 3,
        })
        .collect();
    let datapath = Datapath::start(realms, gate, |_| {}).unwrap();
    let leg = |realm, port| {
        LegPlan::new(LocalPort {
            realm: RealmNumber(realm),
            port,
        })
    };
    let phone = UdpSocket::bind((here, 0)).unwrap();
    let mut remote = leg(2, port);
    remote.remote_rtp = Some(phone.local_addr().unwrap());
    let streams = vec![
        StreamPlan::rtp(0, [leg(1, port), remote]),
        StreamPlan::rtp(1, [leg(1, port + 2), leg(3, port + 2)]),
    ];
    datapath.set(KEY, streams).unwrap();
    phone.send_to(&rtp(1), (here, port)).unwrap();
    let deadline = Instant::now() + rig::PATIENCE;
    let labels = [("reason", "unreachable")];
    while datapath
        .stats()
        .value("tandem_media_send_errors_total", &labels)
        == 0
    {
        assert!(Instant::now() < deadline, "{:#?}", datapath.stats());
    }
    assert_eq!(datapath.stats().value("tandem_media_relay_up", &[]), 1);
}

#[test]
fn a_port_of_somebody_else_is_named_and_can_be_tried_again() {
    let rig = rig();
    let (caller, callee) = (rig.phone(), rig.phone());
    let streams = vec![plan((IN, caller.address()), (OUT, callee.address()))];
    let squatter = UdpSocket::bind(rig.outside(OUT + 1)).unwrap();
    let error = rig.datapath.set(KEY, streams.clone()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&rig.outside(OUT + 1).to_string()),
        "{error}"
    );
    assert!(matches!(error, SetError::Bind { address, .. } if address == rig.outside(OUT + 1)));
    assert!(rig.datapath.session(KEY).is_none());

    drop(squatter);
    rig.datapath.set(KEY, streams).unwrap();
    caller.send(&rtp(1), rig.inside(IN));
    assert_eq!(callee.receive().0, rtp(1));
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let rig = rig();
    let (caller, callee) = call(&rig);
    let (a, b) = (caller.address(), callee.address());
    let refused = |key, stream| rig.datapath.set(key, vec![stream]).unwrap_err();
    let other = SessionKey(2);

    assert!(matches!(
        refused(other, plan((IN, a), (OUT + 2, b))),
        SetError::Plan(PlanError::PortTaken(LocalPort { port: IN, .. }))
    ));
    assert!(matches!(
        refused(other, plan((LAST_PORT + 1, a), (OUT + 2, b))),
        SetError::OutsideRange(_)
    ));
    let mut unknown = plan((IN + 2, a), (OUT + 2, b));
    unknown.legs[1].port.realm = RealmNumber(9);
    assert!(matches!(refused(other, unknown), SetError::UnknownRealm(_)));

    caller.send(&rtp(1), rig.inside(IN));
    assert_eq!(callee.receive().0, rtp(1));
}

#[test]
fn setting_the_same_again_changes_nothing() {
    let rig = rig();
    let (caller, callee) = call(&rig);
    caller.send(&rtp(1), rig.inside(IN));
    callee.receive();
    for _ in 0..10 {
        let streams = vec![plan((IN, caller.address()), (OUT, callee.address()))];
        rig.datapath.set(KEY, streams).unwrap();
    }
    let statistics = rig.datapath.session(KEY).unwrap();
    assert_eq!(statistics.streams[0].legs[0].received.packets, 1);
    assert_eq!(rig.datapath.stats().value("tandem_media_sockets", &[]), 4);
}

/// Sockets stay bound after a call, and what reaches them between two calls is not delivered to the second.
#[test]
fn a_port_used_again_starts_empty() {
    let rig = rig();
    let (caller, callee) = call(&rig);
    rig.datapath.set(KEY, vec![]).unwrap();
    assert!(rig.datapath.session(KEY).is_none());
    caller.send(&rtp(1), rig.inside(IN));
    rig.await_drops("unknown_port", 1);

    let streams = vec![plan((IN, caller.address()), (OUT, callee.address()))];
    rig.datapath.set(SessionKey(2), streams).unwrap();
    callee.assert_silence();
    caller.send(&rtp(2), rig.inside(IN));
    assert_eq!(callee.receive().0, rtp(2));
    assert_eq!(rig.datapath.stats().value("tandem_media_sockets", &[]), 4);
}

/// A call may get the ports of two that lived on different relay threads; its sockets come together on one.
#[test]
fn sockets_move_to_the_relay_of_their_session() {
    let rig = rig_with(2);
    let (caller, callee) = (rig.phone(), rig.phone());
    let (a, b) = (caller.address(), callee.address());
    for (key, place) in [(SessionKey(0), 0), (SessionKey(1), 2)] {
        rig.datapath
            .set(key, vec![plan((IN + place, a), (OUT + place, b))])
            .unwrap();
    }
    let sockets = |relay| {
        rig.datapath
            .stats()
            .value("tandem_media_sockets", &[("relay", relay)])
    };
    assert_eq!((sockets("0"), sockets("1")), (4, 4));
    rig.datapath.remove(SessionKey(0));
    rig.datapath.remove(SessionKey(1));

    rig.datapath
        .set(SessionKey(2), vec![plan((IN, a), (OUT + 2, b))])
        .unwrap();
    assert_eq!((sockets("0"), sockets("1")), (6, 2));
    caller.send(&rtp(1), rig.inside(IN));
    assert_eq!(callee.receive(), (rtp(1), rig.outside(OUT + 2)));
    callee.send(&rtp(2), rig.outside(OUT + 2));
    assert_eq!(caller.receive(), (rtp(2), rig.inside(IN)));
}

/// Calls come and go on one set of ports while phones keep sending; sockets wander between the relay threads.
#[test]
fn sessions_change_under_traffic() {
    let rig = rig_with(2);
    let phones = [(); 4].map(|()| rig.phone());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (phone, port) in phones.iter().zip([IN, IN + 2, IN + 1, IN + 3]) {
            let (stop, to) = (&stop, rig.inside(port));
            scope.spawn(move || {
                for sequence in 0..=u16::MAX {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    phone.send(&rtp(sequence), to);
                    phone.send(&RECEIVER_REPORT, to);
                }
            });
        }
        for round in 0..200u64 {
            // The ports of a call differ from round to round, and so do the relays of its sockets.
            let out = OUT + 2 * (round % 7) as u16;
            let [a, b, c, d] = phones.each_ref().map(Phone::address);
            let one = plan((IN, a), (out, b));
            let mut two = plan((IN + 2, c), (out + 20, d));
            two.index = 1;
            let (first, second) = (SessionKey(round), SessionKey(round + 1_000));
            rig.datapath.set(first, vec![one.clone()]).unwrap();
            rig.datapath.set(second, vec![two.clone()]).unwrap();
            rig.datapath.remove(second);
            rig.datapath.set(first, vec![one, two]).unwrap();
            assert_eq!(rig.datapath.session(first).unwrap().streams.len(), 2);
            rig.datapath.remove(first);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.datapath.stats().value("tandem_media_sessions", &[]), 0);

    // With a latch from the start: the sockets may still hold packets of the phones before.
    let (caller, callee) = (rig.phone(), rig.phone());
    let mut last = plan((IN, caller.address()), (OUT, callee.address()));
    last.legs[0].latched = Some(caller.address());
    rig.datapath.set(KEY, vec![last]).unwrap();
    caller.send(&rtp(1), rig.inside(IN));
    assert_eq!(callee.receive().0, rtp(1));
}

#[test]
fn dropping_the_data_path_closes_its_sockets() {
    let rig = rig();
    call(&rig);
    let address = rig.inside(IN);
    assert!(UdpSocket::bind(address).is_err());
    drop(rig);
    UdpSocket::bind(address).unwrap();
}

#[test]
fn realms_are_checked_at_the_start() {
    let realm = |ports| MediaRealm {
        realm: RealmNumber(1),
        bind: "127.0.0.1".parse().unwrap(),
        ports,
    };
    let start = |realms| Datapath::start(realms, Arc::new(Gate::new()), |_| {});
    #[expect(clippy::reversed_empty_ranges, reason = "the mistake under test")]
    let empty = 2..=1;
    assert!(start(vec![realm(empty)]).is_err());
    assert!(start(vec![realm(2..=3), realm(2..=3)]).is_err());
}

//! Where packets go: latching, RTCP, hold, raw streams and changed plans, seen from outside.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    CALLEE, CALLEE_PORT, CALLER, CALLER_PORT, NAT, STRANGER, address, leg, plan, port,
    receiver_report, rtp,
};
use std::{net::SocketAddr, time::Duration};
use tandem_media::{
    DropReason, Event, LegPlan, LocalPort, MAX_PENDING_EVENTS, MAX_STREAMS, PlanError, SETTLE,
    SessionKey, Sessions, Side, StreamKind, StreamPlan, Verdict,
};

const KEY: SessionKey = SessionKey(7);
const START: Duration = Duration::from_secs(100);

fn sessions(plan: StreamPlan) -> Sessions {
    let mut sessions = Sessions::new();
    sessions.set(KEY, vec![plan]).unwrap();
    sessions
}

fn forward(from: u16, to: &str) -> Verdict {
    Verdict::Forward {
        from: port(from),
        to: address(to),
    }
}

fn send(sessions: &mut Sessions, to: u16, source: &str, packet: &[u8], after: Duration) -> Verdict {
    sessions.handle_packet(port(to), address(source), packet, START + after)
}

fn media(sessions: &mut Sessions, to: u16, source: &str) -> Verdict {
    send(sessions, to, source, &rtp(1), Duration::ZERO)
}

fn latched(leg: Side, source: &str) -> Option<Event> {
    Some(Event::Latched {
        key: KEY,
        stream: 0,
        leg,
        source: address(source),
    })
}

#[test]
fn media_crosses_to_the_signalled_addresses() {
    let mut sessions = sessions(plan());
    assert_eq!(
        media(&mut sessions, CALLER_PORT, CALLER),
        forward(CALLEE_PORT, CALLEE)
    );
    assert_eq!(
        media(&mut sessions, CALLEE_PORT, CALLEE),
        forward(CALLER_PORT, CALLER)
    );
    assert_eq!(sessions.next_event(), latched(Side::Caller, CALLER));
    assert_eq!(sessions.next_event(), latched(Side::Callee, CALLEE));
    assert_eq!(sessions.next_event(), None);
    assert_eq!(sessions.last_activity(KEY), Some(START));
}

/// RFC 7362: a phone behind NAT is answered where its packets come from, and after the lock nobody else is heard.
#[test]
fn a_phone_behind_nat_is_latched_and_then_locked() {
    let mut sessions = sessions(plan());
    assert_eq!(
        media(&mut sessions, CALLER_PORT, NAT),
        forward(CALLEE_PORT, CALLEE)
    );
    assert_eq!(
        media(&mut sessions, CALLEE_PORT, CALLEE),
        forward(CALLER_PORT, NAT)
    );
    assert_eq!(sessions.next_event(), latched(Side::Callee, CALLEE));
    assert_eq!(
        sessions.next_event(),
        None,
        "a provisional latch is not reported"
    );
    assert_eq!(
        send(&mut sessions, CALLER_PORT, NAT, &rtp(2), SETTLE),
        forward(CALLEE_PORT, CALLEE)
    );
    assert_eq!(sessions.next_event(), latched(Side::Caller, NAT));
    for source in [CALLER, STRANGER] {
        assert_eq!(
            send(&mut sessions, CALLER_PORT, source, &rtp(3), SETTLE),
            Verdict::Drop(DropReason::Foreign)
        );
    }
    let legs = &sessions.statistics(KEY).unwrap().streams[0].legs;
    assert_eq!(legs[0].drops.of(DropReason::Foreign), 2);
    assert_eq!(legs[0].source, Some(address(NAT)));
}

#[test]
fn the_signalled_address_takes_a_provisional_latch_back() {
    let mut sessions = sessions(plan());
    media(&mut sessions, CALLER_PORT, STRANGER);
    assert_eq!(
        media(&mut sessions, CALLER_PORT, CALLER),
        forward(CALLEE_PORT, CALLEE)
    );
    assert_eq!(
        send(&mut sessions, CALLER_PORT, STRANGER, &rtp(2), SETTLE * 2),
        Verdict::Drop(DropReason::Foreign)
    );
    assert_eq!(
        media(&mut sessions, CALLEE_PORT, CALLEE),
        forward(CALLER_PORT, CALLER)
    );
}

#[test]
fn a_replicated_latch_is_locked_from_the_start() {
    let mut replicated = plan();
    replicated.legs[0].latched = Some(address(NAT));
    let mut sessions = sessions(replicated);
    assert_eq!(
        media(&mut sessions, CALLEE_PORT, CALLEE),
        forward(CALLER_PORT, NAT)
    );
    assert_eq!(
        media(&mut sessions, CALLER_PORT, CALLER),
        Verdict::Drop(DropReason::Foreign)
    );
    assert_eq!(
        media(&mut sessions, CALLER_PORT, NAT),
        forward(CALLEE_PORT, CALLEE)
    );
    assert_eq!(sessions.next_event(), latched(Side::Callee, CALLEE));
    assert_eq!(sessions.next_event(), None, "signalling knows that one");
}

#[test]
fn plans_against_a_lock() {
    let with = |remote: &str, latched: Option<&str>| {
        let mut changed = plan();
        changed.legs[0].remote_rtp = Some(address(remote));
        changed.legs[0].latched = latched.map(address);
        changed
    };
    // (second plan, third plan, where media for the caller goes then)
    let table = [
        ("nothing new", with(CALLER, None), with(CALLER, None), NAT),
        (
            "confirmed",
            with(CALLER, Some(NAT)),
            with(CALLER, Some(NAT)),
            NAT,
        ),
        (
            "moved",
            with(STRANGER, None),
            with(STRANGER, None),
            STRANGER,
        ),
        (
            "moved, the lock is the old one's",
            with(CALLER, Some(NAT)),
            with(STRANGER, Some(NAT)),
            STRANGER,
        ),
        (
            "moved, with a lock of its own",
            with(CALLER, None),
            with(CALLER_2, Some(STRANGER)),
            STRANGER,
        ),
        (
            "another lock",
            with(CALLER, None),
            with(CALLER, Some(STRANGER)),
            STRANGER,
        ),
        (
            "lock withdrawn",
            with(CALLER, Some(NAT)),
            with(CALLER, None),
            CALLER,
        ),
    ];
    for (name, second, third, expected) in table {
        let mut sessions = sessions(plan());
        media(&mut sessions, CALLER_PORT, NAT);
        send(&mut sessions, CALLER_PORT, NAT, &rtp(2), SETTLE);
        sessions.set(KEY, vec![second]).unwrap();
        sessions.set(KEY, vec![third]).unwrap();
        assert_eq!(
            media(&mut sessions, CALLEE_PORT, CALLEE),
            forward(CALLER_PORT, expected),
            "{name}"
        );
    }
}

const CALLER_2: &str = "192.0.2.11:4100";

#[test]
fn rtcp_goes_from_port_to_port_and_by_default_one_above_the_media() {
    let mut sessions = sessions(plan());
    let report = receiver_report();
    let now = Duration::ZERO;
    assert_eq!(
        send(
            &mut sessions,
            CALLER_PORT + 1,
            "192.0.2.10:4001",
            &report,
            now
        ),
        forward(CALLEE_PORT + 1, "198.51.100.20:6001")
    );
    let mut elsewhere = plan();
    elsewhere.legs[1].remote_rtcp = Some(address(STRANGER));
    sessions.set(KEY, vec![elsewhere]).unwrap();
    assert_eq!(
        send(
            &mut sessions,
            CALLER_PORT + 1,
            "192.0.2.10:4001",
            &report,
            now
        ),
        forward(CALLEE_PORT + 1, STRANGER)
    );
}

/// RTCP follows the media through a NAT, from the same host only.
#[test]
fn rtcp_latches_on_the_host_of_the_media() {
    let mut sessions = sessions(plan());
    let (report, now) = (receiver_report(), Duration::ZERO);
    let nat_rtcp = "203.0.113.5:40123";
    assert_eq!(
        send(&mut sessions, CALLER_PORT + 1, nat_rtcp, &report, now),
        Verdict::Drop(DropReason::Foreign),
        "RTCP alone opens nothing"
    );
    media(&mut sessions, CALLER_PORT, NAT);
    assert_eq!(
        send(&mut sessions, CALLER_PORT + 1, nat_rtcp, &report, now),
        forward(CALLEE_PORT + 1, "198.51.100.20:6001")
    );
    assert_eq!(
        send(&mut sessions, CALLER_PORT + 1, STRANGER, &report, now),
        Verdict::Drop(DropReason::Foreign)
    );
    assert_eq!(
        send(
            &mut sessions,
            CALLEE_PORT + 1,
            "198.51.100.20:6001",
            &report,
            now
        ),
        forward(CALLER_PORT + 1, nat_rtcp)
    );
}

/// RFC 5761: the caller multiplexes, the callee does not.
#[test]
fn multiplexed_rtcp_finds_its_port() {
    let mut muxed = plan();
    muxed.legs[0].remote_rtcp = muxed.legs[0].remote_rtp;
    let mut sessions = sessions(muxed);
    let (report, now) = (receiver_report(), Duration::ZERO);
    assert_eq!(
        send(&mut sessions, CALLER_PORT, CALLER, &report, now),
        forward(CALLEE_PORT + 1, "198.51.100.20:6001")
    );
    assert_eq!(
        send(
            &mut sessions,
            CALLEE_PORT + 1,
            "198.51.100.20:6001",
            &report,
            now
        ),
        forward(CALLER_PORT, CALLER)
    );
    assert_eq!(
        send(&mut sessions, CALLER_PORT, STRANGER, &report, now),
        Verdict::Drop(DropReason::Foreign),
        "RTCP does not latch"
    );
}

#[test]
fn hold_stops_media_and_lets_rtcp_pass() {
    let mut held = plan();
    held.legs[0].receive = false;
    held.legs[0].send = false;
    let mut sessions = sessions(held);
    assert_eq!(
        media(&mut sessions, CALLER_PORT, CALLER),
        Verdict::Drop(DropReason::NotReceiving)
    );
    assert_eq!(
        media(&mut sessions, CALLEE_PORT, CALLEE),
        Verdict::Drop(DropReason::NotSending)
    );
    let report = receiver_report();
    assert_eq!(
        send(
            &mut sessions,
            CALLER_PORT + 1,
            "192.0.2.10:4001",
            &report,
            Duration::ZERO
        ),
        forward(CALLEE_PORT + 1, "198.51.100.20:6001")
    );
    assert_eq!(
        send(
            &mut sessions,
            CALLEE_PORT + 1,
            "198.51.100.20:6001",
            &report,
            Duration::ZERO
        ),
        forward(CALLER_PORT + 1, "192.0.2.10:4001")
    );
}

#[test]
fn what_is_not_media_is_counted_by_kind() {
    let mut sessions = sessions(plan());
    let table: [(u16, &[u8], DropReason); 6] = [
        (CALLER_PORT, &[0, 1, 0, 0], DropReason::Stun),
        (CALLER_PORT, &[22, 254, 253], DropReason::Dtls),
        (CALLER_PORT, b"OPTIONS sip:", DropReason::Unknown),
        (CALLER_PORT, &[0x80, 0, 0], DropReason::Malformed),
        (CALLER_PORT + 1, &rtp(1), DropReason::WrongPort),
        (CALLER_PORT + 2, &rtp(1), DropReason::UnknownPort),
    ];
    for (to, packet, reason) in table {
        assert_eq!(
            send(&mut sessions, to, CALLER, packet, Duration::ZERO),
            Verdict::Drop(reason)
        );
        assert_eq!(sessions.totals().drops.of(reason), 1, "{reason:?}");
    }
    assert_eq!(sessions.totals().drops.total(), 6);
    assert_eq!(sessions.last_activity(KEY), None, "garbage is no activity");
    assert_eq!(
        media(&mut sessions, CALLEE_PORT, CALLEE),
        forward(CALLER_PORT, CALLER),
        "garbage does not latch"
    );
}

#[test]
fn nothing_is_sent_before_the_peer_is_known() {
    let callee = LegPlan::new(port(CALLEE_PORT));
    let mut sessions = sessions(StreamPlan::rtp(0, [leg(CALLER_PORT, CALLER), callee]));
    assert_eq!(
        media(&mut sessions, CALLER_PORT, CALLER),
        Verdict::Drop(DropReason::NoDestination)
    );
    assert_eq!(
        media(&mut sessions, CALLEE_PORT, CALLEE),
        forward(CALLER_PORT, CALLER)
    );
    assert_eq!(
        media(&mut sessions, CALLER_PORT, CALLER),
        forward(CALLEE_PORT, CALLEE)
    );
}

/// T.38: UDPTL starts with any byte, so nothing is looked into.
#[test]
fn raw_streams_pass_as_they_are() {
    let mut fax = plan();
    fax.kind = StreamKind::Raw;
    let mut sessions = sessions(fax);
    for packet in [&[0u8, 1, 2, 3][..], &[22], &[0x80]] {
        assert_eq!(
            send(&mut sessions, CALLER_PORT, CALLER, packet, Duration::ZERO),
            forward(CALLEE_PORT, CALLEE)
        );
    }
    assert_eq!(
        send(&mut sessions, CALLER_PORT + 1, CALLER, &[0], Duration::ZERO),
        Verdict::Drop(DropReason::WrongPort)
    );
    assert_eq!(
        send(&mut sessions, CALLER_PORT, CALLER, &[], Duration::ZERO),
        Verdict::Drop(DropReason::Malformed)
    );
}

#[test]
fn statistics_count_each_way() {
    let mut sessions = sessions(plan());
    for sequence in [1, 2, 4] {
        let at = Duration::from_millis(20) * u32::from(sequence);
        send(&mut sessions, CALLER_PORT, CALLER, &rtp(sequence), at);
    }
    let statistics = sessions.statistics(KEY).unwrap();
    let [caller, callee] = &statistics.streams[0].legs;
    assert_eq!(
        (caller.received.packets, caller.received.bytes),
        (3, 3 * 172)
    );
    assert_eq!((callee.sent.packets, callee.sent.bytes), (3, 3 * 172));
    assert_eq!((caller.sent.packets, callee.received.packets), (0, 0));
    assert_eq!(caller.reception.lost(), 1);
    assert_eq!(caller.reception.jitter(), Duration::ZERO);
    assert_eq!(
        statistics.last_activity,
        Some(START + Duration::from_millis(80))
    );
    assert_eq!(sessions.statistics(SessionKey(8)), None);
}

#[test]
fn a_changed_plan_keeps_what_was_learnt_and_ends_what_is_gone() {
    let mut sessions = Sessions::new();
    let mut second = StreamPlan::rtp(1, [leg(30_000, CALLER_2), leg(30_002, CALLEE)]);
    sessions.set(KEY, vec![plan(), second.clone()]).unwrap();
    media(&mut sessions, CALLER_PORT, CALLER);
    media(&mut sessions, 30_000, CALLER_2);

    second.legs[0].port = port(30_004);
    sessions.set(KEY, vec![second]).unwrap();
    for gone in [CALLER_PORT, CALLER_PORT + 1, CALLEE_PORT, 30_000, 30_001] {
        assert_eq!(
            media(&mut sessions, gone, CALLER),
            Verdict::Drop(DropReason::UnknownPort),
            "{gone}"
        );
    }
    assert_eq!(
        media(&mut sessions, 30_004, CALLER_2),
        forward(30_002, CALLEE)
    );
    let statistics = sessions.statistics(KEY).unwrap();
    assert_eq!(statistics.streams.len(), 1);
    assert_eq!(statistics.streams[0].legs[0].received.packets, 2);

    sessions.remove(KEY);
    assert!(sessions.is_empty());
    assert_eq!(
        media(&mut sessions, 30_004, CALLER_2),
        Verdict::Drop(DropReason::UnknownPort)
    );
}

#[test]
fn refused_plans_change_nothing() {
    let mut sessions = sessions(plan());
    let other = SessionKey(8);
    let mut odd = plan();
    odd.legs[0].port = LocalPort {
        port: 20_001,
        ..port(0)
    };
    let mut twice = plan();
    twice.legs[1].port = twice.legs[0].port;
    let many = (0..=MAX_STREAMS as u16)
        .map(|n| {
            StreamPlan::rtp(
                n,
                [leg(40_000 + 4 * n, CALLER), leg(40_002 + 4 * n, CALLEE)],
            )
        })
        .collect();
    let table = [
        (other, vec![plan()], PlanError::PortTaken(port(CALLER_PORT))),
        (KEY, vec![odd], PlanError::NotAMediaPort(port(20_001))),
        (KEY, vec![twice], PlanError::PortTaken(port(CALLER_PORT))),
        (KEY, vec![plan(), plan()], PlanError::DuplicateStream(0)),
        (KEY, many, PlanError::TooManyStreams(MAX_STREAMS + 1)),
    ];
    for (key, streams, error) in table {
        assert_eq!(sessions.set(key, streams), Err(error));
        assert_eq!(sessions.len(), 1);
        assert_eq!(
            media(&mut sessions, CALLER_PORT, CALLER),
            forward(CALLEE_PORT, CALLEE)
        );
    }
}

/// At the bound an event waits with its leg instead of being lost.
#[test]
fn events_beyond_the_bound_come_later() {
    let mut sessions = Sessions::new();
    let caller: SocketAddr = address(CALLER);
    let local = |n: u16| port(2 + 4 * n);
    let count = MAX_PENDING_EVENTS as u16 + 1;
    for n in 0..count {
        let legs = [leg(2 + 4 * n, CALLER), leg(4 + 4 * n, CALLEE)];
        let key = SessionKey(u64::from(n));
        sessions.set(key, vec![StreamPlan::rtp(0, legs)]).unwrap();
        sessions.handle_packet(local(n), caller, &rtp(1), START);
    }
    assert_eq!(sessions.totals().events_deferred, 1);
    assert_eq!(
        std::iter::from_fn(|| sessions.next_event()).count(),
        MAX_PENDING_EVENTS
    );
    sessions.handle_packet(local(count - 1), caller, &rtp(2), START);
    let Some(Event::Latched { key, .. }) = sessions.next_event() else {
        panic!("the deferred event");
    };
    assert_eq!(key, SessionKey(u64::from(count - 1)));
}

//! Contract: no packet ever goes to an address that was neither signalled nor latched.
//!
//! A model that only remembers who was named and who sent valid packets where runs beside the sessions, through
//! arbitrary sequences of plans and packets. Proven once: latching before a packet is validated makes it fail, and so
//! does keeping a latch when signalling moves the peer.

mod common;

use common::{port, receiver_report, rtp};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};
use tandem_media::{LegPlan, SessionKey, Sessions, StreamKind, StreamPlan, Verdict};

const SESSIONS: u16 = 3;

/// Hosts with a few ports each, so that sources meet signalled addresses often.
fn peer() -> impl Strategy<Value = SocketAddr> {
    (1u8..4, 4_000u16..4_004).prop_map(|(host, port)| SocketAddr::from(([192, 0, 2, host], port)))
}

fn leg() -> impl Strategy<Value = LegPlan> {
    let remote = || proptest::option::of(peer());
    (
        remote(),
        remote(),
        any::<bool>(),
        remote(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(remote_rtp, rtcp, mux, latched, send, receive)| LegPlan {
            remote_rtp,
            remote_rtcp: if mux { remote_rtp } else { rtcp },
            latched,
            send,
            receive,
            ..LegPlan::new(port(0))
        })
}

#[derive(Clone, Debug)]
enum Step {
    Set(u16, [LegPlan; 2], bool),
    Remove(u16),
    Packet {
        session: u16,
        offset: u16,
        source: SocketAddr,
        packet: Vec<u8>,
    },
    Wait(u64),
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => any::<u16>().prop_map(rtp),
        2 => Just(receiver_report()),
        1 => proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..SESSIONS, [leg(), leg()], proptest::bool::weighted(0.2)).prop_map(|(s, l, raw)| Step::Set(s, l, raw)),
        1 => (0..SESSIONS).prop_map(Step::Remove),
        12 => (0..SESSIONS, 0u16..5, peer(), packet()).prop_map(|(session, offset, source, packet)| {
            Step::Packet { session, offset, source, packet }
        }),
        2 => (0u64..1_500).prop_map(Step::Wait),
    ]
}

/// What the model knows of a leg.
#[derive(Clone, Default)]
struct Peer {
    signalled: BTreeSet<SocketAddr>,
    /// Sources of packets that may have latched, and latches that signalling brought.
    sources: BTreeSet<SocketAddr>,
    sending: bool,
    receiving: bool,
    remote_rtp: Option<SocketAddr>,
}

impl Peer {
    fn plan(&mut self, leg: &LegPlan) {
        if self.remote_rtp != leg.remote_rtp {
            self.sources.clear();
        }
        self.remote_rtp = leg.remote_rtp;
        self.sources.extend(leg.latched);
        self.signalled = leg
            .remote_rtp
            .into_iter()
            .chain(leg.rtcp_address())
            .collect();
        (self.sending, self.receiving) = (leg.send, leg.receive);
    }
}

proptest! {
    #[test]
    fn packets_go_to_known_peers_only(steps in proptest::collection::vec(step(), 1..120)) {
        let mut sessions = Sessions::new();
        let mut model: BTreeMap<u16, ([Peer; 2], bool)> = BTreeMap::new();
        let mut now = Duration::from_secs(10);
        for step in steps {
            match step {
                Step::Set(session, mut legs, raw) => {
                    let base = 20_000 + 4 * session;
                    for (leg, offset) in legs.iter_mut().zip([0, 2]) {
                        leg.port = port(base + offset);
                    }
                    let (peers, kind) = model.entry(session).or_default();
                    *kind = raw;
                    for (peer, leg) in peers.iter_mut().zip(&legs) {
                        peer.plan(leg);
                    }
                    let mut plan = StreamPlan::rtp(0, legs);
                    if raw {
                        plan.kind = StreamKind::Raw;
                    }
                    sessions.set(SessionKey(session.into()), vec![plan]).expect("ports do not overlap");
                }
                Step::Remove(session) => {
                    model.remove(&session);
                    sessions.remove(SessionKey(session.into()));
                }
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::Packet { session, offset, source, packet } => {
                    let base = 20_000 + 4 * session;
                    let local = port(base + offset);
                    let verdict = sessions.handle_packet(local, source, &packet, now);
                    let session = session + offset / 4;
                    let base = base + offset / 4 * 4;
                    let side = usize::from(offset % 4 / 2);
                    let Some((peers, raw)) = model.get_mut(&session) else {
                        assert!(matches!(verdict, Verdict::Drop(_)));
                        continue;
                    };
                    let version_two = packet.first().is_some_and(|first| first >> 6 == 2);
                    let rtcp = version_two && matches!(packet.get(1), Some(192..=223)) && !*raw;
                    if version_two && packet.len() >= 8 || *raw {
                        peers[side].sources.insert(source);
                    }
                    let Verdict::Forward { from, to } = verdict else { continue };
                    let other = &peers[1 - side];
                    let across = base + 2 * (1 - side as u16);
                    assert_eq!(from.port & !1, across, "from a port of the other leg");
                    assert!(
                        other.signalled.contains(&to) || other.sources.contains(&to),
                        "{to} was neither signalled nor latched"
                    );
                    assert!(*raw || version_two, "neither RTP nor RTCP");
                    assert!(rtcp || other.sending && peers[side].receiving, "media on hold");
                }
            }
        }
    }

    #[test]
    fn arbitrary_packets_never_panic(
        packets in proptest::collection::vec(
            (19_999u16..20_006, peer(), proptest::collection::vec(any::<u8>(), 0..100), any::<u64>()),
            0..60,
        ),
    ) {
        let mut sessions = Sessions::new();
        let legs = [LegPlan::new(port(20_000)), LegPlan::new(port(20_002))];
        sessions.set(SessionKey(1), vec![StreamPlan::rtp(0, legs)]).expect("a valid plan");
        let count = packets.len() as u64;
        for (local, source, mut packet, nanos) in packets {
            // Half of them as version 2, which is where parsing goes deeper.
            if nanos % 2 == 0 && let Some(first) = packet.first_mut() {
                *first = *first & 0x3f | 0x80;
            }
            sessions.handle_packet(port(local), source, &packet, Duration::from_nanos(nanos));
        }
        let totals = sessions.totals();
        assert_eq!(totals.forwarded.packets + totals.drops.total(), count);
    }
}

//! Traffic of real calls, damaged and in any order: nothing panics, every record keeps its invariants (checked after
//! each step in debug builds), and no table outgrows its bound.

use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::{Strategy, any, prop_assert, proptest};
use proptest::sample::Index;

use super::calls::{BOB, alice, bob, carol, finish, hunting, pair};
use crate::core::Sip;
use crate::flow::RealmId;
use crate::phone::{Action, step};
use crate::record::CallRecord;
use crate::testing::{Pool, config, target};
use crate::time::Timestamp;

/// A datagram of the traffic, how it is damaged, and how long after the one before it comes.
#[derive(Clone, Debug)]
struct Blow {
    which: Index,
    damage: Vec<(Index, u8)>,
    cut: Option<Index>,
    pause: u16,
}

fn blow() -> impl Strategy<Value = Blow> {
    let damage = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3);
    (
        any::<Index>(),
        damage,
        proptest::option::weighted(0.05, any::<Index>()),
        any::<u16>(),
    )
        .prop_map(|(which, damage, cut, pause)| Blow {
            which,
            damage,
            cut,
            pause,
        })
}

fn traffic() -> Vec<(RealmId, SocketAddr, Bytes)> {
    let mut call = pair(
        alice()
            .when_up(500, Action::Info)
            .when_up(1000, Action::Change(super::media::held("10.0.0.5")))
            .when_up(3000, Action::HangUp),
        bob(),
    );
    finish(&mut call);
    let mut refused = hunting(
        alice(),
        bob().answers(vec![step(10, 503)]),
        carol().answers(vec![step(10, 486)]),
    );
    finish(&mut refused);
    call.received.into_iter().chain(refused.received).collect()
}

proptest! {
    #[test]
    fn damaged_traffic_is_survived(blows in proptest::collection::vec(blow(), 1..60), seed in any::<u64>()) {
        let traffic = traffic();
        // The same seed as in the harness makes our tags and branches those of the recorded traffic.
        let mut settings = config(vec![target(BOB, 1)]);
        settings.limits.calls = 3;
        let mut sip = Sip::new(settings, if seed % 2 == 0 { 1 } else { seed });
        let mut pool = Pool { size: 20, ..Pool::default() };
        let mut now = Timestamp(1_700_000_000_000);
        sip.activate(1);
        for blow in blows {
            let (realm, source, bytes) = blow.which.get(&traffic);
            let mut bytes = bytes.to_vec();
            for (place, value) in &blow.damage {
                let place = place.index(bytes.len());
                bytes[place] = *value;
            }
            if let Some(cut) = blow.cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            now = Timestamp(now.0 + u64::from(blow.pause));
            sip.handle_timeout(now, &mut pool);
            sip.handle_datagram(*realm, *source, Bytes::from(bytes), now, &mut pool);
            while sip.next_command().is_some() {}
            prop_assert!(sip.calls() <= 3);
        }
    }

    #[test]
    fn a_damaged_record_never_panics(damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..8)) {
        let mut world = pair(alice(), bob());
        world.run_for(std::time::Duration::from_secs(5));
        let (key, bytes) = world.log.pop_first().unwrap();
        let mut bytes = bytes.to_vec();
        for (place, value) in &damage {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
        // What the log checks is not checked again: a record that decodes is served as far as it makes sense.
        if let Ok(record) = CallRecord::from_bytes(&bytes) {
            let mut sip = Sip::new(world.config.clone(), 9);
            sip.apply(key, Some(record), &mut Pool { size: 20, ..Pool::default() });
            prop_assert!(sip.calls() == 1);
        }
    }
}

//! How long a takeover and a transfer take, and who may propose.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::{A, B, Conditions, WITNESS, World, ms};
use crate::{Profile, ProposeError, TransferError};

/// Elects `a`, lets everybody catch up.
pub(super) fn settled(seed: u64, conditions: Conditions) -> World {
    let mut world = World::new(seed, conditions);
    let elected = world.run_until(ms(600), |world| world.serving().is_some());
    assert!(elected.is_some(), "seed {seed}: nobody was elected");
    // Past everybody's refusal of votes after start.
    world.run_for(ms(150));
    if !world.is_serving(A) {
        world.transfer(B, A).unwrap();
        world
            .run_until(ms(100), |world| world.is_serving(A))
            .unwrap();
    }
    for _ in 0..10 {
        world.propose(A, 100).unwrap();
        world.run_for(ms(5));
    }
    world.run_for(ms(30));
    world
}

pub(super) fn assert_sound(world: &World) {
    assert!(
        world.invariants.violations.is_empty(),
        "seed {}: {:?}",
        world.seed,
        world.invariants.violations
    );
}

pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// From the crash to the lease, either way round. `a` stands earlier than `b`, often before the witness
/// has given up the old leader: then the retried pre-vote is what decides.
#[test]
fn a_crash_is_taken_over_within_bounds() {
    for (profile, median, slowest) in [
        (Profile::Standard, 120, 140),
        (Profile::Fast, 62, 75),
        (Profile::Turbo, 28, 35),
    ] {
        let (p50, p99) = takeover_times(profile);
        eprintln!("takeover after a crash, {profile:?} profile: p50 {p50:?}, p99 {p99:?}");
        assert!(p50 <= ms(median), "{profile:?}: {p50:?}");
        assert!(p99 <= ms(slowest), "{profile:?}: {p99:?}");
    }
}

fn takeover_times(profile: Profile) -> (Duration, Duration) {
    let mut times: Vec<_> = (0..100)
        .map(|seed| {
            let conditions = Conditions {
                profile,
                ..Conditions::default()
            };
            let mut world = settled(seed, conditions);
            let (active, standby) = if seed % 2 == 0 { (A, B) } else { (B, A) };
            if active == B {
                world.transfer(A, B).unwrap();
                world.run_for(ms(100));
            }
            world.run_for(Duration::from_micros(seed * 101));
            world.crash(active);
            let took = world.run_until(ms(1000), |world| world.is_serving(standby));
            assert_sound(&world);
            took.unwrap()
        })
        .collect();
    times.sort();
    (percentile(&times, 50), percentile(&times, 99))
}

#[test]
fn followers_and_the_witness_refuse_proposals() {
    let mut world = settled(5, Conditions::default());
    let leader = Some(World::id(A));
    for follower in [B, WITNESS] {
        assert_eq!(
            world.propose(follower, 1),
            Err(ProposeError::NotLeader { leader })
        );
    }
    assert_sound(&world);
}

#[test]
fn a_transfer_drops_the_lease_first_and_takes_milliseconds() {
    for seed in 0..30 {
        let mut world = settled(seed, Conditions::default());
        world.propose(A, 100).unwrap();
        world.transfer(A, B).unwrap();
        assert_eq!(world.serving(), None, "dropped before anything is sent");
        assert_eq!(world.propose(A, 1), Err(ProposeError::Transferring));
        assert_eq!(world.transfer(A, B), Err(TransferError::Pending));
        let took = world
            .run_until(ms(200), |world| world.is_serving(B))
            .unwrap();
        assert!(took <= ms(25), "seed {seed}: {took:?}");
        world.run_for(ms(100));
        assert_eq!(
            world.invariants.acknowledged.len(),
            11,
            "accepted before, so committed"
        );
        assert_sound(&world);
    }
}

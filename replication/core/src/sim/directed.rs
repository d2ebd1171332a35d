//! Scenarios that random schedules rarely reach, each with the rule it proves.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::{A, B, Conditions, WITNESS, World, ms};
use crate::{Limits, Profile, ProposeError, Role, TransferError};

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

/// The witness answers the active's heartbeat, crashes and is back at once, cut off from the active.
/// The standby, which has long stopped hearing the active, asks it for a vote.
fn restarted_witness(seed: u64, forgets_promise: bool) -> World {
    let mut world = settled(
        seed,
        Conditions {
            forgets_promise,
            ..Conditions::default()
        },
    );
    world.cut(A, B);
    world.run_for(ms(150 + seed % 20));
    assert!(world.is_serving(A), "the witness keeps the active alive");
    world.crash(WITNESS);
    world.cut(A, WITNESS);
    world.start(WITNESS);
    world.run_for(ms(300));
    world
}

/// Proof that the vote refusal after start is what prevents dual leases: without it there are some.
#[test]
fn a_restarted_voter_keeps_the_promise_it_forgot() {
    let mut dual_without_refusal = 0;
    for seed in 0..20 {
        let world = restarted_witness(seed, false);
        assert_sound(&world);
        assert_eq!(
            world.serving(),
            Some(B),
            "seed {seed}: the standby takes over afterwards"
        );
        let careless = restarted_witness(seed, true);
        dual_without_refusal += usize::from(
            careless
                .invariants
                .violations
                .iter()
                .any(|it| it.contains("dual lease")),
        );
    }
    assert!(
        dual_without_refusal > 0,
        "the test does not reach the hole it is for"
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

/// Commits on active and witness, the active dies, the standby comes back without them.
#[test]
fn the_witness_is_elected_for_what_it_alone_holds_and_hands_it_on() {
    for seed in 0..20 {
        let mut world = settled(seed, Conditions::default());
        world.crash(B);
        world.run_for(ms(60));
        for _ in 0..20 {
            world.propose(A, 100).unwrap();
            world.run_for(ms(2));
        }
        world.run_for(ms(60));
        assert_eq!(
            world.invariants.acknowledged.len(),
            30,
            "commits go on with the witness"
        );
        world.crash(A);
        world.start(B);
        let took = world.run_until(ms(1500), |world| world.is_serving(B));
        assert!(took.is_some(), "seed {seed}: {:?}", world.statuses());
        let led = world
            .invariants
            .roles
            .iter()
            .any(|(_, node, role)| *node == WITNESS && matches!(role, Role::Leader { .. }));
        assert!(led, "only the witness could bring the standby up to date");
        assert_sound(&world);
    }
}

/// raft-rs lets a longer log of lower priority veto; here it is longer but older.
#[test]
fn a_longer_but_older_log_does_not_veto_the_witness() {
    for seed in 0..10 {
        let mut world = settled(seed, Conditions::default());
        // `a` appends what nobody receives, then comes back behind a newer term.
        world.isolate(A);
        for _ in 0..40 {
            world.propose(A, 10).unwrap();
        }
        world.run_for(ms(5));
        world.crash(A);
        world
            .run_until(ms(500), |world| world.is_serving(B))
            .unwrap();
        for _ in 0..5 {
            world.propose(B, 10).unwrap();
        }
        world.run_for(ms(100));
        world.crash(B);
        world.heal();
        world.start(A);
        let took = world.run_until(ms(1500), |world| world.is_serving(A));
        assert!(took.is_some(), "seed {seed}: {:?}", world.statuses());
        assert_sound(&world);
    }
}

#[test]
fn a_follower_far_behind_gets_a_snapshot() {
    let limits = Limits {
        log_entries: 32,
        ..Limits::default()
    };
    let mut world = settled(
        3,
        Conditions {
            limits,
            ..Conditions::default()
        },
    );
    world.crash(B);
    world.run_for(ms(60));
    for _ in 0..200 {
        world.propose(A, 100).unwrap();
        world.run_for(ms(1));
    }
    let active = world.replica(A).unwrap().status();
    assert!(
        active.last_index - active.first_index < 64,
        "the log is bounded: {active:?}"
    );
    world.start(B);
    world.run_for(ms(200));
    assert_eq!(world.invariants.restored, 1);
    assert_eq!(
        world.replica(B).unwrap().table(),
        world.replica(A).unwrap().table()
    );
    assert_eq!(world.replica(B).unwrap().table().len(), 210);
    assert_eq!(
        world
            .replica(B)
            .unwrap()
            .status()
            .counters
            .snapshots_installed,
        1
    );
    // What was installed is durable, and the log goes on behind it.
    world.crash(B);
    world.start(B);
    world.propose(A, 100).unwrap();
    world.run_for(ms(200));
    assert_eq!(world.replica(B).unwrap().table().len(), 211);
    assert_eq!(world.invariants.restored, 1);
    assert_sound(&world);
}

/// raft-rs panics when a node stands for election while an installed snapshot is not yet durable.
#[test]
fn a_stalled_disk_under_a_snapshot_does_not_end_in_an_election() {
    let limits = Limits {
        log_entries: 32,
        ..Limits::default()
    };
    let mut world = settled(
        4,
        Conditions {
            limits,
            ..Conditions::default()
        },
    );
    world.crash(B);
    world.run_for(ms(60));
    for _ in 0..100 {
        world.propose(A, 100).unwrap();
        world.run_for(ms(1));
    }
    world.start(B);
    world.stall_disk(B, ms(800));
    world
        .run_until(ms(400), |world| world.invariants.restored == 1)
        .unwrap();
    world.crash(A);
    world.run_for(ms(300));
    assert_eq!(
        world.serving(),
        None,
        "nobody who could serve has everything on disk"
    );
    world
        .run_until(ms(1500), |world| world.is_serving(B))
        .unwrap();
    assert_sound(&world);
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
fn an_isolated_active_loses_its_lease_before_the_other_side_gets_one() {
    for seed in 0..30 {
        let mut world = settled(seed, Conditions::default());
        world.run_for(Duration::from_micros(seed * 333));
        world.isolate(A);
        let lost = world
            .run_until(ms(200), |world| !world.is_serving(A))
            .unwrap();
        assert!(lost <= ms(81), "seed {seed}: {lost:?}");
        assert_eq!(world.serving(), None);
        world
            .run_until(ms(300), |world| world.is_serving(B))
            .unwrap();
        assert_sound(&world);
    }
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

/// The target never answers: the old leader may not serve in its term again, so it wins the next.
#[test]
fn a_failed_transfer_costs_a_term_and_not_the_service() {
    for seed in 0..20 {
        let mut world = settled(seed, Conditions::default());
        let term = world.replica(A).unwrap().status().term;
        world.cut(A, B);
        world.cut(B, WITNESS);
        world.transfer(A, B).unwrap();
        let took = world.run_until(ms(400), |world| world.is_serving(A));
        assert!(
            took.is_some_and(|took| took < ms(150)),
            "seed {seed}: {took:?}"
        );
        assert!(world.replica(A).unwrap().status().term > term);
        assert_sound(&world);
    }
}

#[test]
fn a_paused_active_wakes_up_without_a_lease() {
    for seed in 0..20 {
        let mut world = settled(seed, Conditions::default());
        world.pause(A, ms(400));
        world
            .run_until(ms(300), |world| world.is_serving(B))
            .unwrap();
        world.run_for(ms(400));
        assert_eq!(world.serving(), Some(B));
        assert!(world.replica(A).unwrap().status().lease.is_none());
        assert_sound(&world);
    }
}

/// A slow disk under the standby delays its acknowledgements, not its heartbeat answers.
#[test]
fn a_stalled_standby_disk_costs_the_gate_and_not_the_lease() {
    let mut world = settled(6, Conditions::default());
    world.stall_disk(B, ms(600));
    for _ in 0..50 {
        world.propose(A, 100).unwrap();
        world.run_for(ms(5));
        assert!(world.is_serving(A));
    }
    let status = world.replica(A).unwrap().status();
    assert_eq!(status.counters.gate_opened, 1, "{status:?}");
    assert!(
        status.applied + 5 >= status.last_index,
        "commits go on with the witness: {status:?}"
    );
    world.run_for(ms(700));
    assert_eq!(
        world.replica(B).unwrap().table(),
        world.replica(A).unwrap().table()
    );
    assert_eq!(world.leader(), Some(A));
    assert_sound(&world);
}

/// The gate keeps the witness no further than the standby, so losing the link between the data nodes
/// just before the active dies does not cost the witness's detour.
#[test]
fn the_standby_is_electable_when_link_and_active_die_together() {
    for seed in 0..20 {
        let mut world = settled(seed, Conditions::default());
        world.cut(A, B);
        for _ in 0..7 {
            world.propose(A, 100).unwrap();
            world.run_for(ms(2));
        }
        world.crash(A);
        let took = world.run_until(ms(400), |world| world.is_serving(B));
        assert!(
            took.is_some_and(|took| took <= ms(160)),
            "seed {seed}: {took:?}"
        );
        let witness_led = world
            .invariants
            .roles
            .iter()
            .any(|(_, node, role)| *node == WITNESS && matches!(role, Role::Leader { .. }));
        assert!(!witness_led, "seed {seed}");
        assert_sound(&world);
    }
}

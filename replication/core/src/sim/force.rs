//! Forced takeovers: what comes back afterwards does not make a second pair.
#![allow(clippy::unwrap_used)]

use super::directed::{assert_sound, settled};
use super::membership::{NODES, lose_disk, work, work_until_whole};
use super::{A, B, Conditions, WITNESS, World, ms};
use crate::{ForceError, ReplicaId, Slot};

/// The standby was away while active and witness committed, then both die.
fn stale(seed: u64) -> World {
    let mut world = settled(seed, Conditions::default());
    world.crash(B);
    work(&mut world, ms(200));
    world.crash(A);
    world.crash(WITNESS);
    world.start(B);
    world.run_for(ms(1500));
    assert_eq!(world.serving(), None, "not electable by itself");
    world
}

#[test]
fn a_stale_standby_serves_when_it_is_told_to() {
    for seed in 0..10 {
        let mut world = stale(seed);
        let before = world.replica(B).unwrap().status().term;
        world.force(B).unwrap();
        world
            .run_until(ms(600), |world| world.is_serving(B))
            .unwrap();
        let status = world.replica(B).unwrap().status();
        assert!(status.is_alone() && status.generation == 1);
        assert!(
            status.term > before + 1000,
            "an epoch beyond the old active's"
        );
        work(&mut world, ms(100));
        assert_sound(&world);
    }
}

/// The others come back with their logs, which are longer. They hear that they are outdated before they can elect
/// anybody, and stand down for good.
#[test]
fn the_old_pair_stands_down_when_it_comes_back() {
    for seed in 0..20 {
        let mut world = stale(seed);
        world.force(B).unwrap();
        work(&mut world, ms(300 + seed * 7));
        world.start(A);
        world.start(WITNESS);
        work(&mut world, ms(1000));
        assert_eq!(world.serving(), Some(B), "{:#?}", world.statuses());
        for node in [A, WITNESS] {
            let status = world.replica(node).unwrap().status();
            assert_eq!(status.superseded_by, Some(1), "seed {seed}");
        }
        assert_eq!(world.force(WITNESS), Err(ForceError::Witness));
        for node in [A, WITNESS] {
            lose_disk(&mut world, node);
        }
        work_until_whole(&mut world, [2, 2, 2]);
        for node in NODES {
            assert_eq!(world.replica(node).unwrap().status().generation, 1);
        }
    }
}

/// An active that was only cut off stops when one of those it counts on has met the newer generation.
#[test]
fn an_old_active_loses_its_lease_to_the_newer_generation() {
    let mut world = settled(1, Conditions::default());
    world.isolate(B);
    work(&mut world, ms(300));
    assert!(world.is_serving(A));
    world.force(B).unwrap();
    // Only the witness hears of it: for as long as nobody does, no software can know which side is meant.
    let now = world.now;
    world.conditions.cut.remove(&(B, WITNESS));
    let stopped = world.run_until(ms(1500), |world| !world.is_serving(A));
    assert!(stopped.is_some(), "since {now:?}: {:?}", world.statuses());
    world.heal();
    work(&mut world, ms(1500));
    assert_eq!(world.serving(), Some(B));
    assert_eq!(world.replica(A).unwrap().status().superseded_by, Some(1));
}

#[test]
fn nothing_is_forced_while_somebody_leads_or_with_nothing_in_hand() {
    let mut world = settled(2, Conditions::default());
    assert_eq!(world.force(A), Err(ForceError::Led(World::id(A))));
    assert_eq!(world.force(B), Err(ForceError::Led(World::id(A))));
    world.crash(B);
    let old = world.nodes[B].keep();
    world.start(B);
    work_until_whole(&mut world, [1, 2, 1]);
    world.crash(B);
    world.nodes[B].put_back(old);
    world.start(B);
    world.run_for(ms(1500));
    let successor = ReplicaId::new(Slot::B, 2).unwrap();
    assert_eq!(world.force(B), Err(ForceError::Replaced(successor)));
    assert_sound(&world);
}

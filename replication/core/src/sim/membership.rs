//! Founding, lost disks, new incarnations: what changes the membership, and crashes in the middle of it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use super::directed::{assert_sound, settled};
use super::{A, B, Conditions, WITNESS, World, ms};
use crate::{Limits, Replica, ReplicaId, Slot, Versions, Waiting};

pub(super) const NODES: [usize; 3] = [A, B, WITNESS];

/// How long a lost disk takes to be whole again at most, on a quiet network.
const HEALED_WITHIN: Duration = Duration::from_millis(1500);

fn incarnations(world: &World) -> [u32; 3] {
    NODES.map(|node| world.id_of(node).incarnation())
}

/// Proposes wherever that is possible, a little all the time.
pub(super) fn work(world: &mut World, length: Duration) {
    let until = world.now + length;
    while world.now < until {
        for node in [A, B] {
            // Refused by followers and while nobody serves.
            let _ = world.propose(node, 50);
        }
        world.run_for(ms(2));
    }
}

/// Works until everybody holds everything under the incarnations it should.
pub(super) fn work_until_whole(world: &mut World, wanted: [u32; 3]) {
    let begun = world.now;
    while !(incarnations(world) == wanted && world.is_whole()) {
        assert!(
            world.now < begun + HEALED_WITHIN,
            "seed {}: not whole: {:?} {:#?}",
            world.seed,
            incarnations(world),
            world.statuses()
        );
        work(world, ms(4));
        world.run_for(ms(4));
    }
    world.run_for(ms(50));
    let tables: Vec<_> = NODES
        .iter()
        .map(|node| world.replica(*node).map(Replica::table).unwrap().clone())
        .collect();
    for (node, table) in NODES.into_iter().zip(&tables) {
        world.invariants.complete(node, Some(table));
    }
    assert!(tables[A] == tables[B] && tables[B] == tables[WITNESS]);
    assert_sound(world);
}

pub(super) fn lose_disk(world: &mut World, node: usize) {
    world.crash(node);
    world.wipe(node);
    world.start(node);
}

#[test]
fn every_disk_may_be_lost_once_the_one_before_is_whole_again() {
    for seed in 0..6 {
        let mut world = settled(seed, Conditions::default());
        for (number, wanted) in [
            (A, [2, 1, 1]),
            (B, [2, 2, 1]),
            (WITNESS, [2, 2, 2]),
            (A, [3, 2, 2]),
        ] {
            lose_disk(&mut world, number);
            work_until_whole(&mut world, wanted);
        }
        let serving = world.serving().unwrap();
        let status = world.replica(serving).unwrap().status();
        assert_eq!(
            status.counters.membership_changes % 3,
            0,
            "add, promote, leave: {status:?}"
        );
    }
}

/// The log no longer reaches back to the beginning, and goes on while the snapshot travels.
#[test]
fn a_new_incarnation_gets_a_snapshot_while_the_log_is_cut_under_it() {
    let limits = Limits {
        log_entries: 16,
        ..Limits::default()
    };
    for seed in 0..10 {
        let mut world = settled(
            seed,
            Conditions {
                limits,
                ..Conditions::default()
            },
        );
        work(&mut world, ms(100));
        lose_disk(&mut world, B);
        work_until_whole(&mut world, [1, 2, 1]);
        let status = world.replica(B).unwrap().status();
        assert!(status.counters.snapshots_installed >= 1);
        assert!(status.first_index > 16);
    }
}

/// The active dies somewhere between the first hello of the new incarnation and its vote; its successor, or
/// itself, goes on from there.
#[test]
fn a_change_goes_on_where_the_last_active_left_it() {
    let (mut joint, mut learner) = (0, 0);
    for seed in 0..120 {
        let mut world = settled(seed, Conditions::default());
        let lost = if seed % 2 == 0 { B } else { WITNESS };
        lose_disk(&mut world, lost);
        let length = Duration::from_micros(500 * (seed / 2));
        world.run_for(length);
        let active = world.serving().unwrap();
        let membership = world.replica(active).unwrap().status().membership;
        joint += usize::from(membership.is_joint());
        learner += usize::from(!membership.learners.is_empty());
        world.crash(active);
        // Two of three are away: nothing can go on before the active is back.
        work(&mut world, ms(seed % 7 * 40));
        world.start(active);
        let mut wanted = [1; 3];
        wanted[lost] = 2;
        work_until_whole(&mut world, wanted);
    }
    eprintln!("crashed while joint {joint} times, while there was a learner {learner} times");
    assert!(joint >= 3 && learner >= 3, "{joint} {learner}");
}

/// The same with the new incarnation's process instead: what it decided is on its disk, what it received may
/// not be.
#[test]
fn a_new_incarnation_may_crash_at_any_time() {
    for seed in 0..80 {
        let mut world = settled(seed, Conditions::default());
        lose_disk(&mut world, B);
        for step in 0..4 {
            let length = Duration::from_micros(1000 + (seed * 7 + step * 13) % 40 * 500);
            world.run_for(length);
            world.crash(B);
            world.start(B);
        }
        work_until_whole(&mut world, [1, 2, 1]);
    }
}

/// Two disks are lost one after the other while the first is on its way: another incarnation, not the same one.
#[test]
fn a_disk_lost_again_on_the_way_in_is_another_incarnation() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let mut world = settled(seed, Conditions::default());
        lose_disk(&mut world, B);
        world.run_for(Duration::from_micros(700 * seed));
        lose_disk(&mut world, B);
        let begun = world.now;
        while !world.is_whole() {
            assert!(
                world.now < begun + HEALED_WITHIN,
                "seed {seed}: {:#?}",
                world.statuses()
            );
            work(&mut world, ms(4));
        }
        seen.insert(incarnations(&world)[B]);
        assert_sound(&world);
    }
    assert_eq!(
        seen,
        BTreeSet::from([2, 3]),
        "before and after it was a member"
    );
}

fn unfounded(seed: u64) -> World {
    let mut world = World::new(seed, Conditions::default());
    NODES.into_iter().for_each(|node| world.crash(node));
    world
}

#[test]
fn founding_waits_for_everybody_once() {
    let mut world = unfounded(1);
    world.start(A);
    world.start(B);
    world.run_for(ms(3000));
    assert_eq!(world.leader(), None);
    let waiting = world.nodes[A].founding.as_ref().unwrap().waiting();
    assert_eq!(waiting, Waiting::Founders(vec![Slot::Witness]));
    world.start(WITNESS);
    work_until_whole(&mut world, [1; 3]);
    // From now on two are enough.
    world.crash(WITNESS);
    world.crash(B);
    world.start(B);
    world
        .run_until(ms(600), |world| world.serving().is_some())
        .unwrap();
}

/// The third founder has not decided yet when one of the other two dies: two are enough from the first vote on.
#[test]
fn a_founder_that_is_late_is_counted_on() {
    for seed in 0..20 {
        let mut world = unfounded(seed);
        NODES.into_iter().for_each(|node| world.start(node));
        world
            .run_until(ms(100), |world| {
                world.replica(A).is_some() && world.replica(B).is_some()
            })
            .unwrap();
        world.crash(WITNESS);
        if let Some(birth) = &mut world.nodes[WITNESS].birth {
            birth.decided = None;
        }
        world.nodes[WITNESS].disk = super::Disk::default();
        work(&mut world, ms(300));
        world.crash(A);
        world.start(WITNESS);
        world
            .run_until(ms(1500), |world| world.is_serving(B))
            .unwrap();
        world.start(A);
        work_until_whole(&mut world, [1; 3]);
    }
}

/// Whoever has founded may crash, and whoever has not: the stores' names tell that nobody forgot anything.
#[test]
fn crashes_while_founding_cost_no_incarnation() {
    for seed in 0..200 {
        let mut world = unfounded(seed);
        for step in 0..6 {
            for node in NODES
                .into_iter()
                .filter(|node| (seed + step) % 3 != *node as u64)
            {
                if !world.is_up(node) {
                    world.start(node);
                }
            }
            world.run_for(Duration::from_micros(
                100 + (seed * 31 + step * 17) % 23 * 60,
            ));
            world.crash_if_up(((seed / 3 + step) % 3) as usize);
        }
        NODES.into_iter().for_each(|node| world.start_if_down(node));
        work_until_whole(&mut world, [1; 3]);
    }
}

/// A disk that is lost while the pair is founded: either it was not needed yet, or its slot is a new incarnation.
#[test]
fn a_disk_lost_while_founding_forgets_no_vote() {
    let mut seen = BTreeSet::new();
    for seed in 0..150 {
        let mut world = unfounded(seed);
        NODES.into_iter().for_each(|node| world.start_if_down(node));
        world.run_for(Duration::from_micros(200 * seed));
        world.crash(B);
        world.wipe(B);
        world.start(B);
        let begun = world.now;
        while !world.is_whole() {
            assert!(
                world.now < begun + HEALED_WITHIN,
                "seed {seed}: {:#?}",
                world.statuses()
            );
            work(&mut world, ms(4));
        }
        seen.insert(incarnations(&world)[B]);
        assert_sound(&world);
    }
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

/// Two of three disks: what is left cannot know what it lacks, so nobody serves until an operator says so.
#[test]
fn a_pair_that_lost_two_disks_is_not_founded_again() {
    let mut world = settled(3, Conditions::default());
    for node in [B, WITNESS] {
        world.crash(node);
        world.wipe(node);
    }
    world.run_for(ms(200));
    world.start(B);
    world.start(WITNESS);
    world.run_for(ms(5000));
    assert_eq!((world.serving(), world.leader()), (None, None));
    let waiting = world.nodes[B].founding.as_ref().unwrap().waiting();
    assert_eq!(waiting, Waiting::Active);
    assert_sound(&world);
}

/// A replica that was only cut off learns that its slot has a newer incarnation, and changes nothing by itself.
#[test]
fn a_replaced_incarnation_is_told_and_not_heard() {
    let mut world = settled(4, Conditions::default());
    world.crash(B);
    let old = world.nodes[B].keep();
    world.wipe(B);
    world.start(B);
    work_until_whole(&mut world, [1, 2, 1]);
    world.crash(B);
    world.nodes[B].put_back(old);
    world.start(B);
    work(&mut world, ms(1500));
    let status = world.replica(B).unwrap().status();
    assert_eq!(status.id, ReplicaId::first(Slot::B));
    assert_eq!(
        status.replaced_by,
        Some(ReplicaId::new(Slot::B, 2).unwrap())
    );
    assert!(world.is_serving(A));
    let refused = world
        .replica(WITNESS)
        .unwrap()
        .status()
        .counters
        .unknown_sender;
    assert!(refused > 0, "its candidacies are refused");
    assert_sound(&world);
}

#[test]
fn the_cluster_version_rises_when_everybody_can_read_it_and_never_falls() {
    let newer = Versions { min: 1, max: 2 };
    let mut world = settled(
        5,
        Conditions {
            versions: [newer, newer, Versions::SUPPORTED],
            ..Conditions::default()
        },
    );
    let version = |world: &World, node| world.replica(node).unwrap().cluster_version();
    work(&mut world, ms(2500));
    assert_eq!(NODES.map(|node| version(&world, node)), [1; 3]);
    world.crash(WITNESS);
    world.conditions.versions[WITNESS] = newer;
    // Away says nothing.
    work(&mut world, ms(4000));
    assert_eq!(version(&world, A), 1);
    world.start(WITNESS);
    world
        .run_until(ms(3000), |world| {
            NODES.iter().all(|node| version(world, *node) == 2)
        })
        .unwrap();
    world.crash(B);
    world.conditions.versions[B] = Versions::SUPPORTED;
    world.start(B);
    work(&mut world, ms(2500));
    assert_eq!(NODES.map(|node| version(&world, node)), [2; 3]);
    // It is nothing of the node's.
    assert!(
        world
            .replica(A)
            .unwrap()
            .node_table()
            .keys()
            .all(|key| key[0] != b'v')
    );
    assert_sound(&world);
}

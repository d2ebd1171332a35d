//! `on_single`: one replica is gone, then another. What the active does, and why nobody else does anything.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::directed::{assert_sound, settled};
use super::membership::{NODES, lose_disk, work, work_until_whole};
use super::{A, B, Conditions, WITNESS, World, ms};
use crate::{OnSingle, Role, SINGLE_AFTER};

fn serving(seed: u64) -> World {
    settled(
        seed,
        Conditions {
            on_single: OnSingle::Serve,
            ..Conditions::default()
        },
    )
}

fn is_alone(world: &World, node: usize) -> bool {
    world
        .replica(node)
        .is_some_and(|replica| replica.status().is_alone())
}

/// Works until `a` is the only voter because `gone` is.
fn alone_without(world: &mut World, gone: usize) {
    world.crash(gone);
    world.run_for(SINGLE_AFTER);
    work(world, ms(500));
    assert!(is_alone(world, A), "{:?}", world.statuses());
}

#[test]
fn without_it_the_second_loss_stops_the_active() {
    for (seed, first, second) in [(2, B, WITNESS), (3, WITNESS, B)] {
        let mut world = settled(seed, Conditions::default());
        world.crash(first);
        world.run_for(SINGLE_AFTER);
        work(&mut world, ms(500));
        assert!(!is_alone(&world, A) && world.is_serving(A));
        world.crash(second);
        world.run_for(ms(200));
        assert_eq!(world.serving(), None);
        world.start(first);
        world.start(second);
        work_until_whole(&mut world, [1; 3]);
    }
}

/// A short absence changes nothing.
#[test]
fn a_restart_is_no_loss() {
    let mut world = serving(4);
    for _ in 0..5 {
        world.crash(B);
        work(&mut world, SINGLE_AFTER / 2);
        world.start(B);
        work(&mut world, ms(300));
    }
    let status = world.replica(A).unwrap().status();
    assert_eq!(status.counters.membership_changes, 0);
    assert_sound(&world);
}

/// The others do not always know that they no longer vote: they are cut off at every moment of the change, with
/// each other and without the active. Whoever could have counted for the change knows of it, and who does not know of
/// it lacks the log of one who does: no election is won against the one who went on alone.
#[test]
fn who_does_not_know_that_it_no_longer_votes_elects_nobody() {
    let (mut alone, mut together, mut neither) = (0, 0, 0);
    for seed in 0..60 {
        let mut world = serving(seed);
        world.crash(B);
        // The change takes some milliseconds, somewhere in here.
        world.run_for(SINGLE_AFTER - ms(120));
        work(&mut world, ms(100));
        let changing = |world: &World| {
            let status = world.replica(A).map(|replica| replica.status());
            status.is_some_and(|status| status.counters.membership_changes > 0)
        };
        world.run_until(ms(200), changing).unwrap();
        let length = Duration::from_micros(seed * 100);
        world.run_for(length);
        world.isolate(A);
        world.start(B);
        work(&mut world, ms(700));
        let others = [B, WITNESS].into_iter().any(|node| world.is_serving(node));
        match (is_alone(&world, A), others) {
            (true, false) => alone += 1,
            (false, true) => together += 1,
            // Both sides need each other until the change is left.
            (false, false) => neither += 1,
            (true, true) => panic!("seed {seed}: two pairs: {:#?}", world.statuses()),
        }
        assert_sound(&world);
        world.heal();
        work_until_whole(&mut world, [1; 3]);
    }
    eprintln!(
        "the active alone {alone} times, the others without it {together} times, neither {neither} times"
    );
    assert!(
        alone > 5 && together > 1 && neither > 0,
        "{alone} {together} {neither}"
    );
}

#[test]
fn a_crash_in_the_middle_of_going_alone_is_gone_on_from() {
    let mut handed_over = 0;
    for seed in 0..30 {
        let mut world = serving(seed);
        world.crash(WITNESS);
        world.run_for(SINGLE_AFTER - ms(120));
        work(&mut world, ms(100));
        let length = Duration::from_micros(15_000 + seed * 600);
        world.run_for(length);
        world.crash(A);
        world.run_for(ms(seed % 3 * 150));
        world.start(A);
        let took = world.run_until(ms(1500), |world| world.serving().is_some());
        assert!(took.is_some(), "seed {seed}: {:#?}", world.statuses());
        // Whoever finished the change, the only voter is active.
        work(&mut world, ms(300));
        let active = world.serving().unwrap();
        let status = world.replica(active).unwrap().status();
        assert!(
            status.membership.voters.contains(&status.id),
            "seed {seed}: {status:?}"
        );
        handed_over += usize::from(
            active == A
                && world
                    .invariants
                    .roles
                    .iter()
                    .any(|(_, node, role)| *node == B && matches!(role, Role::Leader { .. })),
        );
        world.start(WITNESS);
        work_until_whole(&mut world, [1; 3]);
    }
    assert!(handed_over > 0, "the standby never finished the change");
}

#[test]
fn a_disk_lost_while_another_is_alone_is_replaced_all_the_same() {
    for seed in 0..4 {
        let mut world = serving(seed);
        alone_without(&mut world, B);
        world.wipe(B);
        lose_disk(&mut world, WITNESS);
        work(&mut world, ms(1000));
        assert!(is_alone(&world, A));
        world.start(B);
        work_until_whole(&mut world, [1, 2, 2]);
        assert!(NODES.iter().all(|node| world.is_up(*node)));
    }
}

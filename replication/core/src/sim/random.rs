//! Random schedules of faults, many seeds.
#![allow(clippy::unwrap_used)]

use rand::Rng;

use super::invariants::Invariants;
use super::{A, B, Conditions, WITNESS, World, ms};
use crate::{Limits, Profile, Role};

/// A failing run names its seed: `TANDEM_SIM_SEED=<seed> cargo test -p tandem-replication-core random`.
const SEED_VARIABLE: &str = "TANDEM_SIM_SEED";

fn fault(world: &mut World) {
    let node = world.rng.random_range(A..=WITNESS);
    let other = (node + world.rng.random_range(1..=2)) % 3;
    match world.rng.random_range(0..15) {
        0 | 1 if world.is_up(node) => world.crash(node),
        0 | 1 => world.start(node),
        2 => world.isolate(node),
        3 => world.cut(node, other),
        4 => {
            world.conditions.cut.insert((node, other));
        }
        5 => world.conditions.loss = world.rng.random_range(0.0..0.3),
        6 => {
            let length = ms(world.rng.random_range(10..300));
            world.pause(node, length);
        }
        7 => {
            let length = ms(world.rng.random_range(5..200));
            world.stall_disk(node, length);
        }
        8 => {
            // Refused unless `node` leads, which is most of the time.
            let _ = world.transfer(node, other);
        }
        9 if world.is_up(node) => {
            world.crash(node);
            world.start(node);
        }
        10 if world.is_up(node) && world.is_whole() => {
            world.crash(node);
            world.wipe(node);
            world.start(node);
        }
        11 => {
            world.conditions.delay_us = if world.rng.random_bool(0.5) {
                (80, 400)
            } else {
                (80, 40_000)
            }
        }
        12 if world.is_up(node) => {
            world.die(node);
            if world.rng.random_bool(0.5) {
                world.start(node);
            }
        }
        13 => world.replay_a_death(node),
        _ => {
            world.heal();
            for node in [A, B, WITNESS] {
                if !world.is_up(node) {
                    world.start(node);
                }
            }
        }
    }
}

/// Returns also how many disks were lost and replaced.
fn run(seed: u64) -> (Invariants, u64) {
    let limits = Limits {
        log_entries: 16,
        log_bytes: 1 << 20,
        ..Limits::default()
    };
    let profile = match seed % 8 {
        0 => Profile::Fast,
        4 => Profile::Turbo,
        _ => Profile::Standard,
    };
    let mut world = World::new(
        seed,
        Conditions {
            limits,
            profile,
            ..Conditions::default()
        },
    );
    world.run_for(ms(200));
    for _ in 0..16 {
        fault(&mut world);
        for _ in 0..world.rng.random_range(2..14) {
            let length = ms(world.rng.random_range(1..25));
            world.run_for(length);
            for node in [A, B] {
                // Refused by followers and by leaders that are full or handing on.
                let _ = world.propose(node, 20);
            }
        }
    }
    recover(&mut world);
    assert!(
        world.invariants.violations.is_empty(),
        "{SEED_VARIABLE}={seed}: {:?}",
        world.invariants.violations
    );
    let lost_disks = [A, B, WITNESS].map(|node| u64::from(world.id_of(node).incarnation() - 1));
    (world.invariants, lost_disks.into_iter().sum())
}

/// Once everything is well, somebody serves, takes proposals and all tables agree.
fn recover(world: &mut World) {
    let seed = world.seed;
    world.heal();
    world.conditions.delay_us = (80, 400);
    for node in [A, B, WITNESS] {
        if !world.is_up(node) {
            world.start(node);
        }
    }
    world.run_for(ms(300));
    // A new incarnation has been let in by then, too.
    let healthy = world.run_until(ms(4000), World::is_whole);
    assert!(
        healthy.is_some(),
        "{SEED_VARIABLE}={seed}: not whole: {:?}",
        world.statuses()
    );
    world.run_for(ms(100));
    let owner = world.serving().unwrap();
    let before = world.invariants.acknowledged.len();
    world.propose(owner, 20).unwrap();
    world.run_for(ms(200));
    let acknowledged = world.invariants.acknowledged.len();
    assert!(
        acknowledged > before,
        "{SEED_VARIABLE}={seed}: no progress: {:?}",
        world.statuses()
    );
    for node in [A, B, WITNESS] {
        let table = world.nodes[node]
            .replica
            .as_ref()
            .map(crate::Replica::table);
        world.invariants.complete(node, table);
        let same = table
            == world.nodes[owner]
                .replica
                .as_ref()
                .map(crate::Replica::table);
        assert!(same, "{SEED_VARIABLE}={seed}: the table of {node} differs");
    }
}

/// Runs the seeds, and checks that the faults reach what they are meant to shake.
fn seeds(range: std::ops::Range<u64>) {
    if let Ok(seed) = std::env::var(SEED_VARIABLE) {
        run(seed.parse().expect("a number"));
        return;
    }
    let count = range.end - range.start;
    let (mut leases, mut restored, mut witness_led, mut acknowledged) = (0, 0, 0, 0);
    let mut reincarnated = 0;
    for seed in range {
        let (invariants, lost_disks) = run(seed);
        reincarnated += lost_disks;
        leases += invariants.leases.len() as u64;
        restored += invariants.restored;
        acknowledged += invariants.acknowledged.len() as u64;
        witness_led += invariants
            .roles
            .iter()
            .filter(|(_, node, role)| *node == WITNESS && matches!(role, Role::Leader { .. }))
            .count();
    }
    eprintln!(
        "{count} seeds: {leases} leases, {restored} snapshots, witness elected {witness_led} times, \
         {acknowledged} acknowledged, {reincarnated} disks lost"
    );
    assert!(leases > 3 * count && restored > count / 10 && acknowledged > 20 * count);
    assert!(witness_led > 0 && reincarnated > count / 10);
}

#[test]
fn random_faults_first_half() {
    seeds(0..125);
}

#[test]
fn random_faults_second_half() {
    seeds(125..250);
}

#[test]
fn a_seed_replays_exactly() {
    let trace = |seed| {
        let mut world = World::new(
            seed,
            Conditions {
                loss: 0.1,
                ..Conditions::default()
            },
        );
        world.run_for(ms(500));
        world.crash(A);
        world.run_for(ms(500));
        format!("{:?} {:?}", world.invariants.roles, world.invariants.leases)
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

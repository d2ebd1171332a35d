//! Faults at random, several at once, then everything becomes whole.

use std::time::Duration;

use rand::Rng;
use tandem_replication_core::{Limits, Profile};

use super::{Scenario, recover};
use crate::clock::ms;
use crate::disk::Durability;
use crate::fabric::FabricKind;
use crate::world::{Conditions, World};
use crate::{A, B, NODES, WITNESS};

pub(super) const RANDOM: Scenario = Scenario {
    name: "random",
    about: "sixteen faults at random, under calls",
    conditions,
    play,
};

/// Faults of one run.
const FAULTS: usize = 16;

fn conditions(seed: u64) -> Conditions {
    let profile = match seed % 8 {
        0 => Profile::Fast,
        4 => Profile::Turbo,
        _ => Profile::Standard,
    };
    let fabric = if seed.is_multiple_of(2) {
        FabricKind::Ec2
    } else {
        FabricKind::Lan
    };
    // Coprime to the others, so that each goes with each.
    let durability = if seed.is_multiple_of(5) {
        Durability::Memory
    } else {
        Durability::Durable
    };
    Conditions {
        profile,
        fabric,
        durability,
        // Small enough that a replica that was away needs a snapshot now and then.
        limits: Limits {
            log_entries: 48,
            log_bytes: 1 << 20,
            ..Limits::default()
        },
        lanes: 3,
        ..Conditions::default()
    }
}

fn play(world: &mut World) {
    world.run_for(ms(250));
    for _ in 0..FAULTS {
        fault(world);
        for _ in 0..world.rng.random_range(2..14) {
            let length = ms(world.rng.random_range(1..25));
            world.run_for(length);
            for node in [A, B] {
                // Refused by followers and by leaders that are full or handing on.
                let _ = world.propose(node, 20);
            }
        }
    }
    recover(world);
}

fn fault(world: &mut World) {
    let node = world.rng.random_range(A..=WITNESS);
    let other = (node + world.rng.random_range(1..=2)) % 3;
    match world.rng.random_range(0..23) {
        0 | 1 if world.is_up(node) => world.crash(node),
        2 | 20 if world.is_up(node) && may_lose_power(world) => world.power_cut(node),
        2 | 20 if world.is_up(node) => {}
        0..=2 | 20 => world.start(node),
        3 => world.isolate(node),
        4 => world.cut(node, other),
        5 => world.cut_one_way(node, other),
        6 => world.conditions.loss = world.rng.random_range(0.0..0.3),
        7 => world.conditions.duplication = world.rng.random_range(0.0..0.3),
        8 => {
            let length = ms(world.rng.random_range(10..300));
            world.pause(node, length);
        }
        9 => {
            let length = ms(world.rng.random_range(5..200));
            world.stall_disk(node, length);
        }
        // Refused unless it serves, or leads, which is most of the time.
        10 => drop(world.hand_over(node)),
        11 => drop(world.transfer(node, other)),
        12 if world.is_up(node) => {
            world.crash(node);
            world.start(node);
        }
        13 => {
            world.conditions.delay_us = if world.rng.random_bool(0.5) {
                (80, 400)
            } else {
                (80, 40_000)
            };
        }
        14 => drop(world.conditions.phones_cut.insert(node)),
        15 => {
            world.conditions.api_cut.insert(node);
            world.conditions.throttled = world.rng.random_range(0.0..0.5);
        }
        16 | 17 if world.is_up(node) && world.is_whole() => world.lose_disk(node),
        18 if world.is_up(node) => {
            world.die(node);
            if world.rng.random_bool(0.5) {
                world.start(node);
            }
        }
        19 => world.replay_a_death(node),
        _ => heal(world),
    }
    world.disturb();
}

/// What was acknowledged from memory is promised to survive one power cut, and the next only when the first is made
/// good.
fn may_lose_power(world: &World) -> bool {
    match world.conditions.durability {
        Durability::Durable => true,
        Durability::Memory => world.is_whole(),
    }
}

fn heal(world: &mut World) {
    world.heal();
    for node in NODES {
        if !world.is_up(node) {
            world.start(node);
        }
    }
    let rest = Duration::from_millis(world.rng.random_range(0..300));
    world.run_for(rest);
}

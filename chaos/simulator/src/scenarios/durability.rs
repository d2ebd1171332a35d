//! `durability = "memory"`: an acknowledgement rests on the page caches of two machines. What that promises:
//!
//! * Crashes of processes cost nothing, in any number and order: the kernels keep what was acknowledged.
//! * The power of one machine costs nothing: another holds everything. Its store is refused at the next start, the
//!   operator moves it aside, and it joins under the next incarnation, as after a lost disk. From then on the next
//!   machine may lose its power.
//! * Two that lose power before the first is whole again: what only they held is lost, and nobody serves by himself.

use super::membership::nobody_serves_without_what_b_lost;
use super::{Scenario, changes, expect_whole, recover, settle, standard};
use crate::clock::ms;
use crate::disk::Durability;
use crate::world::Conditions;
use crate::{A, B, NODES, WITNESS};

fn memory(seed: u64) -> Conditions {
    Conditions {
        durability: Durability::Memory,
        ..standard(seed)
    }
}

pub(super) const POWER_CUTS_IN_MEMORY_MODE: Scenario = Scenario {
    name: "power-cuts-in-memory-mode",
    about: "each machine loses its power in turn and all processes crash at once: memory mode loses nothing",
    conditions: memory,
    play: |world| {
        settle(world);
        for (number, node) in [A, B, WITNESS].into_iter().enumerate() {
            let active = world.serving().unwrap_or(A);
            changes(world, active, 10, ms(2));
            world.power_cut(node);
            world.run_for(ms(150));
            world.start(node);
            expect_whole(world);
            let renewed = NODES
                .iter()
                .filter(|node| world.id_of(**node).incarnation() == 2);
            let renewed = renewed.count();
            world.expect(renewed == number + 1, |_| {
                format!("{renewed} new incarnations after {} power cuts", number + 1)
            });
        }
        for node in NODES {
            world.crash(node);
        }
        recover(world);
    },
};

/// The standby loses power, the active only its process: what the two acknowledged is in the active's memory.
pub(super) const UNCLEAN_MEMORY_RESTART: Scenario = Scenario {
    name: "unclean-memory-restart",
    about: "a store that may lack what it acknowledged from memory does not vote without it",
    conditions: memory,
    play: |world| nobody_serves_without_what_b_lost(world, |world| world.power_cut(B)),
};

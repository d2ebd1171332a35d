//! Two of three.

use super::{Scenario, changes, expect_serving, recover, settle, standard};
use crate::clock::ms;
use crate::world::World;
use crate::{A, B, WITNESS};

fn alone(world: &mut World, first: usize, second: usize) {
    settle(world);
    world.power_cut(first);
    world.run_for(ms(200));
    changes(world, A, 10, ms(3));
    world.expect(world.is_serving(A), |_| {
        "one failure stopped the service".to_owned()
    });
    world.power_cut(second);
    // Safe but down: the lease needs a quorum.
    let lease = world.conditions.profile.timing().lease();
    let silent = world.run_until(ms(300), |world| !world.is_serving(A));
    world.expect(silent.is_some_and(|silent| silent <= lease + ms(1)), |_| {
        format!("alone and still serving after {silent:?}")
    });
    world.run_for(ms(500));
    world.expect(world.serving().is_none(), |_| {
        "serves without a quorum".to_owned()
    });
    world.start(second);
    expect_serving(world, A, ms(600));
    recover(world);
}

pub(super) const STANDBY_THEN_WITNESS: Scenario = Scenario {
    name: "standby-then-witness",
    about: "the active stops when it has lost both others, and goes on with the first that is back",
    conditions: standard,
    play: |world| alone(world, B, WITNESS),
};

pub(super) const WITNESS_THEN_STANDBY: Scenario = Scenario {
    name: "witness-then-standby",
    about: "the same the other way round",
    conditions: standard,
    play: |world| alone(world, WITNESS, B),
};

pub(super) const ACTIVE_THEN_STANDBY_THEN_BACK: Scenario = Scenario {
    name: "active-then-standby-then-back",
    about: "both data nodes in turn: what was confirmed is there with whoever is back",
    conditions: standard,
    play: |world| {
        settle(world);
        world.power_cut(A);
        expect_serving(world, B, ms(300));
        changes(world, B, 20, ms(3));
        world.power_cut(B);
        world.run_for(ms(300));
        world.start(A);
        expect_serving(world, A, ms(1500));
        recover(world);
    },
};

//! Lost disks: a machine that forgot everything comes back as somebody else, and the pair is whole again.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, changes, expect_serving, expect_whole, recover, settle, standard};
use crate::clock::ms;
use crate::world::World;
use crate::{A, B, WITNESS};

/// A machine has become its slot's next incarnation, and a voter that holds everything.
fn expect_next_incarnation(world: &mut World, node: usize) {
    expect_whole(world);
    world.expect(world.id_of(node).incarnation() == 2, |world| {
        format!("node {node} is {}", world.id_of(node))
    });
}

/// The disk of `node` is lost under load, while `active` goes on.
fn lose(world: &mut World, node: usize, active: usize) {
    world.lose_disk(node);
    changes(world, active, 30, ms(3));
    world.expect(world.is_serving(active), |_| {
        "a lost disk stopped the service".to_owned()
    });
    expect_next_incarnation(world, node);
}

pub(super) const STANDBY_LOSES_ITS_DISK: Scenario = Scenario {
    name: "standby-loses-its-disk",
    about: "a standby without its disk is a voter again as a new incarnation, and takes over when the active dies",
    conditions: standard,
    play: |world| {
        settle(world);
        lose(world, B, A);
        world.power_cut(A);
        expect_serving(world, B, ms(300));
        recover(world);
    },
};

pub(super) const WITNESS_LOSES_ITS_DISK: Scenario = Scenario {
    name: "witness-loses-its-disk",
    about: "a witness without its disk votes again as a new incarnation: each data node may go",
    conditions: standard,
    play: |world| {
        settle(world);
        lose(world, WITNESS, A);
        world.power_cut(B);
        changes(world, A, 20, ms(10));
        world.expect(world.is_serving(A), |_| {
            "the new witness does not keep the active alive".to_owned()
        });
        world.start(B);
        expect_whole(world);
        world.power_cut(A);
        expect_serving(world, B, ms(300));
        recover(world);
    },
};

pub(super) const ACTIVE_LOSES_ITS_DISK: Scenario = Scenario {
    name: "active-loses-its-disk",
    about: "an active without its disk comes back as a standby of another name, and takes over again",
    conditions: standard,
    play: |world| {
        settle(world);
        world.lose_disk(A);
        expect_serving(world, B, ms(300));
        changes(world, B, 30, ms(3));
        expect_next_incarnation(world, A);
        world.power_cut(B);
        expect_serving(world, A, ms(300));
        recover(world);
    },
};

/// The active dies somewhere between the first hello of the new incarnation and its vote, under calls. Two of three are
/// away then: its successor can only be itself.
pub(super) const CHANGE_UNDER_LOAD: Scenario = Scenario {
    name: "membership-change-under-load",
    about: "a change of the membership goes on where the last active left it",
    conditions: standard,
    play: |world| {
        settle(world);
        let lost = if world.rng.random_bool(0.5) {
            B
        } else {
            WITNESS
        };
        world.lose_disk(lost);
        let until = world.now + Duration::from_micros(world.rng.random_range(0..60_000));
        while world.now < until {
            let _ = world.propose(A, 50);
            world.run_for(ms(1));
        }
        match world.rng.random_bool(0.5) {
            true => world.crash(A),
            false => world.power_cut(A),
        }
        let away = ms(world.rng.random_range(0..250));
        world.run_for(away);
        world.start(A);
        let served = world.run_until(ms(1500), |world| world.serving().is_some());
        world.expect(served.is_some(), |_| "nobody serves".to_owned());
        expect_next_incarnation(world, lost);
        recover(world);
    },
};

/// The standby loses its disk: with the witness it holds nothing of what was acknowledged, and the two must not make a
/// pair out of that.
pub(super) const WIPED_REPLICA_DOES_NOT_VOTE: Scenario = Scenario {
    name: "wiped-replica-does-not-vote",
    about: "a store that lost what it acknowledged does not vote an old state in",
    conditions: standard,
    play: |world| {
        nobody_serves_without_what_b_lost(world, |world| {
            world.power_cut(B);
            world.wipe(B);
        });
    },
};

/// Commits on active and standby while the witness is behind; then `lose` takes them from the standby, and the active's
/// process dies. Nobody may serve until the active is back, and the standby comes back as a new incarnation.
pub(super) fn nobody_serves_without_what_b_lost(world: &mut World, lose: fn(&mut World)) {
    settle(world);
    world.isolate(WITNESS);
    changes(world, A, 20, ms(5));
    lose(world);
    world.crash(A);
    world.heal();
    world.start(B);
    world.run_for(ms(1500));
    world.expect(world.serving().is_none(), |_| {
        "somebody serves without what was acknowledged".to_owned()
    });
    world.start(A);
    expect_serving(world, A, ms(1500));
    expect_next_incarnation(world, B);
    recover(world);
}

//! Deaths that a guard certifies.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, expect_serving, recover, settle, standard};
use crate::clock::ms;
use crate::{A, B, WITNESS};

/// No timeout: the election, the lease and the owner's entry, each with its writes on two disks.
const TAKEN_OVER_WITHIN: Duration = ms(20);

pub(super) const CERTIFIED_DEATH: Scenario = Scenario {
    name: "certified-death",
    about: "a death that the guard certifies is taken over within 20 ms",
    conditions: standard,
    play: |world| {
        settle(world);
        let moment = Duration::from_micros(world.rng.random_range(0..20_000));
        world.run_for(moment);
        // On their way when it dies.
        for _ in 0..3 {
            let _ = world.propose(A, 100);
        }
        world.die(A);
        expect_serving(world, B, TAKEN_OVER_WITHIN);
        recover(world);
    },
};

/// The same replica leads once more and is cut off: its lease holds although the death of its former life is recalled.
pub(super) const REPLAYED_CERTIFICATE: Scenario = Scenario {
    name: "replayed-certificate",
    about: "a certificate of a former life releases nothing of the next",
    conditions: standard,
    play: |world| {
        settle(world);
        world.die(A);
        expect_serving(world, B, ms(100));
        world.start(A);
        world.run_for(ms(300));
        // They remember what they have taken only as long as they live.
        for node in [WITNESS, B] {
            world.crash(node);
            world.start(node);
            world.run_for(ms(300));
        }
        let active = world.serving();
        world.expect(active.is_some(), |_| "nobody serves".to_owned());
        if active == Some(B) {
            world.hand_over(B);
        }
        expect_serving(world, A, ms(200));
        world.run_for(ms(100));
        world.isolate(A);
        let lease = world.conditions.profile.timing().lease();
        let until = world.now + lease;
        while world.now < until {
            for node in [B, WITNESS] {
                world.replay_a_death(node);
            }
            world.run_for(ms(2));
            world.expect(!world.is_serving(B), |_| "b did not wait".to_owned());
        }
        expect_serving(world, B, ms(300));
        recover(world);
    },
};

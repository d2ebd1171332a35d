//! The right to serve: who keeps it, for how long, and what a takeover costs.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, changes, expect_serving, recover, settle, standard};
use crate::clock::ms;
use crate::world::{Conditions, World};
use crate::{A, B, NODES, WITNESS};

/// The witness answers the active's heartbeat, crashes and is back at once, cut off from the active. The standby, which
/// has long stopped hearing the active, asks it for a vote.
pub(super) const RESTART_FORGETS_PROMISE: Scenario = Scenario {
    name: "restart-forgets-promise",
    about: "a voter that restarts keeps the promise that it has forgotten",
    conditions: standard,
    play: |world| {
        settle(world);
        world.cut(A, B);
        let length = ms(150 + world.rng.random_range(0..20));
        world.run_for(length);
        world.expect(world.is_serving(A), |_| {
            "the witness did not keep the active alive".to_owned()
        });
        world.crash(WITNESS);
        world.cut(A, WITNESS);
        world.start(WITNESS);
        expect_serving(world, B, ms(400));
        recover(world);
    },
};

/// From the crash to the open gate, either way round. `a` stands earlier than `b`, often before the witness has given
/// up the old leader: then the retried pre-vote is what decides.
pub(super) const CRASH: Scenario = Scenario {
    name: "crash",
    about: "the active dies, the standby serves",
    conditions: standard,
    play: |world| {
        settle(world);
        let mut active = A;
        if world.rng.random_bool(0.5) {
            world.hand_over(A);
            expect_serving(world, B, ms(200));
            world.run_for(ms(100));
            active = B;
        }
        let moment = Duration::from_micros(world.rng.random_range(0..20_000));
        world.run_for(moment);
        match world.rng.random_bool(0.5) {
            true => world.crash(active),
            false => world.power_cut(active),
        }
        expect_serving(world, A + B - active, ms(160));
        recover(world);
    },
};

pub(super) const ISOLATED_ACTIVE: Scenario = Scenario {
    name: "isolated-active",
    about: "an isolated active falls silent before the other side may serve",
    conditions: standard,
    play: |world| {
        settle(world);
        let moment = Duration::from_micros(world.rng.random_range(0..20_000));
        world.run_for(moment);
        world.isolate(A);
        let silent = world.run_until(ms(200), |world| !world.is_serving(A));
        let lease = world.conditions.profile.timing().lease();
        world.expect(silent.is_some_and(|silent| silent <= lease + ms(1)), |_| {
            format!("silent after {silent:?}")
        });
        expect_serving(world, B, ms(300));
        recover(world);
    },
};

pub(super) const PAUSED_OWNER_WAKES: Scenario = Scenario {
    name: "paused-owner-wakes",
    about: "an owner that was paused wakes up without its lease",
    conditions: standard,
    play: |world| {
        settle(world);
        // Longer than a lease and an election.
        let length = ms(world.rng.random_range(200..500));
        world.pause(A, length);
        expect_serving(world, B, ms(300));
        world.run_for(length);
        world.expect(world.serving() == Some(B), |world| {
            format!("{:?} serves", world.serving())
        });
        recover(world);
    },
};

/// Calls go on while only the active's disk works; heartbeats and leases go on, too. Then all power fails, and the
/// active's does not come back.
pub(super) const ANSWER_ON_ONE_DISK: Scenario = Scenario {
    name: "answer-on-one-disk",
    about: "what only the active's disk knows was shown to nobody",
    conditions: |seed| Conditions {
        lanes: 6,
        ..standard(seed)
    },
    play: |world| {
        settle(world);
        world.stall_disk(B, ms(1500));
        world.stall_disk(WITNESS, ms(1500));
        let length = ms(world.rng.random_range(300..900));
        world.run_for(length);
        world.expect(world.is_serving(A), |_| "a lost its lease".to_owned());
        // What the others have in memory goes with them.
        for node in NODES {
            world.power_cut(node);
        }
        world.start(B);
        world.start(WITNESS);
        expect_serving(world, B, ms(1500));
        recover(world);
    },
};

/// A slow disk under the standby delays its acknowledgements, not its heartbeat answers.
pub(super) const STALLED_STANDBY_DISK: Scenario = Scenario {
    name: "stalled-standby-disk",
    about: "a stalled disk of the standby costs the gate and not the lease",
    conditions: standard,
    play: |world| {
        settle(world);
        world.stall_disk(B, ms(600));
        for _ in 0..50 {
            let _ = world.propose(A, 100);
            world.run_for(ms(5));
            world.expect(world.is_serving(A), |_| "a lost its lease".to_owned());
        }
        let behind = |world: &World| {
            let status = world.status(A)?;
            Some(status.last_index.saturating_sub(status.applied))
        };
        world.expect(behind(world).is_some_and(|behind| behind < 12), |world| {
            format!("commits do not go on with the witness: {:?}", behind(world))
        });
        world.run_for(ms(700));
        changes(world, A, 3, ms(5));
        recover(world);
    },
};

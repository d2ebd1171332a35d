//! How the log reaches replicas, and what happens to those it no longer reaches.

use std::time::Duration;

use rand::Rng;
use tandem_replication_core::Limits;

use super::{Scenario, changes, expect_serving, recover, settle};
use crate::clock::ms;
use crate::world::{Conditions, World};
use crate::{A, B, WITNESS};

/// Appends and their answers overtake each other and come twice, so the leader's idea of a follower jumps back and forth
/// while more is proposed. Then the leader dies with what it alone may have.
pub(super) const REORDERED_APPENDS: Scenario = Scenario {
    name: "reordered-appends",
    about: "appends that overtake each other commit nothing that only the leader has",
    conditions: |_| Conditions {
        duplication: 0.3,
        lanes: 0,
        ..Conditions::default()
    },
    play: |world| {
        settle(world);
        world.conditions.delay_us = (80, 12_000);
        for _ in 0..300 {
            let _ = world.propose(A, 20);
            let pause = Duration::from_micros(world.rng.random_range(200..4000));
            world.run_for(pause);
        }
        world.power_cut(A);
        world.conditions.delay_us = (80, 400);
        expect_serving(world, B, ms(600));
        changes(world, B, 20, ms(2));
        recover(world);
    },
};

fn short_log(_seed: u64) -> Conditions {
    Conditions {
        limits: Limits {
            log_entries: 32,
            ..Limits::default()
        },
        ..Conditions::default()
    }
}

fn leave_behind(world: &mut World, node: usize, count: usize) {
    settle(world);
    world.crash(node);
    world.run_for(ms(60));
    changes(world, A, count, ms(1));
}

pub(super) const FOLLOWER_FAR_BEHIND: Scenario = Scenario {
    name: "follower-far-behind",
    about: "a follower that the log no longer reaches gets a snapshot, and keeps it",
    conditions: short_log,
    play: |world| {
        leave_behind(world, B, 200);
        let log = |world: &World| {
            let status = world.status(A)?;
            Some(status.last_index - status.first_index)
        };
        world.expect(log(world).is_some_and(|length| length < 64), |world| {
            format!("the log is not bounded: {:?}", log(world))
        });
        world.start(B);
        let settled = world.run_until(ms(600), |world| world.settled());
        world.expect(settled.is_some(), |_| "b does not catch up".to_owned());
        world.expect(world.counts.snapshots >= 1, |_| {
            "without a snapshot".to_owned()
        });
        // What was installed is durable, and the log goes on behind it.
        world.power_cut(B);
        world.start(B);
        let _ = world.propose(A, 100);
        let settled = world.run_until(ms(600), |world| world.settled());
        world.expect(settled.is_some(), |_| "b has lost its snapshot".to_owned());
        recover(world);
    },
};

/// raft-rs panics when a node stands for election while an installed snapshot is not yet durable.
pub(super) const STALLED_DISK_UNDER_A_SNAPSHOT: Scenario = Scenario {
    name: "stalled-disk-under-a-snapshot",
    about: "a node whose snapshot is not on disk yet does not stand for election",
    conditions: short_log,
    play: |world| {
        leave_behind(world, B, 100);
        world.start(B);
        world.stall_disk(B, ms(800));
        let snapshots = world.counts.snapshots;
        let got = world.run_until(ms(400), |world| world.counts.snapshots > snapshots);
        world.expect(got.is_some(), |_| "no snapshot".to_owned());
        world.crash(A);
        world.run_for(ms(300));
        world.expect(world.serving().is_none(), |_| {
            "somebody serves who has not everything on disk".to_owned()
        });
        expect_serving(world, B, ms(1500));
        recover(world);
    },
};

/// The active dies while the standby is being sent a snapshot: the witness has what the standby lacks.
pub(super) const SNAPSHOT_DURING_TAKEOVER: Scenario = Scenario {
    name: "snapshot-during-takeover",
    about: "the active dies while the standby gets a snapshot, and the witness goes on with it",
    conditions: short_log,
    play: |world| {
        leave_behind(world, B, 150);
        world.conditions.delay_us = (2000, 6000);
        world.start(B);
        let probing = world.run_until(ms(300), |world| {
            let peers = world.status(A).map(|status| status.peers);
            peers.is_some_and(|peers| peers.iter().any(|peer| peer.snapshot))
        });
        world.expect(probing.is_some(), |_| "no snapshot under way".to_owned());
        world.power_cut(A);
        world.conditions.delay_us = (80, 400);
        expect_serving(world, B, ms(2000));
        world.expect(world.is_up(WITNESS), |_| "the witness is down".to_owned());
        recover(world);
    },
};

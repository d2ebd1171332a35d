//! What an operator has chosen or forces: one machine that goes on alone.

use tandem_replication_core::{OnSingle, SINGLE_AFTER};

use super::{Scenario, changes, expect_serving, expect_whole, recover, settle, standard};
use crate::clock::ms;
use crate::world::{Conditions, World};
use crate::{A, B, WITNESS};

fn serve(seed: u64) -> Conditions {
    Conditions {
        on_single: OnSingle::Serve,
        lanes: 1,
        ..standard(seed)
    }
}

fn is_alone(world: &World, node: usize) -> bool {
    world.status(node).is_some_and(|status| status.is_alone())
}

/// One is gone for longer than the active waits for it, then the other.
fn last(world: &mut World, first: usize, second: usize) {
    settle(world);
    world.power_cut(first);
    let alone = world.run_until(SINGLE_AFTER + ms(500), |world| is_alone(world, A));
    world.expect(
        alone.is_some_and(|took| took >= SINGLE_AFTER - ms(100)),
        |_| format!("alone after {alone:?}"),
    );
    world.power_cut(second);
    let before = world.counts.confirmed;
    for _ in 0..100 {
        changes(world, A, 1, ms(10));
        world.expect(world.is_serving(A), |_| "a stopped".to_owned());
    }
    world.expect(world.counts.confirmed >= before + 100, |_| {
        "alone and commits nothing".to_owned()
    });
    // It needs nobody for its own restart.
    world.power_cut(A);
    world.start(A);
    expect_serving(world, A, ms(500));
    world.start(first);
    world.run_for(ms(1500));
    world.expect(is_alone(world, A), |_| "two voters".to_owned());
    world.start(second);
    expect_whole(world);
    world.power_cut(A);
    expect_serving(world, B, ms(300));
    recover(world);
}

pub(super) const LAST_MAN_STANDING: Scenario = Scenario {
    name: "last-man-standing",
    about: "with on_single = serve the active goes on when the standby and then the witness are gone",
    conditions: serve,
    play: |world| last(world, B, WITNESS),
};

pub(super) const LAST_MAN_STANDING_REVERSED: Scenario = Scenario {
    name: "last-man-standing-reversed",
    about: "the same the other way round",
    conditions: serve,
    play: |world| last(world, WITNESS, B),
};

/// The standby was away while active and witness committed, then both die. An operator makes what the standby holds
/// the pair; the others come back with longer logs, and stand down until they have rejoined.
pub(super) const FORCE_STALE_TAKEOVER: Scenario = Scenario {
    name: "force-stale-takeover",
    about: "a forced takeover makes one pair of a stale standby, and the old pair no second one",
    // What the calls of the old pair were promised is lost with it.
    conditions: |seed| Conditions {
        lanes: 0,
        ..standard(seed)
    },
    play: |world| {
        settle(world);
        world.crash(B);
        changes(world, A, 50, ms(3));
        world.power_cut(A);
        world.power_cut(WITNESS);
        world.start(B);
        world.run_for(ms(1500));
        world.expect(world.serving().is_none(), |_| {
            "b serves by itself".to_owned()
        });
        let forced = world.force(B);
        world.expect(forced.is_ok(), |_| format!("not forced: {forced:?}"));
        expect_serving(world, B, ms(600));
        changes(world, B, 20, ms(3));
        for node in [A, WITNESS] {
            world.start(node);
        }
        changes(world, B, 100, ms(10));
        for node in [A, WITNESS] {
            let superseded = world.status(node).and_then(|status| status.superseded_by);
            world.expect(superseded == Some(1), |_| {
                format!("node {node} does not stand down: {superseded:?}")
            });
            world.lose_disk(node);
        }
        expect_whole(world);
        world.power_cut(B);
        expect_serving(world, A, ms(300));
        recover(world);
    },
};

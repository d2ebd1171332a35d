//! What the witness is for.

use super::{Scenario, changes, expect_serving, recover, settle, standard};
use crate::clock::ms;
use crate::{A, B};

/// Commits on active and witness, the active dies, the standby comes back without them.
pub(super) const STANDBY_DOWN_ACTIVE_DOWN_STANDBY_BOOTS: Scenario = Scenario {
    name: "standby-down-active-down-standby-boots",
    about: "the witness leads for what it alone holds, and hands it on",
    conditions: standard,
    play: |world| {
        settle(world);
        world.crash(B);
        world.run_for(ms(60));
        let before = world.counts.confirmed;
        changes(world, A, 20, ms(2));
        world.run_for(ms(60));
        world.expect(world.counts.confirmed >= before + 20, |_| {
            "commits did not go on with the witness".to_owned()
        });
        world.power_cut(A);
        let led = world.counts.witness_led;
        world.start(B);
        expect_serving(world, B, ms(1500));
        world.expect(world.counts.witness_led > led, |_| {
            "only the witness could bring the standby up to date".to_owned()
        });
        recover(world);
    },
};

/// The gate keeps the witness no further than the standby, so losing the link between the data nodes just before the
/// active dies does not cost the witness's detour.
pub(super) const DATA_LINK_DIES_BEFORE_ACTIVE: Scenario = Scenario {
    name: "data-link-dies-before-active",
    about: "the standby is electable when the link and, 15 ms later, the active die",
    conditions: standard,
    play: |world| {
        settle(world);
        let led = world.counts.witness_led;
        world.cut(A, B);
        changes(world, A, 7, ms(2));
        world.power_cut(A);
        expect_serving(world, B, ms(180));
        world.expect(world.counts.witness_led == led, |_| {
            "the witness led".to_owned()
        });
        recover(world);
    },
};

/// raft-rs lets a longer log of lower priority veto; here it is longer but older.
pub(super) const LONGER_BUT_OLDER_LOG: Scenario = Scenario {
    name: "longer-but-older-log",
    about: "a longer but older log does not veto the witness",
    conditions: standard,
    play: |world| {
        settle(world);
        // `a` appends what nobody receives, then comes back behind a newer term.
        world.isolate(A);
        for _ in 0..40 {
            let _ = world.propose(A, 10);
        }
        world.run_for(ms(5));
        world.crash(A);
        expect_serving(world, B, ms(500));
        changes(world, B, 5, ms(1));
        world.run_for(ms(100));
        world.crash(B);
        world.heal();
        world.start(A);
        expect_serving(world, A, ms(1500));
        recover(world);
    },
};

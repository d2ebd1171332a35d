//! Handing on: a transfer overrides the promises that a lease rests on.

use tandem_replication_core::Role;

use super::{Scenario, expect_serving, recover, settle, standard};
use crate::clock::ms;
use crate::world::World;
use crate::{A, B, WITNESS};

pub(super) const PLANNED: Scenario = Scenario {
    name: "planned-transfer",
    about: "a transfer takes milliseconds, and nobody serves until it is done",
    conditions: standard,
    play: |world| {
        settle(world);
        let _ = world.propose(A, 100);
        let began = world.hand_over(A);
        world.expect(began, |_| "a had nothing to hand on".to_owned());
        let took = expect_serving(world, B, ms(200));
        world.expect(took.is_some_and(|took| took <= ms(30)), |_| {
            format!("took {took:?}")
        });
        recover(world);
    },
};

/// Whoever asks the replica alone, and not the engine: the lease ends at once all the same.
pub(super) const BEHIND_THE_ENGINE: Scenario = Scenario {
    name: "transfer-with-lease",
    about: "a replica that transfers drops its lease first",
    conditions: standard,
    play: |world| {
        settle(world);
        let asked = world.transfer(A, B).is_ok();
        world.expect(asked, |_| "the transfer was refused".to_owned());
        let lease = world.status(A).and_then(|status| status.lease);
        world.expect(lease.is_none(), |_| format!("a still holds {lease:?}"));
        world.run_for(ms(200));
        recover(world);
    },
};

/// The transfer is under way when the old leader is cut off: it never hears of the new one.
pub(super) const CUT_AFTER: Scenario = Scenario {
    name: "cut-after-transfer",
    about: "an active that is cut off in the middle of its transfer serves no more",
    conditions: standard,
    play: |world| {
        settle(world);
        world.hand_over(A);
        let asked = world.run_until(ms(20), |world| {
            let role = world.status(B).map(|status| status.role);
            matches!(role, Some(Role::Candidate { .. }))
        });
        world.expect(asked.is_some(), |_| "b does not stand".to_owned());
        world.isolate(A);
        expect_serving(world, B, ms(100));
        world.run_for(ms(200));
        recover(world);
    },
};

/// The target never answers: the old leader may not serve in its term again, so it wins the next.
pub(super) const FAILED: Scenario = Scenario {
    name: "failed-transfer",
    about: "a transfer that comes to nothing costs a term and not the service",
    conditions: standard,
    play: |world| {
        settle(world);
        let term = |world: &World| world.status(A).map(|status| status.term);
        let before = term(world);
        world.cut(A, B);
        world.cut(B, WITNESS);
        world.hand_over(A);
        expect_serving(world, A, ms(400));
        world.expect(term(world) > before, |_| {
            "the term has not changed".to_owned()
        });
        recover(world);
    },
};

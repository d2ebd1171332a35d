//! The address on EC2, whose API answers before it acts and shows what was.

use super::{Scenario, expect_serving, recover, settle};
use crate::clock::ms;
use crate::fabric::FabricKind;
use crate::world::Conditions;
use crate::{A, B};

fn ec2(_seed: u64) -> Conditions {
    Conditions {
        fabric: FabricKind::Ec2,
        ..Conditions::default()
    }
}

/// The claim of an owner that is about to die is accepted, and takes effect after the next owner's.
pub(super) const LATE_EFFECT_OF_A_FORMER_OWNER: Scenario = Scenario {
    name: "late-effect-of-a-former-owner",
    about: "a former owner's claim takes effect after the new owner's, and is repaired",
    conditions: |seed| Conditions {
        effect_us: (0, 900_000),
        ..ec2(seed)
    },
    play: |world| {
        let elected = world.run_until(ms(600), |world| world.serving().is_some());
        world.expect(elected.is_some(), |_| "nobody was elected".to_owned());
        let first = world.serving().unwrap_or(A);
        // Its claim is on its way.
        world.run_for(ms(15));
        world.isolate(first);
        expect_serving(world, A + B - first, ms(400));
        world.run_for(ms(300));
        recover(world);
    },
};

pub(super) const API_AWAY_DURING_TAKEOVER: Scenario = Scenario {
    name: "api-away-during-takeover",
    about: "the API cannot be reached when it is needed, then throttles, then answers",
    conditions: ec2,
    play: |world| {
        settle(world);
        world.conditions.api_cut.insert(B);
        world.power_cut(A);
        expect_serving(world, B, ms(300));
        world.run_for(ms(700));
        let moved = world.address_is_right();
        world.expect(!moved, |_| "the address moved without the API".to_owned());
        world.conditions.api_cut.clear();
        world.conditions.throttled = 0.7;
        world.run_for(ms(500));
        recover(world);
    },
};

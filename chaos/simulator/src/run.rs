//! One run: a scenario, a seed, and what came of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::Serialize;

use crate::invariants::Violation;
use crate::world::{Counts, World};
use crate::{Safeguard, Scenario};

/// Lines of the trace that an outcome carries.
const TAIL: usize = 2000;

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub seed: u64,
    pub scenario: &'static str,
    /// Empty: everything held.
    pub violations: Vec<Violation>,
    /// Events handled.
    pub steps: u64,
    /// Virtual time that has passed.
    pub lasted: Duration,
    pub counts: Counts,
    /// The last events in words, if the run was traced.
    pub trace: Vec<String>,
}

/// Plays a scenario with a seed. A panic of a core is a violation like any other.
pub fn run(scenario: &Scenario, seed: u64, without: Option<Safeguard>, traced: bool) -> Outcome {
    let mut conditions = (scenario.conditions)(seed);
    conditions.without = without;
    let mut world = World::new(seed, conditions, traced);
    let played = catch_unwind(AssertUnwindSafe(|| (scenario.play)(&mut world)));
    if let Err(panic) = played {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        world.violate("no panic", text.unwrap_or("without a message").to_owned());
    }
    Outcome {
        seed,
        scenario: scenario.name,
        violations: std::mem::take(&mut world.invariants.violations),
        steps: world.steps,
        lasted: world.now,
        counts: world.counts,
        trace: world.trace.tail(TAIL),
    }
}

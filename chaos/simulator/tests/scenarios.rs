//! Every scenario with a few seeds, with the cores' own assertions on. The many seeds are `tandem-chaos simulate`'s.

use tandem_simulator::{SCENARIOS, run, scenario};

/// Seeds of each scenario: enough that none is broken outright.
const SEEDS: u64 = 2;

#[test]
fn every_scenario_holds() {
    for scenario in SCENARIOS {
        for seed in 0..SEEDS {
            let outcome = run(scenario, seed, None, false);
            assert!(
                outcome.violations.is_empty(),
                "{} with seed {seed}: {:#?}",
                scenario.name,
                outcome.violations
            );
        }
    }
}

#[test]
fn a_seed_replays_exactly_and_another_does_not() {
    let random = scenario("random").expect("there is one");
    let trace = |seed| run(random, seed, None, true).trace;
    let first = trace(11);
    assert!(first.len() > 1000, "the trace says what happened");
    assert_eq!(first, trace(11));
    assert_ne!(first, trace(12));
}

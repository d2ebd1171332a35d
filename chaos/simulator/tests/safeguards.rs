//! Each safeguard, taken away, is missed: the simulator finds a violation within a stated number of seeds. With the
//! safeguard in place the same runs find none.
//!
//! The switches are compiled in by the feature `sabotage`, which no other build has:
//! `cargo test --release -p tandem-simulator --features sabotage --test safeguards`.

use tandem_simulator::{Outcome, Safeguard, run, scenario};

/// The scenario that misses a safeguard, how many seeds it may take, and the invariants of which one is violated.
struct Proof {
    without: Safeguard,
    scenario: &'static str,
    seeds: u64,
    violated: &'static [&'static str],
}

const PROOFS: [Proof; 10] = [
    Proof {
        without: Safeguard::LeaseBound,
        scenario: "isolated-active",
        seeds: 5,
        violated: &["single owner"],
    },
    Proof {
        without: Safeguard::VoteRefusal,
        scenario: "restart-forgets-promise",
        seeds: 20,
        violated: &["single owner"],
    },
    Proof {
        without: Safeguard::WitnessGate,
        scenario: "data-link-dies-before-active",
        seeds: 5,
        violated: &["witness never ahead of a healthy standby"],
    },
    Proof {
        without: Safeguard::ReleaseOrder,
        scenario: "cut-after-transfer",
        seeds: 5,
        violated: &["single owner"],
    },
    Proof {
        without: Safeguard::BatchAssertion,
        scenario: "reordered-appends",
        seeds: 100,
        // raft-rs panics on a follower that is sent other entries than those it has committed.
        violated: &["no conflicting commit", "promises", "no panic"],
    },
    Proof {
        without: Safeguard::EpochCheck,
        scenario: "random",
        seeds: 300,
        // In a debug build the machine itself notices.
        violated: &["epochs rise", "no panic"],
    },
    Proof {
        without: Safeguard::CommitBeforeReveal,
        scenario: "answer-on-one-disk",
        seeds: 10,
        violated: &["acknowledged call present at takeover"],
    },
    Proof {
        without: Safeguard::DiskBeforeAnswer,
        scenario: "answer-on-one-disk",
        seeds: 10,
        violated: &[
            "promises",
            "no conflicting commit",
            "acknowledged call present at takeover",
        ],
    },
    Proof {
        without: Safeguard::AskingFirst,
        scenario: "wiped-replica-does-not-vote",
        seeds: 5,
        violated: &["promises"],
    },
    Proof {
        without: Safeguard::UncleanRefused,
        scenario: "unclean-memory-restart",
        seeds: 5,
        violated: &["promises"],
    },
];

fn outcome(proof: &Proof, seed: u64, without: Option<Safeguard>) -> Outcome {
    let scenario = scenario(proof.scenario).expect("a scenario of this name");
    run(scenario, seed, without, false)
}

fn misses(outcome: &Outcome, proof: &Proof) -> bool {
    let names = outcome
        .violations
        .iter()
        .map(|violation| violation.invariant);
    names.into_iter().any(|name| proof.violated.contains(&name))
}

#[test]
fn every_safeguard_is_missed_when_it_is_gone() {
    let mut unmissed = Vec::new();
    for proof in &PROOFS {
        let missing = |seed: &u64| misses(&outcome(proof, *seed, Some(proof.without)), proof);
        let Some(seed) = (0..proof.seeds).find(missing) else {
            unmissed.push(proof.without);
            continue;
        };
        eprintln!(
            "{:?}: missed by {} with seed {seed}",
            proof.without, proof.scenario
        );
        let sound = outcome(proof, seed, None);
        assert!(sound.violations.is_empty(), "{:?}", sound.violations);
    }
    assert!(unmissed.is_empty(), "nobody misses {unmissed:?}");
}

#[test]
fn no_safeguard_lacks_a_proof() {
    for safeguard in Safeguard::ALL {
        assert!(
            PROOFS.iter().any(|proof| proof.without == safeguard),
            "{safeguard:?}"
        );
    }
}

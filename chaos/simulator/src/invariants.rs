//! What must hold whatever happens: one file each. They see everything that the machines do and never change it.

mod acknowledged_calls;
mod address_converges;
mod cdr_exactly_once;
mod epochs_rise;
mod liveness;
mod no_conflicting_commit;
mod one_leader_per_term;
mod promises;
mod single_owner;
mod witness_behind;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use tandem_replication_core::{Command, ProposalId, Table};

use crate::lanes::Call;

pub(crate) use address_converges::AddressConverges;
pub(crate) use liveness::Liveness;

/// Something that went against an invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant's name.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// True time since the start, in microseconds.
    pub at_us: u64,
    /// Number of the simulation's step.
    pub step: u64,
}

/// What an invariant gets to see.
#[derive(Debug)]
pub(crate) enum Sighting<'a> {
    /// A process has started with what its disk holds.
    Started { node: usize, applied: u64 },
    /// A process is gone.
    Stopped { node: usize },
    /// A replica decided something. The table is as it is after it.
    Replica {
        node: usize,
        command: &'a Command,
        table: &'a Table,
    },
    /// A change entered a leader's log under this key.
    Proposed {
        node: usize,
        proposal: ProposalId,
        key: &'a [u8],
    },
    /// A step is over; these nodes may serve by their own clocks, under these epochs.
    Serving { nodes: &'a [(usize, u64)] },
    /// A node begins to serve.
    Activated {
        node: usize,
        epoch: u64,
        /// The owner entry that its engine applied last: node and epoch.
        owner: Option<(usize, u64)>,
        /// Call-IDs of the callers of the calls that it would serve.
        serves: BTreeSet<String>,
        table: &'a Table,
        calls: &'a BTreeMap<String, Call>,
    },
    /// A packet left a node through its gate.
    Emitted { node: usize, epoch: u64 },
    /// An operator made what one store holds the pair: what was committed beyond `last` is lost, as was said.
    Forced { last: u64, table: &'a Table },
    /// Nothing has been wrong for a while: machines, links, disks.
    Calm { witness: u64, standby: u64 },
    /// The run is over and everything was well at the end.
    End {
        table: &'a Table,
        calls: &'a BTreeMap<String, Call>,
    },
}

/// One thing that must hold.
pub(crate) trait Invariant: std::fmt::Debug {
    fn name(&self) -> &'static str;

    /// Looks at one sighting; an error says what is wrong.
    fn see(&mut self, sighting: &Sighting<'_>, now: Duration) -> Result<(), String>;
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    pub(crate) violations: Vec<Violation>,
}

/// Violations kept; a broken run repeats itself.
const KEPT: usize = 20;

impl Invariants {
    pub(crate) fn new() -> Invariants {
        Invariants {
            all: vec![
                Box::<single_owner::SingleOwner>::default(),
                Box::<one_leader_per_term::OneLeaderPerTerm>::default(),
                Box::<no_conflicting_commit::NoConflictingCommit>::default(),
                Box::<promises::Promises>::default(),
                Box::<acknowledged_calls::AcknowledgedCalls>::default(),
                Box::<cdr_exactly_once::CdrExactlyOnce>::default(),
                Box::<epochs_rise::EpochsRise>::default(),
                Box::<witness_behind::WitnessBehind>::default(),
            ],
            violations: Vec::new(),
        }
    }

    pub(crate) fn see(&mut self, sighting: &Sighting<'_>, now: Duration, step: u64) {
        for invariant in &mut self.all {
            if let Err(what) = invariant.see(sighting, now)
                && self.violations.len() < KEPT
            {
                let name = invariant.name();
                self.violations.push(Violation::new(name, what, now, step));
            }
        }
    }

    pub(crate) fn violated(&mut self, violation: Violation) {
        if self.violations.len() < KEPT {
            self.violations.push(violation);
        }
    }
}

impl Violation {
    pub(crate) fn new(
        invariant: &'static str,
        what: String,
        now: Duration,
        step: u64,
    ) -> Violation {
        Violation {
            invariant,
            what,
            at_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            step,
        }
    }
}

/// An error unless it holds.
pub(crate) fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

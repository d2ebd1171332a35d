//! What the endpoint was asked and when packets began to follow, for a drill's report.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::ids::InterfaceId;

/// Calls and effects remembered, each. At the bound the oldest is forgotten and counted.
const MAX_ENTRIES: usize = 100_000;

/// One API call. Times are CLOCK_BOOTTIME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub received: Duration,
    pub decided: Duration,
    pub caller: Ipv4Addr,
    pub action: String,
    /// `Name=value` pairs.
    pub parameters: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// Refused with this error code.
    Failed(&'static str),
    /// Took effect, the answer was thrown away.
    Lost,
    /// Left without an answer.
    Hung,
}

/// A moment at which the data plane began to follow a new table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub at: Duration,
    /// Holders of secondary addresses from then on.
    pub holders: BTreeMap<Ipv4Addr, InterfaceId>,
}

/// Bounded records, oldest first.
#[derive(Debug, Default)]
pub(super) struct Log {
    calls: VecDeque<Call>,
    effects: VecDeque<Effect>,
    forgotten: u64,
}

impl Log {
    pub(super) fn call(&mut self, call: Call) {
        self.forgotten += push(&mut self.calls, call);
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.forgotten += push(&mut self.effects, effect);
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    pub(super) fn effects(&self) -> Vec<Effect> {
        self.effects.iter().cloned().collect()
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// Returns how many entries were forgotten.
fn push<T>(entries: &mut VecDeque<T>, entry: T) -> u64 {
    entries.push_back(entry);
    if entries.len() <= MAX_ENTRIES {
        return 0;
    }
    entries.pop_front();
    1
}

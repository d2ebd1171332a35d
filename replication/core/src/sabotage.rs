//! Switches that turn one rule off each, for the simulator: a rule whose absence nobody notices is not needed, or not
//! tested. Without the feature `sabotage` the replica has none of them and every question is answered at compile time.

/// A rule of the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "sabotage")),
    allow(unreachable_pub, dead_code)
)]
pub enum Sabotage {
    /// A lease is shorter than the shortest election timeout.
    LeaseBound,
    /// No vote until an election timeout after start.
    VoteRefusal,
    /// Appends for the witness wait for the standby.
    WitnessGate,
    /// The lease ends before a transfer is asked for.
    ReleaseOrder,
    /// Nothing is added to an append that is queued, and what leaves connects.
    BatchAssertion,
    /// An answer that claims something about the disk waits for the disk.
    DiskBeforeAnswer,
}

/// What a replica does without.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    #[cfg(any(test, feature = "sabotage"))]
    rule: Option<Sabotage>,
}

impl Lacking {
    #[cfg(any(test, feature = "sabotage"))]
    pub(crate) fn lack(&mut self, rule: Sabotage) {
        self.rule = Some(rule);
    }

    #[cfg(any(test, feature = "sabotage"))]
    pub(crate) fn lacks(&self, rule: Sabotage) -> bool {
        self.rule == Some(rule)
    }

    #[cfg(not(any(test, feature = "sabotage")))]
    pub(crate) const fn lacks(&self, _rule: Sabotage) -> bool {
        false
    }
}

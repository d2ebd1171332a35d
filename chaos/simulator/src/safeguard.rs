//! The rules that a run can be made without, to show that each is needed.

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safeguard {
    /// A lease is shorter than the shortest election timeout.
    LeaseBound,
    /// A replica votes for nobody until an election timeout after its start.
    VoteRefusal,
    /// Appends for the witness wait for the standby.
    WitnessGate,
    /// The gate closes and the lease ends before a transfer is asked for.
    ReleaseOrder,
    /// Entries are not added to an append that was queued, and what leaves connects.
    BatchAssertion,
    /// Input of a lower epoch is dropped.
    EpochCheck,
    /// What shows a new state leaves when it is committed.
    CommitBeforeReveal,
    /// An answer that claims something about the disk leaves when the disk has it.
    DiskBeforeAnswer,
    /// An empty store asks who it is before it votes.
    AskingFirst,
    /// A store whose acknowledgements rested on a memory that is gone is not used again.
    UncleanRefused,
}

impl Safeguard {
    /// All of them.
    pub const ALL: [Safeguard; 10] = [
        Safeguard::LeaseBound,
        Safeguard::VoteRefusal,
        Safeguard::WitnessGate,
        Safeguard::ReleaseOrder,
        Safeguard::BatchAssertion,
        Safeguard::EpochCheck,
        Safeguard::CommitBeforeReveal,
        Safeguard::DiskBeforeAnswer,
        Safeguard::AskingFirst,
        Safeguard::UncleanRefused,
    ];

    /// The replica's switch, if the rule is the replica's.
    #[cfg(feature = "sabotage")]
    pub(crate) fn of_replica(self) -> Option<tandem_replication_core::Sabotage> {
        use tandem_replication_core::Sabotage;
        Some(match self {
            Safeguard::LeaseBound => Sabotage::LeaseBound,
            Safeguard::VoteRefusal => Sabotage::VoteRefusal,
            Safeguard::WitnessGate => Sabotage::WitnessGate,
            Safeguard::ReleaseOrder => Sabotage::ReleaseOrder,
            Safeguard::BatchAssertion => Sabotage::BatchAssertion,
            Safeguard::DiskBeforeAnswer => Sabotage::DiskBeforeAnswer,
            Safeguard::EpochCheck
            | Safeguard::CommitBeforeReveal
            | Safeguard::AskingFirst
            | Safeguard::UncleanRefused => return None,
        })
    }
}

//! The words both machines share.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// The Raft term in which ownership was committed: the fencing token. It only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A member of the pair, or its witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    A,
    B,
    Witness,
}

impl Slot {
    pub const fn as_str(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
            Slot::Witness => "witness",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Where this node wants the floating address. A follower may skip intermediate values: only the latest
/// one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Here, under this epoch.
    Hold { epoch: Epoch },
    /// Not here.
    #[default]
    Release,
}

/// A step of a takeover that operators and drills read from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    WorkerStarted,
    Elected,
    OwnerCommitted,
    GateOpened,
    GateClosed,
    AddressClaimed,
    AddressVerified,
    AddressReleased,
}

impl Event {
    /// The name that stands in the log line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Event::WorkerStarted => "worker_started",
            Event::Elected => "elected",
            Event::OwnerCommitted => "owner_committed",
            Event::GateOpened => "gate_opened",
            Event::GateClosed => "gate_closed",
            Event::AddressClaimed => "address_claimed",
            Event::AddressVerified => "address_verified",
            Event::AddressReleased => "address_released",
        }
    }
}

/// One transition: what, under which epoch, at which boot time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub event: Event,
    pub epoch: Epoch,
    pub at: Duration,
}

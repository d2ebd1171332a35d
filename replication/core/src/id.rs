//! Identities: who a replica is, and how its proposals and writes are told apart.

use std::{fmt, str::FromStr};

/// A place in the pair. The slot stays when a machine is replaced; the incarnation does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Data node `a`.
    A,
    /// Data node `b`.
    B,
    /// The third voter: holds the log and the table, never serves.
    Witness,
}

impl Slot {
    /// The slot's number in the upper half of a [`ReplicaId`].
    pub const fn number(self) -> u32 {
        match self {
            Slot::A => 1,
            Slot::B => 2,
            Slot::Witness => 3,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Slot> {
        match number {
            1 => Some(Slot::A),
            2 => Some(Slot::B),
            3 => Some(Slot::Witness),
            _ => None,
        }
    }

    /// Whether this slot may serve calls.
    pub const fn is_data(self) -> bool {
        match self {
            Slot::A | Slot::B => true,
            Slot::Witness => false,
        }
    }
}

/// The text names no slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a slot: a, b or witness")]
pub struct InvalidSlot(pub String);

impl FromStr for Slot {
    type Err = InvalidSlot;

    fn from_str(text: &str) -> Result<Slot, InvalidSlot> {
        match text {
            "a" => Ok(Slot::A),
            "b" => Ok(Slot::B),
            "witness" => Ok(Slot::Witness),
            other => Err(InvalidSlot(other.to_owned())),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Slot::A => "a",
            Slot::B => "b",
            Slot::Witness => "witness",
        })
    }
}

/// One voter's Raft identity: `slot << 32 | incarnation`.
///
/// A voter that lost its log must not come back under its old id: it would forget entries it has
/// acknowledged. It takes the next incarnation of its slot instead.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    slot: Slot,
    incarnation: u32,
}

/// The number is not a replica id: unknown slot, or incarnation 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:#x} is not a replica id")]
pub struct InvalidReplicaId(pub u64);

impl ReplicaId {
    /// The first incarnation of a slot: what a pair is bootstrapped with.
    pub const fn first(slot: Slot) -> ReplicaId {
        ReplicaId {
            slot,
            incarnation: 1,
        }
    }

    /// A given incarnation of a slot.
    ///
    /// # Errors
    /// Incarnations count from 1.
    pub fn new(slot: Slot, incarnation: u32) -> Result<ReplicaId, InvalidReplicaId> {
        let id = ReplicaId { slot, incarnation };
        if incarnation == 0 {
            Err(InvalidReplicaId(id.get()))
        } else {
            Ok(id)
        }
    }

    /// The number raft-rs knows this replica by.
    pub const fn get(self) -> u64 {
        ((self.slot.number() as u64) << 32) | self.incarnation as u64
    }

    /// The place in the pair.
    pub const fn slot(self) -> Slot {
        self.slot
    }

    /// How many times this slot has started from an empty disk.
    pub const fn incarnation(self) -> u32 {
        self.incarnation
    }
}

impl TryFrom<u64> for ReplicaId {
    type Error = InvalidReplicaId;

    fn try_from(number: u64) -> Result<ReplicaId, InvalidReplicaId> {
        let slot = u32::try_from(number >> 32).ok().and_then(Slot::from_number);
        let incarnation = u32::try_from(number & u64::from(u32::MAX));
        match (slot, incarnation) {
            (Some(slot), Ok(incarnation)) if incarnation != 0 => {
                Ok(ReplicaId { slot, incarnation })
            }
            (Some(_) | None, _) => Err(InvalidReplicaId(number)),
        }
    }
}

impl From<ReplicaId> for u64 {
    fn from(id: ReplicaId) -> u64 {
        id.get()
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.incarnation)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One proposal of this replica. Unique for ever: a replica proposes only as leader, and leads a term at
/// most once, so numbers may restart with each term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId {
    /// The term it was proposed in.
    pub term: u64,
    /// Counts from 1 within the term.
    pub number: u64,
}

/// One [`Write`](crate::Write). Writes are persisted and confirmed in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

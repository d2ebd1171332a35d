//! The pure replication core: one Raft voter of a pair and the table it agrees on.
//!
//! Every replica (both data nodes and the witness) runs one [`Replica`]. It decides; it never does:
//! messages, disk writes and applied changes leave as [`Command`]s, and what became of them comes back
//! through `handle_*`. So the same code runs under the simulator in virtual time.
//!
//! * [`Replica`]: the driver around raft-rs and the lease.
//! * [`Command`], [`Write`], [`Restored`]: what the shell executes, persists and restores.
//! * [`Change`], [`Proposal`]: what an entry of the log carries.
#![forbid(unsafe_code)]

mod admission;
mod change;
mod clock;
mod codec;
mod command;
mod config;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod id;
mod lease;
mod log;
mod replica;
mod sabotage;
mod shape;
#[cfg(test)]
mod sim;
mod status;
mod writes;

pub use change::{Change, Proposal};
pub use codec::CodecError;
pub use command::{Command, MessageClass, Position, Restored, Role, SnapshotWrite, Write};
pub use config::{Config, ConfigError, InvalidProfile, Limits, Profile, Timing};
pub use id::{InvalidReplicaId, InvalidSlot, ProposalId, ReplicaId, Slot, WriteId};
pub use raft::eraftpb;
pub use replica::{Death, DeathRefusal, ProposeError, Replica, TimerReason, TransferError};
#[cfg(feature = "sabotage")]
pub use sabotage::Sabotage;
pub use shape::{MessageError, ShapeError, parse_message};
pub use status::{Counters, LeaseStatus, PeerStatus, Status};

/// The committed and applied state: opaque keys and values.
pub type Table = std::collections::BTreeMap<bytes::Bytes, bytes::Bytes>;

//! The pure replication core: one Raft voter of a pair and the table it agrees on.
//!
//! Every replica (both data nodes and the witness) runs one [`Replica`]. It decides; it never does:
//! messages, disk writes and applied changes leave as [`Command`]s, and what became of them comes back
//! through `handle_*`. So the same code runs under the simulator in virtual time.
//!
//! * [`Replica`]: the driver around raft-rs and the lease.
//! * [`Command`], [`Write`], [`Restored`]: what the shell executes, persists and restores.
//! * [`Change`], [`Proposal`]: what an entry of the log carries.
//! * [`Founding`]: what runs instead while the store is empty and nobody knows whether it ever held a log.
//! * [`Envelope`], [`Hello`]: what travels between replicas beside Raft's messages.
#![forbid(unsafe_code)]

mod admission;
mod change;
mod clock;
mod codec;
mod command;
mod config;
mod envelope;
mod force;
mod founding;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod greeter;
mod hello;
mod id;
mod lease;
mod log;
mod membership;
mod replica;
mod sabotage;
mod shape;
#[cfg(test)]
mod sim;
mod status;
mod version;
mod writes;

pub use change::{Change, Proposal};
pub use codec::CodecError;
pub use command::{Command, MessageClass, Position, Restored, Role, SnapshotWrite, Write};
pub use config::{Config, ConfigError, InvalidProfile, Limits, Origin, Profile, Timing};
pub use envelope::{ENVELOPE_VERSION, Envelope, EnvelopeError, PeerMessage};
pub use force::{ForceError, Forced};
pub use founding::{Decision, Founding, Greeting, Waiting};
pub use hello::{Founders, Hello, Member, Standing, StoreId, Versions};
pub use id::{InvalidReplicaId, InvalidSlot, ProposalId, ReplicaId, Slot, WriteId};
pub use membership::{InvalidOnSingle, Membership, OnSingle, SINGLE_AFTER};
pub use raft::eraftpb;
pub use replica::{Death, DeathRefusal, ProposeError, Replica, TimerReason, TransferError};
#[cfg(feature = "sabotage")]
pub use sabotage::Sabotage;
pub use shape::{MessageError, ShapeError, parse_message};
pub use status::{Counters, LeaseStatus, PeerStatus, Status};
pub use version::is_reserved;

/// The committed and applied state: opaque keys and values.
pub type Table = std::collections::BTreeMap<bytes::Bytes, bytes::Bytes>;

//! Replication of the pair's table: the threads, the disk and the network around the pure core.
//!
//! ```text
//!              propose, transfer                  events
//!   node  ------------------------>  Raft thread  ------->  node's sink
//!                                    owns Replica
//!              writes, in order    /      ^      \   messages, bounded queues
//!         store thread  <---------        |       --------->  link tasks (tokio)
//!         owns sled     --------->     mailbox    <---------  QUIC, mutual TLS; death certificates
//!                     confirmations            messages
//! ```
//!
//! The Raft thread never waits for a disk or a socket: ticks and leases must not be late.
#![forbid(unsafe_code)]

mod certificate;
mod clock;
mod driver;
mod event;
mod founding;
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod hooks;
mod link;
mod mailbox;
mod measure;
mod panics;
pub mod pki;
mod punctuality;
mod settings;
mod start;
mod status;
mod store;

pub use certificate::{CertificateSigner, DATAGRAM_LIMIT, DeathCertificate, SignError};
pub use event::{DropReason, Event, Ticket};
pub use handle::{ForceFailed, ProposeError, Replication, RequestError};
pub use hooks::{Hooks, Pulse};
pub use link::{LinkCounters, LinkError, TlsError};
pub use measure::{Latency, StoreStatus};
pub use pki::{KeyPaths, PkiError};
pub use punctuality::Punctuality;
pub use settings::Settings;
pub use start::{StartError, start};
pub use status::{Member, Peer, ReplicaCounters, Status};
pub use store::{BootId, Durability, StoreError, UnknownDurability, move_aside, stored_identity};
pub use tandem_replication_core::{
    Change, ForceError, Forced, InvalidOnSingle, Limits, OnSingle, Profile, ReplicaId, Role, Slot,
    Table, TransferError, Versions,
};

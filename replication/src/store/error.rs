//! Why a store is not opened, or no longer written to.

use std::io;
use std::path::PathBuf;

use tandem_replication_core::ReplicaId;

/// Why a store is not usable. Each names a path; none is answered by starting empty.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has the store open.
    #[error("{path} is in use by another process")]
    Locked {
        /// The locked file.
        path: PathBuf,
    },
    /// sled refused to open, read or write, for a reason other than corruption.
    #[error("cannot {action} the store {path}: {source}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// The store's directory.
        path: PathBuf,
        /// Why.
        source: sled::Error,
    },
    /// The store has lost or garbled something it had acknowledged. A voter that forgets must not vote again
    /// under the same name.
    #[error(
        "the store {path} is corrupt ({detail}); what {id} acknowledged may be lost, so it must not vote again: \
         `tandem rejoin` moves it aside and lets the node come back as a new incarnation"
    )]
    Corrupt {
        /// The state directory.
        path: PathBuf,
        /// Whose store it is.
        id: ReplicaId,
        /// What is wrong.
        detail: String,
    },
    /// There is an identity, but nothing it could belong to.
    #[error(
        "{path} belongs to {id}, but its log is missing; what {id} acknowledged is lost, so it must not vote again: \
         `tandem rejoin` moves the rest aside and lets the node come back as a new incarnation"
    )]
    Missing {
        /// The state directory.
        path: PathBuf,
        /// Whose store it was.
        id: ReplicaId,
    },
    /// The machine restarted without an orderly stop while entries were acknowledged from its memory
    /// ([`Durability::Memory`](super::Durability::Memory)).
    #[error(
        "the machine of {path} stopped without warning while {id} kept its log in memory; what {id} acknowledged may \
         be lost, so it must not vote again: `tandem rejoin` moves it aside and lets the node come back as a new \
         incarnation"
    )]
    Unclean {
        /// The state directory.
        path: PathBuf,
        /// Whose store it is.
        id: ReplicaId,
    },
    /// The file system has no room left. Nothing acknowledged is lost: the store opens again once there is room.
    #[error("cannot {action} the store {path}: its file system is full ({detail})")]
    Full {
        /// What was tried.
        action: &'static str,
        /// The state directory, or the file concerned.
        path: PathBuf,
        /// What the operating system said.
        detail: String,
    },
    /// The store thread panicked.
    #[error("the store {path} failed: {detail}")]
    Panicked {
        /// The state directory.
        path: PathBuf,
        /// What the panic said.
        detail: String,
    },
    /// The store is another replica's.
    #[error("{path} belongs to {found}, not to {expected}")]
    Foreign {
        /// The state directory.
        path: PathBuf,
        /// Whose it is.
        found: ReplicaId,
        /// Who wanted to open it.
        expected: ReplicaId,
    },
    /// The identity file cannot be read, or a log without identity holds something.
    #[error("{path} does not say whose store this is: {detail}")]
    Unidentified {
        /// The identity file.
        path: PathBuf,
        /// What is wrong.
        detail: &'static str,
    },
}

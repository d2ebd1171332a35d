//! What replication tells its node.

use std::time::Duration;

use tandem_replication_core::{Change, ProposeError, Role, Slot, Table};

/// Identifies a proposal to its proposer. Rises with each accepted [`propose`](crate::Replication::propose).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Something happened. Events come in order, on the Raft thread: whoever takes them must not block.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Read the table afresh. The first event of all, with what the store held; later when a snapshot replaced
    /// the table. Entries above `index` follow, also those that were announced before a restart.
    Restored {
        /// The last log index the table includes.
        index: u64,
        /// All of it.
        table: Table,
    },
    /// An entry was committed.
    Applied {
        /// Log index; contiguous, except across [`Restored`](Event::Restored).
        index: u64,
        /// The term it was proposed in.
        term: u64,
        /// Set if it was proposed through this handle.
        ticket: Option<Ticket>,
        /// In order. Empty for entries that only serve Raft.
        changes: Vec<Change>,
    },
    /// The proposal will never be confirmed here.
    Dropped {
        /// What `propose` returned.
        ticket: Ticket,
        /// Why.
        reason: DropReason,
    },
    /// The role, the term or the known leader changed.
    Role(Role),
    /// This replica may serve until then, as leader of that term.
    Lease {
        /// The leader's term.
        term: u64,
        /// CLOCK_BOOTTIME; exclusive.
        until: Duration,
    },
    /// The right to serve ended.
    LeaseLost {
        /// The term of the lost lease.
        term: u64,
    },
    /// Messages to this peer have a way.
    PeerUp(Slot),
    /// They no longer have.
    PeerDown(Slot),
    /// The state directory's file system is running full: below the low-water mark of the
    /// [`Settings`](crate::Settings). What is written now is still safe. At the end the store fails.
    DiskLow {
        /// Room left for unprivileged writers.
        free_bytes: u64,
    },
    /// There is room again: a quarter more than the low-water mark.
    DiskRecovered,
    /// The disk failed, or a thread of replication panicked. The replica has stopped for good: the process should
    /// end and start afresh.
    StoreFailed(String),
}

/// Why a proposal was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// It never entered the log.
    #[error("refused: {0}")]
    Refused(#[from] ProposeError),
    /// It entered the log, but this replica lost leadership. Its changes may still commit.
    #[error("leadership was lost")]
    LeadershipLost,
    /// Replication stopped. Its changes may still commit.
    #[error("replication stopped")]
    Stopped,
}

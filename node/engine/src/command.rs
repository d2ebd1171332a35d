//! What the engine asks of its shell, and what the log tells the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tandem_failover_core::{Desired, Epoch, Transition};
use tandem_replication_core::{Change, Role, Table};
use tandem_sip::{command::MediaStream, flow::Flow, record::CallKey, time::Timestamp};

use crate::CdrId;

/// Both clocks, read once for each input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME: leases.
    pub boot: Duration,
    /// Wall clock: what stands in records, since two machines share it (docs/decisions/0007).
    pub wall: Timestamp,
}

/// One proposal of this engine. Rises; never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Batch(pub u64);

/// A side effect. The shell executes commands in the order in which they come out.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Put these changes into the log as one entry. [`Committed::Applied`] or [`Committed::Dropped`] follows, or
    /// [`Engine::handle_refused`](crate::Engine::handle_refused) when it is not accepted at all.
    Propose { batch: Batch, changes: Vec<Change> },
    /// Let it leave now, if the gate is open.
    Send { bytes: Bytes, flow: Flow },
    /// The complete media plan of a call; empty removes it.
    Media {
        key: CallKey,
        streams: Vec<MediaStream>,
    },
    /// Packets may leave until then, by CLOCK_BOOTTIME. A later one extends it.
    OpenGate { until: Duration },
    /// Nothing leaves any more.
    CloseGate,
    /// Where the floating address is wanted.
    Desire(Desired),
    /// A step of a takeover, for the log.
    Transition(Transition),
    /// Hand leadership to the other data node;
    /// [`Engine::handle_transfer_refused`](crate::Engine::handle_transfer_refused) if replication will not.
    Transfer { epoch: Epoch },
    /// Answer at once with the committed table, through
    /// [`Engine::handle_restored`](crate::Engine::handle_restored).
    Reread,
    /// A call detail record was committed.
    CdrPut { id: CdrId, record: Bytes },
    /// One left the table.
    CdrDelete { id: CdrId },
    /// These are the table's call detail records.
    CdrReplace { records: BTreeMap<CdrId, Bytes> },
    /// A committed table entry cannot be read: it was counted, and changed nothing.
    Undecodable { what: &'static str },
}

/// What the log tells, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// An entry was applied. `batch` is set if this engine proposed it.
    Applied {
        batch: Option<Batch>,
        changes: Vec<Change>,
    },
    /// The batch will never be confirmed here.
    Dropped { batch: Batch },
    /// Read the table afresh.
    Restored { table: Table },
    /// The role, the term or the known leader changed.
    Role(Role),
    /// This replica may serve until then.
    Lease { term: u64, until: Duration },
    /// The right to serve ended.
    LeaseLost { term: u64 },
}

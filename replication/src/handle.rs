//! The node's handle on replication.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tandem_replication_core::{
    Change, ForceError, Forced, ReplicaId, Role, Slot, Table, TransferError,
};

use crate::clock;
use crate::driver::Shared;
use crate::event::Ticket;
use crate::mailbox::{Mailbox, PendingProposal, Refused, Request};
use crate::status::{Status, Surroundings};
use crate::store::StoreError;

/// Longest wait for an answer of the Raft thread. It answers within a turn; copying a full table takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a proposal was not accepted. Nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Only the leader proposes.
    #[error("not the leader")]
    NotLeader {
        /// Who is, if known.
        leader: Option<ReplicaId>,
    },
    /// Too many proposals wait for the Raft thread.
    #[error("too many proposals are waiting")]
    Full,
    /// Replication has stopped.
    #[error("replication has stopped")]
    Stopped,
}

/// Why a question or an order was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The replica refused to hand leadership on.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// Too many wait for the Raft thread, or it took too long.
    #[error("replication is busy")]
    Busy,
    /// Replication has stopped.
    #[error("replication has stopped")]
    Stopped,
}

/// Why a takeover was not forced. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ForceFailed {
    /// The replica refused.
    #[error(transparent)]
    Refused(#[from] ForceError),
    /// The decision could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many wait for the Raft thread, or it took too long.
    #[error("replication is busy")]
    Busy,
    /// Replication has stopped.
    #[error("replication has stopped")]
    Stopped,
}

/// A running replica. Clones are handles on the same one; it stops with the last of them.
#[derive(Clone, Debug)]
pub struct Replication(Arc<Running>);

#[derive(Debug)]
struct Running {
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    tickets: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Replication {
    pub(crate) fn new(
        mailbox: Arc<Mailbox>,
        shared: Arc<Shared>,
        slots: Vec<Slot>,
        thread: JoinHandle<()>,
    ) -> Replication {
        let thread = Mutex::new(Some(thread));
        Replication(Arc::new(Running {
            mailbox,
            shared,
            slots,
            tickets: AtomicU64::new(0),
            thread,
        }))
    }

    /// Proposes changes that take effect together. An [`Applied`](crate::Event::Applied) or
    /// [`Dropped`](crate::Event::Dropped) event with this ticket follows. Never blocks.
    ///
    /// # Errors
    /// See [`ProposeError`]. More is refused later, by a `Dropped` event.
    pub fn propose(&self, changes: Vec<Change>) -> Result<Ticket, ProposeError> {
        match self.0.shared.core().role {
            Role::Leader { .. } => {}
            Role::Follower { leader, .. } => return Err(ProposeError::NotLeader { leader }),
            Role::Candidate { .. } => return Err(ProposeError::NotLeader { leader: None }),
        }
        let ticket = Ticket(self.0.tickets.fetch_add(1, Ordering::Relaxed) + 1);
        match self.0.mailbox.propose(PendingProposal { ticket, changes }) {
            Ok(()) => Ok(ticket),
            Err(Refused::Full) => Err(ProposeError::Full),
            Err(Refused::Stopped) => Err(ProposeError::Stopped),
        }
    }

    /// Hands leadership to the other data node. Waits for the Raft thread's next turn, not for the outcome:
    /// that shows in [`Role`](crate::Event::Role) events.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn transfer(&self, to: Slot) -> Result<(), RequestError> {
        let member = self
            .0
            .shared
            .core()
            .peers
            .iter()
            .filter(|peer| peer.voter && peer.id.slot() == to)
            .map(|peer| peer.id)
            .max();
        let to = member.unwrap_or(ReplicaId::first(to));
        Ok(self.ask(|answer| Request::Transfer { to, answer })??)
    }

    /// Makes what this store holds the pair, whatever others held. For an operator who knows that no quorum comes
    /// back. The replica stops with [`Event::StoreFailed`](crate::Event::StoreFailed), and takes over when it is
    /// started again.
    ///
    /// # Errors
    /// See [`ForceFailed`].
    pub fn force_takeover(&self) -> Result<Forced, ForceFailed> {
        let answered = self.ask(|answer| Request::Force { answer });
        answered.unwrap_or_else(|error| {
            Err(match error {
                RequestError::Stopped => ForceFailed::Stopped,
                RequestError::Busy | RequestError::Transfer(_) => ForceFailed::Busy,
            })
        })
    }

    /// The newest form of records that every member can read. A newer form must not be proposed: a member of an
    /// older build would not know what it says.
    pub fn cluster_version(&self) -> u16 {
        self.0.shared.core().cluster_version
    }

    /// A copy of the committed table.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn table(&self) -> Result<Table, RequestError> {
        self.ask(|answer| Request::Table { answer })
    }

    /// The state of the last tick, and totals. Cheap, and also answers when the replica has stopped.
    pub fn status(&self) -> Status {
        let shared = &self.0.shared;
        let core = shared.core().clone();
        let connected = |slot: &Slot| (*slot, shared.link.is_connected(*slot));
        let around = Surroundings {
            now: clock::now(),
            store_failed: shared.store_failed.load(Ordering::Relaxed),
            store: shared.store.status(),
            commit_latency: shared.commit_latency.latency(),
            punctuality: shared.punctuality.status(),
            waiting: shared.waiting().as_ref().map(ToString::to_string),
            link: shared.link.counters(),
            connected: self.0.slots.iter().map(connected).collect(),
        };
        Status::new(&core, around)
    }

    /// Stops replication and waits until everything queued for the disk is durable and the peers have heard of
    /// it, for at most some seconds. Called from the event sink it does not wait.
    pub fn shutdown(&self) {
        self.0.stop();
    }

    fn ask<T>(&self, request: impl FnOnce(SyncSender<T>) -> Request) -> Result<T, RequestError> {
        let (answer, answered) = sync_channel(1);
        self.0
            .mailbox
            .request(request(answer))
            .map_err(|refused| match refused {
                Refused::Full => RequestError::Busy,
                Refused::Stopped => RequestError::Stopped,
            })?;
        answered
            .recv_timeout(ANSWER_TIMEOUT)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => RequestError::Busy,
                RecvTimeoutError::Disconnected => RequestError::Stopped,
            })
    }
}

impl Running {
    fn stop(&self) {
        self.mailbox.stop();
        let thread = self
            .thread
            .lock()
            .expect("no holder of this lock panics")
            .take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

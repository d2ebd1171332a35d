//! What reaches the Raft thread.
//!
//! One lock and one wake-up for everything, so that a burst is taken in one go. The kinds have bounds of their
//! own: a flood of messages cannot keep a disk confirmation out, nor can proposals.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tandem_replication_core::{
    Change, Envelope, Forced, ReplicaId, Slot, Table, TransferError, WriteId,
};

use crate::Ticket;
use crate::certificate::DeathCertificate;
use crate::handle::ForceFailed;
use crate::store::{SpaceChange, StoreError};

/// Messages waiting for the Raft thread; at the bound new ones are dropped, as a network would.
const MESSAGES: usize = 4096;
/// Bytes of waiting messages, likewise; a single larger one (a snapshot) still passes an empty queue.
const MESSAGE_BYTES: usize = 64 << 20;
/// Proposals waiting; at the bound proposing is refused.
const PROPOSALS: usize = 4096;
/// Verified death certificates waiting; at the bound new ones are dropped. A guard repeats them.
const CERTIFICATES: usize = 16;
/// Questions and orders from the handle waiting; at the bound they are refused.
const REQUESTS: usize = 64;

/// Tells the Raft thread what became of something it started. Bounded by what it starts.
#[derive(Debug)]
pub(crate) enum Report {
    Persisted(WriteId),
    StoreFailed(StoreError),
    PeerUp(Slot),
    PeerDown(Slot),
    SnapshotSent {
        to: ReplicaId,
        ok: bool,
    },
    /// At most one a second.
    Space(SpaceChange),
}

/// Asks the Raft thread for something.
#[derive(Debug)]
pub(crate) enum Request {
    Transfer {
        to: ReplicaId,
        answer: SyncSender<Result<(), TransferError>>,
    },
    Table {
        answer: SyncSender<Table>,
    },
    /// Makes this store the pair. On success the Raft thread ends, for the replica to start anew.
    Force {
        answer: SyncSender<Result<Forced, ForceFailed>>,
    },
}

/// A message from an authenticated peer.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) envelope: Envelope,
    /// Its encoded size.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct PendingProposal {
    pub(crate) ticket: Ticket,
    pub(crate) changes: Vec<Change>,
}

/// Everything that has come in since the last look.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) reports: VecDeque<Report>,
    pub(crate) messages: VecDeque<Received>,
    pub(crate) certificates: VecDeque<DeathCertificate>,
    pub(crate) proposals: VecDeque<PendingProposal>,
    pub(crate) requests: VecDeque<Request>,
    pub(crate) stop: bool,
    message_bytes: usize,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.reports.is_empty()
            && self.messages.is_empty()
            && self.certificates.is_empty()
            && self.proposals.is_empty()
            && self.requests.is_empty()
            && !self.stop
    }
}

/// Refused: the bound is reached, or the Raft thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Stopped,
}

#[derive(Debug, Default)]
struct State {
    mail: Mail,
    closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    wake: Condvar,
}

impl Mailbox {
    pub(crate) fn report(&self, report: Report) {
        self.lock().mail.reports.push_back(report);
        self.wake.notify_one();
    }

    pub(crate) fn message(&self, received: Received) -> Result<(), Refused> {
        self.accept(|mail| {
            let bytes = mail.message_bytes.saturating_add(received.bytes);
            let fits = mail.messages.is_empty() || bytes <= MESSAGE_BYTES;
            if mail.messages.len() >= MESSAGES || !fits {
                return Err(Refused::Full);
            }
            mail.message_bytes = bytes;
            mail.messages.push_back(received);
            Ok(())
        })
    }

    pub(crate) fn certificate(&self, certificate: DeathCertificate) -> Result<(), Refused> {
        self.accept(|mail| bounded_push(&mut mail.certificates, certificate, CERTIFICATES))
    }

    pub(crate) fn propose(&self, proposal: PendingProposal) -> Result<(), Refused> {
        self.accept(|mail| bounded_push(&mut mail.proposals, proposal, PROPOSALS))
    }

    pub(crate) fn request(&self, request: Request) -> Result<(), Refused> {
        self.accept(|mail| bounded_push(&mut mail.requests, request, REQUESTS))
    }

    /// Asks the Raft thread to end. Nothing is accepted any more.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.mail.stop = true;
        self.wake.notify_one();
    }

    /// Refuses everything from now on; what is waiting is dropped, and whoever waits for an answer learns it.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.mail = Mail::default();
    }

    /// Takes everything, waiting at most `timeout` for something.
    pub(crate) fn take(&self, timeout: Duration) -> Mail {
        let state = self.lock();
        let (mut state, _) = self
            .wake
            .wait_timeout_while(state, timeout, |state| state.mail.is_empty())
            .expect("no holder of this lock panics");
        std::mem::take(&mut state.mail)
    }

    fn accept(&self, push: impl FnOnce(&mut Mail) -> Result<(), Refused>) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Stopped);
        }
        push(&mut state.mail)?;
        self.wake.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

fn bounded_push<T>(queue: &mut VecDeque<T>, item: T, bound: usize) -> Result<(), Refused> {
    if queue.len() >= bound {
        return Err(Refused::Full);
    }
    queue.push_back(item);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tandem_replication_core::PeerMessage;
    use tandem_replication_core::eraftpb::Message;

    use super::*;

    fn received(bytes: usize) -> Received {
        Received {
            envelope: Envelope {
                generation: 0,
                message: PeerMessage::Raft(Message::default()),
            },
            bytes,
        }
    }

    fn proposal(ticket: u64) -> PendingProposal {
        PendingProposal {
            ticket: Ticket(ticket),
            changes: Vec::new(),
        }
    }

    #[test]
    fn a_flood_of_messages_is_bounded_and_keeps_no_report_out() {
        let mailbox = Mailbox::default();
        let accepted = (0..2 * MESSAGES)
            .filter(|_| mailbox.message(received(1)).is_ok())
            .count();
        assert_eq!(accepted, MESSAGES);
        mailbox.report(Report::Persisted(WriteId(7)));
        let mail = mailbox.take(Duration::ZERO);
        assert_eq!((mail.messages.len(), mail.reports.len()), (MESSAGES, 1));
        assert_eq!(mailbox.message(received(1)), Ok(()), "taking makes room");
    }

    #[test]
    fn large_messages_are_bounded_by_bytes_but_one_always_passes() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.message(received(2 * MESSAGE_BYTES)), Ok(()));
        assert_eq!(mailbox.message(received(1)), Err(Refused::Full));
        mailbox.take(Duration::ZERO);
        assert_eq!(mailbox.message(received(1)), Ok(()));
    }

    #[test]
    fn proposals_are_bounded_and_refused_after_the_end() {
        let mailbox = Mailbox::default();
        for ticket in 0..PROPOSALS as u64 {
            assert_eq!(mailbox.propose(proposal(ticket)), Ok(()));
        }
        assert_eq!(mailbox.propose(proposal(0)), Err(Refused::Full));
        mailbox.stop();
        let mail = mailbox.take(Duration::MAX);
        assert!(mail.stop && mail.proposals.len() == PROPOSALS);
        assert_eq!(mailbox.propose(proposal(0)), Err(Refused::Stopped));
    }
}

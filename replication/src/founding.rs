//! The Raft thread before there is a replica: the store is empty, and the others are asked who this is.
//!
//! It ends with a decision, which is on the disk before anything is done by it, or when it is told to stop.

use std::sync::Arc;

use tandem_replication_core::{
    Decision, ForceError, Founders, Founding, PeerMessage, ProposeError, ReplicaId, Slot, Table,
    TransferError,
};

use crate::clock;
use crate::driver::{End, Shared};
use crate::event::{DropReason, Event};
use crate::mailbox::{Mail, Mailbox, Received, Report, Request};
use crate::store::Decided;

/// Asks until it is known who this replica is. The node sees an empty table meanwhile, and no leader.
pub(crate) fn decide(
    mut founding: Founding,
    mailbox: &Arc<Mailbox>,
    shared: &Shared,
    sink: &mut impl FnMut(Event),
) -> Result<Decision, End> {
    sink(Event::Restored {
        index: 0,
        table: Table::new(),
    });
    loop {
        while let Some(greeting) = founding.next_command() {
            shared.greet(greeting);
        }
        if let Some(decision) = founding.decision() {
            *shared.waiting() = None;
            return Ok(decision);
        }
        show(&founding, shared);
        let wait = founding.poll_timeout().saturating_sub(clock::now());
        let mail = mailbox.take(wait);
        founding.handle_timeout(clock::now());
        take(mail, &mut founding, sink)?;
    }
}

fn show(founding: &Founding, shared: &Shared) {
    let waiting = founding.waiting();
    let mut shown = shared.waiting();
    if shown.as_ref() != Some(&waiting) {
        tracing::info!("{waiting}");
        *shown = Some(waiting);
    }
}

fn take(mail: Mail, founding: &mut Founding, sink: &mut impl FnMut(Event)) -> Result<(), End> {
    for report in mail.reports {
        match report {
            Report::PeerUp(slot) => {
                founding.handle_peer_up(slot, clock::now());
                sink(Event::PeerUp(slot));
            }
            Report::PeerDown(slot) => sink(Event::PeerDown(slot)),
            // There is no store, and nothing was sent.
            Report::Persisted(_)
            | Report::StoreFailed(_)
            | Report::SnapshotSent { .. }
            | Report::Space(_) => {}
        }
    }
    for Received { envelope, .. } in mail.messages {
        match envelope.message {
            PeerMessage::Hello(hello) => founding.handle_hello(hello, clock::now()),
            // For whoever was here before: nobody is who it is meant for.
            PeerMessage::Raft(_) => {}
        }
    }
    for proposal in mail.proposals {
        let refused = ProposeError::NotLeader { leader: None };
        sink(Event::Dropped {
            ticket: proposal.ticket,
            reason: DropReason::Refused(refused),
        });
    }
    for request in mail.requests {
        // Who asked may have stopped waiting.
        match request {
            Request::Transfer { answer, .. } => {
                let _ = answer.try_send(Err(TransferError::NotLeader));
            }
            Request::Table { answer } => drop(answer.try_send(Table::new())),
            Request::Force { answer } => drop(answer.try_send(Err(ForceError::Empty.into()))),
        }
    }
    if mail.stop { Err(End::Stopped) } else { Ok(()) }
}

/// What the store calls itself from now on.
pub(crate) fn decided(decision: Decision, slot: Slot) -> Decided {
    match decision {
        Decision::Found(founders) => Decided {
            id: ReplicaId::first(slot),
            generation: 0,
            founders,
        },
        Decision::Join { id, generation } => Decided {
            id,
            generation,
            founders: Founders::new(),
        },
    }
}

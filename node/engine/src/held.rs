//! Sends that wait for their log entry (contract item 2: commit before reveal).

use std::collections::VecDeque;

use bytes::Bytes;
use tandem_failover_core::Epoch;
use tandem_sip::flow::Flow;

use crate::Batch;

/// One message that may leave when its entry has committed.
pub(super) type HeldSend = (Bytes, Flow);

/// Sends by the proposal they wait for, oldest first. Bounded by the proposals in flight, which
/// replication bounds: a refused proposal ends the epoch instead of queueing.
#[derive(Debug, Default)]
pub(super) struct Held {
    batches: VecDeque<Waiting>,
    owner_entry: Option<(Batch, Epoch)>,
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    sequence: Option<u64>,
    sends: Vec<HeldSend>,
}

/// What a commit sets free.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    /// The SIP core's last committed change.
    pub(super) sequence: Option<u64>,
    pub(super) sends: Vec<HeldSend>,
}

impl Held {
    pub(super) fn sends(&mut self, batch: Batch, sequence: Option<u64>, sends: Vec<HeldSend>) {
        self.batches.push_back(Waiting {
            batch,
            sequence,
            sends,
        });
    }

    /// Adds sends to the youngest waiting batch; gives them back when nothing is waiting.
    pub(super) fn behind_latest(&mut self, sends: Vec<HeldSend>) -> Option<Vec<HeldSend>> {
        match self.batches.back_mut() {
            Some(batch) => {
                batch.sends.extend(sends);
                None
            }
            None => Some(sends),
        }
    }

    /// Entries commit in order, so everything up to this batch is free.
    pub(super) fn release(&mut self, batch: Batch) -> Released {
        let mut released = Released::default();
        while let Some(waiting) = self.batches.pop_front_if(|waiting| waiting.batch <= batch) {
            released.sequence = waiting.sequence.or(released.sequence);
            released.sends.extend(waiting.sends);
        }
        released
    }

    pub(super) fn owner_entry(&mut self, batch: Batch, epoch: Epoch) {
        self.owner_entry = Some((batch, epoch));
    }

    /// A proposal will never commit. Its sends must never leave; says so if it was the owner entry.
    pub(super) fn dropped(&mut self, batch: Batch) -> Option<Epoch> {
        self.batches.retain(|waiting| waiting.batch != batch);
        self.owner_entry
            .take_if(|(owner, _)| *owner == batch)
            .map(|(_, epoch)| epoch)
    }

    /// Ownership was lost: what these messages showed may never have happened.
    pub(super) fn clear_sends(&mut self) {
        self.batches.clear();
    }

    /// Batches waiting for their commit.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Messages waiting.
    pub(super) fn len(&self) -> usize {
        self.batches.iter().map(|batch| batch.sends.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tandem_sip::flow::{RealmId, Transport};

    use super::*;

    fn message(text: &'static str) -> HeldSend {
        let remote = "192.0.2.1:5060".parse().unwrap();
        let flow = Flow {
            realm: RealmId(0),
            transport: Transport::Udp,
            remote,
        };
        (Bytes::from_static(text.as_bytes()), flow)
    }

    #[test]
    fn a_commit_frees_its_batch_and_those_before_it_in_order() {
        let mut held = Held::default();
        held.sends(Batch(1), Some(10), vec![message("one")]);
        held.sends(Batch(2), None, vec![message("two")]);
        held.sends(Batch(3), Some(30), vec![message("three")]);
        let released = held.release(Batch(2));
        assert_eq!(released.sequence, Some(10));
        assert_eq!(released.sends, [message("one"), message("two")]);
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn a_send_without_a_change_waits_for_the_changes_before_it() {
        let mut held = Held::default();
        assert_eq!(
            held.behind_latest(vec![message("free")]),
            Some(vec![message("free")])
        );
        held.sends(Batch(1), Some(1), vec![]);
        assert_eq!(held.behind_latest(vec![message("waits")]), None);
        assert_eq!(held.release(Batch(1)).sends, [message("waits")]);
    }

    #[test]
    fn what_was_dropped_never_leaves() {
        let mut held = Held::default();
        held.owner_entry(Batch(1), Epoch(7));
        held.sends(Batch(2), Some(1), vec![message("never")]);
        assert_eq!(held.dropped(Batch(2)), None);
        assert_eq!(held.dropped(Batch(1)), Some(Epoch(7)));
        assert_eq!(held.release(Batch(9)), Released::default());
    }
}

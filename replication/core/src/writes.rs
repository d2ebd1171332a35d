//! What waits for the disk: writes, and the messages that may only leave once a write is durable.
//!
//! At most [`MAX_WRITES_IN_FLIGHT`] writes are with the shell. What comes up meanwhile is merged into
//! one staged write: a slow disk gets fewer, larger writes (group commit) and no queue grows.

use std::collections::VecDeque;

use raft::eraftpb::Message;

use crate::{Write, WriteId};

/// Writes issued and not confirmed; at the bound later changes wait in the staged write.
const MAX_WRITES_IN_FLIGHT: usize = 2;

#[derive(Debug)]
struct InFlight {
    id: WriteId,
    /// The newest raft-rs `Ready` that is durable with this write.
    ready: u64,
    must_sync: bool,
    snapshot: bool,
    messages: Vec<Message>,
}

#[derive(Debug)]
struct Staged {
    write: Write,
    ready: u64,
    messages: Vec<Message>,
}

#[derive(Debug, Default)]
pub(crate) struct WritePipeline {
    issued: u64,
    in_flight: VecDeque<InFlight>,
    staged: Option<Staged>,
}

/// What a confirmation releases.
#[derive(Debug)]
pub(crate) struct Confirmed {
    pub(crate) ready: u64,
    pub(crate) messages: Vec<Message>,
}

impl WritePipeline {
    /// Adds the write and the messages of one `Ready`. Returns the messages that need not wait, and
    /// whether the `Ready` itself is already durable because nothing is pending.
    pub(crate) fn add(
        &mut self,
        ready: u64,
        write: Write,
        messages: Vec<Message>,
    ) -> (Vec<Message>, bool) {
        if !write.is_empty() {
            match &mut self.staged {
                Some(staged) => staged.write.absorb(write),
                None => {
                    self.staged = Some(Staged {
                        write,
                        ready,
                        messages: Vec::new(),
                    })
                }
            }
        }
        let must_wait = self.in_flight.iter().any(|write| write.must_sync)
            || self
                .staged
                .as_ref()
                .is_some_and(|staged| staged.write.must_sync);
        let (newest_ready, newest_messages) = match (&mut self.staged, self.in_flight.back_mut()) {
            (Some(staged), _) => (&mut staged.ready, &mut staged.messages),
            (None, Some(write)) => (&mut write.ready, &mut write.messages),
            (None, None) => return (messages, true),
        };
        *newest_ready = ready;
        if must_wait {
            newest_messages.extend(messages);
            return (Vec::new(), false);
        }
        (messages, false)
    }

    /// Adds a write outside any `Ready`: the bootstrap configuration, a compaction.
    pub(crate) fn add_write(&mut self, write: Write) {
        match &mut self.staged {
            Some(staged) => staged.write.absorb(write),
            None => {
                let ready = self.in_flight.back().map_or(0, |write| write.ready);
                self.staged = Some(Staged {
                    write,
                    ready,
                    messages: Vec::new(),
                });
            }
        }
    }

    /// Takes the next write for the shell, if there is room.
    pub(crate) fn issue(&mut self) -> Option<Write> {
        if self.in_flight.len() >= MAX_WRITES_IN_FLIGHT {
            return None;
        }
        let Staged {
            mut write,
            ready,
            messages,
        } = self.staged.take()?;
        self.issued += 1;
        write.id = WriteId(self.issued);
        self.in_flight.push_back(InFlight {
            id: write.id,
            ready,
            must_sync: write.must_sync,
            snapshot: write.snapshot.is_some(),
            messages,
        });
        Some(write)
    }

    /// Confirms this write and those before it; call until `None`.
    pub(crate) fn confirm(&mut self, id: WriteId) -> Option<Confirmed> {
        self.in_flight.front().filter(|write| write.id <= id)?;
        let InFlight {
            ready, messages, ..
        } = self.in_flight.pop_front()?;
        Some(Confirmed { ready, messages })
    }

    /// Whether an installed snapshot is not yet durable.
    pub(crate) fn snapshot_pending(&self) -> bool {
        self.in_flight.iter().any(|write| write.snapshot)
            || self
                .staged
                .as_ref()
                .is_some_and(|staged| staged.write.snapshot.is_some())
    }

    /// Writes with the shell or waiting for room.
    pub(crate) fn len(&self) -> usize {
        self.in_flight.len() + usize::from(self.staged.is_some())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use raft::eraftpb::Entry;

    use super::*;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Write {
        let mut write = Write::empty();
        write.must_sync = true;
        write.entries = range
            .map(|index| Entry {
                index,
                term,
                ..Entry::default()
            })
            .collect();
        write
    }

    #[test]
    fn a_slow_disk_gets_one_merged_write_with_the_overwritten_tail_cut() {
        let mut pipeline = WritePipeline::default();
        for ready in 1..=2 {
            pipeline.add(ready, entries(ready..=ready, 1), vec![]);
            assert!(pipeline.issue().is_some());
        }
        pipeline.add(3, entries(3..=5, 1), vec![]);
        let mut overwrite = entries(4..=4, 2);
        overwrite.truncate_from = Some(4);
        pipeline.add(4, overwrite, vec![]);
        assert!(pipeline.issue().is_none(), "two are out");

        assert_eq!(pipeline.confirm(WriteId(1)).unwrap().ready, 1);
        let merged = pipeline.issue().unwrap();
        let log: Vec<_> = merged
            .entries
            .iter()
            .map(|entry| (entry.index, entry.term))
            .collect();
        assert_eq!(log, [(3, 1), (4, 2)]);
        assert_eq!(merged.truncate_from, Some(4));
        assert_eq!(
            pipeline.confirm(merged.id).unwrap().ready,
            2,
            "order is kept"
        );
        assert_eq!(pipeline.confirm(merged.id).unwrap().ready, 4);
        assert!(pipeline.confirm(merged.id).is_none());
    }

    #[test]
    fn messages_wait_for_synced_writes_only() {
        let mut pipeline = WritePipeline::default();
        let (now, durable) = pipeline.add(1, Write::empty(), vec![Message::default()]);
        assert_eq!((now.len(), durable), (1, true));

        let mut unsynced = Write::empty();
        unsynced.applied = Some(3);
        let (now, durable) = pipeline.add(2, unsynced, vec![Message::default()]);
        assert_eq!((now.len(), durable), (1, false));

        let (now, _) = pipeline.add(3, entries(1..=1, 1), vec![Message::default()]);
        assert!(now.is_empty());
        let write = pipeline.issue().unwrap();
        let (now, _) = pipeline.add(4, Write::empty(), vec![Message::default()]);
        assert!(now.is_empty(), "waits behind the write in flight");
        let confirmed = pipeline.confirm(write.id).unwrap();
        assert_eq!((confirmed.ready, confirmed.messages.len()), (4, 2));
    }
}

//! What raft-rs reads: a mirror in memory of the store, plus the table that snapshots are made of.
//!
//! The mirror runs ahead of the disk by the writes in flight. That is safe: raft-rs counts entries
//! towards a commit only once their write is confirmed.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::codec::encode_table;
use crate::{Change, ConfigError, Limits, Position, Restored, Table};

/// What an entry costs beside its data, for the byte bounds.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

#[derive(Debug)]
pub(crate) struct LogView {
    hard_state: HardState,
    conf_state: ConfState,
    compacted: Position,
    entries: VecDeque<Entry>,
    entry_bytes: u64,
    applied: Position,
    table: Table,
    table_bytes: usize,
}

fn entry_cost(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES
}

impl LogView {
    /// Checks the store for contradictions: raft-rs would panic on them later.
    pub(crate) fn new(restored: Restored) -> Result<LogView, ConfigError> {
        let inconsistent = |what| Err(ConfigError::Inconsistent(what));
        let Restored {
            mut hard_state,
            conf_state,
            entries,
            compacted,
            applied,
            table,
        } = restored;
        let mut previous = compacted;
        for entry in &entries {
            if Some(entry.index) != previous.index.checked_add(1) {
                return inconsistent("the log has a gap");
            }
            if entry.term < previous.term || entry.term == 0 {
                return inconsistent("terms in the log fall");
            }
            previous = Position {
                index: entry.index,
                term: entry.term,
            };
        }
        if previous.term > hard_state.term {
            return inconsistent("the log is ahead of the term");
        }
        if hard_state.commit > previous.index {
            return inconsistent("the commit index is beyond the log");
        }
        if applied < compacted.index || applied > previous.index {
            return inconsistent("the applied index is outside the log");
        }
        // The table can be ahead of the stored commit index, never ahead of the true one.
        hard_state.commit = hard_state.commit.max(applied);
        // raft-rs panics when it rejects a pre-vote in term 0, its "no term". Elections start in term 2.
        hard_state.term = hard_state.term.max(1);
        let mut view = LogView {
            hard_state,
            conf_state,
            compacted,
            entry_bytes: entries.iter().map(entry_cost).sum(),
            entries: entries.into(),
            applied: compacted,
            table_bytes: table
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum(),
            table,
        };
        let term = view
            .term_at(applied)
            .ok_or(ConfigError::Inconsistent("no applied entry"))?;
        view.applied = Position {
            index: applied,
            term,
        };
        Ok(view)
    }

    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn table_bytes(&self) -> usize {
        self.table_bytes
    }

    pub(crate) fn applied(&self) -> Position {
        self.applied
    }

    pub(crate) fn last(&self) -> u64 {
        self.compacted.index + self.entries.len() as u64
    }

    pub(crate) fn first(&self) -> u64 {
        self.compacted.index + 1
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        let offset = index.checked_sub(self.compacted.index + 1)?;
        self.entries
            .get(usize::try_from(offset).ok()?)
            .map(|entry| entry.term)
    }

    /// Appends contiguous entries, replacing what they overlap. Returns where the log was cut, if it was.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Option<u64> {
        let first = entries.first()?.index;
        assert!(
            first > self.compacted.index && first <= self.last() + 1,
            "raft-rs left a gap in the log"
        );
        let cut = first <= self.last();
        while self.last() >= first {
            if let Some(entry) = self.entries.pop_back() {
                self.entry_bytes -= entry_cost(&entry);
            }
        }
        self.entry_bytes += entries.iter().map(entry_cost).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
        cut.then_some(first)
    }

    pub(crate) fn apply(&mut self, position: Position, changes: &[Change]) {
        for change in changes {
            let (key, old) = match change {
                Change::Put { key, value } => {
                    // Copied: a slice would keep the whole entry, or datagram, alive.
                    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    self.table_bytes += key.len() + value.len();
                    (key.len(), self.table.insert(key, value))
                }
                Change::Delete { key } => (key.len(), self.table.remove(key)),
            };
            if let Some(old) = old {
                self.table_bytes -= key + old.len();
            }
        }
        self.applied = position;
    }

    pub(crate) fn install(&mut self, position: Position, conf_state: ConfState, table: Table) {
        self.compacted = position;
        self.applied = position;
        self.entries.clear();
        self.entry_bytes = 0;
        self.conf_state = conf_state;
        self.table_bytes = table
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        self.table = table;
    }

    /// Drops applied entries from the front once the log exceeds a bound, a quarter of it at a time so
    /// that the store deletes in ranges. Followers that still need them get a snapshot.
    pub(crate) fn compact(&mut self, limits: &Limits) -> Option<Position> {
        let count = self.entries.len() as u64;
        if count <= limits.log_entries && self.entry_bytes <= limits.log_bytes {
            return None;
        }
        let keep_entries = limits.log_entries - limits.log_entries / 4;
        let keep_bytes = limits.log_bytes - limits.log_bytes / 4;
        let before = self.compacted;
        while self.compacted.index < self.applied.index
            && (self.entries.len() as u64 > keep_entries || self.entry_bytes > keep_bytes)
        {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.entry_bytes -= entry_cost(&entry);
            self.compacted = Position {
                index: entry.index,
                term: entry.term,
            };
        }
        (self.compacted != before).then_some(self.compacted)
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let skip = usize::try_from(low - self.first()).map_err(|_| StorageError::Unavailable)?;
        let count =
            usize::try_from(high.saturating_sub(low)).map_err(|_| StorageError::Unavailable)?;
        let mut entries = Vec::new();
        for entry in self.entries.iter().skip(skip).take(count) {
            bytes = bytes.saturating_add(entry_cost(entry));
            if bytes > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.compacted.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // raft-rs asks again with the next heartbeat answer.
        if self.applied.index == 0 || self.applied.index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let data = encode_table(&self.table, self.table_bytes);
        let mut snapshot = Snapshot {
            data,
            ..Snapshot::default()
        };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.index;
        metadata.term = self.applied.term;
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

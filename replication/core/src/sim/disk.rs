//! A store that loses what was not confirmed.

use std::collections::VecDeque;

use crate::{Change, Restored, Write, WriteId};

#[derive(Debug, Default)]
pub(super) struct Disk {
    state: Restored,
    pending: VecDeque<Write>,
}

impl Disk {
    pub(super) fn restored(&self) -> Restored {
        assert!(self.pending.is_empty(), "start follows a crash");
        self.state.clone()
    }

    pub(super) fn write(&mut self, write: Write) {
        self.pending.push_back(write);
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn complete(&mut self, id: WriteId) {
        while self.pending.front().is_some_and(|write| write.id <= id) {
            if let Some(write) = self.pending.pop_front() {
                self.execute(write);
            }
        }
    }

    pub(super) fn crash(&mut self, survivors: usize) {
        for _ in 0..survivors {
            if let Some(write) = self.pending.pop_front() {
                self.execute(write);
            }
        }
        self.pending.clear();
    }

    fn execute(&mut self, write: Write) {
        let state = &mut self.state;
        if let Some(snapshot) = write.snapshot {
            state.entries.clear();
            state.compacted = snapshot.position;
            state.applied = snapshot.position.index;
            state.table = snapshot.table;
        }
        if let Some(from) = write.truncate_from {
            state.entries.retain(|entry| entry.index < from);
        }
        state.entries.extend(write.entries);
        state.hard_state = write.hard_state.unwrap_or(state.hard_state.clone());
        state.conf_state = write.conf_state.unwrap_or(state.conf_state.clone());
        for change in write.changes {
            match change {
                Change::Put { key, value } => state.table.insert(key, value),
                Change::Delete { key } => state.table.remove(&key),
            };
        }
        state.applied = write.applied.unwrap_or(state.applied);
        if let Some(position) = write.compact_to {
            state.entries.retain(|entry| entry.index > position.index);
            state.compacted = position;
        }
    }
}

//! A disk that loses what it may lose.
//!
//! A write is atomic: that the store keeps its side of this is shown by its own tests with real files, killed
//! processes and power-cut images. Here a write is late, its confirmation may be lost with the process, and what was
//! not synced may be lost with the machine's power.

use std::collections::VecDeque;

use tandem_replication_core::{Change, Restored, Write, WriteId};

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What a process finds.
    visible: Restored,
    /// What is left after a power cut.
    synced: Restored,
    /// Executed, and not yet covered by a sync.
    unsynced: Vec<Write>,
    /// Handed to the disk, not executed.
    pending: VecDeque<Write>,
}

impl Disk {
    /// What a starting process reads.
    pub(crate) fn restored(&self) -> Restored {
        assert!(self.pending.is_empty(), "a start follows a stop");
        self.visible.clone()
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.pending.push_back(write);
    }

    /// Executes everything up to this write, and syncs if one of them asks for it.
    pub(crate) fn complete(&mut self, id: WriteId) {
        while let Some(write) = self.pending.pop_front_if(|write| write.id <= id) {
            execute(&mut self.visible, write.clone());
            let sync = write.must_sync;
            self.unsynced.push(write);
            if sync {
                for write in self.unsynced.drain(..) {
                    execute(&mut self.synced, write);
                }
            }
        }
    }

    /// How many writes a crash may take.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many writes a power cut may take.
    pub(crate) fn at_risk(&self) -> usize {
        self.unsynced.len() + self.pending.len()
    }

    /// The process is gone. The page cache stays, and with it the first `survivors` of what was on its way.
    pub(crate) fn crash(&mut self, survivors: usize) {
        for write in self.pending.drain(..).take(survivors) {
            execute(&mut self.visible, write.clone());
            self.unsynced.push(write);
        }
    }

    /// The machine is gone. Of what was not synced the first `survivors` are on the platter.
    pub(crate) fn power_cut(&mut self, survivors: usize) {
        for write in self
            .unsynced
            .drain(..)
            .chain(self.pending.drain(..))
            .take(survivors)
        {
            execute(&mut self.synced, write);
        }
        self.visible = self.synced.clone();
    }

    /// Highest log index that a power cut leaves.
    pub(crate) fn synced_last(&self) -> u64 {
        last(&self.synced)
    }
}

fn last(state: &Restored) -> u64 {
    state
        .entries
        .last()
        .map_or(state.compacted.index, |entry| entry.index)
}

fn execute(state: &mut Restored, write: Write) {
    if let Some(snapshot) = write.snapshot {
        state.entries.clear();
        state.compacted = snapshot.position;
        state.applied = snapshot.position.index;
        state.table = snapshot.table;
    }
    if let Some(from) = write.truncate_from {
        while state.entries.pop_if(|entry| entry.index >= from).is_some() {}
    }
    state.entries.extend(write.entries);
    if let Some(hard_state) = write.hard_state {
        state.hard_state = hard_state;
    }
    if let Some(conf_state) = write.conf_state {
        state.conf_state = conf_state;
    }
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

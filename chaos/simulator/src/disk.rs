//! A disk that loses what it may lose.
//!
//! A write is atomic: that the store keeps its side of this is shown by its own tests with real files, killed
//! processes and power-cut images. Here a write is late, its confirmation may be lost with the process, and what was
//! not synced may be lost with the machine's power.

use std::collections::VecDeque;

use tandem_replication_core::{Forced, Founders, ReplicaId, Restored, StoreId, Write, WriteId};

/// What an acknowledgement rests on (`[pair] durability`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Durability {
    #[default]
    Durable,
    /// Term, vote and membership are synced; entries and rows are with the kernel.
    Memory,
}

/// Who a store has become.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub(crate) id: ReplicaId,
    pub(crate) generation: u32,
    /// Empty unless it founded the pair.
    pub(crate) founders: Founders,
}

/// What a state directory says beside its log. It is durable before anything is done by it.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    pub(crate) store: StoreId,
    pub(crate) decided: Option<Decided>,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) birth: Option<Birth>,
    durability: Durability,
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
    pub(crate) fn new(durability: Durability) -> Disk {
        Disk {
            durability,
            ..Disk::default()
        }
    }

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
            let sync = match self.durability {
                Durability::Durable => write.must_sync,
                Durability::Memory => promises(&self.visible, &write),
            };
            self.visible.execute(write.clone());
            self.unsynced.push(write);
            if sync {
                for write in self.unsynced.drain(..) {
                    self.synced.execute(write);
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
            self.visible.execute(write.clone());
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
            self.synced.execute(write);
        }
        self.visible = self.synced.clone();
    }

    /// An operator makes what the store holds the pair.
    pub(crate) fn force(&mut self, Forced { id, generation }: Forced) {
        assert!(self.pending.is_empty(), "forcing follows a stop");
        if let Some(birth) = &mut self.birth {
            birth.decided = Some(Decided {
                id,
                generation,
                founders: Founders::new(),
            });
        }
        if let Some(write) = self.visible.forced(id) {
            self.visible.execute(write);
        }
        self.synced = self.visible.clone();
        self.unsynced.clear();
    }

    /// Highest log index that it has acknowledged.
    pub(crate) fn acknowledged_last(&self) -> u64 {
        match self.durability {
            Durability::Durable => last(&self.synced),
            Durability::Memory => last(&self.visible),
        }
    }
}

/// Whether a write holds what even memory mode puts on the disk: term, vote, membership.
fn promises(state: &Restored, write: &Write) -> bool {
    let before = (state.hard_state.term, state.hard_state.vote);
    let changes_vote = write
        .hard_state
        .as_ref()
        .is_some_and(|after| (after.term, after.vote) != before);
    changes_vote || write.conf_state.is_some() || write.snapshot.is_some()
}

pub(crate) fn last(state: &Restored) -> u64 {
    state
        .entries
        .last()
        .map_or(state.compacted.index, |entry| entry.index)
}

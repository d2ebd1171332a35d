//! The replica's memory: Raft's log and hard state and the table, in one sled tree.
//!
//! sled 0.34.7 is used by rules that were measured (docs/decisions/0002): one batch per write, `flush`, then our
//! own `fdatasync` of its file. What it would do silently is made loud here: a lost log, a log cut short at an
//! unreadable record, a store of another replica are errors, never an empty start.
//!
//! ```text
//! <state_dir>/creating   nothing here counts yet
//! <state_dir>/birth      which store this is and whom it has become (see `birth`)
//! <state_dir>/identity   whose store this is; written last at creation
//! <state_dir>/tip        lower bound of what was synced (see `tip`)
//! <state_dir>/log/       sled
//! <state_dir>/unsynced   which boot's memory the acknowledgements rest on (see `durability`)
//! ```

mod aside;
mod birth;
mod durability;
mod error;
mod files;
mod force;
pub(crate) mod fuzzing;
mod identity;
mod keys;
mod load;
mod space;
#[cfg(test)]
mod tests;
mod thread;
mod tip;

use std::path::{Path, PathBuf};

use sled::Batch;
use tandem_replication_core::{Change, Position, ReplicaId, Restored, SnapshotWrite, Write};

pub use aside::move_aside;
pub(crate) use birth::{Birth, Decided};
pub(crate) use durability::Mode;
pub use durability::{BootId, Durability, UnknownDurability};
pub use error::StoreError;
pub(crate) use force::finish_forced_takeover;
pub use identity::stored_identity;
pub(crate) use space::{SpaceChange, SpaceWatch};
pub(crate) use thread::{Confirm, StoreThread};

use durability::UnsyncedMark;
use files::Syncs;
use tip::{Tip, TipFile};

/// sled's directory within the state directory.
const LOG_DIRECTORY: &str = "log";

/// sled's segment. A page above a quarter of it goes to a file of its own, which costs a creation and a sync.
/// A leaf holds up to 16 rows, so with rows of 64 KiB nothing does; with sled's default it would be 8 KiB.
const SEGMENT_BYTES: usize = 4 << 20;
/// sled's page cache. Nothing is read back while running, so it only has to hold what is being written.
const CACHE_BYTES: u64 = 64 << 20;

/// Rows written or removed in one batch when there are many. Larger work is done in several batches.
const BATCH_ROWS: usize = 512;
/// Bytes of rows after which such a batch is applied early.
const BATCH_BYTES: usize = 1 << 20;

/// An open store. Only the store thread writes to it.
#[derive(Debug)]
pub(crate) struct Store {
    id: ReplicaId,
    state_dir: PathBuf,
    db: sled::Db,
    syncs: Syncs,
    durability: Durability,
    mark: UnsyncedMark,
    tip_file: TipFile,
    /// What the tree holds, synced or not.
    tip: Tip,
    /// First log row still present, leftovers included.
    first_row: u64,
    compacted: Position,
    generation: u32,
    /// Generations whose rows are still to be removed.
    stale_generations: Vec<u32>,
}

impl Store {
    /// Opens the store of `id`, or creates it in a directory that has never been used.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is changed except that leftovers of a crash are removed.
    pub(crate) fn open_with(
        state_dir: &Path,
        id: ReplicaId,
        mode: &Mode,
    ) -> Result<(Store, Restored), StoreError> {
        load::open(state_dir, id, mode)
    }

    /// Opens it as durable.
    #[cfg(test)]
    pub(crate) fn open(state_dir: &Path, id: ReplicaId) -> Result<(Store, Restored), StoreError> {
        let mode = Mode {
            durability: Durability::Durable,
            boot: BootId::of_machine()?,
        };
        Store::open_with(state_dir, id, &mode)
    }

    /// Executes writes in order. When it returns, everything up to the last one that asked for it is as durable as
    /// the mode says.
    ///
    /// # Errors
    /// After an error the store must not be used again: what reached the disk is unknown.
    pub(crate) fn write(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let promises = writes.iter().any(|write| self.promises(write));
        let mut batch = Batch::default();
        for write in writes {
            if write.snapshot.is_some() || self.truncates(write) {
                // Both look at what earlier writes left in the tree.
                self.apply(std::mem::take(&mut batch), "write to")?;
            }
            if let Some(snapshot) = &write.snapshot {
                self.install(snapshot, &mut batch)?;
            }
            self.stage(write, &mut batch)?;
        }
        self.apply(batch, "write to")?;
        let must_sync = writes.iter().any(|write| write.must_sync);
        match self.durability {
            Durability::Durable if must_sync => self.sync(),
            Durability::Memory if promises => self.sync(),
            Durability::Memory if must_sync => self.hand_over(),
            Durability::Durable | Durability::Memory => Ok(()),
        }
    }

    /// Whether a write holds what even memory mode puts on the disk: term, vote, membership.
    fn promises(&self, write: &Write) -> bool {
        let changes_vote = write
            .hard_state
            .as_ref()
            .is_some_and(|state| (state.term, state.vote) != (self.tip.term, self.tip.vote));
        changes_vote || write.conf_state.is_some() || write.snapshot.is_some()
    }

    /// Removes a bounded number of rows that no longer count. Returns whether there may be more.
    pub(crate) fn clean(&mut self) -> Result<bool, StoreError> {
        if self.first_row <= self.compacted.index {
            let step = u64::try_from(BATCH_ROWS).expect("a small constant");
            let end = self
                .compacted
                .index
                .min(self.first_row.saturating_add(step - 1));
            let mut batch = Batch::default();
            for index in self.first_row..=end {
                batch.remove(&keys::log(index));
            }
            self.apply(batch, "compact")?;
            self.first_row = end + 1;
            return Ok(true);
        }
        if let Some(&generation) = self.stale_generations.last() {
            let mut batch = Batch::default();
            let mut rows = 0;
            for row in self
                .db
                .scan_prefix(keys::generation(generation))
                .keys()
                .take(BATCH_ROWS)
            {
                batch.remove(row.map_err(|source| self.failed("read", source))?);
                rows += 1;
            }
            self.apply(batch, "compact")?;
            if rows < BATCH_ROWS {
                self.stale_generations.pop();
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.syncs.sync_blobs()?;
        self.flush()?;
        self.syncs.sync_database()?;
        self.tip_file.write(&self.tip)
    }

    /// How often the disk was synced since the store was opened.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.count()
    }

    /// Makes everything durable, and says so: an orderly stop.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        self.sync()?;
        self.mark.clear()
    }

    /// Leaves everything written so far with the kernel, where it outlives this process.
    fn hand_over(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.tip_file.write(&self.tip)
    }

    /// Until then sled keeps what it was given in memory of its own.
    fn flush(&self) -> Result<(), StoreError> {
        match self.db.flush() {
            Ok(_bytes) => Ok(()),
            Err(source) => Err(self.failed("flush", source)),
        }
    }

    /// Puts one write's rows into the batch, its snapshot excepted.
    fn stage(&mut self, write: &Write, batch: &mut Batch) -> Result<(), StoreError> {
        if self.truncates(write)
            && let Some(from) = lowest_index(write)
        {
            self.truncate(from, batch)?;
        }
        for entry in &write.entries {
            if entry.index != self.tip.last.index + 1 {
                let detail = format!("entry {} after {}", entry.index, self.tip.last.index);
                return Err(self.corrupt(detail));
            }
            batch.insert(&keys::log(entry.index), encode(entry));
            self.tip.last = Position {
                index: entry.index,
                term: entry.term,
            };
        }
        if let Some(hard_state) = &write.hard_state {
            batch.insert(keys::HARD_STATE, encode(hard_state));
            self.tip = Tip::new(hard_state, self.tip.last);
        }
        if let Some(conf_state) = &write.conf_state {
            batch.insert(keys::CONF_STATE, encode(conf_state));
        }
        for change in &write.changes {
            match change {
                Change::Put { key, value } => {
                    batch.insert(keys::table(self.generation, key), value.as_ref());
                }
                Change::Delete { key } => batch.remove(keys::table(self.generation, key)),
            }
        }
        if let Some(applied) = write.applied {
            batch.insert(keys::APPLIED, &applied.to_be_bytes());
        }
        if let Some(position) = write
            .compact_to
            .filter(|to| to.index > self.compacted.index)
        {
            batch.insert(keys::COMPACTED, &keys::position_value(position));
            self.compacted = position;
        }
        Ok(())
    }

    fn truncates(&self, write: &Write) -> bool {
        lowest_index(write).is_some_and(|from| from <= self.tip.last.index)
    }

    /// Removes log rows from `from` on. What the log loses here, it loses on the leader's word, so the tip
    /// file is told first.
    fn truncate(&mut self, from: u64, batch: &mut Batch) -> Result<(), StoreError> {
        self.forget_last()?;
        for index in from..=self.tip.last.index {
            batch.remove(&keys::log(index));
        }
        self.tip.last = self.position_of(from.saturating_sub(1))?;
        Ok(())
    }

    fn forget_last(&self) -> Result<(), StoreError> {
        self.tip_file.write_durably(&Tip {
            last: Position::default(),
            ..self.tip_synced()?
        })
    }

    /// The tip file may not claim a term or vote that is not yet synced, so it repeats its own.
    fn tip_synced(&self) -> Result<Tip, StoreError> {
        match self.tip_file.read()? {
            Some(tip) => Ok(tip),
            None => Err(self.corrupt("the tip file is garbled".to_owned())),
        }
    }

    fn position_of(&self, index: u64) -> Result<Position, StoreError> {
        if index <= self.compacted.index {
            return Ok(self.compacted);
        }
        let row = self
            .db
            .get(keys::log(index))
            .map_err(|source| self.failed("read", source))?;
        match row.as_deref().and_then(load::decode_entry) {
            Some(entry) => Ok(Position {
                index,
                term: entry.term,
            }),
            None => Err(self.corrupt(format!("log entry {index} is missing"))),
        }
    }

    /// Writes the snapshot's table beside the present one and stages the switch. Until the batch is applied
    /// the old state is whole: an entry this replica has acknowledged may exist nowhere else.
    fn install(&mut self, snapshot: &SnapshotWrite, batch: &mut Batch) -> Result<(), StoreError> {
        let generation = self.generation.wrapping_add(1);
        let (mut rows, mut bytes, mut part) = (0, 0, Batch::default());
        for (key, value) in &snapshot.table {
            part.insert(keys::table(generation, key), value.as_ref());
            rows += 1;
            bytes += key.len() + value.len();
            if rows >= BATCH_ROWS || bytes >= BATCH_BYTES {
                self.apply(std::mem::take(&mut part), "write a snapshot to")?;
                (rows, bytes) = (0, 0);
            }
        }
        self.apply(part, "write a snapshot to")?;

        self.forget_last()?;
        for index in (snapshot.position.index + 1).max(self.first_row)..=self.tip.last.index {
            batch.remove(&keys::log(index));
        }
        batch.insert(keys::GENERATION, &generation.to_be_bytes());
        batch.insert(keys::COMPACTED, &keys::position_value(snapshot.position));
        batch.insert(keys::APPLIED, &snapshot.position.index.to_be_bytes());
        self.stale_generations.push(self.generation);
        self.generation = generation;
        self.compacted = snapshot.position;
        self.tip.last = snapshot.position;
        Ok(())
    }

    fn apply(&self, batch: Batch, action: &'static str) -> Result<(), StoreError> {
        self.db
            .apply_batch(batch)
            .map_err(|source| self.failed(action, source))
    }

    fn failed(&self, action: &'static str, source: sled::Error) -> StoreError {
        load::database_error(&self.state_dir, self.id, action, source)
    }

    fn corrupt(&self, detail: String) -> StoreError {
        StoreError::Corrupt {
            path: self.state_dir.clone(),
            id: self.id,
            detail,
        }
    }
}

/// Where a write starts to change the log.
fn lowest_index(write: &Write) -> Option<u64> {
    let first_entry = write.entries.first().map(|entry| entry.index);
    [write.truncate_from, first_entry]
        .into_iter()
        .flatten()
        .min()
}

fn encode(message: &impl protobuf::Message) -> Vec<u8> {
    message
        .write_to_bytes()
        .expect("proto3 messages have no required fields, and a Vec takes every byte")
}

//! Opening a store: everything is read once, checked, and handed to the replica.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protobuf::Message as _;
use tandem_replication_core::eraftpb::{ConfState, Entry, HardState};
use tandem_replication_core::{Position, ReplicaId, Restored};

use super::durability::{BootId, Durability, Mode, UnsyncedMark};
use super::error::StoreError;
use super::files::{self, Syncs, with_path};
use super::identity;
use super::tip::{Tip, TipFile};
use super::{CACHE_BYTES, LOG_DIRECTORY, SEGMENT_BYTES, Store, keys};
use crate::panics::guarded;

pub(super) fn open(
    state_dir: &Path,
    id: ReplicaId,
    mode: &Mode,
) -> Result<(Store, Restored), StoreError> {
    let builder = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir);
    with_path("create", state_dir, builder)?;
    let directory = state_dir.join(LOG_DIRECTORY);
    let identity = admit(state_dir, id, &mode.boot)?;
    if files::database_exists(&directory) {
        files::wait_for_lock(&directory)?;
        files::remove_unfinished_snapshots(&directory)?;
    }

    let db = open_database(state_dir, &directory, id)?;
    let syncs = Syncs::open(&directory)?;
    let corrupt = |detail: String| StoreError::Corrupt {
        path: state_dir.to_owned(),
        id,
        detail,
    };
    let rows = guarded(|| Rows::read(&db))
        .map_err(&corrupt)?
        .map_err(|error| match error {
            ReadError::Database(source) => database_error(state_dir, id, "read", source),
            ReadError::Row(detail) => corrupt(detail),
        })?;

    let tip_file = TipFile::open(state_dir)?;
    if identity.is_some() && tip_file.is_empty()? {
        // It is written before the identity: without it nobody knows whether the log is whole.
        return Err(corrupt("the tip file is missing".to_owned()));
    }
    let earlier = tip_file
        .read()?
        .ok_or_else(|| corrupt("the tip file is garbled".to_owned()))?;
    let tip = Tip::new(&rows.restored.hard_state, rows.last());
    if identity.is_none() {
        if rows.restored != Restored::default() || earlier != Tip::default() {
            let detail = "there is a log, but no identity file";
            return Err(StoreError::Unidentified {
                path: identity::path(state_dir),
                detail,
            });
        }
        tip_file.write_durably(&tip)?;
        files::sync_directory(state_dir)?;
        files::sync_way_to(state_dir)?;
        identity::create(state_dir, id)?;
    }
    identity::end_creation(state_dir)?;
    if !tip.follows(&earlier) {
        return Err(corrupt(format!(
            "it ends at {tip:?}, but had reached {earlier:?}"
        )));
    }

    let Rows {
        restored,
        generation,
        first_row,
        stale_generations,
        ..
    } = rows;
    if !stale_generations.is_empty() {
        tracing::warn!(
            path = %state_dir.display(),
            generations = stale_generations.len(),
            "removing the rows of an unfinished or replaced snapshot"
        );
    }
    let mut store = Store {
        id,
        state_dir: state_dir.to_owned(),
        db,
        syncs,
        durability: mode.durability,
        mark: UnsyncedMark::new(state_dir),
        tip_file,
        tip,
        first_row,
        compacted: restored.compacted,
        generation,
        stale_generations,
    };
    while store.clean()? {}
    match mode.durability {
        // What an earlier life left with the kernel is on the disk since `Syncs::open`.
        Durability::Durable => store.mark.clear()?,
        Durability::Memory => store.mark.set(&mode.boot)?,
    }
    Ok((store, restored))
}

pub(super) fn open_database(
    state_dir: &Path,
    directory: &PathBuf,
    id: ReplicaId,
) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(directory)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        // The store thread decides when to sync.
        .flush_every_ms(None);
    // sled asserts on some kinds of damage instead of returning an error.
    match guarded(|| config.open()) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(source)) => Err(database_error(state_dir, id, "open", source)),
        Err(detail) => Err(StoreError::Corrupt {
            path: state_dir.to_owned(),
            id,
            detail,
        }),
    }
}

/// Whose store it is so far, if `id` may have it in this boot; `None` if it is still to be created.
fn admit(state_dir: &Path, id: ReplicaId, boot: &BootId) -> Result<Option<ReplicaId>, StoreError> {
    let identity = identity::stored_identity(state_dir)?;
    match identity {
        Some(found) if found != id => {
            return Err(StoreError::Foreign {
                path: state_dir.to_owned(),
                found,
                expected: id,
            });
        }
        Some(id) if !files::database_exists(&state_dir.join(LOG_DIRECTORY)) => {
            return Err(StoreError::Missing {
                path: state_dir.to_owned(),
                id,
            });
        }
        Some(_) => UnsyncedMark::new(state_dir).check(id, boot)?,
        None => identity::begin_creation(state_dir)?,
    }
    Ok(identity)
}

/// Tells damage from obstacles: a store that is only locked or out of space is not lost.
pub(super) fn database_error(
    state_dir: &Path,
    id: ReplicaId,
    action: &'static str,
    source: sled::Error,
) -> StoreError {
    if let sled::Error::Io(error) = &source
        && files::is_full(error)
    {
        return StoreError::Full {
            action,
            path: state_dir.to_owned(),
            detail: error.to_string(),
        };
    }
    let damaged = match &source {
        sled::Error::Io(error) => {
            matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            )
        }
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => true,
    };
    let path = state_dir.to_owned();
    if damaged {
        StoreError::Corrupt {
            path,
            id,
            detail: source.to_string(),
        }
    } else {
        StoreError::Database {
            action,
            path,
            source,
        }
    }
}

enum ReadError {
    Database(sled::Error),
    Row(String),
}

fn garbled(what: impl Into<String>) -> ReadError {
    ReadError::Row(format!("{} is garbled", what.into()))
}

/// Everything in the tree.
struct Rows {
    restored: Restored,
    generation: u32,
    first_row: u64,
    stale_generations: Vec<u32>,
    log: Vec<Entry>,
    table: Vec<(u32, Bytes, Bytes)>,
}

impl Rows {
    fn read(db: &sled::Db) -> Result<Rows, ReadError> {
        let mut rows = Rows {
            restored: Restored::default(),
            generation: 0,
            first_row: 1,
            stale_generations: Vec::new(),
            log: Vec::new(),
            table: Vec::new(),
        };
        for row in db.iter() {
            let (key, value) = row.map_err(ReadError::Database)?;
            rows.take(&key, &value)?;
        }
        rows.settle()?;
        Ok(rows)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
        match key {
            keys::HARD_STATE => {
                self.restored.hard_state =
                    HardState::parse_from_bytes(value).map_err(|_| garbled("the hard state"))?;
            }
            keys::CONF_STATE => {
                self.restored.conf_state =
                    ConfState::parse_from_bytes(value).map_err(|_| garbled("the membership"))?;
            }
            keys::APPLIED => {
                self.restored.applied =
                    keys::number(value).ok_or_else(|| garbled("the applied index"))?;
            }
            keys::COMPACTED => {
                self.restored.compacted =
                    keys::position(value).ok_or_else(|| garbled("the compacted position"))?;
            }
            keys::GENERATION => {
                self.generation =
                    keys::generation_value(value).ok_or_else(|| garbled("the generation"))?;
            }
            key => self.take_prefixed(key, value)?,
        }
        Ok(())
    }

    fn take_prefixed(&mut self, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
        if let Some(index) = keys::log_index(key) {
            let entry = decode_entry(value)
                .filter(|entry| entry.index == index)
                .ok_or_else(|| garbled(format!("log entry {index}")))?;
            self.log.push(entry);
            return Ok(());
        }
        let (generation, key) =
            keys::table_key(key).ok_or_else(|| garbled(format!("row {key:02x?}")))?;
        self.table.push((
            generation,
            Bytes::copy_from_slice(key),
            Bytes::copy_from_slice(value),
        ));
        Ok(())
    }

    /// Sorts out leftovers, and checks that what remains can be a replica's state.
    fn settle(&mut self) -> Result<(), ReadError> {
        let compacted = self.restored.compacted;
        self.first_row = self
            .log
            .first()
            .map_or(compacted.index + 1, |entry| entry.index);
        let log = std::mem::take(&mut self.log);
        self.restored.entries = log
            .into_iter()
            .filter(|entry| entry.index > compacted.index)
            .collect();
        for (expected, entry) in (compacted.index + 1..).zip(&self.restored.entries) {
            if entry.index != expected {
                return Err(ReadError::Row(format!("log entry {expected} is missing")));
            }
        }
        let last = self.last().index;
        let Restored {
            applied,
            hard_state,
            ..
        } = &self.restored;
        if *applied < compacted.index || *applied > last || hard_state.commit > last {
            return Err(ReadError::Row(format!(
                "the log covers {} to {last}, but {applied} are applied and {} committed",
                compacted.index, hard_state.commit
            )));
        }
        for (generation, key, value) in std::mem::take(&mut self.table) {
            if generation == self.generation {
                self.restored.table.insert(key, value);
            } else if !self.stale_generations.contains(&generation) {
                self.stale_generations.push(generation);
            }
        }
        Ok(())
    }

    fn last(&self) -> Position {
        match self.restored.entries.last() {
            Some(entry) => Position {
                index: entry.index,
                term: entry.term,
            },
            None => self.restored.compacted,
        }
    }
}

pub(super) fn decode_entry(row: &[u8]) -> Option<Entry> {
    Entry::parse_from_bytes(row).ok()
}

//! Whose store this is. The file is written last when a store is created, so it vouches for a log beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tandem_replication_core::{ReplicaId, Slot};

use super::error::StoreError;
use super::files::{self, remove, replace_durably, sync_directory};
use super::{LOG_DIRECTORY, tip};
use crate::pki::SLOTS;

pub(super) const FILE: &str = "identity";
/// Present while a store is being created.
pub(super) const CREATING: &str = "creating";
const VERSION_LINE: &str = "tandem-store 1";

/// The replica a state directory belongs to; `None` if the directory has not been used.
///
/// # Errors
/// The file exists but is unreadable or garbled.
pub fn stored_identity(state_dir: &Path) -> Result<Option<ReplicaId>, StoreError> {
    let path = path(state_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::Io {
                action: "read",
                path,
                source,
            });
        }
    };
    match std::str::from_utf8(&bytes).ok().and_then(parse) {
        Some(id) => Ok(Some(id)),
        None => Err(StoreError::Unidentified {
            path,
            detail: "the identity file is garbled",
        }),
    }
}

/// Notes that a store is about to be created here, and clears away what an earlier attempt left that was cut short:
/// sled does not open a half of its settings, and nothing in such a store was ever acknowledged. A log that nobody
/// noted is left alone.
pub(super) fn begin_creation(state_dir: &Path) -> Result<(), StoreError> {
    let log = state_dir.join(LOG_DIRECTORY);
    if state_dir.join(CREATING).symlink_metadata().is_ok() {
        if files::database_exists(&log) {
            files::wait_for_lock(&log)?;
        }
        remove(&log)?;
        remove(&state_dir.join(tip::FILE))
    } else if log.symlink_metadata().is_ok() {
        Ok(())
    } else {
        replace_durably(state_dir, CREATING, b"")
    }
}

/// The store has its identity: nothing in it may be cleared away any more.
pub(super) fn end_creation(state_dir: &Path) -> Result<(), StoreError> {
    let creating = state_dir.join(CREATING);
    if creating.symlink_metadata().is_ok() {
        remove(&creating)?;
        sync_directory(state_dir)?;
    }
    Ok(())
}

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Writes the identity so that after a crash it is there as a whole or not at all.
pub(super) fn create(state_dir: &Path, id: ReplicaId) -> Result<(), StoreError> {
    let created = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let text = format!(
        "{VERSION_LINE}\nslot {}\nincarnation {}\ncreated {}\n",
        id.slot(),
        id.incarnation(),
        created.as_millis()
    );
    replace_durably(state_dir, FILE, text.as_bytes())
}

fn parse(text: &str) -> Option<ReplicaId> {
    let mut lines = text.lines();
    if lines.next()? != VERSION_LINE {
        return None;
    }
    let slot = lines.next()?.strip_prefix("slot ")?;
    let slot: Slot = SLOTS
        .into_iter()
        .find(|candidate| candidate.to_string() == slot)?;
    let incarnation = lines.next()?.strip_prefix("incarnation ")?.parse().ok()?;
    lines
        .next()?
        .strip_prefix("created ")?
        .parse::<u64>()
        .ok()?;
    ReplicaId::new(slot, incarnation).ok()
}

//! Whose store this is. The file is written last when a store is created, so it vouches for a log beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tandem_replication_core::{ReplicaId, Slot};

use super::error::StoreError;
use super::files::replace_durably;
use super::retire;
use crate::pki::SLOTS;

pub(super) const FILE: &str = "identity";
const VERSION_LINE: &str = "tandem-store 1";

/// The replica a state directory belongs to, or will once its predecessor's state is moved aside; `None` if the
/// directory has not been used.
///
/// # Errors
/// The file exists but is unreadable or garbled.
pub fn stored_identity(state_dir: &Path) -> Result<Option<ReplicaId>, StoreError> {
    match retire::pending(state_dir)? {
        Some(retiring) => Ok(Some(retiring.next)),
        None => read(state_dir),
    }
}

/// What the identity file says.
pub(super) fn read(state_dir: &Path) -> Result<Option<ReplicaId>, StoreError> {
    let path = path(state_dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::Io {
                action: "read",
                path,
                source,
            });
        }
    };
    match parse(&text) {
        Some(id) => Ok(Some(id)),
        None => Err(StoreError::Unidentified {
            path,
            detail: "the identity file is garbled",
        }),
    }
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
    let id = parse_id(&mut lines)?;
    lines
        .next()?
        .strip_prefix("created ")?
        .parse::<u64>()
        .ok()?;
    Some(id)
}

/// The lines that name a replica.
pub(super) fn parse_id<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Option<ReplicaId> {
    let slot = lines.next()?.strip_prefix("slot ")?;
    let slot: Slot = SLOTS
        .into_iter()
        .find(|candidate| candidate.to_string() == slot)?;
    let incarnation = lines.next()?.strip_prefix("incarnation ")?.parse().ok()?;
    ReplicaId::new(slot, incarnation).ok()
}

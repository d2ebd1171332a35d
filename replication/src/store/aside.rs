//! Moving a store aside, so that its slot can come back as a new incarnation.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::files::{self, sync_directory, with_path};
use super::{LOG_DIRECTORY, birth, durability, identity, tip};

/// Retired stores kept; older ones are deleted. One to look at, and one in case the wrong one is retired.
const KEPT: usize = 2;

const PREFIX: &str = "retired-";

/// What a store consists of, in the order in which it is moved. Without its identity a store does not open, so that
/// goes first; as long as the birth stays, what else is missing counts as lost, so a crash on the way ends in an error
/// that asks for this again. With the birth first instead, the power-cut test was seen to fail.
const PARTS: [&str; 6] = [
    identity::FILE,
    tip::FILE,
    durability::FILE,
    LOG_DIRECTORY,
    identity::CREATING,
    birth::FILE,
];

/// Moves everything a replica remembers into `retired-<number>` within the state directory, durably. The next start
/// finds an unused directory. Returns where it went; `None` if there was nothing.
///
/// # Errors
/// The store is in use, or the operating system refuses.
pub fn move_aside(state_dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    let present: Vec<_> = PARTS
        .into_iter()
        .map(|part| state_dir.join(part))
        .filter(|path| path.symlink_metadata().is_ok())
        .collect();
    if present.is_empty() {
        return Ok(None);
    }
    let log = state_dir.join(LOG_DIRECTORY);
    if files::database_exists(&log) {
        files::wait_for_lock(&log)?;
    }
    let mut retired = retired(state_dir)?;
    let number = retired.last().map_or(1, |(number, _)| number + 1);
    let aside = state_dir.join(format!("{PREFIX}{number}"));
    with_path("create", &aside, fs::create_dir(&aside))?;
    for path in &present {
        let name = path.file_name().unwrap_or_default();
        with_path("move", path, fs::rename(path, aside.join(name)))?;
    }
    sync_directory(&aside)?;
    sync_directory(state_dir)?;
    retired.push((number, aside.clone()));
    let surplus = retired.len().saturating_sub(KEPT);
    for (_, old) in retired.iter().take(surplus) {
        with_path("remove", old, fs::remove_dir_all(old))?;
    }
    Ok(Some(aside))
}

/// By age.
fn retired(state_dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    let entries = with_path("list", state_dir, fs::read_dir(state_dir))?;
    for entry in entries
        .collect::<io::Result<Vec<_>>>()
        .into_iter()
        .flatten()
    {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tandem_replication_core::{ReplicaId, Slot};

    use super::*;
    use crate::store::Store;

    #[test]
    fn a_retired_store_is_whole_and_only_the_newest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(move_aside(directory.path()).unwrap(), None);
        let id = ReplicaId::first(Slot::A);
        for number in 1..=4_usize {
            let (store, _) = Store::open(directory.path(), id).unwrap();
            let used = move_aside(directory.path());
            assert!(matches!(used, Err(StoreError::Locked { .. })), "{used:?}");
            drop(store);
            let aside = move_aside(directory.path()).unwrap().unwrap();
            assert_eq!(retired(directory.path()).unwrap().len(), number.min(KEPT));
            drop(Store::open(&aside, id).unwrap());
        }
    }
}

//! Leaving an old life behind: the state that must not vote again is moved aside, and its successor starts empty.
//!
//! What is going on is written down first, so that a crash at any point leaves either the old state or a
//! retirement that the next open finishes; never an empty directory that could be taken for a new pair's.
//!
//! ```text
//! <state_dir>/retiring                       who comes next, and where the old state goes
//! <state_dir>/retired-<incarnation>-<n>/     the old state; n rises
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tandem_replication_core::ReplicaId;

use super::error::StoreError;
use super::files::{self, remove, replace_durably, sync_directory, with_path};
use super::{LOG_DIRECTORY, durability, identity, tip};

pub(super) const FILE: &str = "retiring";
const VERSION_LINE: &str = "tandem-retiring 1";
const PREFIX: &str = "retired-";
/// Retired states kept; older ones are removed. They may be evidence, and each can be as large as a store.
const KEPT: usize = 2;

/// A retirement that has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Retiring {
    pub(super) next: ReplicaId,
    directory: String,
}

/// Moves the state in `state_dir` aside, durably, and makes the directory `next`'s: an empty store of that id opens
/// there. What lies beside the store's own files stays. Returns where the old state is now. Of these the newest two
/// are kept.
///
/// Retiring again with the same `next` finishes what a crash interrupted.
///
/// # Errors
/// The store is in use, `next` is not a later incarnation of the slot that the state belongs to, or an I/O error; an
/// interrupted retirement is finished by the next attempt, or when the store of `next` is opened.
pub fn retire(state_dir: &Path, next: ReplicaId) -> Result<PathBuf, StoreError> {
    if let Some(retiring) = pending(state_dir)? {
        if retiring.next != next {
            return Err(StoreError::Foreign {
                path: state_dir.to_owned(),
                found: retiring.next,
                expected: next,
            });
        }
        return finish(state_dir, &retiring);
    }
    // A garbled identity does not keep a state from being retired: it may be why.
    let found = identity::read(state_dir).ok().flatten();
    if let Some(found) = found
        && (found.slot() != next.slot() || found.incarnation() >= next.incarnation())
    {
        return Err(StoreError::NotLater {
            path: state_dir.to_owned(),
            found,
            next,
        });
    }
    let log = state_dir.join(LOG_DIRECTORY);
    if files::database_exists(&log) {
        files::wait_for_lock(&log)?;
    }
    let incarnation = found.map_or(next.incarnation().saturating_sub(1), ReplicaId::incarnation);
    let number = retired(state_dir)?.last().map_or(0, |(number, _)| *number);
    let retiring = Retiring {
        next,
        directory: format!("{PREFIX}{incarnation}-{}", number.saturating_add(1)),
    };
    replace_durably(state_dir, FILE, retiring.render().as_bytes())?;
    finish(state_dir, &retiring)
}

/// The retirement that a crash has interrupted, if any.
pub(super) fn pending(state_dir: &Path) -> Result<Option<Retiring>, StoreError> {
    let path = state_dir.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => match std::str::from_utf8(&bytes).ok().and_then(Retiring::parse) {
            Some(retiring) => Ok(Some(retiring)),
            None => Err(StoreError::Unidentified {
                path,
                detail: "the record of a retirement is garbled",
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => with_path("read", &path, Err(error)),
    }
}

/// Moves what is still there. The record stays until the successor has an identity: see [`settle`].
pub(super) fn finish(state_dir: &Path, retiring: &Retiring) -> Result<PathBuf, StoreError> {
    let target = state_dir.join(&retiring.directory);
    with_path("create", &target, fs::create_dir_all(&target))?;
    // The successor's identity is the last file it creates; with it nothing here is old any more.
    if identity::read(state_dir).ok().flatten() != Some(retiring.next) {
        for name in [identity::FILE, tip::FILE, durability::FILE, LOG_DIRECTORY] {
            let (from, to) = (state_dir.join(name), target.join(name));
            // What is there twice was begun by a successor that never got an identity.
            if to.symlink_metadata().is_ok() {
                remove(&from)?;
                continue;
            }
            match fs::rename(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => with_path("move", &from, moved)?,
            }
        }
    }
    sync_directory(&target)?;
    sync_directory(state_dir)?;
    let retired = retired(state_dir)?;
    for (_, path) in &retired[..retired.len().saturating_sub(KEPT)] {
        with_path("remove", path, fs::remove_dir_all(path))?;
    }
    tracing::warn!(path = %target.display(), next = %retiring.next, "the old state is moved aside");
    Ok(target)
}

/// The successor has its identity: the retirement, if there was one, is over.
pub(super) fn settle(state_dir: &Path) -> Result<(), StoreError> {
    let record = state_dir.join(FILE);
    if record.symlink_metadata().is_err() {
        return Ok(());
    }
    remove(&record)?;
    sync_directory(state_dir)
}

/// The retired states, oldest first.
fn retired(state_dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in with_path("list", state_dir, fs::read_dir(state_dir))? {
        let entry = with_path("list", state_dir, entry)?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.1.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

impl Retiring {
    fn render(&self) -> String {
        let Retiring { next, directory } = self;
        format!(
            "{VERSION_LINE}\nslot {}\nincarnation {}\ndirectory {directory}\n",
            next.slot(),
            next.incarnation()
        )
    }

    fn parse(text: &str) -> Option<Retiring> {
        let mut lines = text.lines();
        if lines.next()? != VERSION_LINE {
            return None;
        }
        let next = identity::parse_id(&mut lines)?;
        let directory = lines.next()?.strip_prefix("directory ")?;
        let plain = directory.starts_with(PREFIX) && !directory.contains('/');
        plain.then(|| Retiring {
            next,
            directory: directory.to_owned(),
        })
    }
}

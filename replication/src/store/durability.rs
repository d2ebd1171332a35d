//! What an acknowledgement survives, and the mark that says when it may not have.
//!
//! ```text
//!             open                      orderly stop
//!   clean ───────────▶ mark: this boot ──────────────▶ clean
//!                        │        ▲
//!             crash,     │        │ open, same boot:
//!           same boot    └────────┘ the page cache has everything
//!                        │
//!                        └ open, another boot: unclean, never voted with again
//! ```
//!
//! In [`Durability::Durable`] there is no mark: every acknowledgement is on the disk. In [`Durability::Memory`] log
//! entries and table rows are acknowledged from the page cache of a running machine. Which boot that was is kept
//! in a file from before the first such write until everything has been synced.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tandem_replication_core::ReplicaId;

use super::error::StoreError;
use super::files::{replace_durably, sync_directory, with_path};

pub(super) const FILE: &str = "unsynced";
const VERSION_LINE: &str = "tandem-unsynced 1";
/// Where Linux says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What an acknowledged entry survives on this replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: everything is synced before it is acknowledged.
    #[default]
    Durable,
    /// A crash of the process, not one of the machine. Term, vote and membership are synced as ever; log and table
    /// are not. After an unclean restart of the machine the replica must rejoin under its next incarnation.
    Memory,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Durable => "durable",
            Durability::Memory => "memory",
        })
    }
}

/// Neither `durable` nor `memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a durability: \"durable\" or \"memory\"")]
pub struct UnknownDurability;

impl FromStr for Durability {
    type Err = UnknownDurability;

    fn from_str(text: &str) -> Result<Durability, UnknownDurability> {
        match text {
            "durable" => Ok(Durability::Durable),
            "memory" => Ok(Durability::Memory),
            _ => Err(UnknownDurability),
        }
    }
}

/// Which boot of the machine this is: what the page cache holds does not outlive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// Any line of text, for tests.
    pub fn new(text: impl Into<String>) -> BootId {
        BootId(text.into())
    }

    /// This machine's present boot.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of_machine() -> Result<BootId, StoreError> {
        let path = Path::new(BOOT_ID);
        let text = with_path("read", path, fs::read_to_string(path))?;
        Ok(BootId(text.trim().to_owned()))
    }
}

/// How a store is used from now on.
#[derive(Clone, Debug)]
pub(crate) struct Mode {
    pub(crate) durability: Durability,
    pub(crate) boot: BootId,
}

/// The mark in a state directory.
#[derive(Debug)]
pub(super) struct UnsyncedMark {
    state_dir: PathBuf,
}

impl UnsyncedMark {
    pub(super) fn new(state_dir: &Path) -> UnsyncedMark {
        UnsyncedMark {
            state_dir: state_dir.to_owned(),
        }
    }

    /// Refuses a store whose last acknowledgements may have gone with another boot's page cache.
    pub(super) fn check(&self, id: ReplicaId, boot: &BootId) -> Result<(), StoreError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(StoreError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        // Garbage does not say which boot it was, so it was not this one.
        if text == render(boot).as_bytes() {
            Ok(())
        } else {
            Err(StoreError::Unclean {
                path: self.state_dir.clone(),
                id,
            })
        }
    }

    /// From now on acknowledgements may rest on this boot's page cache.
    pub(super) fn set(&self, boot: &BootId) -> Result<(), StoreError> {
        replace_durably(&self.state_dir, FILE, render(boot).as_bytes())
    }

    /// Everything is synced.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                with_path("remove", &path, removed)?;
                sync_directory(&self.state_dir)
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.state_dir.join(FILE)
    }
}

fn render(boot: &BootId) -> String {
    format!("{VERSION_LINE}\nboot {}\n", boot.0)
}

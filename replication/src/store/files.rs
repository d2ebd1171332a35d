//! Files beside and below sled that sled does not make durable itself.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::StoreError;

/// sled's main file, within its directory.
const DATABASE_FILE: &str = "db";
/// sled's settings.
const CONFIGURATION_FILE: &str = "conf";
/// Where sled puts pages too large for a quarter of a segment.
const BLOBS: &str = "blobs";

/// How long a former holder of the store may take to let go of it.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often to look; flock cannot wait with a limit.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Names what an I/O error happened to.
pub(super) fn with_path<T>(
    action: &'static str,
    path: &Path,
    result: io::Result<T>,
) -> Result<T, StoreError> {
    result.map_err(|source| {
        let path = path.to_owned();
        if is_full(&source) {
            let detail = source.to_string();
            return StoreError::Full {
                action,
                path,
                detail,
            };
        }
        StoreError::Io {
            action,
            path,
            source,
        }
    })
}

/// Whether there was no room: neither damage nor a failing disk.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Removes a file, or a directory with all that is in it, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => with_path("remove", path, removed),
    }
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    with_path(
        "sync directory",
        path,
        File::open(path).and_then(|directory| directory.sync_all()),
    )
}

/// Makes the way to a directory durable: which of the directories above it are new is not known after a crash.
pub(super) fn sync_way_to(path: &Path) -> Result<(), StoreError> {
    let absolute = with_path("find", path, path.canonicalize())?;
    for directory in absolute.ancestors().skip(1) {
        match sync_directory(directory) {
            // Nothing was created in a directory that may not even be read.
            Err(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                return Ok(());
            }
            synced => synced?,
        }
    }
    Ok(())
}

/// Whether sled has ever created its file here.
pub(super) fn database_exists(directory: &Path) -> bool {
    directory.join(DATABASE_FILE).symlink_metadata().is_ok()
}

/// Waits until nobody holds sled's lock. sled lets go of it from its own threads, some time after it was dropped,
/// and a process that is dying may hold it a moment longer.
pub(super) fn wait_for_lock(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(DATABASE_FILE);
    let begun = Instant::now();
    let mut file = with_path("open", &path, File::open(&path))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Dropping it unlocks; sled takes it next.
            Ok(_lock) => return Ok(()),
            Err((unlocked, Errno::EWOULDBLOCK)) if begun.elapsed() < LOCK_WAIT => file = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => return Err(StoreError::Locked { path }),
            Err((_, errno)) => {
                return Err(StoreError::Io {
                    action: "lock",
                    path,
                    source: errno.into(),
                });
            }
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

/// Removes what a crash during sled's own snapshot leaves behind: sled 0.34.7 refuses to open with it.
/// Returns how many were removed.
pub(super) fn remove_unfinished_snapshots(directory: &Path) -> Result<usize, StoreError> {
    let mut removed = 0;
    for entry in with_path("list", directory, fs::read_dir(directory))? {
        let entry = with_path("list", directory, entry)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            with_path("remove", &entry.path(), fs::remove_file(entry.path()))?;
            tracing::warn!(path = %entry.path().display(), "removed an unfinished snapshot of the store");
            removed += 1;
        }
    }
    Ok(removed)
}

/// Replaces a file so that after a crash it is there as a whole, old or new.
pub(super) fn replace_durably(
    directory: &Path,
    name: &str,
    content: &[u8],
) -> Result<(), StoreError> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = with_path("create", &temporary, File::create(&temporary))?;
    with_path("write", &temporary, file.write_all(content))?;
    with_path("sync", &temporary, file.sync_all())?;
    let renamed = fs::rename(&temporary, directory.join(name));
    with_path("rename", &temporary, renamed)?;
    sync_directory(directory)
}

/// The syncs sled leaves out: its `flush` only starts the write-back, and neither `conf` nor blobs nor names
/// are synced at all.
#[derive(Debug)]
pub(super) struct Syncs {
    database: File,
    database_path: PathBuf,
    blobs: PathBuf,
    synced_blobs: BTreeSet<OsString>,
    /// How often the database was synced.
    count: u64,
}

impl Syncs {
    /// Takes over a database that sled has just opened; what sled created there is durable afterwards.
    pub(super) fn open(directory: &Path) -> Result<Syncs, StoreError> {
        let configuration = directory.join(CONFIGURATION_FILE);
        let synced = File::open(&configuration).and_then(|file| file.sync_all());
        with_path("sync", &configuration, synced)?;
        let database_path = directory.join(DATABASE_FILE);
        let database = with_path("open", &database_path, File::open(&database_path))?;
        let mut syncs = Syncs {
            database,
            database_path,
            blobs: directory.join(BLOBS),
            synced_blobs: BTreeSet::new(),
            count: 0,
        };
        syncs.sync_blobs()?;
        syncs.sync_database()?;
        sync_directory(directory)?;
        Ok(syncs)
    }

    /// Makes what sled has written durable.
    pub(super) fn sync_database(&mut self) -> Result<(), StoreError> {
        self.count += 1;
        with_path("sync", &self.database_path, self.database.sync_data())
    }

    /// How often the database was synced since it was opened.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Makes new blobs durable. Blobs are rare, and the directory stays almost empty: see `SEGMENT_BYTES`.
    pub(super) fn sync_blobs(&mut self) -> Result<(), StoreError> {
        let mut present = BTreeSet::new();
        let mut created = false;
        for entry in with_path("list", &self.blobs, fs::read_dir(&self.blobs))? {
            let entry = with_path("list", &self.blobs, entry)?;
            let name = entry.file_name();
            if !self.synced_blobs.contains(&name) {
                match File::open(entry.path()).and_then(|blob| blob.sync_all()) {
                    Ok(()) => created = true,
                    // sled removes blobs from its own threads.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(source) => {
                        return Err(StoreError::Io {
                            action: "sync",
                            path: entry.path(),
                            source,
                        });
                    }
                }
            }
            present.insert(name);
        }
        if created {
            sync_directory(&self.blobs)?;
        }
        self.synced_blobs = present;
        Ok(())
    }
}

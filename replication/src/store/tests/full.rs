//! A full disk: told in time, an error with a name when it comes to that, and nothing acknowledged is lost.
//!
//! The test starts its own binary again in a mount namespace of its own, where a small tmpfs is the disk.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tandem_replication_core::WriteId;

use super::super::{Confirm, SpaceChange, SpaceWatch, Store, StoreError, StoreThread};
use super::model::{ID, append, check, last};
use crate::measure::StoreMeter;
use crate::store::Durability;

const MOUNT_POINT: &str = "TANDEM_STORE_SMALL_DISK";
/// Room for a few of sled's segments.
const DISK_BYTES: u64 = 24 << 20;
/// More writes than the disk can take.
const MAX_WRITES: u64 = 20_000;
/// A bound on each wait; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_full_disk_loses_nothing_and_opens_again_once_there_is_room() {
    on_a_small_disk("store::tests::full::fills_up");
}

#[test]
fn the_store_thread_tells_when_room_runs_out_and_when_it_is_back() {
    on_a_small_disk("store::tests::full::is_watched");
}

fn on_a_small_disk(test: &str) {
    if !geteuid().is_root() {
        // Not captured, so that it shows among tests that passed.
        writeln!(
            std::io::stderr(),
            "SKIPPED: needs root to mount a small disk"
        )
        .unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let run = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--ignored"])
        .env(MOUNT_POINT, directory.path())
        .env("RUST_TEST_THREADS", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Mounts the disk where only this thread, and those it starts, see it.
fn small_disk() -> Option<std::ffi::OsString> {
    let directory = std::env::var_os(MOUNT_POINT)?;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let size = format!("size={DISK_BYTES}");
    mount(
        Some("tmpfs"),
        Path::new(&directory),
        Some("tmpfs"),
        MsFlags::empty(),
        Some(size.as_str()),
    )
    .unwrap();
    Some(directory)
}

/// Takes room: all but `leave` bytes.
fn fill(directory: &Path, leave: u64) {
    let free = nix::sys::statvfs::statvfs(directory).unwrap();
    let free = free.blocks_available() * free.fragment_size();
    let ballast = fs::File::create(directory.join("ballast")).unwrap();
    let zeroes = vec![0; 64 << 10];
    let mut at = 0;
    let wanted = free.saturating_sub(leave);
    while at < wanted {
        let part = zeroes.len().min(usize::try_from(wanted - at).unwrap());
        // sled may be taking the rest of it.
        match ballast.write_at(&zeroes[..part], at) {
            Ok(written) => at += written as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "started by a_full_disk_loses_nothing_and_opens_again_once_there_is_room"]
fn fills_up() {
    let Some(directory) = small_disk() else {
        return;
    };
    let directory = Path::new(&directory);
    let state = directory.join("state");
    let mut acknowledged = 0;
    // Each round ends at another place in a write.
    for leave in [1 << 20, 300_000, 70_000, 10_000, 0] {
        let (mut store, _) = Store::open(&state, ID).unwrap();
        // Something of each round is there before the disk is full.
        store
            .write(&[append(acknowledged + 1, acknowledged + 3, 1)])
            .unwrap();
        acknowledged += 3;
        fill(directory, leave);
        let error = (0..MAX_WRITES)
            .find_map(|_| {
                let next = append(acknowledged + 1, acknowledged + 8, 1);
                match store.write(&[next]) {
                    Ok(()) => acknowledged += 8,
                    Err(error) => return Some(error),
                }
                None
            })
            .expect("the disk is small");
        assert!(
            matches!(error, StoreError::Full { .. }),
            "{leave} left: {error}"
        );
        assert!(error.to_string().contains("full"), "{error}");
        drop(store);

        // Still full: it opens, or says why it does not. It never claims to be lost.
        match Store::open(&state, ID) {
            Ok((_, restored)) => assert!(restored.applied >= acknowledged),
            Err(StoreError::Full { .. }) => {}
            Err(error) => panic!("{leave} left: {error}"),
        }
        fs::remove_file(directory.join("ballast")).unwrap();
        let (_, restored) =
            Store::open(&state, ID).unwrap_or_else(|error| panic!("{leave} left: {error}"));
        check(&restored);
        assert!(
            restored.applied >= acknowledged,
            "{leave} left: {} < {acknowledged}",
            restored.applied
        );
        acknowledged = last(&restored).index;
    }
}

/// Passes on what the store thread reports.
struct Told(Sender<SpaceChange>);

impl Confirm for Told {
    fn persisted(&self, _: WriteId) {}

    fn space(&self, change: SpaceChange) {
        self.0.send(change).unwrap();
    }

    fn failed(&self, error: StoreError) {
        panic!("{error}");
    }
}

#[test]
#[ignore = "started by the_store_thread_tells_when_room_runs_out_and_when_it_is_back"]
fn is_watched() {
    let Some(directory) = small_disk() else {
        return;
    };
    let directory = Path::new(&directory);
    let state = directory.join("state");
    let (store, _) = Store::open(&state, ID).unwrap();
    let meter = Arc::new(StoreMeter::new(Durability::Durable));
    let (changes, told) = channel();
    let watch = SpaceWatch::new(&state, Some(4 << 20));
    let thread = StoreThread::start(
        store,
        watch,
        Arc::clone(&meter),
        Told(changes),
        Arc::new(|| {}),
    )
    .unwrap();

    fill(directory, 1 << 20);
    let SpaceChange::Low { free_bytes } = told.recv_timeout(PATIENCE).unwrap() else {
        panic!("nothing was low before");
    };
    assert!(free_bytes < 4 << 20, "{free_bytes}");
    let status = meter.status();
    assert!(
        status.disk_low && status.free_bytes == free_bytes,
        "{status:?}"
    );
    // It still writes.
    assert!(thread.write(append(1, 3, 1)));

    fs::remove_file(directory.join("ballast")).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), SpaceChange::Recovered);
    assert!(!meter.status().disk_low);
    thread.stop();
    assert_eq!(Store::open(&state, ID).unwrap().1.applied, 3);
}

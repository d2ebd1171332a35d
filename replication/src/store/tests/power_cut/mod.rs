//! Power cuts: no acknowledged entry is lost, and the store opens on every disk that one could leave.
//!
//! A victim writes under `shim.c`, which records its file operations and its acknowledgements in order. The test
//! replays the record on a model of a disk with a cache (`disk`), cuts the power at random points, and opens the
//! store on what is left. A failure names seed, cut and loss; the images are the same in each run of one trace, and
//! the trace depends only on the seed and on sled's threads.
//!
//! Each of these was removed once, and seen to fail here: the `fdatasync` of the database, the `fsync` of `conf` and
//! of blobs, the syncs of sled's directory, of the state directory and of those above it, the flush before the
//! `fdatasync`, the sync of the tip before the log shrinks, the note that a creation has begun; and in memory mode the
//! mark, and the sync before it goes.

mod disk;
mod trace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tandem_replication_core::{Founders, ReplicaId, Restored, Slot};
use tempfile::TempDir;

use super::super::{BootId, Durability, Mode, Store, StoreError, move_aside};
use super::model::{ID, check, large_in};
use super::workload::{Acknowledged, Workload};
use crate::store::birth::{Birth, Decided};
use disk::{Disk, LOSSES};
use trace::Operation;

const VICTIM: &str = "TANDEM_STORE_POWER_VICTIM";
const DURABILITY: &str = "TANDEM_STORE_DURABILITY";
const KIND: &str = "TANDEM_STORE_KIND";
/// Operations of an orderly stop, or some more.
const STOPPING: usize = 8;
/// What the victim says after an orderly stop.
const CLOSED: &str = "closed";
const SEED: u64 = 41;
/// How often the victim opens its store, and how much it does each time.
const SESSIONS: u64 = 3;
const STEPS: u64 = 120;
/// The same where something else matters.
const FEW_STEPS: u64 = 5;
/// The victim's state directory, below the base that was there before.
const STATE: &str = "new/state";

fn mode(durability: Durability, boot: &str) -> Mode {
    Mode {
        durability,
        boot: BootId::new(boot),
    }
}

fn next() -> ReplicaId {
    ReplicaId::new(Slot::A, 2).unwrap()
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    let recorded = record(Durability::Durable, Kind::Plain);
    let mode = mode(Durability::Durable, "after");
    let mut opened = 0;
    let mut cuts: Vec<_> = (0..=recorded.first_acknowledgement()).collect();
    cuts.extend(recorded.random_cuts(40));
    recorded.cut(cuts, |image, acknowledged, place| {
        let (store, restored) =
            Store::open_with(image, ID, &mode).unwrap_or_else(|error| panic!("{place}: {error}"));
        drop(store);
        check(&restored);
        if let Some(acknowledged) = acknowledged {
            assert_eq!(acknowledged.missing_in(&restored), None, "{place}");
            opened += 1;
        }
    });
    assert!(opened > 180, "only {opened} images were of a store in use");
}

/// Rows that sled keeps in files of their own, each of them put with the group that is acknowledged.
#[test]
fn no_large_row_is_lost_by_a_power_cut() {
    let recorded = record(Durability::Durable, Kind::Large);
    let mode = mode(Durability::Durable, "after");
    recorded.cut(recorded.random_cuts(8), |image, acknowledged, place| {
        let (_, restored) =
            Store::open_with(image, ID, &mode).unwrap_or_else(|error| panic!("{place}: {error}"));
        check(&restored);
        let put = large_in(&restored.table);
        if let Some(acknowledged) = acknowledged {
            assert_eq!(acknowledged.missing_in(&restored), None, "{place}");
            assert!(put > 0, "{place}");
        }
    });
}

/// While a store is moved aside its directory is the old one's, and whole; or it says that something is lost and asks to
/// be moved aside again; or nothing of the old one is left there. It is never a part of the old one that opens.
#[test]
fn a_power_cut_while_a_store_is_moved_aside_leaves_no_part_that_opens() {
    let recorded = record(Durability::Durable, Kind::Retiring);
    let mode = mode(Durability::Durable, "after");
    let (mut old, mut lost, mut new) = (0, 0, 0);
    let retiring = recorded.stops().pop().unwrap()..=recorded.operations.len();
    recorded.cut(
        retiring.collect(),
        |image, acknowledged, place| match Birth::open(image, ID.slot()) {
            Ok(birth) if birth.decided().is_some() => {
                let (_, restored) = Store::open_with(image, ID, &mode)
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
                assert_eq!(acknowledged.unwrap().missing_in(&restored), None, "{place}");
                old += 1;
            }
            Ok(_) => {
                let (_, restored) = Store::open_with(image, next(), &mode)
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
                assert_eq!(restored, Restored::default(), "{place}");
                new += 1;
            }
            Err(StoreError::Missing { id: ID, .. }) => {
                move_aside(image)
                    .unwrap()
                    .unwrap_or_else(|| panic!("{place}: nothing"));
                let birth = Birth::open(image, ID.slot()).unwrap();
                assert!(birth.decided().is_none(), "{place}");
                lost += 1;
            }
            Err(error) => panic!("{place}: {error}"),
        },
    );
    assert!(
        old > 10 && lost > 10 && new > 10,
        "{old} old, {lost} lost, {new} new"
    );
}

/// In memory mode a power cut is noticed, unless everything had been synced: the moments after an orderly stop.
#[test]
fn memory_mode_knows_that_the_power_was_cut() {
    let recorded = record(Durability::Memory, Kind::Plain);
    let mode = mode(Durability::Memory, "after");
    let stops = recorded.stops();
    // Also the moments of the stop itself: the mark may not go before everything is synced.
    let stopping = stops.iter().flat_map(|&cut| cut - STOPPING..=cut);
    let mut cuts: Vec<usize> = stopping.collect();
    cuts.extend(recorded.random_cuts(10));
    let (mut unclean, mut clean) = (0, 0);
    recorded.cut(cuts, |image, acknowledged, place| {
        match (Store::open_with(image, ID, &mode), acknowledged) {
            (Ok((_, restored)), Some(acknowledged)) => {
                assert_eq!(acknowledged.missing_in(&restored), None, "{place}");
                clean += 1;
            }
            (Ok(_), None) => {}
            (Err(StoreError::Unclean { id: ID, .. }), _) => unclean += 1,
            (Err(error), _) => panic!("{place}: {error}"),
        }
    });
    assert!(unclean > 40, "only {unclean} unclean");
    let stopped = stops.len() * LOSSES.len();
    assert!(stopped > 0 && clean >= stopped, "only {clean} opened");
}

/// What a victim does besides writing and opening again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// It writes large rows.
    Large,
    /// It moves its store aside at the end.
    Retiring,
}

/// What a victim did.
struct Recorded {
    operations: Vec<Operation>,
    _directory: TempDir,
}

/// In memory if possible: the images are synced as often as a store is opened.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

fn record(durability: Durability, kind: Kind) -> Recorded {
    let directory = scratch();
    let base = directory.path().join("base");
    fs::create_dir(&base).unwrap();
    let trace = directory.path().join("trace");
    let victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "store::tests::power_cut::victim",
            "--exact",
            "--nocapture",
            "--ignored",
        ])
        .env(VICTIM, base.join(STATE))
        .env(DURABILITY, durability.to_string())
        .env(KIND, format!("{kind:?}"))
        .env("RUST_TEST_THREADS", "1")
        .env("LD_PRELOAD", shim(directory.path()))
        .env("TANDEM_TRACE", &trace)
        .env("TANDEM_TRACE_BASE", &base)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&victim.stderr);
    assert!(victim.status.success(), "{errors}");
    let operations = trace::read(&trace, &base);
    is_complete(&operations, &base, directory.path());
    Recorded {
        operations,
        _directory: directory,
    }
}

fn shim(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/tests/power_cut/shim.c");
    let library = directory.join("shim.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .expect("a C compiler, which the README asks for");
    assert!(compiled.success(), "{} does not compile", source.display());
    library
}

/// Replayed without loss, the trace gives the files as they are: nothing escaped the shim.
fn is_complete(operations: &[Operation], base: &Path, scratch: &Path) {
    let mut disk = Disk::new();
    for operation in operations {
        disk.execute(operation);
    }
    let replayed = scratch.join("replayed");
    disk.image(
        &replayed,
        disk::Loss::Nothing,
        &mut StdRng::seed_from_u64(0),
    );
    let (expected, found) = (listing(base), listing(&replayed));
    let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<_> {
        files.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&expected), names(&found));
    for ((path, expected), (_, found)) in expected.iter().zip(&found) {
        assert!(
            expected == found,
            "{} was changed behind the shim's back",
            path.display()
        );
    }
}

fn listing(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_owned();
                files.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

impl Recorded {
    /// How many operations the creation of the store took, and its first write.
    fn first_acknowledgement(&self) -> usize {
        let said = |operation: &Operation| matches!(operation, Operation::Say { text } if Acknowledged::last_in(text).is_some());
        self.operations.iter().position(said).unwrap() + 1
    }

    /// The cuts right after an orderly stop.
    fn stops(&self) -> Vec<usize> {
        (1..)
            .zip(&self.operations)
            .filter(|(_, operation)| operation.says(CLOSED))
            .map(|(cut, _)| cut)
            .collect()
    }

    fn random_cuts(&self, count: usize) -> Vec<usize> {
        let mut random = StdRng::seed_from_u64(SEED);
        let cut = |_| random.random_range(0..=self.operations.len());
        (0..count).map(cut).collect()
    }

    /// Cuts the power after so many operations, with each kind of loss, and shows the state directory that is left
    /// and what had been acknowledged by then.
    fn cut(&self, mut cuts: Vec<usize>, mut look: impl FnMut(&Path, Option<Acknowledged>, &str)) {
        let mut random = StdRng::seed_from_u64(SEED);
        cuts.sort_unstable();
        let directory = scratch();
        let (mut disk, mut done, mut acknowledged) = (Disk::new(), 0, None);
        for cut in cuts {
            for operation in &self.operations[done..cut] {
                disk.execute(operation);
                if let Operation::Say { text } = operation {
                    acknowledged = Acknowledged::last_in(text).or(acknowledged);
                }
            }
            done = cut;
            for loss in LOSSES {
                let image = directory.path().join("image");
                disk.image(&image, loss, &mut random);
                let place = format!(
                    "seed {SEED}, cut after {cut} of {}, {loss:?} lost",
                    self.operations.len()
                );
                look(&image.join(STATE), acknowledged, &place);
                fs::remove_dir_all(&image).unwrap();
            }
        }
    }
}

/// Not a test by itself: writes, stops in order, opens again, and at last just ends.
#[test]
#[ignore = "started by the tests of this file"]
#[allow(clippy::print_stdout)]
fn victim() {
    let Some(directory) = std::env::var_os(VICTIM) else {
        return;
    };
    let durability = std::env::var(DURABILITY).unwrap().parse().unwrap();
    let kind = std::env::var(KIND).unwrap();
    let kind = [Kind::Plain, Kind::Large, Kind::Retiring]
        .into_iter()
        .find(|candidate| format!("{candidate:?}") == kind)
        .unwrap();
    let (large, steps) = match kind {
        Kind::Plain => (false, STEPS),
        Kind::Large | Kind::Retiring => (kind == Kind::Large, FEW_STEPS),
    };
    let mode = mode(durability, "before");
    if kind == Kind::Retiring {
        let decided = Decided {
            id: ID,
            generation: 0,
            founders: Founders::new(),
        };
        let mut birth = Birth::open(Path::new(&directory), ID.slot()).unwrap();
        birth.decide(Path::new(&directory), decided).unwrap();
    }
    for session in 0..SESSIONS {
        let mut workload = Workload::open(Path::new(&directory), &mode, SEED + session, large);
        for _ in 0..steps {
            workload.step();
        }
        if session % 2 == 0 {
            workload.close();
            println!("{CLOSED}");
        }
    }
    if kind == Kind::Retiring {
        let directory = Path::new(&directory);
        let mut birth = Birth::open(directory, ID.slot()).unwrap();
        birth.mark_opened(directory).unwrap();
        println!("{CLOSED}");
        move_aside(directory).unwrap().unwrap();
    }
}

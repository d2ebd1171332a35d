//! Memory mode: what it syncs, and after which restarts the store opens. And what follows when it does not.

use std::fs;
use std::path::{Path, PathBuf};

use tandem_replication_core::{ReplicaId, Restored, Slot};

use super::super::{BootId, Durability, Mode, Store, StoreError, move_aside, stored_identity};
use super::model::{ID, append, check, conf_state, hard_state, write};
use crate::store::birth::Birth;

const MARK: &str = "unsynced";

fn next() -> ReplicaId {
    ReplicaId::new(Slot::A, 2).unwrap()
}

fn mode(durability: Durability, boot: &str) -> Mode {
    Mode {
        durability,
        boot: BootId::new(boot),
    }
}

fn open(
    directory: &Path,
    durability: Durability,
    boot: &str,
) -> Result<(Store, Restored), StoreError> {
    Store::open_with(directory, ID, &mode(durability, boot))
}

fn is_unclean(opened: Result<(Store, Restored), StoreError>) -> bool {
    match opened {
        Err(error @ StoreError::Unclean { id: ID, .. }) => {
            let text = error.to_string();
            assert!(text.contains("tandem rejoin"), "{text}");
            true
        }
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

/// Each row: how the first life ended and in which boot and mode the second begins.
#[test]
fn a_store_in_memory_opens_where_its_page_cache_is_or_after_an_orderly_stop() {
    use Durability::{Durable, Memory};
    for (first, orderly, boot, second, unclean) in [
        (Memory, false, "one", Memory, false),
        (Memory, false, "one", Durable, false),
        (Memory, false, "two", Memory, true),
        (Memory, false, "two", Durable, true),
        (Memory, true, "one", Memory, false),
        (Memory, true, "two", Memory, false),
        (Memory, true, "two", Durable, false),
        (Durable, false, "two", Memory, false),
        (Durable, false, "two", Durable, false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(directory.path(), first, "one").unwrap();
        store.write(&[append(1, 5, 1)]).unwrap();
        if orderly {
            store.close().unwrap();
        } else {
            drop(store);
        }
        let opened = open(directory.path(), second, boot);
        let row = format!("{first}, orderly {orderly}, boot {boot}, {second}");
        match &opened {
            Ok((_, restored)) => assert_eq!(restored.applied, 5, "{row}"),
            Err(error) => assert!(unclean, "{row}: {error}"),
        }
        assert_eq!(is_unclean(opened), unclean, "{row}");
    }
}

/// Becoming durable in the same boot makes what the kernel holds durable; from then on the boot does not matter.
#[test]
fn a_store_that_became_durable_is_not_bound_to_its_boot() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path(), Durability::Memory, "one").unwrap();
    store.write(&[append(1, 5, 1)]).unwrap();
    drop(store);
    assert!(directory.path().join(MARK).exists());
    drop(open(directory.path(), Durability::Durable, "one").unwrap());
    assert!(!directory.path().join(MARK).exists());
    assert!(!is_unclean(open(
        directory.path(),
        Durability::Durable,
        "two"
    )));
}

#[test]
fn a_garbled_mark_is_unclean_and_an_unclean_store_stays_so() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), Durability::Memory, "one").unwrap());
    let mark = fs::read(directory.path().join(MARK)).unwrap();
    for length in 0..mark.len() {
        fs::write(directory.path().join(MARK), &mark[..length]).unwrap();
        for boot in ["one", "one"] {
            assert!(is_unclean(open(directory.path(), Durability::Memory, boot)));
        }
    }
    fs::write(directory.path().join(MARK), &mark).unwrap();
    assert!(!is_unclean(open(
        directory.path(),
        Durability::Memory,
        "one"
    )));
}

/// What even memory mode syncs shows in the syncs it takes; seen failing when `promises` was always false.
#[test]
fn memory_mode_syncs_promises_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path(), Durability::Memory, "one").unwrap();
    let mut syncs = |write, expected: u64, what: &str| {
        let before = store.syncs();
        store.write(&[write]).unwrap();
        assert_eq!(store.syncs() - before, expected, "{what}");
    };
    syncs(append(1, 5, 1), 1, "a first term and vote");
    syncs(append(6, 9, 1), 0, "entries and rows");
    let mut commit = write();
    commit.hard_state = Some(hard_state(1, 1, 9));
    syncs(commit, 0, "a commit index");
    let mut vote = write();
    vote.hard_state = Some(hard_state(2, 3, 9));
    syncs(vote, 1, "a vote");
    let mut membership = write();
    (membership.conf_state, membership.must_sync) = (Some(conf_state()), false);
    syncs(membership, 1, "membership");
}

#[test]
fn the_machine_says_which_boot_it_is() {
    assert_eq!(BootId::of_machine().unwrap(), BootId::of_machine().unwrap());
    assert_ne!(BootId::of_machine().unwrap(), BootId::new(""));
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn used(directory: &Path) -> PathBuf {
    let (mut store, _) = open(directory, Durability::Memory, "one").unwrap();
    store.write(&[append(1, 5, 1)]).unwrap();
    drop(store);
    fs::write(directory.join("cdr.jsonl"), "not the store's\n").unwrap();
    directory.to_owned()
}

#[test]
fn a_store_that_was_moved_aside_is_evidence_and_its_successor_starts_empty() {
    let directory = tempfile::tempdir().unwrap();
    let state = used(directory.path());
    let aside = move_aside(&state).unwrap().unwrap();
    assert_eq!(aside, state.join("retired-1"));
    assert_eq!(stored_identity(&state).unwrap(), None);

    let (store, restored) = Store::open(&state, next()).unwrap();
    drop(store);
    assert_eq!(restored, Restored::default());
    assert_eq!(stored_identity(&state).unwrap(), Some(next()));
    assert_eq!(
        names(&state),
        ["cdr.jsonl", "identity", "log", "retired-1", "tip"]
    );
    // It is evidence, and whole.
    let (_, restored) = open(&aside, Durability::Memory, "one").unwrap();
    check(&restored);
    assert_eq!(restored.applied, 5);
}

#[test]
fn only_the_newest_two_stores_are_kept_aside() {
    let directory = tempfile::tempdir().unwrap();
    let state = used(directory.path());
    for incarnation in 2..=5 {
        let id = ReplicaId::new(Slot::A, incarnation).unwrap();
        move_aside(&state).unwrap().unwrap();
        drop(Store::open(&state, id).unwrap());
    }
    let mut expected = vec![
        "cdr.jsonl",
        "identity",
        "log",
        "retired-3",
        "retired-4",
        "tip",
    ];
    expected.sort_unstable();
    assert_eq!(names(&state), expected);
}

/// A crash after each step: the directory never looks unused, and moving it aside again finishes it.
#[test]
fn an_interrupted_move_is_noticed_and_finished_by_the_next() {
    let moved = ["identity", "tip", MARK, "log"];
    for steps in 1..=moved.len() {
        let directory = tempfile::tempdir().unwrap();
        let state = used(directory.path());
        drop(Birth::open(&state, ID.slot()).unwrap());
        let aside = state.join("retired-1");
        fs::create_dir(&aside).unwrap();
        for name in &moved[..steps] {
            fs::rename(state.join(name), aside.join(name)).unwrap();
        }
        let error = Birth::open(&state, ID.slot()).unwrap_err();
        assert!(
            matches!(error, StoreError::Missing { id: ID, .. }),
            "step {steps}: {error}"
        );
        move_aside(&state).unwrap().unwrap();
        assert!(Birth::open(&state, ID.slot()).unwrap().decided().is_none());
        let (_, restored) = Store::open(&state, next()).unwrap();
        assert_eq!(restored, Restored::default(), "step {steps}");
    }
}

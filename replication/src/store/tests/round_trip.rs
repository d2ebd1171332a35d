//! What goes in comes out again, and nothing else.

use tandem_replication_core::{Change, Position, Restored};

use super::super::{BATCH_ROWS, Store, keys};
use super::model::{
    ID, append, check, conf_state, entry, hard_state, last, snapshot, table, write,
};
use crate::store::tip::{Tip, TipFile};

fn reopened(store: Store) -> (Store, Restored) {
    let directory = store.state_dir.clone();
    drop(store);
    Store::open(&directory, ID).unwrap()
}

#[test]
fn an_empty_store_stays_empty() {
    let directory = tempfile::tempdir().unwrap();
    let (store, restored) = Store::open(&directory.path().join("deep/down"), ID).unwrap();
    assert_eq!(restored, Restored::default());
    assert_eq!(reopened(store).1, Restored::default());
}

#[test]
fn every_part_of_a_write_survives() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    let mut first = append(1, 3, 2);
    first.conf_state = Some(conf_state());
    store.write(&[first]).unwrap();
    let (mut store, restored) = reopened(store);
    assert_eq!(restored.hard_state, hard_state(2, 1, 3));
    assert_eq!(restored.conf_state, conf_state());
    assert_eq!(restored.entries, [entry(1, 2), entry(2, 2), entry(3, 2)]);
    assert_eq!(
        (restored.applied, restored.compacted),
        (3, Position::default())
    );
    check(&restored);

    // A later write changes only what it names; a key deleted and put again in one write is there.
    let key = restored.table.keys().next().unwrap().clone();
    let value = bytes::Bytes::from_static(b"again");
    let mut second = write();
    second.changes = vec![
        Change::Delete { key: key.clone() },
        Change::Put {
            key: key.clone(),
            value: value.clone(),
        },
    ];
    store.write(&[second]).unwrap();
    let (mut store, changed) = reopened(store);
    assert_eq!(changed.table.get(&key), Some(&value));
    assert_eq!(changed.entries, restored.entries);

    let mut third = write();
    third.changes = vec![Change::Delete { key: key.clone() }];
    store.write(&[third]).unwrap();
    assert_eq!(reopened(store).1.table.get(&key), None);
}

#[test]
fn a_conflicting_tail_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    let mut tail = write();
    tail.entries = (1..=9).map(|index| entry(index, 1)).collect();
    // In one group with what it replaces, and with an explicit cut below the entries that follow.
    let mut conflict = write();
    conflict.truncate_from = Some(5);
    conflict.entries = vec![entry(5, 2)];
    conflict.hard_state = Some(hard_state(2, 0, 0));
    store.write(&[tail, conflict]).unwrap();
    let (mut store, restored) = reopened(store);
    assert_eq!(last(&restored), Position { index: 5, term: 2 });

    // A cut alone.
    let mut cut = write();
    cut.truncate_from = Some(3);
    store.write(&[cut]).unwrap();
    let (mut store, restored) = reopened(store);
    assert_eq!(last(&restored), Position { index: 2, term: 1 });

    // Entries that overwrite without saying so.
    let mut overwrite = write();
    overwrite.entries = vec![entry(2, 3)];
    store.write(&[overwrite]).unwrap();
    let (_, restored) = reopened(store);
    assert_eq!(restored.entries, [entry(1, 1), entry(2, 3)]);
}

#[test]
fn a_gap_in_the_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    let mut gap = write();
    gap.entries = vec![entry(2, 1)];
    assert!(store.write(&[gap]).is_err());
}

#[test]
fn compaction_removes_log_rows_and_keeps_the_position() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    let count = 3 * BATCH_ROWS as u64;
    store.write(&[append(1, count, 1)]).unwrap();
    let mut compaction = write();
    let position = Position {
        index: count - 10,
        term: 1,
    };
    compaction.compact_to = Some(position);
    store.write(&[compaction]).unwrap();

    // Rows go in bounded steps; a crash before the last one leaves leftovers that do not count.
    assert!(store.clean().unwrap());
    let rows = store.db.scan_prefix(keys::LOG).count();
    assert!(rows > 10 && rows < count as usize, "{rows}");
    store.sync().unwrap();
    let (store, restored) = reopened(store);
    assert_eq!(restored.compacted, position);
    assert_eq!(restored.entries.len(), 10);
    assert_eq!(
        store.db.scan_prefix(keys::LOG).count(),
        10,
        "leftovers are removed at open"
    );
    check(&restored);
}

#[test]
fn a_snapshot_replaces_log_and_table() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    store.write(&[append(1, 40, 5)]).unwrap();
    // Its last term is lower than the log's: entries of term 5 were never committed.
    let mut install = write();
    install.snapshot = Some(snapshot(1000, 4));
    install.hard_state = Some(hard_state(6, 0, 1000));
    install.conf_state = Some(conf_state());
    store.write(&[install, append(1001, 1002, 6)]).unwrap();
    let expect = |restored: &Restored| {
        check(restored);
        assert_eq!(
            restored.compacted,
            Position {
                index: 1000,
                term: 4
            }
        );
        assert_eq!((restored.applied, restored.entries.len()), (1002, 2));
        assert_eq!(restored.hard_state, hard_state(6, 1, 1002));
    };
    let (mut store, restored) = reopened(store);
    expect(&restored);
    while store.clean().unwrap() {}
    assert_eq!(store.db.scan_prefix(keys::TABLE).count(), table(1002).len());
    assert_eq!(store.db.scan_prefix(keys::LOG).count(), 2);
    expect(&reopened(store).1);
}

#[test]
fn a_snapshot_below_the_log_end_leaves_no_old_entries_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    let mut log = write();
    log.entries = (1..=30).map(|index| entry(index, 1)).collect();
    store.write(&[log]).unwrap();
    let mut install = write();
    install.snapshot = Some(snapshot(20, 2));
    store.write(&[install]).unwrap();
    let (_, restored) = reopened(store);
    assert_eq!(last(&restored), Position { index: 20, term: 2 });
    check(&restored);
}

/// Until the switch is on disk the old state is whole: entries this replica has acknowledged may exist
/// nowhere else, so a crash must not leave it with less than it had.
#[test]
fn a_crash_while_a_snapshot_is_written_leaves_the_old_state() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    store.write(&[append(1, 40, 1)]).unwrap();
    let mut never_applied = sled::Batch::default();
    store
        .install(&snapshot(1000, 2), &mut never_applied)
        .unwrap();
    store.db.flush().unwrap();
    assert!(
        store.db.scan_prefix(keys::generation(1)).count() > 0,
        "half of it is there"
    );

    let (store, restored) = reopened(store);
    assert_eq!((restored.applied, last(&restored).index), (40, 40));
    check(&restored);
    assert_eq!(
        store.db.scan_prefix(keys::generation(1)).count(),
        0,
        "leftovers are removed"
    );
}

#[test]
fn values_too_large_for_a_page_survive() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    let large = bytes::Bytes::from(vec![7; 3 << 20]);
    let mut put = write();
    put.changes = vec![Change::Put {
        key: "large".into(),
        value: large.clone(),
    }];
    store.write(&[put]).unwrap();
    let blobs = directory.path().join("log/blobs");
    assert!(
        blobs.read_dir().unwrap().count() > 0,
        "sled keeps it in a file of its own"
    );
    let (_, restored) = reopened(store);
    assert_eq!(restored.table.get(b"large".as_ref()), Some(&large));
}

#[test]
fn the_tip_never_claims_more_than_was_synced() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), ID).unwrap();
    let tip = || {
        TipFile::open(directory.path())
            .unwrap()
            .read()
            .unwrap()
            .unwrap()
    };
    let last = |index, term| Position { index, term };
    store.write(&[append(1, 3, 1)]).unwrap();
    assert_eq!(
        tip(),
        Tip {
            term: 1,
            vote: 1,
            last: last(3, 1)
        }
    );
    let mut unsynced = append(4, 5, 1);
    unsynced.must_sync = false;
    store.write(&[unsynced]).unwrap();
    assert_eq!(tip().last, last(3, 1));
    let mut cut = write();
    (cut.truncate_from, cut.must_sync) = (Some(2), false);
    cut.hard_state = Some(hard_state(9, 9, 0));
    store.write(&[cut]).unwrap();
    assert_eq!(
        tip(),
        Tip {
            term: 1,
            vote: 1,
            last: Position::default()
        }
    );
    store.sync().unwrap();
    assert_eq!(
        tip(),
        Tip {
            term: 9,
            vote: 9,
            last: last(1, 1)
        }
    );
}

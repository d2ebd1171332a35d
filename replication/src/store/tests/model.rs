//! Writes whose effect can be predicted, and the check that a store shows it.

use bytes::Bytes;
use tandem_replication_core::eraftpb::{ConfState, Entry, HardState};
use tandem_replication_core::{
    Change, Position, ReplicaId, Restored, Slot, SnapshotWrite, Table, Write, WriteId,
};

pub(super) const ID: ReplicaId = ReplicaId::first(Slot::A);

/// A key, and a value above a quarter of sled's segment.
const LARGE: &str = "large";
const LARGE_BYTES: usize = 1200 << 10;
/// Distinct keys of the predicted table.
const KEYS: u64 = 50;

pub(super) fn write() -> Write {
    Write {
        id: WriteId(0),
        snapshot: None,
        truncate_from: None,
        entries: Vec::new(),
        hard_state: None,
        conf_state: None,
        changes: Vec::new(),
        applied: None,
        compact_to: None,
        must_sync: true,
    }
}

pub(super) fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        data: Bytes::from(index.to_be_bytes().repeat(20)),
        ..Entry::default()
    }
}

pub(super) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState {
        term,
        vote,
        commit,
        ..HardState::default()
    }
}

pub(super) fn conf_state() -> ConfState {
    ConfState {
        voters: vec![1, 2, 3],
        ..ConfState::default()
    }
}

fn key(index: u64) -> Bytes {
    Bytes::from(format!("key{:04}", index % KEYS))
}

fn value(index: u64) -> Bytes {
    Bytes::from(index.to_be_bytes().repeat(64))
}

/// Entries in the given term, all of them applied at once.
pub(super) fn append(from: u64, to: u64, term: u64) -> Write {
    Write {
        entries: (from..=to).map(|index| entry(index, term)).collect(),
        hard_state: Some(hard_state(term, 1, to)),
        changes: (from..=to)
            .map(|index| Change::Put {
                key: key(index),
                value: value(index),
            })
            .collect(),
        applied: Some(to),
        ..write()
    }
}

/// The table once everything up to `applied` has been applied.
pub(super) fn table(applied: u64) -> Table {
    let first = applied.saturating_sub(KEYS - 1).max(1);
    (first..=applied)
        .map(|index| (key(index), value(index)))
        .collect()
}

pub(super) fn snapshot(index: u64, term: u64) -> SnapshotWrite {
    SnapshotWrite {
        position: Position { index, term },
        table: table(index),
    }
}

/// A row too large for one of sled's pages, which says when it was put.
pub(super) fn large(index: u64) -> Change {
    Change::Put {
        key: LARGE.into(),
        value: Bytes::from(index.to_be_bytes().repeat(LARGE_BYTES / 8)),
    }
}

/// The index that the large row was put at; 0 if it is not there. All of it is of that index.
pub(super) fn large_in(table: &Table) -> u64 {
    let Some(value) = table.get(LARGE.as_bytes()) else {
        return 0;
    };
    let index = u64::from_be_bytes(*value.first_chunk().unwrap());
    let expected = Change::Put {
        key: LARGE.into(),
        value: value.clone(),
    };
    assert!(large(index) == expected, "the large row of {index}");
    index
}

/// Applied index and table belong together, and every entry is what was written at its index.
pub(super) fn check(restored: &Restored) {
    let mut rows = restored.table.clone();
    rows.remove(LARGE.as_bytes());
    assert!(
        rows == table(restored.applied),
        "the table at {}",
        restored.applied
    );
    for (expected, entry) in (restored.compacted.index + 1..).zip(&restored.entries) {
        assert_eq!(*entry, self::entry(expected, entry.term));
    }
}

pub(super) fn last(restored: &Restored) -> Position {
    restored
        .entries
        .last()
        .map_or(restored.compacted, |entry| Position {
            index: entry.index,
            term: entry.term,
        })
}

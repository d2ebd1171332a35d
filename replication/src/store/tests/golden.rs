//! Rows and files that version 1 wrote, opened by the code of today.

use std::fs;
use std::path::Path;

use tandem_golden::Corpus;
use tandem_replication_core::eraftpb::{ConfState, HardState};
use tandem_replication_core::{Position, Restored, Write};

use super::super::{LOG_DIRECTORY, Store, identity, keys, load, tip};
use super::model::{ID, append, check, conf_state, snapshot, write};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");

/// A store with every kind of row: a snapshot up to 100 in the second generation, a log to 104, a table to 103.
fn writes() -> Vec<Write> {
    let mut install = write();
    install.snapshot = Some(snapshot(100, 4));
    install.conf_state = Some(conf_state());
    let mut tail = append(101, 104, 5);
    tail.hard_state = Some(HardState {
        term: 6,
        vote: 3,
        commit: 104,
        ..HardState::default()
    });
    vec![append(1, 3, 1), install, tail]
}

/// A row as a sample: the length of its key in one byte, its key, its value.
fn row(key: &[u8], value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(key.len()).unwrap();
    [&[length], key, value].concat()
}

fn parts(row: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = row.split_first().unwrap();
    rest.split_at(usize::from(*length))
}

/// The samples' names and the keys of their rows.
fn rows() -> Vec<(&'static str, Vec<u8>)> {
    let table = |name: &str| keys::table(1, name.as_bytes());
    vec![
        ("hard-state", keys::HARD_STATE.to_vec()),
        ("conf-state", keys::CONF_STATE.to_vec()),
        ("applied", keys::APPLIED.to_vec()),
        ("compacted", keys::COMPACTED.to_vec()),
        ("generation", keys::GENERATION.to_vec()),
        ("log-101", keys::log(101).to_vec()),
        ("log-104", keys::log(104).to_vec()),
        ("table-first", table("key0000")),
        ("table-last", table("key0049")),
    ]
}

fn corpus(kind: &str) -> Corpus {
    Corpus::open(format!("{DIRECTORY}/{kind}"))
}

/// A row in words.
fn words((key, value): &(Vec<u8>, Vec<u8>)) -> String {
    let content = match key.as_slice() {
        keys::HARD_STATE => parsed::<HardState>(value),
        keys::CONF_STATE => parsed::<ConfState>(value),
        keys::APPLIED => format!("{:?}", keys::number(value).unwrap()),
        keys::COMPACTED => format!("{:?}", keys::position(value).unwrap()),
        keys::GENERATION => format!("{:?}", keys::generation_value(value).unwrap()),
        key if keys::log_index(key).is_some() => {
            let entry = load::decode_entry(value).unwrap();
            assert_eq!(Some(entry.index), keys::log_index(key));
            protobuf::text_format::print_to_string(&entry)
        }
        key => {
            let (generation, key) = keys::table_key(key).unwrap();
            format!(
                "generation {generation}, key {}: {}",
                key.escape_ascii(),
                value.escape_ascii()
            )
        }
    };
    format!("{}\n{content}\n", key.escape_ascii())
}

fn parsed<M: protobuf::Message>(value: &[u8]) -> String {
    protobuf::text_format::print_to_string(&M::parse_from_bytes(value).unwrap())
}

/// The value with the code of today between reading and writing.
fn written_again(key: &[u8], value: &[u8]) -> Vec<u8> {
    fn again<M: protobuf::Message>(value: &[u8]) -> Vec<u8> {
        super::super::encode(&M::parse_from_bytes(value).unwrap())
    }
    match key {
        keys::HARD_STATE => again::<HardState>(value),
        keys::CONF_STATE => again::<ConfState>(value),
        keys::APPLIED => keys::number(value).unwrap().to_be_bytes().to_vec(),
        keys::COMPACTED => keys::position_value(keys::position(value).unwrap()).to_vec(),
        keys::GENERATION => keys::generation_value(value)
            .unwrap()
            .to_be_bytes()
            .to_vec(),
        key if keys::log_index(key).is_some() => {
            super::super::encode(&load::decode_entry(value).unwrap())
        }
        key => {
            let (generation, name) = keys::table_key(key).unwrap();
            assert_eq!(keys::table(generation, name), key);
            value.to_vec()
        }
    }
}

fn stored(directory: &Path) -> Store {
    let (mut store, _) = Store::open(directory, ID).unwrap();
    for write in writes() {
        store.write(&[write]).unwrap();
    }
    while store.clean().unwrap() {}
    store
}

#[test]
fn rows_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path());
    let rows = rows();
    let value = |key: &[u8]| store.db.get(key).unwrap().unwrap().to_vec();
    let key = |name: &str| {
        rows.iter()
            .find(|(known, _)| *known == name)
            .unwrap()
            .1
            .clone()
    };
    corpus("row").check_with(
        &rows.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        |name| row(&key(name), &value(&key(name))),
        |name, bytes| {
            let (stored_key, stored_value) = parts(bytes);
            assert_eq!(stored_key, key(name), "{name} lies where it lay");
            (stored_key.to_vec(), stored_value.to_vec())
        },
        words,
        |_, (key, value)| row(key, &written_again(key, value)),
    );
}

/// A store made of these rows and files alone opens as the replica that wrote them.
#[test]
fn a_store_of_golden_rows_opens() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join(LOG_DIRECTORY);
    fs::create_dir_all(&log).unwrap();
    let db = load::open_database(directory.path(), &log, ID).unwrap();
    for (_, bytes) in corpus("row").samples() {
        let (key, value) = parts(bytes);
        db.insert(key, value).unwrap();
    }
    // The rows between those that are samples.
    for write in writes() {
        for entry in write
            .entries
            .iter()
            .filter(|entry| matches!(entry.index, 102 | 103))
        {
            db.insert(keys::log(entry.index), super::super::encode(entry))
                .unwrap();
        }
    }
    for (key, value) in super::model::table(104) {
        db.insert(keys::table(1, &key), value.as_ref()).unwrap();
    }
    db.flush().unwrap();
    drop(db);
    for (name, bytes) in corpus("file").samples() {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    assert_eq!(
        identity::stored_identity(directory.path()).unwrap(),
        Some(ID)
    );

    let (store, restored) = Store::open(directory.path(), ID).unwrap();
    check(&restored);
    let expected = {
        let directory = tempfile::tempdir().unwrap();
        drop(stored(directory.path()));
        Store::open(directory.path(), ID).unwrap().1
    };
    assert_eq!(restored, expected);
    let Restored {
        compacted, applied, ..
    } = restored;
    assert_eq!(
        (compacted, applied),
        (
            Position {
                index: 100,
                term: 4
            },
            104
        )
    );
    drop(store);
}

/// The files beside sled's: `identity` and `tip`.
#[test]
fn files_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    drop(stored(directory.path()));
    let scratch = tempfile::tempdir().unwrap();
    corpus("file").check_with(
        &["identity", "tip"],
        |name| fs::read(directory.path().join(name)).unwrap(),
        |name, bytes| {
            fs::write(scratch.path().join(name), bytes).unwrap();
            (name.to_owned(), bytes.to_vec())
        },
        |(name, bytes)| match name.as_str() {
            "identity" => format!(
                "{:?}\n",
                identity::stored_identity(scratch.path()).unwrap().unwrap()
            ),
            _ => format!("{:?}\n", tip::Tip::decode(bytes).unwrap()),
        },
        |name, (_, bytes)| match name {
            // The time of its creation is in it.
            "identity" => bytes.clone(),
            _ => tip::Tip::decode(bytes).unwrap().encode().to_vec(),
        },
    );
}

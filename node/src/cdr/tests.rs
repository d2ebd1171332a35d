#![allow(clippy::unwrap_used)]

use std::{fs, time::Instant};

use super::*;

fn id(epoch: u64, sequence: u64) -> CdrId {
    CdrId { epoch, sequence }
}

fn record(call_id: &str) -> Bytes {
    let record = CdrRecord {
        caller_call_id: call_id.to_owned(),
        ..CdrRecord::default()
    };
    record.encode_to_vec().into()
}

/// Waits until the writer has caught up.
fn settle(file: &CdrFile) -> CdrStatus {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = file.status();
        if status.waiting == 0 || status.trouble.is_some() {
            return status;
        }
        assert!(
            Instant::now() < deadline,
            "the writer does not catch up: {status:?}"
        );
        thread::yield_now();
    }
}

fn ids(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["id"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn every_record_is_written_once_across_restarts_repeats_and_snapshots() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cdr.jsonl");
    let file = CdrFile::open(&path).unwrap();
    file.put(id(3, 1), record("one"));
    file.put(id(3, 2), record("two"));
    settle(&file);
    file.put(id(3, 2), record("two again"));
    drop(file);

    let file = CdrFile::open(&path).unwrap();
    let snapshot = [id(3, 1), id(3, 2), id(3, 3), id(5, 1)].map(|id| (id, record("snapshot")));
    file.replace(snapshot.into());
    settle(&file);
    drop(file);
    assert_eq!(ids(&path), ["3-1", "3-2", "3-3", "5-1"]);
}

#[test]
fn a_torn_last_line_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cdr.jsonl");
    fs::write(&path, "{\"id\":\"1-1\"}\n{\"id\":\"1-2\",\"call_").unwrap();
    let file = CdrFile::open(&path).unwrap();
    file.put(id(1, 1), record("one"));
    file.put(id(1, 2), record("two"));
    settle(&file);
    drop(file);
    assert_eq!(ids(&path), ["1-1", "1-2"]);
}

#[test]
fn a_foreign_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    for foreign in ["milk\n", "milk"] {
        fs::write(&path, foreign).unwrap();
        let error = format!("{:#}", CdrFile::open(&path).unwrap_err());
        assert!(
            error.contains("notes.txt") && error.contains(NOT_OURS),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            foreign,
            "nothing of it is lost"
        );
    }
}

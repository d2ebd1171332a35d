//! The fuzz targets of `replication/fuzz` without a fuzzer: its seeds, the golden files, and mutations of both.

use tandem_golden::replay::{inputs, replay};
use tandem_replication_core::fuzzing;

/// The golden files and the fuzzer's seeds.
fn corpus(golden: &str, seeds: &str) -> Vec<Vec<u8>> {
    let core = env!("CARGO_MANIFEST_DIR");
    [
        inputs(format!("{core}/tests/golden/v1/{golden}")),
        inputs(format!("{core}/../fuzz/seeds/{seeds}")),
    ]
    .concat()
}

#[test]
fn entries() {
    replay(fuzzing::entry, &corpus("entry", "entry"), 20_000);
}

#[test]
fn tables() {
    replay(fuzzing::table, &corpus("table", "table"), 20_000);
}

#[test]
fn raft_messages() {
    replay(
        fuzzing::raft_message,
        &corpus("message", "peer_message"),
        10_000,
    );
}

#[test]
fn replicas() {
    let seeds = inputs(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fuzz/seeds/replica"
    ));
    replay(fuzzing::replica, &seeds, 1_000);
}

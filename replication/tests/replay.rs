//! The fuzz targets of `replication/fuzz` that need the link or the store, without a fuzzer.

use tandem_golden::replay::{inputs, replay};
use tandem_replication::fuzzing;

const DIRECTORY: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn peer_messages() {
    let golden = inputs(format!("{DIRECTORY}/core/tests/golden/v1/message"));
    let seeds = inputs(format!("{DIRECTORY}/fuzz/seeds/peer_message"));
    replay(fuzzing::peer_message, &[golden, seeds].concat(), 10_000);
}

#[test]
fn tips() {
    replay(
        fuzzing::tip,
        &inputs(format!("{DIRECTORY}/fuzz/seeds/tip")),
        20_000,
    );
}

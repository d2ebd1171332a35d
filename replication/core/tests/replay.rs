//! The fuzz targets of `replication/fuzz` without a fuzzer: its seeds, the golden files, and a bounded number of
//! mutations of both, always the same.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tandem_replication_core::fuzzing;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Longest input that mutation makes.
const LONGEST: usize = 4096;

/// Files of a directory, sorted by name. Only golden bytes, not their text.
fn inputs(directory: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(Path::new(ROOT).join(directory))
        .unwrap_or_else(|error| panic!("{directory}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|extension| extension == "bin"));
    paths.sort();
    assert!(!paths.is_empty(), "{directory} is empty");
    paths
        .into_iter()
        .map(|path| fs::read(path).unwrap())
        .collect()
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..7) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)];
            }
        }
        2 => input.insert(at, random.random()),
        3 => input.truncate(at),
        4 => {
            let end = (at + random.random_range(0..16)).min(input.len());
            drop(input.drain(at..end));
        }
        5 => {
            let end = (at + random.random_range(0..32)).min(input.len());
            let part = input[at..end].to_vec();
            input.extend(part);
        }
        _ => {
            let other = &others[random.random_range(0..others.len())];
            let start = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[start..]);
        }
    }
    input.truncate(LONGEST);
}

/// Runs all inputs, then mutations of them. A failure says which, so that it can be made a seed.
fn replay(target: fn(&[u8]), inputs: &[Vec<u8>], mutations: u64) {
    for input in inputs {
        run(target, input);
    }
    for number in 0..mutations {
        let mut random = StdRng::seed_from_u64(number);
        let mut input = inputs[random.random_range(0..inputs.len())].clone();
        for _ in 0..random.random_range(1..6) {
            mutate(&mut input, inputs, &mut random);
        }
        run(target, &input);
    }
}

fn run(target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| target(input)) {
        eprintln!("the input was {input:02x?}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn entries() {
    let inputs = [
        inputs("core/tests/golden/v1/entry"),
        inputs("fuzz/seeds/entry"),
    ]
    .concat();
    replay(fuzzing::entry, &inputs, 20_000);
}

#[test]
fn tables() {
    let inputs = [
        inputs("core/tests/golden/v1/table"),
        inputs("fuzz/seeds/table"),
    ]
    .concat();
    replay(fuzzing::table, &inputs, 20_000);
}

#[test]
fn raft_messages() {
    let inputs = [
        inputs("core/tests/golden/v1/message"),
        inputs("fuzz/seeds/peer_message"),
    ]
    .concat();
    replay(fuzzing::raft_message, &inputs, 10_000);
}

#[test]
fn replicas() {
    replay(fuzzing::replica, &inputs("fuzz/seeds/replica"), 2_000);
}

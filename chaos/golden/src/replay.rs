//! Fuzz targets without a fuzzer: given inputs, and a bounded number of mutations of them, always the same.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Longest input that mutation makes, in bytes.
const LONGEST: usize = 4096;

/// The files of a directory, sorted by name. Of golden files only the bytes, not the text.
///
/// # Panics
/// If there are none, or one cannot be read.
pub fn inputs(directory: impl AsRef<Path>) -> Vec<Vec<u8>> {
    let directory = directory.as_ref();
    let mut paths: Vec<PathBuf> = super::files(directory);
    paths.retain(|path| path.extension().is_none_or(|extension| extension != "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    paths
        .iter()
        .map(|path| super::read(path, fs::read(path)))
        .collect()
}

/// Runs all inputs, then mutations of them.
///
/// # Panics
/// As the target does. The input is printed, so that it can be made a seed.
pub fn replay(target: fn(&[u8]), inputs: &[Vec<u8>], mutations: u64) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_find_what_the_inputs_do_not_have() {
        let inputs = [b"harmless".to_vec()];
        replay(|_| {}, &inputs, 100);
        let found = std::panic::catch_unwind(|| {
            replay(|input| assert!(!input.contains(&0xff)), &inputs, 1000);
        });
        assert!(found.is_err());
        assert!(inputs_of_nothing().is_err());
    }

    fn inputs_of_nothing() -> std::thread::Result<Vec<Vec<u8>>> {
        std::panic::catch_unwind(|| inputs("/nonexistent"))
    }
}

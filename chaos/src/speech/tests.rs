#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::f64::consts::TAU;

use super::{Clip, Frame, SAMPLE_RATE, mulaw};

const FIFTEEN_SECONDS: usize = 750;

fn linear(frame: &Frame) -> Vec<f64> {
    frame
        .iter()
        .map(|code| f64::from(mulaw::decode(*code)))
        .collect()
}

fn level_db(frame: &Frame) -> f64 {
    let samples = linear(frame);
    let energy = samples.iter().map(|sample| sample * sample).sum::<f64>() / samples.len() as f64;
    10.0 * energy.max(1.0).log10()
}

/// Energy of one frequency, by Goertzel's algorithm.
fn power_at(frame: &Frame, frequency: f64) -> f64 {
    let turn = 2.0 * (TAU * frequency / f64::from(SAMPLE_RATE)).cos();
    let (mut one, mut two) = (0.0, 0.0);
    for sample in linear(frame) {
        let next = sample + turn * one - two;
        two = one;
        one = next;
    }
    one * one + two * two - turn * one * two
}

/// Mean frequency, weighted by energy: low in vowels, high in fricatives.
fn centroid(frame: &Frame) -> f64 {
    let bands: Vec<f64> = (1..20).map(|band| f64::from(band) * 200.0).collect();
    let powers: Vec<f64> = bands.iter().map(|band| power_at(frame, *band)).collect();
    let total: f64 = powers.iter().sum();
    bands
        .iter()
        .zip(&powers)
        .map(|(band, power)| band * power)
        .sum::<f64>()
        / total
}

#[test]
fn speech_is_a_function_of_its_seed() {
    let one = Clip::synthesise(7, 100);
    let same = Clip::synthesise(7, 100);
    let other = Clip::synthesise(8, 100);
    assert!((0..100).all(|index| one.frame(index) == same.frame(index)));
    assert!(
        (0..100)
            .filter(|index| one.frame(*index) == other.frame(*index))
            .count()
            < 2
    );
    assert_eq!(
        one.frame(3),
        one.frame(103),
        "a clip repeats from its start"
    );
}

#[test]
fn loud_and_quiet_parts_alternate() {
    let clip = Clip::synthesise(1, FIFTEEN_SECONDS);
    let levels: Vec<f64> = (0..clip.len())
        .map(|index| level_db(clip.frame(index)))
        .collect();
    let loud = levels.iter().filter(|level| **level > 60.0).count();
    let quiet = levels.iter().filter(|level| **level < 35.0).count();
    assert!(loud > clip.len() / 4, "only {loud} loud packets");
    assert!(quiet > clip.len() / 20, "only {quiet} packets of pause");
}

#[test]
fn spectrum_moves_between_vowels_and_fricatives() {
    let clip = Clip::synthesise(2, FIFTEEN_SECONDS);
    let spoken: Vec<f64> = (0..clip.len())
        .map(|index| clip.frame(index))
        .filter(|frame| level_db(frame) > 50.0)
        .map(centroid)
        .collect();
    let dark = spoken
        .iter()
        .filter(|frequency| **frequency < 900.0)
        .count();
    let bright = spoken
        .iter()
        .filter(|frequency| **frequency > 2_000.0)
        .count();
    assert!(
        dark > spoken.len() / 4,
        "{dark} of {} packets are voiced",
        spoken.len()
    );
    assert!(
        bright > spoken.len() / 50,
        "{bright} of {} packets are fricative",
        spoken.len()
    );
}

#[test]
fn no_two_packets_are_alike() {
    let clip = Clip::synthesise(3, FIFTEEN_SECONDS);
    let different: HashSet<&Frame> = (0..clip.len()).map(|index| clip.frame(index)).collect();
    assert_eq!(
        different.len(),
        clip.len(),
        "a repeated packet would hide a misplaced one"
    );
}

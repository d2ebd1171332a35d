//! The synthesiser: source, filter and a simple prosody.
//!
//! Structure and resonator after D. Klatt, "Software for a cascade/parallel formant synthesizer",
//! JASA 67 (1980).

use std::f64::consts::TAU;

use rand::Rng;
use rand::rngs::StdRng;

use super::SAMPLE_RATE;

/// Filter coefficients are renewed this often: 5 ms, Klatt's update interval.
const CONTROL_PERIOD: usize = (SAMPLE_RATE / 200) as usize;

/// Peak amplitude of a stressed vowel: 9 dB under full scale, the usual speech level.
const PEAK: f64 = 11_000.0;

/// Amplitude of the comfort noise in pauses, about -55 dBm0.
const COMFORT_NOISE: f64 = 40.0;

/// First four formants in Hz of the vowels of Peterson and Barney (1952), male speaker.
const VOWELS: [[f64; 4]; 8] = [
    [270.0, 2290.0, 3010.0, 3500.0], // heed
    [390.0, 1990.0, 2550.0, 3500.0], // hid
    [530.0, 1840.0, 2480.0, 3500.0], // head
    [660.0, 1720.0, 2410.0, 3500.0], // had
    [730.0, 1090.0, 2440.0, 3500.0], // hod
    [570.0, 840.0, 2410.0, 3500.0],  // hawed
    [440.0, 1020.0, 2240.0, 3500.0], // hood
    [300.0, 870.0, 2240.0, 3500.0],  // who'd
];

/// Bandwidths in Hz of the four formants.
const BANDWIDTHS: [f64; 4] = [60.0, 90.0, 150.0, 200.0];

/// Centre and bandwidth in Hz of the noise of "f", "s" and "sh" as the telephone band leaves them.
const FRICATIVES: [(f64, f64); 3] = [(1_400.0, 1_600.0), (3_600.0, 500.0), (2_600.0, 500.0)];

/// One resonator: a conjugate pole pair.
#[derive(Debug, Default)]
struct Resonator {
    a: f64,
    b: f64,
    c: f64,
    last: [f64; 2],
}

impl Resonator {
    fn tune(&mut self, frequency: f64, bandwidth: f64) {
        let period = 1.0 / f64::from(SAMPLE_RATE);
        self.c = -(-TAU * bandwidth * period).exp();
        self.b = 2.0 * (-TAU / 2.0 * bandwidth * period).exp() * (TAU * frequency * period).cos();
        self.a = 1.0 - self.b - self.c;
    }

    fn step(&mut self, input: f64) -> f64 {
        let output = self.a * input + self.b * self.last[0] + self.c * self.last[1];
        self.last = [output, self.last[0]];
        output
    }
}

/// A sound of the utterance and how long it lasts, in samples.
#[derive(Debug, Clone, Copy)]
enum Sound {
    Vowel {
        from: [f64; 4],
        to: [f64; 4],
        stress: f64,
        samples: usize,
    },
    Fricative {
        centre: f64,
        bandwidth: f64,
        samples: usize,
    },
    Pause {
        samples: usize,
    },
}

/// A speaker: vocal tract state, pitch, and the noise source.
struct Speaker<'a> {
    random: &'a mut StdRng,
    tract: [Resonator; 4],
    noise: Resonator,
    /// Pitch of the speaker in Hz, before the contour.
    pitch: f64,
    /// Length of the vocal tract against the table's speaker.
    scale: f64,
    /// Position in the glottal period, 0 to 1.
    phase: f64,
    /// How far the phrase has come, 0 to 1: pitch falls along it.
    declination: f64,
    samples: Vec<f64>,
}

/// Speaks until `length` samples are said; peak amplitude is [`PEAK`].
pub(super) fn speak(random: &mut StdRng, length: usize) -> Vec<i16> {
    let pitch = random.random_range(90.0..210.0);
    let scale = random.random_range(0.92..1.15);
    let mut speaker = Speaker {
        random,
        tract: Default::default(),
        noise: Resonator::default(),
        pitch,
        scale,
        phase: 0.0,
        declination: 0.0,
        samples: Vec::with_capacity(length + SAMPLE_RATE as usize),
    };
    while speaker.samples.len() < length {
        speaker.phrase();
    }
    speaker.samples.truncate(length);
    let loudest = speaker
        .samples
        .iter()
        .fold(1e-9_f64, |most, sample| most.max(sample.abs()));
    let gain = PEAK / loudest;
    let random = speaker.random;
    speaker
        .samples
        .iter()
        .map(|sample| {
            let floor = random.random_range(-COMFORT_NOISE..COMFORT_NOISE);
            (sample * gain + floor) as i16
        })
        .collect()
}

impl Speaker<'_> {
    /// Three to eight syllables and the pause after them.
    fn phrase(&mut self) {
        let syllables = self.random.random_range(3..=8);
        let mut shape = self.vowel();
        for syllable in 0..syllables {
            self.declination = f64::from(syllable) / f64::from(syllables);
            if self.random.random_bool(0.45) {
                let (centre, bandwidth) = FRICATIVES[self.random.random_range(0..FRICATIVES.len())];
                let samples = self.milliseconds(50..110);
                self.utter(Sound::Fricative {
                    centre,
                    bandwidth,
                    samples,
                });
            }
            let next = self.vowel();
            let stress = self.random.random_range(0.5..1.0);
            let samples = self.milliseconds(80..220);
            self.utter(Sound::Vowel {
                from: shape,
                to: next,
                stress,
                samples,
            });
            shape = next;
        }
        let samples = self.milliseconds(150..450);
        self.utter(Sound::Pause { samples });
    }

    fn vowel(&mut self) -> [f64; 4] {
        let scale = self.scale;
        VOWELS[self.random.random_range(0..VOWELS.len())]
            .map(|formant| (formant * scale).min(3_800.0))
    }

    fn milliseconds(&mut self, range: std::ops::Range<usize>) -> usize {
        self.random.random_range(range) * SAMPLE_RATE as usize / 1_000
    }

    fn utter(&mut self, sound: Sound) {
        match sound {
            Sound::Vowel {
                from,
                to,
                stress,
                samples,
            } => self.utter_vowel(from, to, stress, samples),
            Sound::Fricative {
                centre,
                bandwidth,
                samples,
            } => {
                self.noise.tune(centre, bandwidth);
                for index in 0..samples {
                    let breath = self.random.random_range(-1.0..1.0);
                    let sample = self.noise.step(breath) * 0.25 * envelope(index, samples);
                    self.samples.push(sample);
                }
            }
            Sound::Pause { samples } => self.samples.extend(std::iter::repeat_n(0.0, samples)),
        }
    }

    fn utter_vowel(&mut self, from: [f64; 4], to: [f64; 4], stress: f64, samples: usize) {
        for index in 0..samples {
            let along = index as f64 / samples as f64;
            if index % CONTROL_PERIOD == 0 {
                for (formant, resonator) in self.tract.iter_mut().enumerate() {
                    // The transition takes the first half of the syllable; then the vowel is held.
                    let glide = (along * 2.0).min(1.0);
                    let frequency = from[formant] + (to[formant] - from[formant]) * glide;
                    resonator.tune(frequency, BANDWIDTHS[formant]);
                }
            }
            let contour = 1.12 - 0.25 * self.declination + 0.06 * (TAU * along).sin();
            self.phase += self.pitch * contour / f64::from(SAMPLE_RATE);
            if self.phase >= 1.0 {
                self.phase -= 1.0;
            }
            let aspiration = self.random.random_range(-0.02..0.02);
            let source = glottal_flow(self.phase) + aspiration;
            let sound = self
                .tract
                .iter_mut()
                .fold(source, |sound, resonator| resonator.step(sound));
            self.samples.push(sound * stress * envelope(index, samples));
        }
    }
}

/// Derivative of Rosenberg's glottal pulse: opens over 40 % of the period, closes over 16 %.
fn glottal_flow(phase: f64) -> f64 {
    const OPEN: f64 = 0.40;
    const CLOSE: f64 = 0.16;
    if phase < OPEN {
        (TAU / 2.0 * phase / OPEN).sin() * 0.4
    } else if phase < OPEN + CLOSE {
        -(TAU / 4.0 * (phase - OPEN) / CLOSE).sin()
    } else {
        0.0
    }
}

/// Fades a sound in and out over 15 ms, so that joints do not click.
fn envelope(index: usize, samples: usize) -> f64 {
    let ramp = (SAMPLE_RATE as usize * 15 / 1_000) as f64;
    let edge = index.min(samples - index) as f64;
    (edge / ramp).min(1.0)
}

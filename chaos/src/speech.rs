//! Sound the phones speak: synthesised speech, so that a receiver can tell which word it lost.
//!
//! A constant tone or silence would hide misdelivered and replayed packets, because every packet
//! looks like the next. A [`Clip`] is formant synthesis after Klatt (1980): a glottal pulse train
//! with a falling pitch contour through four moving resonators, fricative noise between vowels, and
//! pauses filled with comfort noise. It is a pure function of its seed, so the receiver rebuilds
//! what the sender says and compares packet by packet.

mod formant;
pub mod mulaw;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Samples a second of PCMU (RFC 3551 section 4.5.14).
pub const SAMPLE_RATE: u32 = 8_000;

/// Samples, and with PCMU also octets, in one packet of 20 ms.
pub const SAMPLES_PER_PACKET: usize = 160;

/// One packet's worth of mu-law octets.
pub type Frame = [u8; SAMPLES_PER_PACKET];

/// A stretch of speech, cut into packets; it repeats from the start when it ends.
#[derive(Debug, Clone)]
pub struct Clip {
    frames: Vec<Frame>,
}

impl Clip {
    /// Synthesises `frames` packets (at least one) of speech. The same seed gives the same speech.
    pub fn synthesise(seed: u64, frames: usize) -> Clip {
        let length = frames.max(1) * SAMPLES_PER_PACKET;
        let samples = formant::speak(&mut StdRng::seed_from_u64(seed), length);
        let frames = samples
            .chunks_exact(SAMPLES_PER_PACKET)
            .map(|chunk| {
                let mut frame = [0; SAMPLES_PER_PACKET];
                for (octet, sample) in frame.iter_mut().zip(chunk) {
                    *octet = mulaw::encode(*sample);
                }
                frame
            })
            .collect();
        Clip { frames }
    }

    /// The `index`-th packet, counted round the end.
    pub fn frame(&self, index: usize) -> &Frame {
        &self.frames[index % self.frames.len()]
    }

    /// Packets before the speech repeats.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Never true: a clip has at least one packet.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests;

//! Who says what: each party of each call has its own stream of speech, known to both ends in
//! advance.
//!
//! SSRC, first sequence number, first timestamp and position in the clip are a pure function of
//! seed, call and party. A receiver therefore checks content absolutely: the packet with sequence
//! `n` must carry the sender's speech at `n`, whoever forwarded it and however late.

use std::fmt;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rtp_rs::{RtpPacketBuilder, Seq};

use crate::speech::{Clip, Frame, SAMPLES_PER_PACKET};

/// Payload type of PCMU (RFC 3551 table 4).
pub const PCMU: u8 = 0;

/// Distinct speakers; calls share them at different positions in their speech.
const SPEAKERS: usize = 6;

/// Packets in a speaker's clip before it repeats: 12 s.
const CLIP_FRAMES: usize = 600;

/// Number of a call within a run. It stands in the user parts, so both phones know each other's
/// number although a back-to-back user agent between them changes everything else.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct CallIndex(pub u32);

impl CallIndex {
    /// The user part of this call's caller or callee.
    pub fn number(self, party: Party) -> String {
        match party {
            Party::Caller => format!("49301{:06}", self.0),
            Party::Callee => format!("49302{:06}", self.0),
        }
    }

    /// Reads a callee's number.
    pub fn from_called_number(user: &str) -> Option<CallIndex> {
        user.strip_prefix("49302")?.parse().ok().map(CallIndex)
    }
}

impl fmt::Display for CallIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "call {}", self.0)
    }
}

/// A side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Sends the INVITE.
    Caller,
    /// Answers it.
    Callee,
}

impl Party {
    /// The one it talks to.
    pub fn other(self) -> Party {
        match self {
            Party::Caller => Party::Callee,
            Party::Callee => Party::Caller,
        }
    }
}

/// All speakers of a run.
#[derive(Debug, Clone)]
pub struct Voices {
    seed: u64,
    clips: Arc<[Arc<Clip>]>,
}

impl Voices {
    /// Synthesises the speakers.
    pub fn new(seed: u64) -> Voices {
        let clips = (0..SPEAKERS as u64)
            .map(|speaker| {
                Arc::new(Clip::synthesise(
                    seed.wrapping_mul(31).wrapping_add(speaker),
                    CLIP_FRAMES,
                ))
            })
            .collect();
        Voices { seed, clips }
    }

    /// What `party` of the call says.
    pub fn source(&self, index: CallIndex, party: Party) -> Source {
        let stream = u64::from(index.0) * 2 + u64::from(party == Party::Callee);
        let mut random = StdRng::seed_from_u64(self.seed.rotate_left(32) ^ stream);
        Source {
            ssrc: random.random(),
            first_sequence: random.random(),
            first_timestamp: random.random(),
            clip: Arc::clone(&self.clips[random.random_range(0..self.clips.len())]),
            offset: random.random_range(0..CLIP_FRAMES),
        }
    }
}

/// One party's outgoing stream; packet `n` counts from 0.
#[derive(Debug, Clone)]
pub struct Source {
    pub(crate) ssrc: u32,
    pub(crate) first_sequence: u16,
    pub(crate) first_timestamp: u32,
    clip: Arc<Clip>,
    offset: usize,
}

impl Source {
    /// The speech in packet `n`.
    pub fn frame(&self, n: u32) -> &Frame {
        self.clip.frame(self.offset + n as usize)
    }

    /// The RTP timestamp of packet `n`.
    pub fn timestamp(&self, n: u32) -> u32 {
        self.first_timestamp
            .wrapping_add(n.wrapping_mul(SAMPLES_PER_PACKET as u32))
    }

    /// The RTP packet `n`.
    pub fn packet(&self, n: u32) -> Vec<u8> {
        RtpPacketBuilder::new()
            .payload_type(PCMU)
            .marked(n == 0)
            .ssrc(self.ssrc)
            // Truncation is the sequence number's wrap.
            .sequence(Seq::from(self.first_sequence.wrapping_add(n as u16)))
            .timestamp(self.timestamp(n))
            .payload(self.frame(n))
            .build()
            .expect("a 160-octet payload with payload type 0 always fits a packet")
    }
}

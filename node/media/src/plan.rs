//! What signalling wants of the media plane, as plain data.

use crate::port::LocalPort;
use std::{collections::BTreeSet, net::SocketAddr, num::NonZeroU32};

/// Streams one session may have. A plan with more is refused: an SDP with that many `m=` lines is not a call.
pub const MAX_STREAMS: usize = 16;

/// RFC 3551 section 4.5: the clock of nearly every audio codec with a static payload type.
pub const DEFAULT_CLOCK_RATE: NonZeroU32 = NonZeroU32::new(8_000).expect("not zero");

/// The call a session belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey(pub u64);

/// The two legs of a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// Leg 0: towards the caller.
    Caller,
    /// Leg 1: towards the callee.
    Callee,
}

impl Side {
    /// The place of this leg in `StreamPlan::legs`.
    pub fn index(self) -> usize {
        match self {
            Side::Caller => 0,
            Side::Callee => 1,
        }
    }
}

/// What the packets of a stream look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// RTP and RTCP, plain or secured end to end; `clock_rate` in Hz turns timestamps into time for the jitter.
    Rtp { clock_rate: NonZeroU32 },
    /// T.38 over UDPTL and the like: datagrams pass as they are, on the media port only.
    Raw,
}

/// The whole desired state of one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamPlan {
    /// Position of the `m=` line; names the stream within its session.
    pub index: u16,
    pub kind: StreamKind,
    /// Caller side first.
    pub legs: [LegPlan; 2],
}

/// The whole desired state of one leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LegPlan {
    /// Our even port; RTCP uses the one above.
    pub port: LocalPort,
    /// Where the peer's SDP asks for media; `None` until it has spoken.
    pub remote_rtp: Option<SocketAddr>,
    /// Where the peer's SDP asks for RTCP. `None` means the port above `remote_rtp`; equal to `remote_rtp` means
    /// that the peer multiplexes (RFC 5761).
    pub remote_rtcp: Option<SocketAddr>,
    /// The media source learnt by the node that owned the call when this was committed.
    pub latched: Option<SocketAddr>,
    /// Media may go to this peer.
    pub send: bool,
    /// Media is taken from this peer.
    pub receive: bool,
}

impl LegPlan {
    /// A leg in both directions whose peer has not spoken yet.
    pub fn new(port: LocalPort) -> LegPlan {
        LegPlan {
            port,
            remote_rtp: None,
            remote_rtcp: None,
            latched: None,
            send: true,
            receive: true,
        }
    }

    /// RFC 5761 section 5.1.1: the peer takes RTP and RTCP on one port.
    pub fn muxes(&self) -> bool {
        self.remote_rtp.is_some() && self.remote_rtp == self.remote_rtcp
    }

    /// RFC 3605 section 2.1: without an `a=rtcp` attribute RTCP goes to the port above the media port.
    pub fn rtcp_address(&self) -> Option<SocketAddr> {
        self.remote_rtcp.or_else(|| {
            let rtp = self.remote_rtp?;
            Some(SocketAddr::new(rtp.ip(), rtp.port().checked_add(1)?))
        })
    }
}

impl StreamPlan {
    /// A stream of RTP at the common clock rate.
    pub fn rtp(index: u16, legs: [LegPlan; 2]) -> StreamPlan {
        StreamPlan {
            index,
            kind: StreamKind::Rtp {
                clock_rate: DEFAULT_CLOCK_RATE,
            },
            legs,
        }
    }

    /// Every port the stream needs: both legs, media and RTCP.
    pub fn ports(&self) -> [LocalPort; 4] {
        let [caller, callee] = &self.legs;
        [
            caller.port,
            caller.port.rtcp(),
            callee.port,
            callee.port.rtcp(),
        ]
    }

    /// Checks what can be checked of a session's plan without knowing the other sessions.
    pub fn check(streams: &[StreamPlan]) -> Result<(), PlanError> {
        if streams.len() > MAX_STREAMS {
            return Err(PlanError::TooManyStreams(streams.len()));
        }
        let mut indexes = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for stream in streams {
            if !indexes.insert(stream.index) {
                return Err(PlanError::DuplicateStream(stream.index));
            }
            for leg in &stream.legs {
                if !leg.port.is_media() {
                    return Err(PlanError::NotAMediaPort(leg.port));
                }
                if !ports.insert(leg.port) {
                    return Err(PlanError::PortTaken(leg.port));
                }
            }
        }
        Ok(())
    }
}

/// Why a plan was refused; nothing of it has been applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{0} streams in one session, at most {MAX_STREAMS}")]
    TooManyStreams(usize),
    #[error("stream {0} appears twice")]
    DuplicateStream(u16),
    #[error("{0} is not an even media port")]
    NotAMediaPort(LocalPort),
    #[error("{0} is already in use")]
    PortTaken(LocalPort),
}

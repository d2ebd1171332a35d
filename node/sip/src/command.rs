//! What the SIP core asks of its shell, and the small types both share.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::cdr::CdrRecord;
use crate::flow::{Flow, RealmId};
use crate::record::CallKey;

/// Commands come in the order in which they are to be carried out.
#[expect(
    clippy::large_enum_variant,
    reason = "a command lives between two calls; a box would only cost"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A change of the call table for the log. The shell reports with [`crate::core::Sip::handle_committed`] that
    /// everything up to a sequence is committed. `record` None: the call is over.
    Replicate {
        key: CallKey,
        record: Option<Bytes>,
        sequence: u64,
    },
    Send {
        bytes: Bytes,
        flow: Flow,
        when: When,
    },
    /// The complete media plan of a call; empty removes it. The standby gets these too, so that it has every session
    /// ready before it serves.
    Media {
        key: CallKey,
        streams: Vec<MediaStream>,
    },
    /// Goes into the same log entry as the Replicate of its batch.
    Cdr(CdrRecord),
}

/// When a message may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It shows nothing that is not committed.
    Now,
    /// As soon as every Replicate issued before it is committed. The core always issues the Replicate that the
    /// message depends on in the same batch, ahead of it.
    Committed,
}

/// A pair of ports in a realm: `rtp` is even, RTCP is one above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaPort {
    pub realm: RealmId,
    pub rtp: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaStream {
    /// Position of the media line.
    pub index: u32,
    /// The caller's side, then the callee's.
    pub legs: [MediaLeg; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaLeg {
    pub port: MediaPort,
    /// Where the peer's description wants media. None: only latching can tell.
    pub remote_rtp: Option<SocketAddr>,
    pub remote_rtcp: Option<SocketAddr>,
    /// The source the relay had locked on.
    pub latched: Option<SocketAddr>,
    /// Relay toward this peer.
    pub send: bool,
    /// Accept from this peer.
    pub receive: bool,
}

/// What the media plane reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaEvent {
    /// The relay locked on a source (RFC 7362). `leg` is 0 for the caller's side.
    Latched {
        key: CallKey,
        stream: u32,
        leg: usize,
        source: SocketAddr,
    },
    /// The first packet of a leg; counted only.
    FirstPacket {
        key: CallKey,
        stream: u32,
        leg: usize,
    },
}

/// The pool of media ports. Allocation is the owner's; a new owner reserves what the records name, in a fresh pool.
pub trait MediaPorts {
    fn allocate(&mut self, realm: RealmId) -> Option<MediaPort>;
    /// False when the port is taken or not of the pool.
    fn reserve(&mut self, port: MediaPort) -> bool;
    fn release(&mut self, port: MediaPort);
}

/// Why the core wants to be called at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerReason {
    /// RFC 3261 section 17 and RFC 6026.
    Transaction,
    /// Our 2xx is repeated until its ACK comes (RFC 3261 section 13.3.1.4).
    AcceptedRetransmission,
    /// No ACK within 64*T1: the call is hung up (RFC 3261 section 13.3.1.4).
    AcknowledgementMissing,
    /// A target has sent nothing: the next one is tried.
    TargetSilent,
    /// No final response within 64*T1 after CANCEL (RFC 3261 section 9.1).
    CancelUnanswered,
    /// Nobody answered.
    Ring,
    /// The longest call allowed.
    MaximumDuration,
}

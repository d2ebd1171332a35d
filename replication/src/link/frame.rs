//! How messages lie on the wire.
//!
//! A datagram is one encoded envelope. A stream begins with a byte that says what it carries: a sequence of frames
//! (four bytes of length, big-endian, then one encoded envelope), or a single envelope up to the end of the stream,
//! which is a snapshot.
//!
//! Bytes are decoded only from a peer that has shown a certificate of the pair, only up to these limits, and only
//! after a look at their shape.

use bytes::{BufMut as _, Bytes, BytesMut};
use quinn::{ReadExactError, RecvStream};
use tandem_replication_core::EnvelopeError;

/// Largest frame on a message stream, in bytes: an append carries entries of up to 1 MiB and is split by the
/// replica well below this. Longer frames end the connection.
pub(super) const STREAM_FRAME_LIMIT: u32 = 8 << 20;
/// Largest snapshot, in bytes: the table's bound plus what encoding adds. Longer ones end the connection. Tests reach
/// it, so it is smaller for them.
pub(super) const SNAPSHOT_LIMIT: usize = if cfg!(test) { 32 << 20 } else { 1 << 30 };
/// Snapshots on the way to one peer at a time; more wait in the sender.
pub(super) const SNAPSHOT_STREAMS: u32 = 2;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    Messages,
    Snapshot,
}

impl StreamKind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            StreamKind::Messages => 1,
            StreamKind::Snapshot => 2,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<StreamKind> {
        match byte {
            1 => Some(StreamKind::Messages),
            2 => Some(StreamKind::Snapshot),
            _ => None,
        }
    }
}

/// A peer does not keep to the format.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes exceeds the limit of {STREAM_FRAME_LIMIT}")]
    TooLong(u32),
    #[error("a snapshot exceeds the limit of {SNAPSHOT_LIMIT} bytes")]
    SnapshotTooLong,
    #[error("a stream of unknown kind {0}")]
    UnknownStream(u8),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Read(#[from] ReadExactError),
}

/// An encoded envelope with its length before it; `None` if it exceeds the limit.
pub(super) fn frame(encoded: &Bytes) -> Option<Bytes> {
    let length = u32::try_from(encoded.len())
        .ok()
        .filter(|length| *length <= STREAM_FRAME_LIMIT)?;
    let mut frame = BytesMut::with_capacity(4 + encoded.len());
    frame.put_u32(length);
    frame.put_slice(encoded);
    Some(frame.freeze())
}

impl FrameError {
    /// The version of a peer whose build speaks another one.
    pub(super) fn other_version(&self) -> Option<u8> {
        match self {
            FrameError::Envelope(EnvelopeError::Version(version)) => Some(*version),
            FrameError::Envelope(_)
            | FrameError::TooLong(_)
            | FrameError::SnapshotTooLong
            | FrameError::UnknownStream(_)
            | FrameError::Read(_) => None,
        }
    }
}

/// Reads one frame; `None` at the end of the stream.
pub(super) async fn read_frame(stream: &mut RecvStream) -> Result<Option<Bytes>, FrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_be_bytes(length);
    if length > STREAM_FRAME_LIMIT {
        return Err(FrameError::TooLong(length));
    }
    let mut frame = vec![0; usize::try_from(length).expect("usize has at least 32 bits")];
    stream.read_exact(&mut frame).await?;
    Ok(Some(Bytes::from(frame)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_frame_is_the_length_and_the_bytes() {
        let encoded = Bytes::from_static(b"envelope");
        let framed = frame(&encoded).unwrap();
        assert_eq!(framed.as_ref(), b"\0\0\0\x08envelope");
    }

    #[test]
    fn frames_beyond_the_limit_are_not_sent() {
        let limit = STREAM_FRAME_LIMIT as usize;
        assert!(frame(&Bytes::from(vec![0; limit])).is_some());
        assert!(frame(&Bytes::from(vec![0; limit + 1])).is_none());
    }
}

//! What fuzzers do with bytes that the link and the store read, and what must hold whatever the bytes are. For
//! `replication/fuzz` and for the replay of its corpus (`tests/replay.rs`); not an interface to build on.

use bytes::Bytes;

use crate::link::fuzzing::message;
use crate::store::fuzzing::tip_record;

/// A frame's or a datagram's content: refused, or read to the same again.
///
/// # Panics
/// If that does not hold.
pub fn peer_message(bytes: &[u8]) {
    message(&Bytes::copy_from_slice(bytes));
}

/// The tip file's content: refused, or written again as it was.
///
/// # Panics
/// If that does not hold.
pub fn tip(bytes: &[u8]) {
    tip_record(bytes);
}

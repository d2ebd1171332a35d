//! A look over a message's fields before it is parsed.
//!
//! The length of a frame does not bound what parsing it costs: an empty log entry is two bytes on the wire and more
//! than a hundred in memory, so a frame of eight megabytes could ask for half a gigabyte, and groups, which no message
//! of ours has, can be nested without end (protobuf below 3.7.2 follows them recursively in places,
//! RUSTSEC-2024-0437; 2.28 refuses the second level, which `tests` keep an eye on). So the fields are counted first,
//! without allocating anything, to a depth that the messages' own definition bounds.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::Message;

/// Fields in one message and the messages inside of it; elements of packed fields count by their bytes. Beyond it the
/// message is refused and counted as malformed. The replica fills an append to half a megabyte, which is less than
/// 30,000 entries of five fields each.
const FIELD_LIMIT: usize = 1 << 19;

/// Why bytes are no message of a peer.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not even tried.
    #[error("refused before parsing: {0}")]
    Shape(#[from] ShapeError),
    /// Not what raft-rs sends.
    #[error("undecodable message: {0}")]
    Undecodable(#[from] protobuf::ProtobufError),
}

/// Why bytes are not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Parsing it would take more memory than a message should.
    #[error("more than {FIELD_LIMIT} fields")]
    TooManyFields,
    /// Groups are no part of the format and can be nested without end.
    #[error("a group, which no message has")]
    Group,
    /// The bytes end too early, or a length points beyond them.
    #[error("cut off inside a field")]
    CutOff,
    /// No such kind of field.
    #[error("unknown wire type {0}")]
    WireType(u8),
}

/// The messages of raft-rs that have messages inside, or numbers without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Entry,
    Snapshot,
    SnapshotMetadata,
    ConfState,
}

/// What a length-delimited field holds.
enum Content {
    Fields(Kind),
    Packed,
    Opaque,
}

impl Kind {
    /// Field numbers of `eraftpb.proto`.
    const fn content(self, number: u64) -> Content {
        match (self, number) {
            (Kind::Message, 7) => Content::Fields(Kind::Entry),
            (Kind::Message, 9) => Content::Fields(Kind::Snapshot),
            (Kind::Snapshot, 2) => Content::Fields(Kind::SnapshotMetadata),
            (Kind::SnapshotMetadata, 1) => Content::Fields(Kind::ConfState),
            (Kind::ConfState, 1..=4) => Content::Packed,
            (
                Kind::Message
                | Kind::Entry
                | Kind::Snapshot
                | Kind::SnapshotMetadata
                | Kind::ConfState,
                _,
            ) => Content::Opaque,
        }
    }
}

/// Reads an encoded Raft message. Its parts share the memory of the bytes, whose length the caller has bounded.
///
/// # Errors
/// See [`MessageError`].
pub fn parse_message(bytes: &Bytes) -> Result<Message, MessageError> {
    check(bytes)?;
    Ok(Message::parse_from_carllerche_bytes(bytes)?)
}

/// Whether an encoded Raft message may be parsed.
fn check(message: &[u8]) -> Result<(), ShapeError> {
    let mut fields = Fields { left: FIELD_LIMIT };
    fields.walk(Kind::Message, message)
}

struct Fields {
    left: usize,
}

impl Fields {
    fn count(&mut self, fields: usize) -> Result<(), ShapeError> {
        self.left = self
            .left
            .checked_sub(fields)
            .ok_or(ShapeError::TooManyFields)?;
        Ok(())
    }

    /// Recursive to the depth of [`Kind`].
    fn walk(&mut self, kind: Kind, mut bytes: &[u8]) -> Result<(), ShapeError> {
        while !bytes.is_empty() {
            self.count(1)?;
            let tag = varint(&mut bytes)?;
            match (tag & 7) as u8 {
                0 => drop(varint(&mut bytes)?),
                1 => drop(take(&mut bytes, 8)?),
                2 => {
                    let length = varint(&mut bytes)?;
                    let content = take(&mut bytes, length)?;
                    match kind.content(tag >> 3) {
                        Content::Fields(inside) => self.walk(inside, content)?,
                        Content::Packed => self.count(content.len())?,
                        Content::Opaque => {}
                    }
                }
                3 | 4 => return Err(ShapeError::Group),
                5 => drop(take(&mut bytes, 4)?),
                other => return Err(ShapeError::WireType(other)),
            }
        }
        Ok(())
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], ShapeError> {
    let length = usize::try_from(length).map_err(|_| ShapeError::CutOff)?;
    let (content, rest) = bytes.split_at_checked(length).ok_or(ShapeError::CutOff)?;
    *bytes = rest;
    Ok(content)
}

/// As protobuf reads numbers: at most ten bytes, what exceeds 64 bits is lost.
fn varint(bytes: &mut &[u8]) -> Result<u64, ShapeError> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(ShapeError::CutOff)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f)
            .checked_shl(shift)
            .unwrap_or_default();
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ShapeError::CutOff)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use raft::eraftpb::Entry;

    use super::*;

    /// The peer link's limit, in bytes.
    const FRAME: usize = 8 << 20;

    /// What a tokio worker has.
    const STACK_BYTES: usize = 2 << 20;

    /// Field paths to every message that can be inside of one, the message itself included.
    const PATHS: [&[u64]; 5] = [&[], &[7], &[9], &[9, 2], &[9, 2, 1]];

    fn varint_bytes(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    /// The content as the message at the end of the path.
    fn at(path: &[u64], content: Vec<u8>) -> Vec<u8> {
        path.iter().rev().fold(content, |content, number| {
            let head = [
                varint_bytes(number << 3 | 2),
                varint_bytes(content.len() as u64),
            ];
            [head.concat(), content].concat()
        })
    }

    fn groups(number: u64, bytes: usize) -> Vec<u8> {
        let tag = varint_bytes(number << 3 | 3);
        tag.repeat(bytes / tag.len())
    }

    /// A frame full of nested groups is refused, at every place of a message, and by the parser on its own too: it
    /// does not follow them, so the stack of the thread that reads it is safe either way. (A parser that did, as
    /// protobuf 3.7.1 does, ends the process here.)
    #[test]
    fn nested_groups_do_not_reach_the_end_of_the_stack() {
        let reader = || {
            for path in PATHS {
                // A field that the message has, and one that it has not.
                for number in [1, 500] {
                    let bytes = at(path, groups(number, FRAME - 64));
                    assert_eq!(check(&bytes), Err(ShapeError::Group), "{path:?}");
                    assert!(parse_message(&Bytes::from(bytes.clone())).is_err());
                    assert!(
                        Message::parse_from_bytes(&bytes).is_err(),
                        "{path:?} {number}"
                    );
                }
            }
        };
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(reader)
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn what_costs_more_memory_than_a_frame_should_is_refused() {
        let entries = |count: usize| [0x3a, 0x00].repeat(count);
        // A frame of nothing but empty entries.
        assert!(FRAME / 2 * size_of::<Entry>() > 400 << 20);
        assert_eq!(check(&entries(FIELD_LIMIT)), Ok(()));
        assert_eq!(
            check(&entries(FIELD_LIMIT + 1)),
            Err(ShapeError::TooManyFields)
        );
        assert!(parse_message(&Bytes::from(entries(FIELD_LIMIT + 1))).is_err());
        // Unknown fields, known numbers repeated, and members of a pair, wherever they stand.
        for path in PATHS {
            for field in [&[0xa0, 0x3f, 0x01][..], &[0x08, 0x01]] {
                let bytes = at(path, field.repeat(FIELD_LIMIT + 1));
                assert_eq!(check(&bytes), Err(ShapeError::TooManyFields), "{path:?}");
            }
        }
        let packed = at(&[9, 2, 1, 1], vec![1; FIELD_LIMIT]);
        assert_eq!(check(&packed), Err(ShapeError::TooManyFields));
    }

    #[test]
    fn the_largest_append_of_a_replica_passes() {
        // Half a megabyte of the smallest proposals. Empty entries open terms, so there are few.
        let entry = Entry {
            index: 1 << 20,
            term: 1,
            data: vec![7; 9].into(),
            ..Entry::default()
        };
        let count = (512 << 10) / usize::try_from(entry.compute_size()).unwrap();
        let message = Message {
            term: 1,
            entries: vec![entry; count].into(),
            ..Message::default()
        };
        let bytes = message.write_to_bytes().unwrap();
        assert_eq!(check(&bytes), Ok(()));
        assert_eq!(parse_message(&Bytes::from(bytes)).unwrap(), message);
    }

    #[test]
    fn cuts_and_unknown_wire_types_are_errors() {
        let message = at(&[9, 2, 1, 1], vec![1, 2, 3]);
        for length in 1..message.len() {
            assert_eq!(
                check(&message[..length]),
                Err(ShapeError::CutOff),
                "{length}"
            );
        }
        assert_eq!(check(&[0x0e]), Err(ShapeError::WireType(6)));
        assert_eq!(check(&[0xff; 11]), Err(ShapeError::CutOff));
        assert_eq!(check(&[]), Ok(()));
    }
}

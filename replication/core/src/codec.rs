//! The byte format of what the log and snapshots carry: a version, then LEB128 lengths and raw bytes.
//!
//! Every length is checked against what is left before anything is sliced or allocated, so bytes from
//! the network can be refused but cannot break the reader.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Table;

/// A `u64` needs at most this many LEB128 bytes.
const MAX_VARINT_BYTES: u32 = 10;

/// The table format this build writes and the only one it reads.
const TABLE_VERSION: u8 = 1;

/// Why bytes are not an encoded proposal or table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A version this build does not read.
    #[error("unknown version {0}")]
    Version(u8),
    /// The bytes end inside a field, or a length points beyond them.
    #[error("truncated")]
    Truncated,
    /// A number does not fit its type.
    #[error("number out of range")]
    Range,
    /// Bytes are left over.
    #[error("trailing bytes")]
    Trailing,
    /// A tag without a meaning.
    #[error("unknown tag {0}")]
    Tag(u8),
    /// The proposer is not a replica id.
    #[error("invalid proposer")]
    Proposer,
    /// Keys of an encoded table do not rise.
    #[error("keys out of order")]
    Order,
}

pub(crate) fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Reads fields off the front of a buffer; slices share its memory.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Reader {
        Reader { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        let byte = *self.rest.first().ok_or(CodecError::Truncated)?;
        let _ = self.rest.split_to(1);
        Ok(byte)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for position in 0..MAX_VARINT_BYTES {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * position);
            if shifted >> (7 * position) != bits {
                return Err(CodecError::Range);
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Range)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, CodecError> {
        let length = usize::try_from(self.varint()?).map_err(|_| CodecError::Range)?;
        if length > self.rest.len() {
            return Err(CodecError::Truncated);
        }
        Ok(self.rest.split_to(length))
    }

    pub(crate) fn into_rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing)
        }
    }
}

/// Encodes a whole table as the data of a snapshot. `payload_bytes` sizes the buffer.
pub(crate) fn encode_table(table: &Table, payload_bytes: usize) -> Bytes {
    // Two lengths of up to five bytes a row, in practice less.
    let mut out = BytesMut::with_capacity(payload_bytes + table.len() * 10 + 16);
    out.put_u8(TABLE_VERSION);
    put_varint(&mut out, table.len() as u64);
    for (key, value) in table {
        put_bytes(&mut out, key);
        put_bytes(&mut out, value);
    }
    out.freeze()
}

/// Decodes the data of a snapshot.
///
/// # Errors
/// Anything but the exact output of `encode_table`.
pub(crate) fn decode_table(bytes: Bytes) -> Result<Table, CodecError> {
    let mut reader = Reader::new(bytes);
    let version = reader.byte()?;
    if version != TABLE_VERSION {
        return Err(CodecError::Version(version));
    }
    let rows = reader.varint()?;
    let mut table = Table::new();
    for _ in 0..rows {
        let key = reader.bytes()?;
        if table.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(CodecError::Order);
        }
        let value = reader.bytes()?;
        // Copied, so that one long-lived row does not keep the whole snapshot in memory.
        table.insert(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
    }
    reader.finish()?;
    Ok(table)
}

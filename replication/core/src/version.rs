//! The cluster version: what everybody in the pair can read, agreed on in the log.
//!
//! A build reads a range of versions. The active raises the committed one to the highest that every member
//! says it can read; it never falls. A form of record, entry or message that an older build does not know
//! may be used only once the cluster version allows it, so a half-updated pair goes on.

use bytes::Bytes;

use crate::Table;

/// The first byte of keys that the replicas keep for themselves.
const RESERVED: u8 = b'v';

/// The cluster version's key; its value is two bytes, big-endian.
pub(crate) const VERSION_KEY: &[u8] = b"v";

/// A pair that has agreed on nothing yet.
const FIRST: u16 = 1;

/// Whether a key belongs to the replicas themselves: the node may not propose it and does not see it.
pub fn is_reserved(key: &[u8]) -> bool {
    key.first() == Some(&RESERVED)
}

pub(crate) fn value(version: u16) -> Bytes {
    Bytes::copy_from_slice(&version.to_be_bytes())
}

/// The version a table says.
pub(crate) fn of(table: &Table) -> u16 {
    let value = table.get(VERSION_KEY).map(Bytes::as_ref);
    value
        .and_then(|value| value.try_into().ok())
        .map_or(FIRST, u16::from_be_bytes)
}

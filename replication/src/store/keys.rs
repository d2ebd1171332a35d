//! The rows of the store: one tree, one prefix byte a kind, big-endian numbers so that order is index order.

use tandem_replication_core::Position;

/// Term, vote and commit index.
pub(super) const HARD_STATE: &[u8] = b"H";
/// Membership.
pub(super) const CONF_STATE: &[u8] = b"C";
/// The log index the table includes.
pub(super) const APPLIED: &[u8] = b"A";
/// Index and term of the last position no longer in the log.
pub(super) const COMPACTED: &[u8] = b"S";
/// The generation of the table that counts; rows of any other are leftovers.
pub(super) const GENERATION: &[u8] = b"G";
/// Prefix of log rows.
pub(super) const LOG: &[u8] = b"L";
/// Prefix of table rows.
pub(super) const TABLE: &[u8] = b"T";

/// `L<index>`.
pub(super) fn log(index: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = LOG[0];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// `T<generation>`, the prefix of one generation's rows.
pub(super) fn generation(generation: u32) -> [u8; 5] {
    let mut key = [0; 5];
    key[0] = TABLE[0];
    key[1..].copy_from_slice(&generation.to_be_bytes());
    key
}

/// `T<generation><key>`.
pub(super) fn table(generation: u32, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(5 + key.len());
    row.extend_from_slice(&self::generation(generation));
    row.extend_from_slice(key);
    row
}

/// The index in a log row's key.
pub(super) fn log_index(key: &[u8]) -> Option<u64> {
    number(key.strip_prefix(LOG)?)
}

/// Generation and key in a table row's key.
pub(super) fn table_key(row: &[u8]) -> Option<(u32, &[u8])> {
    let (generation, key) = row.strip_prefix(TABLE)?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*generation), key))
}

/// A stored number.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// A stored generation.
pub(super) fn generation_value(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// A position as stored: index, then term.
pub(super) fn position_value(position: Position) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&position.index.to_be_bytes());
    value[8..].copy_from_slice(&position.term.to_be_bytes());
    value
}

/// A stored position.
pub(super) fn position(value: &[u8]) -> Option<Position> {
    let (index, term) = value.split_first_chunk::<8>()?;
    Some(Position {
        index: u64::from_be_bytes(*index),
        term: number(term)?,
    })
}

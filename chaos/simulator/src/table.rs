//! Call detail records in the replicated table, as the invariants read them: by the engine's documented keys, with
//! their own eyes.

use bytes::Bytes;
use prost::Message as _;
use tandem_engine::CdrId;
use tandem_replication_core::{Change, Table};
use tandem_sip::cdr::CdrRecord;

/// The epoch of records that are only load: no call has it.
pub(crate) const LOAD_EPOCH: u64 = u64::MAX;

/// The call detail records of a table.
pub(crate) fn cdrs(table: &Table) -> impl Iterator<Item = (CdrId, CdrRecord)> {
    table.iter().filter_map(|(key, value)| cdr(key, value))
}

/// A row, if it is a call detail record.
pub(crate) fn cdr(key: &[u8], value: &[u8]) -> Option<(CdrId, CdrRecord)> {
    let (epoch, sequence) = key.strip_prefix(b"d")?.split_first_chunk::<8>()?;
    let id = CdrId {
        epoch: u64::from_be_bytes(*epoch),
        sequence: u64::from_be_bytes(sequence.try_into().ok()?),
    };
    Some((id, CdrRecord::decode(value).ok()?))
}

/// A change that is only load: a call detail record of no call.
pub(crate) fn load(number: u64, bytes: usize) -> Change {
    let key = [&b"d"[..], &LOAD_EPOCH.to_be_bytes(), &number.to_be_bytes()].concat();
    let record = CdrRecord {
        epoch: LOAD_EPOCH,
        sequence: number,
        reason: "x".repeat(bytes),
        ..CdrRecord::default()
    };
    Change::Put {
        key: Bytes::from(key),
        value: record.encode_to_vec().into(),
    }
}

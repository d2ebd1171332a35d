//! The replicated table's keys and values, and the translation between the cores' vocabularies.
//!
//! ```text
//! c <call key, 8 bytes>                  CallRecord
//! d <epoch, 8 bytes> <sequence, 8 bytes> CdrRecord
//! o                                      slot (1 byte), epoch (8 bytes)
//! ```
//! All numbers are big-endian, so key order is call order and CDR order.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tandem_failover_core::{Epoch, Slot as FailoverSlot};
use tandem_media::{LegPlan, LocalPort, RealmNumber, SessionKey, StreamPlan};
use tandem_replication_core::{Change, Slot};
use tandem_sip::{
    cdr::CdrRecord,
    command::{MediaEvent, MediaLeg, MediaPort, MediaStream},
    flow::RealmId,
    record::CallKey,
};

use crate::CdrId;

const CALL: u8 = b'c';
const CDR: u8 = b'd';
const OWNER: u8 = b'o';

/// What a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Call(CallKey),
    Cdr(CdrId),
    Owner,
}

impl Key {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Key> {
        let (kind, rest) = bytes.split_first()?;
        match (*kind, rest.len()) {
            (CALL, 8) => Some(Key::Call(CallKey(number(rest)?))),
            (CDR, 16) => {
                let (epoch, sequence) = rest.split_at_checked(8)?;
                Some(Key::Cdr(CdrId {
                    epoch: number(epoch)?,
                    sequence: number(sequence)?,
                }))
            }
            (OWNER, 0) => Some(Key::Owner),
            _ => None,
        }
    }

    fn bytes(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(17);
        match self {
            Key::Call(CallKey(key)) => {
                bytes.put_u8(CALL);
                bytes.put_u64(key);
            }
            Key::Cdr(CdrId { epoch, sequence }) => {
                bytes.put_u8(CDR);
                bytes.put_u64(epoch);
                bytes.put_u64(sequence);
            }
            Key::Owner => bytes.put_u8(OWNER),
        }
        bytes.freeze()
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

pub(crate) fn call(key: CallKey, record: Option<Bytes>) -> Change {
    let key = Key::Call(key).bytes();
    match record {
        Some(value) => Change::Put { key, value },
        None => Change::Delete { key },
    }
}

pub(crate) fn cdr(record: &CdrRecord) -> Change {
    let id = CdrId {
        epoch: record.epoch,
        sequence: record.sequence,
    };
    Change::Put {
        key: Key::Cdr(id).bytes(),
        value: record.encode_to_vec().into(),
    }
}

pub(crate) fn cdr_deletion(id: CdrId) -> Change {
    Change::Delete {
        key: Key::Cdr(id).bytes(),
    }
}

/// The entry that makes a node the owner: the fencing token of everything that follows it.
pub(crate) fn owner(slot: Slot, Epoch(epoch): Epoch) -> Change {
    let mut value = BytesMut::with_capacity(9);
    value.put_u8(match slot {
        Slot::A => b'a',
        Slot::B => b'b',
        Slot::Witness => b'w',
    });
    value.put_u64(epoch);
    Change::Put {
        key: Key::Owner.bytes(),
        value: value.freeze(),
    }
}

/// A witness is never owner: such an entry does not parse.
pub(crate) fn parse_owner(value: &[u8]) -> Option<(FailoverSlot, Epoch)> {
    let (slot, epoch) = value.split_first()?;
    let slot = match slot {
        b'a' => FailoverSlot::A,
        b'b' => FailoverSlot::B,
        _ => return None,
    };
    Some((slot, Epoch(number(epoch)?)))
}

/// The name of a call's media session.
pub fn session(CallKey(key): CallKey) -> SessionKey {
    SessionKey(key)
}

/// A call's media plan in the words of the media core.
pub fn plans(streams: &[MediaStream]) -> Vec<StreamPlan> {
    streams.iter().map(plan).collect()
}

fn plan(stream: &MediaStream) -> StreamPlan {
    // The SIP core bounds streams far below u16::MAX.
    let index = u16::try_from(stream.index).unwrap_or(u16::MAX);
    StreamPlan::rtp(index, stream.legs.map(leg))
}

fn leg(leg: MediaLeg) -> LegPlan {
    LegPlan {
        port: local(leg.port),
        remote_rtp: leg.remote_rtp,
        remote_rtcp: leg.remote_rtcp,
        latched: leg.latched,
        send: leg.send,
        receive: leg.receive,
    }
}

fn local(
    MediaPort {
        realm: RealmId(realm),
        rtp,
    }: MediaPort,
) -> LocalPort {
    LocalPort {
        realm: RealmNumber(realm),
        port: rtp,
    }
}

/// What the relay learnt, in the SIP core's words.
pub fn media_event(event: tandem_media::Event) -> MediaEvent {
    match event {
        tandem_media::Event::Latched {
            key: SessionKey(key),
            stream,
            leg,
            source,
        } => MediaEvent::Latched {
            key: CallKey(key),
            stream: u32::from(stream),
            leg: leg.index(),
            source,
        },
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_sort_like_what_they_name() {
        let keys = [
            Key::Call(CallKey(1)),
            Key::Call(CallKey(u64::MAX)),
            Key::Cdr(CdrId {
                epoch: 1,
                sequence: 300,
            }),
            Key::Cdr(CdrId {
                epoch: 2,
                sequence: 1,
            }),
            Key::Owner,
        ];
        for key in keys {
            assert_eq!(Key::parse(&key.bytes()), Some(key));
        }
        assert!(
            keys.windows(2)
                .all(|pair| pair[0].bytes() < pair[1].bytes())
        );
        for garbage in [&b""[..], b"c", b"c1234567", b"d12345678", b"o1", b"x"] {
            assert_eq!(Key::parse(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn the_owner_entry_round_trips_and_a_witness_is_never_owner() {
        let Change::Put { value, .. } = owner(Slot::B, Epoch(9)) else {
            panic!("a put")
        };
        assert_eq!(parse_owner(&value), Some((FailoverSlot::B, Epoch(9))));
        let Change::Put { value, .. } = owner(Slot::Witness, Epoch(9)) else {
            panic!("a put")
        };
        assert_eq!(parse_owner(&value), None);
        assert_eq!(parse_owner(b"a123"), None);
    }
}

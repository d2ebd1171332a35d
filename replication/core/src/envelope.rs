//! The outermost form of everything on the peer link: a version, a kind, the generation, the content.
//!
//! ```text
//! version (1 byte)  kind (1 byte)  generation (LEB128)  content
//! ```
//! The link's ALPN tells incompatible transports apart; this version tells apart what they carry. A
//! build reads one version; what may be said inside it is settled by the cluster version.

use bytes::{BufMut, Bytes, BytesMut};
use protobuf::Message as _;
use raft::eraftpb::Message;

use crate::codec::{CodecError, Reader, put_varint};
use crate::{Hello, MessageError, parse_message};

/// The version this build writes and the only one it reads.
pub const ENVELOPE_VERSION: u8 = 1;

const RAFT: u8 = 1;
const HELLO: u8 = 2;

/// A hello is smaller; a header even more so.
const HELLO_BYTES: usize = 512;

/// The largest header: version, kind, and the longest generation.
const HEADER_BYTES: usize = 8;

/// What a replica sends to another.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    /// About the log.
    Raft(Message),
    /// About the sender.
    Hello(Hello),
}

/// A message and the generation of who sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// See [`Hello::generation`].
    pub generation: u32,
    /// The content.
    pub message: PeerMessage,
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// From a build that speaks another version.
    #[error("the peer speaks version {0}, this build {ENVELOPE_VERSION}")]
    Version(u8),
    /// A kind without a meaning in this version.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// The header or a hello is garbled.
    #[error("garbled: {0}")]
    Codec(#[from] CodecError),
    /// A Raft message is garbled, or built to cost much.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl Envelope {
    /// A hello in an envelope of its generation.
    pub fn hello(hello: Hello) -> Envelope {
        Envelope {
            generation: hello.generation,
            message: PeerMessage::Hello(hello),
        }
    }

    /// The bytes for the wire.
    pub fn encode(&self) -> Bytes {
        let mut header = BytesMut::with_capacity(HELLO_BYTES);
        header.put_u8(ENVELOPE_VERSION);
        match &self.message {
            PeerMessage::Raft(message) => {
                header.put_u8(RAFT);
                put_varint(&mut header, u64::from(self.generation));
                let size = usize::try_from(message.compute_size()).unwrap_or(0);
                let mut bytes = Vec::with_capacity(size + HEADER_BYTES);
                bytes.extend_from_slice(&header);
                message
                    .write_to_vec(&mut bytes)
                    .expect("proto3 has no required fields, and a Vec takes every byte");
                Bytes::from(bytes)
            }
            PeerMessage::Hello(hello) => {
                header.put_u8(HELLO);
                put_varint(&mut header, u64::from(self.generation));
                hello.encode(&mut header);
                header.freeze()
            }
        }
    }

    /// Reads what [`encode`](Self::encode) wrote. The caller has bounded the length.
    ///
    /// # Errors
    /// See [`EnvelopeError`].
    pub fn decode(bytes: Bytes) -> Result<Envelope, EnvelopeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.byte()?;
        if version != ENVELOPE_VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let kind = reader.byte()?;
        let generation = u32::try_from(reader.varint()?).map_err(|_| CodecError::Range)?;
        let message = match kind {
            RAFT => {
                let rest = reader.into_rest();
                PeerMessage::Raft(parse_message(&rest)?)
            }
            HELLO => PeerMessage::Hello(Hello::decode(reader, generation)?),
            kind => return Err(EnvelopeError::Kind(kind)),
        };
        Ok(Envelope {
            generation,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::{
        Founders, Member, Membership, Position, ReplicaId, Slot, Standing, StoreId, Versions,
    };

    fn slot() -> impl Strategy<Value = Slot> {
        prop_oneof![Just(Slot::A), Just(Slot::B), Just(Slot::Witness)]
    }

    fn id() -> impl Strategy<Value = ReplicaId> {
        (slot(), 1..u32::MAX).prop_map(|(slot, number)| ReplicaId::new(slot, number).unwrap())
    }

    fn standing(slot: Slot) -> impl Strategy<Value = Standing> {
        let ids = || proptest::collection::btree_set(id(), 0..5);
        let founders =
            proptest::collection::btree_map(self::slot(), any::<u128>().prop_map(StoreId), 0..4);
        let own = (1..u32::MAX).prop_map(move |number| ReplicaId::new(slot, number).unwrap());
        let member = (
            own.clone(),
            any::<(u64, u64, bool)>(),
            ids(),
            ids(),
            ids(),
            founders,
        )
            .prop_map(
                |(id, (index, term, serving), voters, outgoing, learners, founders): (
                    _,
                    _,
                    _,
                    _,
                    _,
                    Founders,
                )| {
                    Standing::Member(Member {
                        id,
                        applied: Position { index, term },
                        membership: Membership {
                            voters,
                            outgoing,
                            learners,
                        },
                        founders,
                        serving,
                    })
                },
            );
        prop_oneof![
            Just(Standing::Waiting),
            own.prop_map(Standing::Joining),
            member
        ]
    }

    fn hello() -> impl Strategy<Value = Hello> {
        slot().prop_flat_map(|slot| {
            (
                standing(slot),
                any::<(u128, u64, u64, u32, u16, u16)>(),
                1..u64::MAX,
            )
                .prop_map(
                    move |(standing, (store, sequence, heard, generation, min, max), life)| Hello {
                        slot,
                        store: StoreId(store),
                        life,
                        sequence,
                        heard,
                        generation,
                        versions: Versions { min, max },
                        standing,
                    },
                )
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn hellos_survive_the_round_trip_and_fit_a_datagram(hello in hello()) {
            let envelope = Envelope::hello(hello);
            let encoded = envelope.encode();
            prop_assert!(encoded.len() <= HELLO_BYTES);
            prop_assert_eq!(Envelope::decode(encoded).unwrap(), envelope);
        }

        #[test]
        fn every_cut_of_a_hello_is_refused(hello in hello(), cut in any::<prop::sample::Index>()) {
            let encoded = Envelope::hello(hello).encode();
            let cut = cut.index(encoded.len());
            prop_assert!(Envelope::decode(encoded.slice(..cut)).is_err());
        }

        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4u8) {
            let mut bytes = vec![ENVELOPE_VERSION, kind];
            bytes.extend(garbage);
            let _ = Envelope::decode(Bytes::from(bytes));
        }
    }

    #[test]
    fn raft_messages_keep_their_generation_and_other_versions_are_named() {
        let message = Message {
            from: 1,
            to: 2,
            context: Bytes::from_static(b"context"),
            ..Message::default()
        };
        let envelope = Envelope {
            generation: 300,
            message: PeerMessage::Raft(message),
        };
        let encoded = envelope.encode();
        assert_eq!(Envelope::decode(encoded.clone()).unwrap(), envelope);
        assert!(Envelope::decode(encoded.slice(..encoded.len() - 1)).is_err());

        let mut newer = encoded.to_vec();
        newer[0] = ENVELOPE_VERSION + 1;
        let refused = Envelope::decode(Bytes::from(newer)).unwrap_err();
        assert!(
            matches!(refused, EnvelopeError::Version(version) if version == ENVELOPE_VERSION + 1)
        );
        let mut unknown = encoded.to_vec();
        unknown[1] = 9;
        let refused = Envelope::decode(Bytes::from(unknown)).unwrap_err();
        assert!(matches!(refused, EnvelopeError::Kind(9)));
    }
}

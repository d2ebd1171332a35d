//! What one log entry carries.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{CodecError, Reader, put_bytes, put_varint};
use crate::{ProposalId, ReplicaId};

/// The entry format this build writes and the only one it reads.
const ENTRY_VERSION: u8 = 1;

const TAG_PUT: u8 = 1;
const TAG_DELETE: u8 = 2;

/// The smallest encoded change: a tag and an empty key.
const MIN_CHANGE_BYTES: usize = 2;

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Set a key.
    Put {
        /// Opaque.
        key: Bytes,
        /// Opaque.
        value: Bytes,
    },
    /// Remove a key; nothing happens if it is absent.
    Delete {
        /// Opaque.
        key: Bytes,
    },
}

impl Change {
    /// The key concerned.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }
}

/// The content of a log entry: changes that take effect together, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Who proposed it.
    pub proposer: ReplicaId,
    /// Which of its proposals it is.
    pub id: ProposalId,
    /// In order.
    pub changes: Vec<Change>,
}

impl Proposal {
    /// The entry's data.
    pub fn encode(&self) -> Bytes {
        let payload: usize = self
            .changes
            .iter()
            .map(|change| match change {
                Change::Put { key, value } => key.len() + value.len() + 11,
                Change::Delete { key } => key.len() + 6,
            })
            .sum();
        let mut out = BytesMut::with_capacity(payload + 32);
        out.put_u8(ENTRY_VERSION);
        put_varint(&mut out, self.proposer.get());
        put_varint(&mut out, self.id.term);
        put_varint(&mut out, self.id.number);
        put_varint(&mut out, self.changes.len() as u64);
        for change in &self.changes {
            match change {
                Change::Put { key, value } => {
                    out.put_u8(TAG_PUT);
                    put_bytes(&mut out, key);
                    put_bytes(&mut out, value);
                }
                Change::Delete { key } => {
                    out.put_u8(TAG_DELETE);
                    put_bytes(&mut out, key);
                }
            }
        }
        out.freeze()
    }

    /// Reads an entry's data. Keys and values share its memory.
    ///
    /// # Errors
    /// Anything but the exact output of [`encode`](Self::encode).
    pub fn decode(bytes: Bytes) -> Result<Proposal, CodecError> {
        let mut reader = Reader::new(bytes);
        let version = reader.byte()?;
        if version != ENTRY_VERSION {
            return Err(CodecError::Version(version));
        }
        let proposer = ReplicaId::try_from(reader.varint()?).map_err(|_| CodecError::Proposer)?;
        let id = ProposalId {
            term: reader.varint()?,
            number: reader.varint()?,
        };
        let count = usize::try_from(reader.varint()?).map_err(|_| CodecError::Range)?;
        let mut changes = Vec::with_capacity(count.min(reader.remaining() / MIN_CHANGE_BYTES));
        for _ in 0..count {
            changes.push(match reader.byte()? {
                TAG_PUT => Change::Put {
                    key: reader.bytes()?,
                    value: reader.bytes()?,
                },
                TAG_DELETE => Change::Delete {
                    key: reader.bytes()?,
                },
                tag => return Err(CodecError::Tag(tag)),
            });
        }
        reader.finish()?;
        Ok(Proposal {
            proposer,
            id,
            changes,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::codec::{decode_table, encode_table};
    use crate::{Slot, Table};

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (bytes(), bytes()).prop_map(|(key, value)| Change::Put { key, value }),
            bytes().prop_map(|key| Change::Delete { key }),
        ]
    }

    fn proposal() -> impl Strategy<Value = Proposal> {
        (
            proptest::collection::vec(change(), 0..8),
            any::<u64>(),
            any::<u64>(),
            1..u32::MAX,
        )
            .prop_map(|(changes, term, number, incarnation)| Proposal {
                proposer: ReplicaId::new(Slot::B, incarnation).unwrap(),
                id: ProposalId { term, number },
                changes,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn proposals_survive_the_round_trip(proposal in proposal()) {
            prop_assert_eq!(Proposal::decode(proposal.encode()).unwrap(), proposal);
        }

        #[test]
        fn every_cut_is_refused(proposal in proposal(), cut in any::<prop::sample::Index>()) {
            let encoded = proposal.encode();
            let cut = cut.index(encoded.len());
            prop_assert!(Proposal::decode(encoded.slice(..cut)).is_err());
        }

        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..200)) {
            let garbage = Bytes::from(garbage);
            if let Ok(proposal) = Proposal::decode(garbage.clone()) {
                prop_assert!(proposal.changes.len() <= garbage.len());
            }
            let _ = decode_table(garbage);
        }

        #[test]
        fn tables_survive_the_round_trip(rows in proptest::collection::btree_map(bytes(), bytes(), 0..20)) {
            let table: Table = rows;
            let encoded = encode_table(&table, 0);
            prop_assert_eq!(decode_table(encoded.clone()).unwrap(), table);
            let cut = encoded.len() - 1;
            prop_assert!(decode_table(encoded.slice(..cut)).is_err());
        }
    }

    #[test]
    fn trailing_bytes_other_versions_and_huge_counts_are_refused() {
        let proposal = Proposal {
            proposer: ReplicaId::first(Slot::A),
            id: ProposalId { term: 1, number: 1 },
            changes: vec![Change::Delete {
                key: Bytes::from_static(b"k"),
            }],
        };
        let mut longer = proposal.encode().to_vec();
        longer.push(0);
        assert_eq!(
            Proposal::decode(Bytes::from(longer)),
            Err(CodecError::Trailing)
        );

        let mut newer = proposal.encode().to_vec();
        newer[0] = 2;
        assert_eq!(
            Proposal::decode(Bytes::from(newer)),
            Err(CodecError::Version(2))
        );

        let mut huge = BytesMut::new();
        huge.put_u8(ENTRY_VERSION);
        put_varint(&mut huge, ReplicaId::first(Slot::A).get());
        put_varint(&mut huge, 1);
        put_varint(&mut huge, 1);
        put_varint(&mut huge, u64::MAX);
        assert_eq!(Proposal::decode(huge.freeze()), Err(CodecError::Truncated));
    }
}

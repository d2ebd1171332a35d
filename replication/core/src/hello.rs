//! What replicas tell each other about themselves, beside Raft: who they are, what they remember, and
//! what they can read.
//!
//! Raft messages are about a log that both sides have. A replica whose disk is empty has none, and must
//! not vote before it knows whether it once had: it learns from hellos ([`crate::Founding`]). The active
//! learns from them whom to add ([`crate::membership`]).

use std::collections::BTreeMap;
use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::codec::{CodecError, Reader, put_varint};
use crate::membership::Membership;
use crate::{Position, ReplicaId, Slot};

/// Members a hello may name; a joint change of all three slots names fewer. More are refused.
const MAX_MEMBERS: u64 = 12;

const WAITING: u8 = 0;
const JOINING: u8 = 1;
const MEMBER: u8 = 2;

/// Names one store for ever: drawn when a state directory is first used.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The stores that founded the pair: which one is the first incarnation of each slot.
pub type Founders = BTreeMap<Slot, StoreId>;

/// The cluster versions a build can read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

impl Versions {
    /// What this build supports.
    pub const SUPPORTED: Versions = Versions { min: 1, max: 1 };
}

/// How far a replica belongs to the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its store is empty and it does not know yet which incarnation it is.
    Waiting,
    /// Its store is empty; it is this incarnation and waits to be added.
    Joining(ReplicaId),
    /// It holds a log.
    Member(Member),
}

/// What a replica with a log says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub id: ReplicaId,
    /// The last applied entry.
    pub applied: Position,
    /// The membership as of that entry.
    pub membership: Membership,
    /// Who founded the pair, as far as it took part; else empty.
    pub founders: Founders,
    /// Whether it holds the lease: then nobody knows a newer membership.
    pub serving: bool,
}

/// One hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's slot.
    pub slot: Slot,
    /// The sender's store.
    pub store: StoreId,
    /// Drawn at the sender's start; never 0.
    pub life: u64,
    /// Rises within a life.
    pub sequence: u64,
    /// The receiver's life as the sender last heard it, 0 if never: an answer is newer than the life it
    /// names.
    pub heard: u64,
    /// Counts forced takeovers; replicas of different generations do not talk Raft.
    pub generation: u32,
    /// What the sender can read.
    pub versions: Versions,
    /// What the sender is.
    pub standing: Standing,
}

fn put_position(out: &mut BytesMut, position: Position) {
    put_varint(out, position.index);
    put_varint(out, position.term);
}

fn put_ids(out: &mut BytesMut, ids: impl ExactSizeIterator<Item = ReplicaId>) {
    put_varint(out, ids.len() as u64);
    ids.for_each(|id| put_varint(out, id.get()));
}

fn read_id(reader: &mut Reader) -> Result<ReplicaId, CodecError> {
    ReplicaId::try_from(reader.varint()?).map_err(|_| CodecError::Range)
}

fn read_slot(reader: &mut Reader) -> Result<Slot, CodecError> {
    Slot::from_number(u32::from(reader.byte()?)).ok_or(CodecError::Range)
}

fn read_ids<Ids: FromIterator<ReplicaId>>(reader: &mut Reader) -> Result<Ids, CodecError> {
    let count = reader.varint()?;
    if count > MAX_MEMBERS {
        return Err(CodecError::Range);
    }
    (0..count).map(|_| read_id(reader)).collect()
}

fn read_store(reader: &mut Reader) -> Result<StoreId, CodecError> {
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = reader.byte()?;
    }
    Ok(StoreId(u128::from_be_bytes(bytes)))
}

fn read_u16(reader: &mut Reader) -> Result<u16, CodecError> {
    u16::try_from(reader.varint()?).map_err(|_| CodecError::Range)
}

impl Hello {
    /// Who the sender is, once it knows.
    pub fn id(&self) -> Option<ReplicaId> {
        match &self.standing {
            Standing::Waiting => None,
            Standing::Joining(id) => Some(*id),
            Standing::Member(member) => Some(member.id),
        }
    }

    /// Everything but the generation, which the envelope carries.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.slot.number() as u8);
        out.put_u128(self.store.0);
        for number in [
            self.life,
            self.sequence,
            self.heard,
            u64::from(self.versions.min),
            u64::from(self.versions.max),
        ] {
            put_varint(out, number);
        }
        match &self.standing {
            Standing::Waiting => out.put_u8(WAITING),
            Standing::Joining(id) => {
                out.put_u8(JOINING);
                put_varint(out, id.get());
            }
            Standing::Member(member) => {
                out.put_u8(MEMBER);
                member.encode(out);
            }
        }
    }

    pub(crate) fn decode(mut reader: Reader, generation: u32) -> Result<Hello, CodecError> {
        let slot = read_slot(&mut reader)?;
        let store = read_store(&mut reader)?;
        let life = reader.varint()?;
        let sequence = reader.varint()?;
        let heard = reader.varint()?;
        let versions = Versions {
            min: read_u16(&mut reader)?,
            max: read_u16(&mut reader)?,
        };
        let standing = match reader.byte()? {
            WAITING => Standing::Waiting,
            JOINING => Standing::Joining(read_id(&mut reader)?),
            MEMBER => Standing::Member(Member::decode(&mut reader)?),
            tag => return Err(CodecError::Tag(tag)),
        };
        reader.finish()?;
        let hello = Hello {
            slot,
            store,
            life,
            sequence,
            heard,
            generation,
            versions,
            standing,
        };
        if life == 0 || hello.id().is_some_and(|id| id.slot() != slot) {
            return Err(CodecError::Range);
        }
        Ok(hello)
    }
}

impl Member {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.id.get());
        put_position(out, self.applied);
        out.put_u8(u8::from(self.serving));
        for ids in self.membership.parts() {
            put_ids(out, ids.iter().copied());
        }
        put_varint(out, self.founders.len() as u64);
        for (slot, store) in &self.founders {
            out.put_u8(slot.number() as u8);
            out.put_u128(store.0);
        }
    }

    fn decode(reader: &mut Reader) -> Result<Member, CodecError> {
        let id = read_id(reader)?;
        let applied = Position {
            index: reader.varint()?,
            term: reader.varint()?,
        };
        let serving = match reader.byte()? {
            0 => false,
            1 => true,
            tag => return Err(CodecError::Tag(tag)),
        };
        let membership = Membership {
            voters: read_ids(reader)?,
            outgoing: read_ids(reader)?,
            learners: read_ids(reader)?,
        };
        let count = reader.varint()?;
        if count > MAX_MEMBERS {
            return Err(CodecError::Range);
        }
        let founders = (0..count)
            .map(|_| Ok((read_slot(reader)?, read_store(reader)?)))
            .collect::<Result<_, CodecError>>()?;
        Ok(Member {
            id,
            applied,
            membership,
            founders,
            serving,
        })
    }
}

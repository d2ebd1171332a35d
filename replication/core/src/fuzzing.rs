//! What fuzzers do with bytes, and what must hold whatever the bytes are. For `replication/fuzz` and for the replay of
//! its corpus (`tests/replay.rs`); not an interface to build on.

use std::time::Duration;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};

use crate::codec::{self, CodecError};
use crate::{
    Change, Command, Config, Limits, OnSingle, Origin, Profile, Proposal, Replica, ReplicaId,
    Restored, Role, Slot, Table, Versions, WriteId, parse_message,
};

/// Steps of one run of [`replica`]; what the bytes say beyond is not looked at.
const STEPS: usize = 400;

/// The voters that [`replica`] is one of.
const VOTERS: [ReplicaId; 3] = [
    ReplicaId::first(Slot::A),
    ReplicaId::first(Slot::B),
    ReplicaId::first(Slot::Witness),
];

/// Encodes a table as a snapshot carries it.
pub fn encode_table(table: &Table) -> Bytes {
    codec::encode_table(table, 0)
}

/// Decodes the table of a snapshot.
///
/// # Errors
/// See [`CodecError`].
pub fn decode_table(bytes: Bytes) -> Result<Table, CodecError> {
    codec::decode_table(bytes)
}

/// A log entry's data: refused, or read to the same again.
///
/// # Panics
/// If that does not hold.
pub fn entry(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(proposal) = Proposal::decode(bytes.clone()) {
        let again = proposal.encode();
        assert!(
            again.len() <= bytes.len(),
            "numbers are written in their shortest form"
        );
        assert_eq!(Proposal::decode(again), Ok(proposal));
    }
}

/// A snapshot's data: refused, or read to the same again.
///
/// # Panics
/// If that does not hold.
pub fn table(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(table) = codec::decode_table(bytes.clone()) {
        let again = encode_table(&table);
        assert!(
            again.len() <= bytes.len(),
            "numbers are written in their shortest form"
        );
        assert_eq!(codec::decode_table(again), Ok(table));
    }
}

/// A Raft message: refused, or read to the same again.
///
/// The second reading is compared with the third: protobuf tells "no unknown fields" from "none left", which a field
/// given twice leaves behind, and only its first writing settles that.
///
/// # Panics
/// If that does not hold.
pub fn raft_message(bytes: &[u8]) {
    let again = |message: &Message| {
        let bytes = message
            .write_to_bytes()
            .expect("proto3 has no required fields");
        Message::parse_from_bytes(&bytes).expect("what was written is read")
    };
    if let Ok(message) = parse_message(&Bytes::copy_from_slice(bytes)) {
        let second = again(&message);
        assert_eq!(again(&second), second);
    }
}

/// A voter whose peers, clock and disk do what the bytes say.
///
/// # Panics
/// If the voter does, or if what it commands contradicts itself.
pub fn replica(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut world = World::new(&mut script);
    for _ in 0..STEPS {
        if script.0.is_empty() {
            return;
        }
        world.step(&mut script);
        world.execute();
    }
}

/// Bytes read as decisions. After the end everything is zero.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Near `base` as a rule, since numbers far from it are refused early.
    fn number(&mut self, base: u64) -> u64 {
        match self.byte() {
            byte @ 0..=0xdf => base.wrapping_add(u64::from(byte % 16)).wrapping_sub(8),
            byte @ 0xe0..=0xf7 => u64::from(byte % 24),
            0xf8..=0xfb => 1 << 40,
            0xfc..=0xfe => u64::MAX,
            0xff => self
                .take(8)
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        }
    }

    fn replica_id(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..=0xf0 => VOTERS[usize::from(byte) % VOTERS.len()].get(),
            byte @ 0xf1..=0xfd => (u64::from(byte % 4) << 32) | u64::from(byte % 3),
            0xfe | 0xff => self.number(0),
        }
    }
}

struct World {
    replica: Replica,
    now: Duration,
    /// Writes not confirmed, in order.
    writes: Vec<WriteId>,
    term: u64,
    applied: u64,
}

impl World {
    fn new(script: &mut Script<'_>) -> World {
        let now = Duration::from_secs(1000);
        let own = VOTERS[usize::from(script.byte()) % VOTERS.len()];
        let config = Config {
            id: own,
            voters: VOTERS.to_vec(),
            profile: Profile::Standard,
            limits: Limits {
                log_entries: 8,
                proposals: 8,
                ..Limits::default()
            },
            seed: 1,
            others: VOTERS
                .into_iter()
                .map(ReplicaId::slot)
                .filter(|slot| *slot != own.slot())
                .collect(),
            origin: Origin::default(),
            on_single: OnSingle::Stop,
            versions: Versions::SUPPORTED,
        };
        let replica =
            Replica::new(config, Restored::default(), now).expect("a sound configuration");
        let mut world = World {
            replica,
            now,
            writes: Vec::new(),
            term: 0,
            applied: 1,
        };
        world.execute();
        world.pass(Duration::from_millis(105));
        world
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() {
            0..=0x7f => {
                let message = self.message(script);
                self.replica.handle_message(message, self.now);
            }
            0x80..=0x8f => {
                let length = usize::from(script.byte());
                if let Ok(message) = Message::parse_from_bytes(script.take(length)) {
                    self.replica.handle_message(message, self.now);
                }
            }
            0x90..=0xaf => self.pass(Duration::from_millis(u64::from(script.byte()))),
            0xb0..=0xcf => {
                let count = (usize::from(script.byte()) % 4 + 1).min(self.writes.len());
                if let Some(newest) = self.writes.drain(..count).next_back() {
                    self.replica.handle_persisted(newest, self.now);
                }
            }
            0xd0..=0xdf => {
                let key = Bytes::copy_from_slice(&[script.byte() % 8]);
                let change = match script.byte() {
                    0 => Change::Delete { key },
                    size => Change::Put {
                        key,
                        value: vec![size; usize::from(size)].into(),
                    },
                };
                // Accepted only while leading.
                let _ = self.replica.propose(vec![change], self.now);
            }
            0xe0..=0xe7 => {
                if let Ok(to) = ReplicaId::try_from(script.replica_id()) {
                    let _ = self.replica.transfer(to, self.now);
                }
            }
            0xe8..=0xef => {
                if let Ok(peer) = ReplicaId::try_from(script.replica_id()) {
                    self.replica.handle_unreachable(peer, self.now);
                }
            }
            0xf0..=0xff => {
                if let Ok(peer) = ReplicaId::try_from(script.replica_id()) {
                    let ok = script.byte() & 1 == 0;
                    self.replica.handle_snapshot_sent(peer, ok, self.now);
                }
            }
        }
    }

    /// Time passes, tick by tick.
    fn pass(&mut self, length: Duration) {
        let until = self.now + length;
        while self.replica.poll_timeout().0 <= until {
            self.now = self.now.max(self.replica.poll_timeout().0);
            self.replica.handle_timeout(self.now);
            self.execute();
        }
        self.now = until;
    }

    fn message(&self, script: &mut Script<'_>) -> Message {
        let kinds = [
            MessageType::MsgAppend,
            MessageType::MsgAppendResponse,
            MessageType::MsgRequestVote,
            MessageType::MsgRequestVoteResponse,
            MessageType::MsgSnapshot,
            MessageType::MsgHeartbeat,
            MessageType::MsgHeartbeatResponse,
            MessageType::MsgTimeoutNow,
            MessageType::MsgRequestPreVote,
            MessageType::MsgRequestPreVoteResponse,
            MessageType::MsgReadIndexResp,
            MessageType::MsgBeat,
        ];
        let status = self.replica.status();
        let (term, last) = (status.term, status.last_index);
        let mut message = Message::default();
        message.set_msg_type(kinds[usize::from(script.byte()) % kinds.len()]);
        message.from = script.replica_id();
        message.to = match script.byte() {
            0xf8.. => script.replica_id(),
            _ => status.id.get(),
        };
        message.term = script.number(term);
        message.log_term = script.number(term);
        message.index = script.number(last);
        message.commit = script.number(status.commit);
        let flags = script.byte();
        message.reject = flags & 1 != 0;
        if flags & 2 != 0 {
            message.reject_hint = script.number(last);
            message.commit_term = script.number(term);
            message.request_snapshot = script.number(last);
            message.priority = script.number(0) as i64;
        }
        if flags & 4 != 0 {
            let length = usize::from(script.byte() % 32);
            message.context = Bytes::copy_from_slice(script.take(length));
        }
        let entries = (0..u64::from(flags >> 3 & 3))
            .map(|at| entry_after(&message, at, script))
            .collect::<Vec<_>>();
        message.set_entries(entries.into());
        if message.get_msg_type() == MessageType::MsgSnapshot || flags & 0x20 != 0 {
            set_snapshot(&mut message, script);
        }
        message
    }

    /// Takes the commands and holds them against what was said before.
    fn execute(&mut self) {
        while let Some(command) = self.replica.next_command() {
            match command {
                Command::Greet(_) => {}
                Command::Persist(write) => {
                    assert!(
                        self.writes.last().is_none_or(|last| *last < write.id),
                        "writes are numbered in order"
                    );
                    self.writes.push(write.id);
                }
                Command::Applied { index, .. } => {
                    assert_eq!(
                        index,
                        self.applied + 1,
                        "entries are applied one after the other"
                    );
                    self.applied = index;
                }
                Command::Restored { index } => {
                    assert!(index > self.applied, "a snapshot leads forward");
                    self.applied = index;
                }
                Command::Role(
                    Role::Leader { term } | Role::Follower { term, .. } | Role::Candidate { term },
                ) => {
                    assert!(term >= self.term, "terms never fall");
                    self.term = term;
                }
                Command::Lease { term, until } => {
                    assert_eq!(
                        self.replica.status().term,
                        term,
                        "a lease of the present term"
                    );
                    assert!(until > self.now, "a lease that has not ended");
                }
                Command::Send { message, .. } => {
                    assert_eq!(
                        message.from,
                        self.replica.status().id.get(),
                        "sent in its own name"
                    );
                }
                Command::Dropped { .. } | Command::LeaseLost { .. } => {}
            }
        }
    }
}

fn entry_after(message: &Message, at: u64, script: &mut Script<'_>) -> Entry {
    let kind = script.byte();
    Entry {
        index: match kind {
            0xf0.. => script.number(message.index),
            _ => message.index.wrapping_add(at + 1),
        },
        term: match kind & 0x0f {
            0..=9 => message.term,
            _ => script.number(message.term),
        },
        entry_type: match kind >> 4 & 7 {
            0..=4 => EntryType::EntryNormal,
            5 => EntryType::EntryConfChange,
            _ => EntryType::EntryConfChangeV2,
        },
        data: {
            let length = usize::from(script.byte() % 64);
            Bytes::copy_from_slice(script.take(length))
        },
        ..Entry::default()
    }
}

fn set_snapshot(message: &mut Message, script: &mut Script<'_>) {
    let kind = script.byte();
    let data = if kind & 0x80 == 0 {
        let rows =
            (0..kind % 4).map(|row| (Bytes::copy_from_slice(&[row]), Bytes::from_static(b"row")));
        encode_table(&rows.collect())
    } else {
        let length = usize::from(script.byte());
        Bytes::copy_from_slice(script.take(length))
    };
    let (index, term) = (script.number(message.index), script.number(message.term));
    let mut voters = VOTERS.map(ReplicaId::get).to_vec();
    let mut conf_state = ConfState::default();
    if kind & 0x40 != 0 {
        conf_state.learners = vec![script.replica_id()];
        conf_state.voters_outgoing = vec![script.replica_id()];
        conf_state.auto_leave = kind & 0x20 != 0;
        voters.push(script.replica_id());
    }
    conf_state.voters = voters;
    let snapshot = message.mut_snapshot();
    snapshot.data = data;
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state(conf_state);
}

//! Bytes that version 1 put on the wire and on the disk, read by the code of today.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use protobuf::{Message as _, UnknownFields};
use tandem_golden::{Corpus, wire};
use tandem_replication_core::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    Message, MessageType, Snapshot,
};
use tandem_replication_core::{
    Change, CodecError, Envelope, EnvelopeError, Hello, Member, Membership, PeerMessage, Position,
    Proposal, ProposalId, ReplicaId, Slot, Standing, StoreId, Table, Versions, fuzzing,
};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");

const A: ReplicaId = ReplicaId::first(Slot::A);
const B: ReplicaId = ReplicaId::first(Slot::B);
const WITNESS: ReplicaId = ReplicaId::first(Slot::Witness);

fn corpus(kind: &str) -> Corpus {
    Corpus::open(format!("{DIRECTORY}/{kind}"))
}

fn put(key: &'static [u8], value: impl Into<Bytes>) -> Change {
    Change::Put {
        key: Bytes::from_static(key),
        value: value.into(),
    }
}

fn proposal(name: &str) -> Proposal {
    let (proposer, changes) = match name {
        "empty" => (A, Vec::new()),
        "changes-of-a-call" => (
            A,
            vec![
                put(b"c\0\0\0\x07\0\0\0\x01", vec![0xa5; 200]),
                Change::Delete {
                    key: Bytes::from_static(b"c\0\0\0\x06\0\0\0\x09"),
                },
                put(b"o", &b"a\0\0\0\0\0\0\0\x07"[..]),
                put(b"", &b""[..]),
            ],
        ),
        "later-incarnation" => (
            ReplicaId::new(Slot::B, 300).unwrap(),
            vec![put(b"k", &b"v"[..])],
        ),
        other => panic!("{other}"),
    };
    let id = ProposalId {
        term: 7,
        number: 1 << 40,
    };
    Proposal {
        proposer,
        id,
        changes,
    }
}

#[test]
fn log_entries() {
    corpus("entry").check(
        &["empty", "changes-of-a-call", "later-incarnation"],
        |name| proposal(name).encode().to_vec(),
        |name, bytes| {
            let read = Proposal::decode(Bytes::copy_from_slice(bytes)).unwrap();
            assert_eq!(read, proposal(name));
            read
        },
        |_, proposal| proposal.encode().to_vec(),
    );
}

/// Entries have no room for unknown parts: what a later version adds to them is another version, written only once the
/// whole pair reads it. Until then it is refused, never half understood.
#[test]
fn log_entries_and_tables_of_a_later_version_are_refused_whole() {
    for (kind, decode) in [
        (
            "entry",
            (|bytes| Proposal::decode(bytes).map(drop)) as fn(Bytes) -> Result<(), CodecError>,
        ),
        ("table", |bytes| fuzzing::decode_table(bytes).map(drop)),
    ] {
        for (name, bytes) in corpus(kind).samples() {
            let mut later = bytes.to_vec();
            later[0] += 1;
            let version = later[0];
            assert_eq!(
                decode(later.into()),
                Err(CodecError::Version(version)),
                "{name}"
            );
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert_eq!(decode(longer.into()), Err(CodecError::Trailing), "{name}");
        }
    }
}

fn table(name: &str) -> Table {
    let rows: &[(&'static [u8], usize)] = match name {
        "empty" => &[],
        "rows" => &[
            (b"", 0),
            (b"c\0\0\0\x07\0\0\0\x01", 300),
            (b"d\0", 1),
            (b"o", 9),
        ],
        other => panic!("{other}"),
    };
    rows.iter()
        .map(|(key, length)| (Bytes::from_static(key), Bytes::from(vec![0x5a; *length])))
        .collect()
}

#[test]
fn snapshot_tables() {
    corpus("table").check(
        &["empty", "rows"],
        |name| fuzzing::encode_table(&table(name)).to_vec(),
        |name, bytes| {
            let read = fuzzing::decode_table(Bytes::copy_from_slice(bytes)).unwrap();
            assert_eq!(read, table(name));
            read
        },
        |_, table| fuzzing::encode_table(table).to_vec(),
    );
}

fn conf_state() -> ConfState {
    ConfState {
        voters: vec![A.get(), B.get(), WITNESS.get()],
        voters_outgoing: vec![A.get(), WITNESS.get()],
        learners: vec![ReplicaId::new(Slot::B, 2).unwrap().get()],
        learners_next: vec![B.get()],
        auto_leave: true,
        ..ConfState::default()
    }
}

fn entries() -> Vec<Entry> {
    let single = |node_id, change_type| ConfChangeSingle {
        node_id,
        change_type,
        ..ConfChangeSingle::default()
    };
    let joint = ConfChangeV2 {
        changes: vec![
            single(
                ReplicaId::new(Slot::B, 2).unwrap().get(),
                ConfChangeType::AddNode,
            ),
            single(B.get(), ConfChangeType::RemoveNode),
        ]
        .into(),
        ..ConfChangeV2::default()
    };
    let simple = ConfChange {
        change_type: ConfChangeType::AddLearnerNode,
        node_id: ReplicaId::new(Slot::B, 2).unwrap().get(),
        ..ConfChange::default()
    };
    let contents = [
        (EntryType::EntryNormal, Bytes::new()),
        (
            EntryType::EntryNormal,
            proposal("changes-of-a-call").encode(),
        ),
        (
            EntryType::EntryConfChange,
            simple.write_to_bytes().unwrap().into(),
        ),
        (
            EntryType::EntryConfChangeV2,
            joint.write_to_bytes().unwrap().into(),
        ),
    ];
    let entry = |(index, (entry_type, data))| Entry {
        index,
        term: 7,
        entry_type,
        data,
        ..Entry::default()
    };
    (101..).zip(contents).map(entry).collect()
}

/// Every kind that travels between replicas, with every field that it uses.
const KINDS: [(&str, MessageType); 12] = [
    ("append", MessageType::MsgAppend),
    ("append-response", MessageType::MsgAppendResponse),
    ("append-rejection", MessageType::MsgAppendResponse),
    ("heartbeat", MessageType::MsgHeartbeat),
    ("heartbeat-response", MessageType::MsgHeartbeatResponse),
    ("pre-vote", MessageType::MsgRequestPreVote),
    ("pre-vote-response", MessageType::MsgRequestPreVoteResponse),
    ("snapshot", MessageType::MsgSnapshot),
    ("timeout-now", MessageType::MsgTimeoutNow),
    ("vote", MessageType::MsgRequestVote),
    ("vote-rejection", MessageType::MsgRequestVoteResponse),
    ("vote-response", MessageType::MsgRequestVoteResponse),
];

fn message(name: &str) -> Message {
    let (_, kind) = *KINDS.iter().find(|(known, _)| *known == name).unwrap();
    let mut message = Message {
        from: A.get(),
        to: B.get(),
        term: 7,
        ..Message::default()
    };
    message.set_msg_type(kind);
    match name {
        "append" => {
            (message.index, message.log_term, message.commit) = (100, 6, 99);
            message.set_entries(entries().into());
        }
        "append-response" => (message.index, message.commit) = (104, 99),
        "append-rejection" => {
            message.reject = true;
            (message.index, message.reject_hint, message.log_term) = (100, 80, 5);
            message.request_snapshot = 90;
        }
        // The context is the lease's probe: term and send time.
        "heartbeat" | "heartbeat-response" => {
            message.commit = 99;
            message.context = Bytes::from_static(b"\0\0\0\0\0\0\0\x07\0\0\0\xe8\xd4\xa5\x10\0");
        }
        "pre-vote" | "vote" => {
            (message.index, message.log_term) = (104, 7);
            (message.commit, message.commit_term) = (99, 6);
            (message.priority, message.deprecated_priority) = (2, 2);
        }
        "vote-rejection" => {
            message.reject = true;
            (message.commit, message.commit_term) = (99, 6);
        }
        "snapshot" => {
            let mut snapshot = Snapshot {
                data: fuzzing::encode_table(&table("rows")),
                ..Snapshot::default()
            };
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (99, 6);
            metadata.set_conf_state(conf_state());
            message.set_snapshot(snapshot);
        }
        "pre-vote-response" | "vote-response" | "timeout-now" => {}
        other => panic!("{other}"),
    }
    message
}

#[test]
fn raft_messages() {
    corpus("message").check_with(
        &KINDS.map(|(name, _)| name),
        |name| message(name).write_to_bytes().unwrap(),
        |name, bytes| {
            let read = Message::parse_from_bytes(bytes).unwrap();
            assert_eq!(read, message(name));
            read
        },
        |message| protobuf::text_format::print_to_string(message) + "\n",
        |_, message| message.write_to_bytes().unwrap(),
    );
}

/// What replicas say of themselves, and a Raft message as it lies on the wire.
const ENVELOPES: [&str; 4] = ["hello-joining", "hello-member", "hello-waiting", "raft"];

fn envelope(name: &str) -> Envelope {
    let hello = |standing| Hello {
        slot: Slot::B,
        store: StoreId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        life: 1 << 60,
        sequence: 300,
        heard: 7,
        generation: 2,
        versions: Versions { min: 1, max: 300 },
        standing,
    };
    let later = ReplicaId::new(Slot::B, 2).unwrap();
    match name {
        "hello-waiting" => Envelope::hello(hello(Standing::Waiting)),
        "hello-joining" => Envelope::hello(hello(Standing::Joining(later))),
        "hello-member" => Envelope::hello(hello(Standing::Member(Member {
            id: later,
            applied: Position {
                index: 1 << 33,
                term: 7,
            },
            membership: Membership {
                voters: [A, later, WITNESS].into(),
                outgoing: [A, B, WITNESS].into(),
                learners: [ReplicaId::new(Slot::Witness, 5).unwrap()].into(),
            },
            founders: [(Slot::A, StoreId(1)), (Slot::Witness, StoreId(u128::MAX))].into(),
            serving: true,
        }))),
        "raft" => Envelope {
            generation: 2,
            message: PeerMessage::Raft(message("append")),
        },
        other => panic!("{other}"),
    }
}

#[test]
fn envelopes() {
    corpus("envelope").check(
        &ENVELOPES,
        |name| envelope(name).encode().to_vec(),
        |name, bytes| {
            let read = Envelope::decode(Bytes::copy_from_slice(bytes)).unwrap();
            assert_eq!(read, envelope(name));
            read
        },
        |_, envelope| envelope.encode().to_vec(),
    );
}

/// The version is settled before anything behind it is looked at.
#[test]
fn envelopes_of_a_later_version_are_refused_whole() {
    for (name, bytes) in corpus("envelope").samples() {
        let mut later = bytes.to_vec();
        later[0] += 1;
        let refused = Envelope::decode(later.into());
        assert!(
            matches!(refused, Err(EnvelopeError::Version(2))),
            "{name}: {refused:?}"
        );
    }
}

/// What a later version adds to a message is kept as it is: a log entry that is read and passed on loses nothing.
#[test]
fn unknown_fields_of_raft_messages_survive() {
    // The message itself, its entries, its snapshot, and what is in there.
    for path in [&[][..], &[7], &[9], &[9, 2], &[9, 2, 1]] {
        for (name, bytes) in corpus("message").samples() {
            let later = wire::with_unknown_fields(bytes, path);
            let mut read = Message::parse_from_bytes(&later).unwrap();
            let again = Message::parse_from_bytes(&read.write_to_bytes().unwrap()).unwrap();
            assert_eq!(again, read, "{name} {path:?}");
            assert_eq!(
                later.len(),
                read.write_to_bytes().unwrap().len(),
                "{name} {path:?}"
            );
            forget_unknown(&mut read);
            assert_eq!(read, message(name), "{name} {path:?}");
        }
    }
}

fn forget_unknown(message: &mut Message) {
    message.unknown_fields = UnknownFields::new();
    for entry in message.entries.iter_mut() {
        entry.unknown_fields = UnknownFields::new();
    }
    if message.has_snapshot() {
        let snapshot = message.mut_snapshot();
        snapshot.unknown_fields = UnknownFields::new();
        let metadata = snapshot.mut_metadata();
        metadata.unknown_fields = UnknownFields::new();
        metadata.mut_conf_state().unknown_fields = UnknownFields::new();
    }
}

/// A version that did not have the newest field yet (`priority`, 16) is understood.
#[test]
fn raft_messages_without_the_newest_field_are_read() {
    for (name, bytes) in corpus("message").samples() {
        let earlier = wire::without_field(bytes, &[], 16);
        let expected = Message {
            priority: 0,
            ..message(name)
        };
        assert_eq!(
            Message::parse_from_bytes(&earlier).unwrap(),
            expected,
            "{name}"
        );
    }
}

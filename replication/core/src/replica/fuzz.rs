//! Peers that send anything at all.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::tests::{A, B, Bench, WITNESS, entry, message, ms, snapshot};
use crate::codec::encode_table;
use crate::{
    Change, Command, Hello, Limits, Member, Membership, Position, ReplicaId, Slot, Standing,
    StoreId, Table, Versions,
};

fn any_message() -> impl Strategy<Value = Message> {
    let small = || prop_oneof![8 => 0..12u64, 1 => Just(1 << 40), 1 => Just(u64::MAX)];
    let kind = prop_oneof![
        Just(MessageType::MsgAppend),
        Just(MessageType::MsgAppendResponse),
        Just(MessageType::MsgRequestVote),
        Just(MessageType::MsgRequestVoteResponse),
        Just(MessageType::MsgSnapshot),
        Just(MessageType::MsgHeartbeat),
        Just(MessageType::MsgHeartbeatResponse),
        Just(MessageType::MsgTimeoutNow),
        Just(MessageType::MsgRequestPreVote),
        Just(MessageType::MsgRequestPreVoteResponse),
        Just(MessageType::MsgReadIndexResp),
        Just(MessageType::MsgBeat),
    ];
    let entries = (0..4usize, 0..4u64, any::<bool>());
    let head = (kind, prop_oneof![Just(B), Just(WITNESS)], 0..6u64, 0..6u64);
    (
        head,
        small(),
        small(),
        small(),
        small(),
        entries,
        any::<bool>(),
    )
        .prop_map(
            |(
                (kind, from, term, log_term),
                index,
                commit,
                hint,
                request,
                (count, entry_term, normal),
                reject,
            )| {
                let mut message = message(kind, from, term);
                (message.log_term, message.index, message.commit) = (log_term, index, commit);
                (message.reject_hint, message.commit_term, message.reject) =
                    (hint, log_term, reject);
                message.request_snapshot = if normal { 0 } else { request };
                let first = index.wrapping_add(1);
                let entries: Vec<_> = (0..count as u64)
                    .map(|at| Entry {
                        data: Bytes::from_static(if normal { b"" } else { b"junk" }),
                        entry_type: match at {
                            0 => EntryType::EntryNormal,
                            1 => EntryType::EntryConfChange,
                            _ => EntryType::EntryConfChangeV2,
                        },
                        ..entry(first.wrapping_add(at), log_term.max(entry_term))
                    })
                    .collect();
                message.set_entries(entries.into());
                if kind == MessageType::MsgSnapshot {
                    let voters = [A.get(), B.get(), WITNESS.get()];
                    let table = encode_table(&Table::new(), 0);
                    let content = snapshot(index, term.min(log_term), &voters, table);
                    message.set_snapshot(content.get_snapshot().clone());
                }
                message
            },
        )
}

fn any_id() -> impl Strategy<Value = ReplicaId> {
    let slot = prop_oneof![Just(Slot::A), Just(Slot::B), Just(Slot::Witness)];
    let incarnation = prop_oneof![6 => 1..5u32, 1 => Just(u32::MAX)];
    (slot, incarnation).prop_map(|(slot, incarnation)| ReplicaId::new(slot, incarnation).unwrap())
}

fn any_hello() -> impl Strategy<Value = Hello> {
    let ids = || proptest::collection::btree_set(any_id(), 0..4);
    let numbers = (1..3u64, 0..1000u64, 0..3u64, 0..4u16);
    let generation = prop_oneof![30 => Just(0), 1 => Just(1u32)];
    (
        any_id(),
        numbers,
        generation,
        0..3u8,
        (ids(), ids(), ids()),
        any::<bool>(),
    )
        .prop_map(
            |(id, (life, sequence, heard, max), generation, standing, members, serving)| Hello {
                slot: id.slot(),
                store: StoreId(1),
                life,
                sequence,
                heard,
                generation,
                versions: Versions { min: 1, max },
                standing: match standing {
                    0 => Standing::Waiting,
                    1 => Standing::Joining(id),
                    _ => Standing::Member(Member {
                        id,
                        applied: Position { index: 3, term: 2 },
                        membership: Membership {
                            voters: members.0,
                            outgoing: members.1,
                            learners: members.2,
                        },
                        founders: [(id.slot(), StoreId(1))].into(),
                        serving,
                    }),
                },
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the other two send, in any order, with a disk that answers late: no panic.
    #[test]
    fn no_sequence_of_messages_panics(
        steps in proptest::collection::vec((any_message(), 0..30u64, 0..4u8), 1..60)
    ) {
        let mut bench = Bench::follower();
        bench.pass(ms(120));
        let mut unconfirmed = Vec::new();
        for (message, wait, disk) in steps {
            bench.now += ms(wait);
            bench.replica.handle_timeout(bench.now);
            bench.replica.handle_message(message, bench.now);
            // Accepted only while leading.
            let _ = bench.replica.propose(vec![Change::Delete { key: Bytes::new() }], bench.now);
            while let Some(command) = bench.replica.next_command() {
                if let Command::Persist(write) = command {
                    unconfirmed.push(write.id);
                }
            }
            if let (0..=1, Some(newest)) = (disk, unconfirmed.last()) {
                bench.replica.handle_persisted(*newest, bench.now);
                unconfirmed.clear();
            }
        }
    }

    /// Nor any sequence of hellos between them, at a replica that leads and lets others in by what they say.
    #[test]
    fn no_sequence_of_hellos_panics(
        steps in proptest::collection::vec((any_hello(), any_message(), any::<bool>(), 0..60u64), 1..30)
    ) {
        let mut bench = Bench::alone(Limits::default());
        for (hello, mut message, says_hello, wait) in steps {
            bench.pass(ms(wait));
            if says_hello {
                bench.replica.handle_hello(hello, bench.now);
            } else {
                message.term = bench.replica.status().term;
                bench.replica.handle_message(message, bench.now);
            }
            bench.settle();
            let status = bench.replica.status();
            prop_assert!(status.membership.voters.len() <= 3, "{:?}", status.membership);
        }
    }
}

/// Found by the fuzz target `replica`: what is committed stays, whatever a peer calls a snapshot of the same index.
#[test]
fn a_snapshot_of_another_history_does_not_replace_what_is_committed() {
    let mut bench = Bench::follower();
    bench.pass(ms(120));
    let voters = [A.get(), B.get(), WITNESS.get()];
    let row = |value: &'static [u8]| {
        Table::from([(Bytes::from_static(b"row"), Bytes::from_static(value))])
    };
    let mut receive = |term, value| {
        let mut message = message(MessageType::MsgSnapshot, B, term);
        let content = snapshot(4, term, &voters, encode_table(&row(value), 0));
        message.set_snapshot(content.get_snapshot().clone());
        bench.replica.handle_message(message, bench.now);
        (
            bench.replica.table().clone(),
            bench.replica.status().counters.malformed,
        )
    };
    assert_eq!(receive(1, b"committed"), (row(b"committed"), 0));
    assert_eq!(receive(6, b"another"), (row(b"committed"), 1));
    // The same one again is no contradiction.
    assert_eq!(receive(1, b"committed"), (row(b"committed"), 1));
}

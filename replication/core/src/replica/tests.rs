#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, HardState, SnapshotMetadata};

use super::*;
use crate::codec::encode_table;
use crate::{MessageClass, Profile};

pub(super) const A: ReplicaId = ReplicaId::first(Slot::A);
pub(super) const B: ReplicaId = ReplicaId::first(Slot::B);
pub(super) const WITNESS: ReplicaId = ReplicaId::first(Slot::Witness);

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn config(id: ReplicaId, voters: &[ReplicaId]) -> Config {
    Config {
        id,
        voters: voters.to_vec(),
        profile: Profile::Standard,
        limits: Limits::default(),
        seed: 1,
        others: [Slot::A, Slot::B, Slot::Witness]
            .into_iter()
            .filter(|slot| *slot != id.slot())
            .collect(),
        origin: Origin {
            life: 1,
            ..Origin::default()
        },
        on_single: OnSingle::Stop,
        versions: Versions::SUPPORTED,
    }
}

/// A replica, its instant disk and what came out of it.
pub(super) struct Bench {
    pub(super) replica: Replica,
    pub(super) now: Duration,
    commands: Vec<Command>,
}

impl Bench {
    fn new(config: Config) -> Bench {
        let now = Duration::from_secs(1000);
        let replica = Replica::new(config, Restored::default(), now).unwrap();
        let mut bench = Bench {
            replica,
            now,
            commands: Vec::new(),
        };
        bench.settle();
        bench
    }

    /// The only voter of its pair: leads as soon as it may.
    pub(super) fn alone(limits: Limits) -> Bench {
        let mut bench = Bench::new(Config {
            limits,
            ..config(A, &[A])
        });
        bench.pass(ms(200));
        assert!(bench.replica.is_serving(bench.now));
        bench.commands.clear();
        bench
    }

    /// A follower that has not heard from anybody yet.
    pub(super) fn follower() -> Bench {
        Bench::new(config(A, &[A, B, WITNESS]))
    }

    /// Takes the commands; confirms every write at once.
    pub(super) fn settle(&mut self) {
        while let Some(command) = self.replica.next_command() {
            if let Command::Persist(write) = &command {
                self.replica.handle_persisted(write.id, self.now);
            }
            self.commands.push(command);
        }
    }

    pub(super) fn pass(&mut self, length: Duration) {
        let until = self.now + length;
        while self.replica.poll_timeout().0 <= until {
            self.now = self.replica.poll_timeout().0;
            self.replica.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn receive(&mut self, message: Message) {
        self.replica.handle_message(message, self.now);
        self.settle();
    }

    fn counters(&self) -> Counters {
        self.replica.status().counters
    }

    fn sent(&mut self, kind: MessageType) -> Vec<Message> {
        self.commands
            .drain(..)
            .filter_map(|command| match command {
                Command::Send { message, .. } if message.get_msg_type() == kind => Some(message),
                _ => None,
            })
            .collect()
    }
}

pub(super) fn message(kind: MessageType, from: ReplicaId, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from.get();
    message.to = A.get();
    message.term = term;
    message
}

pub(super) fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        ..Entry::default()
    }
}

fn append(from: ReplicaId, term: u64, after: (u64, u64), entries: Vec<Entry>) -> Message {
    let mut message = message(MessageType::MsgAppend, from, term);
    (message.index, message.log_term) = after;
    message.set_entries(entries.into());
    message
}

fn put(key: &'static str, bytes: usize) -> Vec<Change> {
    vec![Change::Put {
        key: Bytes::from_static(key.as_bytes()),
        value: vec![7; bytes].into(),
    }]
}

#[test]
fn proposals_of_one_batch_share_a_write_and_are_confirmed_in_order() {
    let mut bench = Bench::alone(Limits::default());
    let first = bench.replica.propose(put("a", 1), bench.now).unwrap();
    let second = bench.replica.propose(put("b", 1), bench.now).unwrap();
    bench.settle();
    let entries: Vec<_> = bench
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Persist(write) => Some(write.entries.len()).filter(|count| *count > 0),
            _ => None,
        })
        .collect();
    assert_eq!(entries, [2]);
    let confirmed: Vec<_> = bench
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Applied { proposal, .. } => *proposal,
            _ => None,
        })
        .collect();
    assert_eq!(confirmed, [first, second]);
    assert_eq!(bench.replica.table().len(), 2);
}

#[test]
fn nothing_is_confirmed_before_the_leaders_own_disk_has_it() {
    let mut bench = Bench::alone(Limits::default());
    bench.replica.propose(put("a", 1), bench.now).unwrap();
    let mut writes = Vec::new();
    while let Some(command) = bench.replica.next_command() {
        assert!(!matches!(command, Command::Applied { .. }));
        if let Command::Persist(write) = command {
            assert!(write.must_sync);
            writes.push(write.id);
        }
    }
    bench.replica.handle_persisted(writes[0], bench.now);
    let applied = std::iter::from_fn(|| bench.replica.next_command()).any(|command| {
        matches!(
            command,
            Command::Applied {
                proposal: Some(_),
                ..
            }
        )
    });
    assert!(applied);
}

#[test]
fn every_bound_refuses_and_recovers() {
    let limits = Limits {
        proposals: 2,
        entry_bytes: 1000,
        uncommitted_bytes: 1500,
        table_bytes: 2000,
        ..Limits::default()
    };
    let mut bench = Bench::alone(limits);
    let now = bench.now;
    let large = bench.replica.propose(put("a", 1000), now);
    assert!(
        matches!(large, Err(ProposeError::TooLarge { limit: 1000, .. })),
        "{large:?}"
    );

    bench.replica.propose(put("a", 900), now).unwrap();
    assert_eq!(
        bench.replica.propose(put("b", 900), now),
        Err(ProposeError::Full),
        "bytes"
    );
    bench.replica.propose(put("b", 1), now).unwrap();
    assert_eq!(
        bench.replica.propose(put("c", 1), now),
        Err(ProposeError::Full),
        "count"
    );
    bench.settle();

    bench.replica.propose(put("c", 900), now).unwrap();
    bench.settle();
    bench.replica.propose(put("d", 900), now).unwrap();
    bench.settle();
    assert_eq!(
        bench.replica.propose(put("e", 1), now),
        Err(ProposeError::TableFull)
    );
    bench
        .replica
        .propose(
            vec![Change::Delete {
                key: Bytes::from_static(b"d"),
            }],
            now,
        )
        .unwrap();
    bench.settle();
    bench.replica.propose(put("e", 1), now).unwrap();
    assert_eq!(bench.counters().proposals_full, 3);
}

#[test]
fn a_shell_that_does_not_drain_is_refused_input() {
    let mut bench = Bench::follower();
    for _ in 0..MAX_COMMANDS + 10 {
        bench
            .replica
            .handle_message(message(MessageType::MsgHeartbeat, B, 1), bench.now);
    }
    assert!(bench.counters().overloaded > 0);
    bench.settle();
    assert!(bench.commands.len() < MAX_COMMANDS + 10);
    bench.pass(ms(20));
}

#[test]
fn a_leader_that_hears_nobody_drops_its_proposals() {
    let mut bench = Bench::follower();
    bench.pass(ms(150));
    for kind in [
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgRequestVoteResponse,
    ] {
        bench.receive(message(kind, B, 2));
    }
    assert_eq!(bench.replica.status().role, Role::Leader { term: 2 });
    let proposal = bench.replica.propose(put("a", 1), bench.now).unwrap();
    bench.pass(ms(300));
    assert!(bench.commands.contains(&Command::Dropped { proposal }));
    assert!(!matches!(bench.replica.status().role, Role::Leader { .. }));
    assert_eq!(bench.replica.status().proposals, 0);
}

#[test]
fn a_lease_counts_from_when_the_heartbeat_left() {
    let mut bench = Bench::follower();
    bench.pass(ms(150));
    for kind in [
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgRequestVoteResponse,
    ] {
        bench.receive(message(kind, B, 2));
    }
    bench.commands.clear();
    let mut appended = message(MessageType::MsgAppendResponse, B, 2);
    appended.index = 2;
    bench.receive(appended);
    let asked = bench.now;
    let heartbeat = bench.sent(MessageType::MsgHeartbeat).remove(0);

    bench.pass(ms(35));
    let mut answer = message(MessageType::MsgHeartbeatResponse, B, 2);
    answer.context = heartbeat.context;
    bench.receive(answer);
    let until = asked + Profile::Standard.timing().lease();
    assert!(bench.commands.contains(&Command::Lease { term: 2, until }));
    assert!(bench.replica.is_serving(until - ms(1)) && !bench.replica.is_serving(until));
}

#[test]
fn votes_are_refused_for_one_election_timeout_after_start() {
    let mut bench = Bench::follower();
    for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
        bench.receive(message(kind, B, 5));
    }
    assert_eq!(bench.counters().votes_refused, 2);
    bench.pass(ms(101));
    let mut request = message(MessageType::MsgRequestVote, B, 5);
    (request.priority, request.index, request.log_term) = (2, 1, 1);
    bench.receive(request);
    let answers = bench.sent(MessageType::MsgRequestVoteResponse);
    assert!(
        matches!(answers.as_slice(), [answer] if !answer.reject),
        "{answers:?}"
    );
}

/// raft-rs panics on this in term 0: a new witness that is impatient asks a new data node, whose
/// priority makes it refuse.
#[test]
fn a_new_replica_can_refuse_a_pre_vote() {
    let mut bench = Bench::follower();
    bench.pass(ms(101));
    bench.commands.clear();
    let mut request = message(MessageType::MsgRequestPreVote, WITNESS, 2);
    request.priority = 1;
    bench.receive(request);
    let answers = bench.sent(MessageType::MsgRequestPreVoteResponse);
    assert!(
        matches!(answers.as_slice(), [answer] if answer.reject),
        "{answers:?}"
    );
}

/// A late answer with a higher term would make a follower forget the leader it has just promised not
/// to vote against.
#[test]
fn late_answers_do_not_end_a_promise() {
    let mut bench = Bench::follower();
    bench.pass(ms(50));
    bench.receive(message(MessageType::MsgHeartbeat, B, 3));
    for kind in [
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVoteResponse,
    ] {
        let mut late = message(kind, WITNESS, 4);
        late.reject = true;
        bench.receive(late);
    }
    assert_eq!(bench.counters().stale, 4);
    assert_eq!(
        bench.replica.status().role,
        Role::Follower {
            term: 3,
            leader: Some(B)
        }
    );
}

#[test]
fn what_no_correct_peer_sends_is_refused_and_counted() {
    let mut bench = Bench::follower();
    bench.receive(append(B, 2, (1, 1), vec![entry(2, 2)]));
    assert_eq!(bench.replica.status().last_index, 2);

    let mut other = message(MessageType::MsgHeartbeat, B, 2);
    other.to = WITNESS.get();
    bench.receive(other);
    assert_eq!(bench.counters().misaddressed, 1);

    for stranger in [0, 7, u64::MAX, ReplicaId::new(Slot::A, 2).unwrap().get()] {
        let mut unknown = message(MessageType::MsgHeartbeat, B, 2);
        unknown.from = stranger;
        bench.receive(unknown);
    }
    assert_eq!(bench.counters().unknown_sender, 4);

    let mut beyond = message(MessageType::MsgHeartbeat, B, 2);
    beyond.commit = 3;
    bench.receive(beyond);
    assert_eq!(bench.counters().beyond_log, 1);

    let malformed = [
        message(MessageType::MsgHeartbeat, B, 0),
        message(MessageType::MsgHeartbeat, B, u64::MAX),
        append(B, 2, (9, 0), vec![entry(10, 2)]),
        append(B, 2, (2, 2), vec![entry(4, 2)]),
        append(B, 2, (2, 2), vec![entry(3, 2), entry(5, 2)]),
        append(B, 2, (2, 2), vec![entry(3, 1)]),
        append(B, 2, (2, 2), vec![entry(3, 9)]),
        message(MessageType::MsgSnapshot, B, 2),
        message(MessageType::MsgPropose, B, 2),
        message(MessageType::MsgHup, B, 2),
        message(MessageType::MsgReadIndex, B, 2),
        message(MessageType::MsgTransferLeader, B, 2),
    ];
    let count = malformed.len() as u64;
    malformed
        .into_iter()
        .for_each(|message| bench.receive(message));
    assert_eq!(bench.counters().malformed, count);
    assert_eq!(bench.replica.status().last_index, 2);
}

pub(super) fn snapshot(index: u64, term: u64, voters: &[u64], data: Bytes) -> Message {
    let mut metadata = SnapshotMetadata::default();
    (metadata.index, metadata.term) = (index, term);
    metadata.mut_conf_state().voters = voters.to_vec();
    let mut message = message(MessageType::MsgSnapshot, B, term);
    message.mut_snapshot().set_metadata(metadata);
    message.mut_snapshot().data = data;
    message
}

#[test]
fn a_snapshot_is_checked_before_it_replaces_anything() {
    let mut bench = Bench::follower();
    let table = Table::from([(Bytes::from_static(b"k"), Bytes::from_static(b"v"))]);
    let data = encode_table(&table, 2);
    let voters = [A.get(), B.get(), WITNESS.get()];
    bench.receive(snapshot(9, 2, &voters, data.slice(..data.len() - 1)));
    bench.receive(snapshot(9, 2, &[A.get(), A.get()], data.clone()));
    bench.receive(snapshot(9, 2, &[A.get(), 17], data.clone()));
    bench.receive(snapshot(9, 0, &voters, data.clone()));
    assert_eq!(bench.counters().malformed, 4);
    assert!(bench.replica.table().is_empty());

    bench.commands.clear();
    bench.receive(snapshot(9, 2, &voters, data));
    assert_eq!(*bench.replica.table(), table);
    let written = bench.commands.iter().find_map(|command| match command {
        Command::Persist(write) => write.snapshot.clone(),
        _ => None,
    });
    assert_eq!(written.unwrap().position, Position { index: 9, term: 2 });
    assert!(bench.commands.contains(&Command::Restored { index: 9 }));
    assert_eq!(bench.replica.status().first_index, 10);
}

/// Answers to heartbeats go out at once, everything else waits for the disk.
#[test]
fn a_follower_claims_nothing_before_it_is_durable() {
    let mut bench = Bench::follower();
    bench
        .replica
        .handle_message(append(B, 2, (1, 1), vec![entry(2, 2)]), bench.now);
    bench
        .replica
        .handle_message(message(MessageType::MsgHeartbeat, B, 2), bench.now);
    let (mut sent, mut writes) = (Vec::new(), Vec::new());
    while let Some(command) = bench.replica.next_command() {
        match command {
            Command::Send { message, class, .. } => sent.push((message.get_msg_type(), class)),
            Command::Persist(write) => writes.push(write.id),
            _ => {}
        }
    }
    assert_eq!(
        sent,
        [(MessageType::MsgHeartbeatResponse, MessageClass::Datagram)]
    );
    bench
        .replica
        .handle_persisted(*writes.last().unwrap(), bench.now);
    bench.settle();
    assert_eq!(bench.sent(MessageType::MsgAppendResponse).len(), 1);
}

/// What it may have voted for is forgotten: it votes for nobody, and takes no log that leaves out who founded
/// the pair. A snapshot that names it lets it in.
#[test]
fn a_replica_without_a_log_votes_for_nobody_until_it_is_let_in() {
    let second = ReplicaId::new(Slot::A, 2).unwrap();
    let mut bench = Bench::new(config(second, &[]));
    let to_second = |mut message: Message| {
        message.to = second.get();
        message
    };
    bench.pass(ms(500));
    assert_eq!(bench.counters().campaigns, 0);
    for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
        bench.receive(to_second(message(kind, B, 5)));
    }
    assert_eq!(bench.counters().votes_refused_empty, 2);
    bench.receive(to_second(append(B, 5, (0, 0), vec![entry(1, 2)])));
    assert_eq!(bench.counters().malformed, 1);
    assert!(bench.replica.status().membership.is_empty());

    let voters = [A.get(), B.get(), WITNESS.get()];
    let mut snapshot = snapshot(9, 2, &voters, encode_table(&Table::new(), 0));
    let metadata = snapshot.mut_snapshot().mut_metadata();
    metadata.mut_conf_state().learners = vec![second.get()];
    bench.receive(to_second(snapshot));
    assert!(bench.replica.status().membership.contains(second));
    bench.pass(ms(150));
    assert_eq!(bench.counters().campaigns, 0, "a learner");
    bench.commands.clear();
    let mut request = to_second(message(MessageType::MsgRequestVote, B, 5));
    (request.priority, request.index, request.log_term) = (2, 9, 2);
    bench.receive(request);
    let answers = bench.sent(MessageType::MsgRequestVoteResponse);
    assert!(
        matches!(answers.as_slice(), [answer] if !answer.reject),
        "{answers:?}"
    );
}

#[test]
fn reserved_keys_are_not_the_nodes() {
    let mut bench = Bench::alone(Limits::default());
    let refused = bench.replica.propose(put("version", 1), bench.now);
    assert_eq!(refused, Err(ProposeError::Reserved));
}

#[test]
fn membership_changes_are_applied_and_persisted() {
    let mut bench = Bench::alone(Limits::default());
    let mut single = ConfChangeSingle {
        node_id: B.get(),
        ..ConfChangeSingle::default()
    };
    single.set_change_type(ConfChangeType::AddLearnerNode);
    let mut change = raft::eraftpb::ConfChangeV2::default();
    change.set_changes(vec![single].into());
    bench
        .replica
        .raw
        .propose_conf_change(Vec::new(), change)
        .unwrap();
    bench.replica.drain();
    bench.settle();
    let written = bench.commands.iter().find_map(|command| match command {
        Command::Persist(write) => write.conf_state.clone(),
        _ => None,
    });
    assert_eq!(written.unwrap().learners, [B.get()]);
    let peers = bench.replica.status().peers;
    assert!(
        matches!(peers.as_slice(), [peer] if peer.id == B && !peer.voter),
        "{peers:?}"
    );
}

#[test]
fn a_restart_loads_the_table_and_replays_only_the_tail() {
    let proposal = |number, key| Proposal {
        proposer: A,
        id: ProposalId { term: 2, number },
        changes: put(key, 1),
    };
    let entries = vec![
        Entry {
            data: proposal(1, "a").encode(),
            ..entry(6, 2)
        },
        Entry {
            data: proposal(2, "b").encode(),
            ..entry(7, 2)
        },
    ];
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.commit) = (2, 7);
    let conf_state = initial_conf_state(A, &[A, B, WITNESS]).unwrap();
    let restored = Restored {
        hard_state,
        conf_state,
        entries,
        compacted: Position { index: 5, term: 1 },
        applied: 6,
        table: Table::from([(Bytes::from_static(b"a"), Bytes::from_static(b"\x07"))]),
    };
    let mut replica =
        Replica::new(config(A, &[]), restored.clone(), Duration::from_secs(9)).unwrap();
    let applied: Vec<_> = std::iter::from_fn(|| replica.next_command())
        .filter_map(|command| match command {
            Command::Applied {
                index, proposal, ..
            } => Some((index, proposal)),
            _ => None,
        })
        .collect();
    assert_eq!(
        applied,
        [(7, None)],
        "an earlier life's proposal is nobody's"
    );
    assert_eq!(replica.table().len(), 2);

    let breakages: [fn(&mut Restored); 6] = [
        |it| it.entries[1].index = 8,
        |it| it.entries[1].term = 1,
        |it| it.hard_state.term = 1,
        |it| it.hard_state.commit = 8,
        |it| it.applied = 4,
        |it| it.conf_state.voters.push(1),
    ];
    for (number, breakage) in breakages.into_iter().enumerate() {
        let mut broken = restored.clone();
        breakage(&mut broken);
        let result = Replica::new(config(A, &[]), broken, Duration::from_secs(9));
        assert!(
            matches!(result, Err(ConfigError::Inconsistent(_))),
            "breakage {number}"
        );
    }
}

#[test]
fn contradictory_initial_voters_are_refused() {
    let start = |voters: &[ReplicaId]| {
        Replica::new(
            config(A, voters),
            Restored::default(),
            Duration::from_secs(9),
        )
        .map(|_| ())
    };
    assert!(matches!(start(&[B, WITNESS]), Err(ConfigError::NotAVoter(id)) if id == A));
    let again = ReplicaId::new(Slot::B, 2).unwrap();
    assert!(matches!(
        start(&[A, B, again]),
        Err(ConfigError::DuplicateSlot(Slot::B))
    ));
    assert!(start(&[]).is_ok(), "waits to be added");
}

#[test]
fn every_profile_keeps_the_lease_a_tick_below_the_election_timeout() {
    for profile in Profile::ALL {
        let timing = profile.timing();
        assert!(timing.lease_ticks < timing.election_ticks);
        for slot in [Slot::A, Slot::B, Slot::Witness] {
            assert!(election_timeout(slot, timing.election_ticks) >= timing.election_ticks);
        }
    }
}

//! One voter: raft-rs, the lease and the table behind one door.
//!
//! The rules raft-rs leaves to its user are kept here and in the modules around it:
//!
//! * Lease and promise: [`crate::lease`], and no vote for one election timeout after start, because a
//!   restarted voter has forgotten what its heartbeat answers promised.
//! * Admission of messages: [`crate::admission`].
//! * One `MsgAppend` is never extended after it was queued (`batch_append = false`): raft-rs does not
//!   check that the parts connect. Proposals are batched before raft-rs sees them instead.
//! * Election timeouts are one fixed value a slot, apart from each other: raft-rs draws from a range
//!   with a random generator of its own, and a range of one value replays.

mod drain;
#[cfg(test)]
mod fuzz;
mod members;
mod release;
#[cfg(test)]
mod tests;
mod tick;

pub use release::{Death, DeathRefusal};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::admission::{self, Receiver, Refusal};
use crate::clock::Clock;
use crate::gate::WitnessGate;
use crate::greeter::Greeter;
use crate::lease::Lease;
use crate::log::LogView;
use crate::sabotage::{Lacking, Sabotage};
use crate::writes::WritePipeline;
use crate::{
    Change, Command, Config, ConfigError, Counters, Limits, Membership, OnSingle, Origin,
    PeerStatus, Position, Proposal, ProposalId, ReplicaId, Restored, Role, Slot, Status, Table,
    Timing, Versions, Write, WriteId, is_reserved,
};

/// Commands the shell has not taken; at the bound messages and ticks are refused and counted.
const MAX_COMMANDS: usize = 65_536;

/// Bytes of entries in one `MsgAppend`; one larger entry still travels alone.
const MAX_APPEND_BYTES: u64 = 512 << 10;

/// Unacknowledged `MsgAppend` to one peer; at the bound raft-rs waits for an answer.
const MAX_INFLIGHT_APPENDS: usize = 256;

/// Bytes of committed entries handled in one step; the next step follows at once.
const MAX_APPLY_BYTES: u64 = 4 << 20;

/// A voter vetoes a candidate of lower priority whose log is not longer than its own.
const fn priority(slot: Slot) -> i64 {
    match slot {
        Slot::A | Slot::B => 2,
        Slot::Witness => 1,
    }
}

/// Ticks of silence after which a slot stands for election, set apart so that the data nodes do not
/// stand at once. The witness leaves them time for two attempts.
const fn election_timeout(slot: Slot, election_ticks: u32) -> u32 {
    match slot {
        Slot::A => election_ticks,
        Slot::B => election_ticks + 1,
        Slot::Witness => election_ticks * 2,
    }
}

/// What the next deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerReason {
    /// Raft's logical clock.
    Tick,
    /// The lease runs out.
    LeaseExpiry,
}

/// Why a proposal was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Only the leader proposes, nothing is forwarded; a witness never does.
    #[error("not the leader")]
    NotLeader {
        /// Who is, if known.
        leader: Option<ReplicaId>,
    },
    /// Leadership is being handed on.
    #[error("leadership is being transferred")]
    Transferring,
    /// A key that the replicas keep for themselves; see [`is_reserved`].
    #[error("the key is reserved")]
    Reserved,
    /// Too much in flight; try again once some of it is applied.
    #[error("too many proposals in flight")]
    Full,
    /// The table has reached its bound; only deletions are accepted.
    #[error("the table is full")]
    TableFull,
    /// Larger than an entry may be.
    #[error("{size} bytes exceed the entry limit of {limit}")]
    TooLarge {
        /// Encoded size.
        size: usize,
        /// The bound.
        limit: usize,
    },
}

/// Why leadership is not handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Only the leader can.
    #[error("not the leader")]
    NotLeader,
    /// The target is not another voter.
    #[error("{0} is not another voter")]
    NotAVoter(ReplicaId),
    /// The witness never serves.
    #[error("the witness cannot serve")]
    Witness,
    /// A transfer was already started in this term.
    #[error("a transfer is already under way")]
    Pending,
}

/// One voter. See the crate documentation for how it is driven.
pub struct Replica {
    id: ReplicaId,
    limits: Limits,
    timing: Timing,
    raw: RawNode<LogView>,
    clock: Clock,
    started: Duration,
    now: Duration,
    role: Role,
    lease: Lease,
    writes: WritePipeline,
    gate: WitnessGate,
    commands: VecDeque<Command>,
    /// Numbers of this term's proposals that are neither applied nor dropped.
    open: BTreeSet<u64>,
    proposed: u64,
    /// Encoded proposals that raft-rs has not seen yet.
    batch: Vec<Entry>,
    batch_bytes: u64,
    /// The last term whose opening entry was applied while leading it.
    opened: u64,
    /// That entry has just been applied: ask for the lease without waiting for a tick.
    ask_now: bool,
    pre_candidate_ticks: u32,
    /// The decoded table of the snapshot that is being stepped.
    incoming: Option<(Position, Table)>,
    heard: BTreeMap<ReplicaId, Duration>,
    /// The last leader whose death was certified.
    released: Option<Death>,
    origin: Origin,
    on_single: OnSingle,
    versions: Versions,
    greeter: Greeter,
    /// As of the last applied entry.
    membership: Membership,
    /// What the last hello said of membership and lease.
    said: (Membership, bool),
    /// When it was elected last.
    led_since: Duration,
    /// The cluster version that is proposed and not applied yet.
    version_proposed: Option<u16>,
    superseded_by: Option<u32>,
    replaced_by: Option<ReplicaId>,
    counters: Counters,
    lacking: Lacking,
}

impl Replica {
    /// Starts a replica from what its store holds. With an empty store it founds the pair with the configured
    /// voters, or, without any, waits to be added. `now` is CLOCK_BOOTTIME, here and everywhere else.
    ///
    /// # Errors
    /// A contradictory configuration or store.
    pub fn new(config: Config, restored: Restored, now: Duration) -> Result<Replica, ConfigError> {
        let Config {
            id,
            voters,
            profile,
            limits,
            seed,
            others,
            origin,
            on_single,
            versions,
        } = config;
        let mut founding = None;
        let restored = if restored == Restored::default() && !voters.is_empty() {
            let founded = Restored::founded(initial_conf_state(id, &voters)?);
            founding = Some(Write::founding(&founded));
            founded
        } else {
            restored
        };
        let log = LogView::new(restored)?;
        if *log.conf_state() != ConfState::default()
            && !admission::conf_state_is_sane(log.conf_state())
        {
            return Err(ConfigError::Inconsistent("the membership is malformed"));
        }
        let membership = Membership::from(log.conf_state());
        let timing = profile.timing();
        let raw = RawNode::new(
            &raft_config(id, timing, &limits, log.applied().index),
            log,
            &slog::Logger::root(slog::Discard, slog::o!()),
        )?;
        let phase = timing
            .tick
            .mul_f64(StdRng::seed_from_u64(seed).random_range(0.0..1.0));
        let mut replica = Replica {
            id,
            limits,
            timing,
            role: Role::Follower {
                term: raw.raft.term,
                leader: None,
            },
            raw,
            clock: Clock::new(timing.tick, now, phase),
            started: now,
            now,
            lease: Lease::new(timing.lease()),
            writes: WritePipeline::default(),
            gate: WitnessGate::default(),
            commands: VecDeque::new(),
            open: BTreeSet::new(),
            proposed: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            opened: 0,
            ask_now: false,
            pre_candidate_ticks: 0,
            incoming: None,
            heard: BTreeMap::new(),
            released: None,
            greeter: Greeter::new(origin.life, others, now),
            origin,
            on_single,
            versions,
            said: (membership.clone(), false),
            membership,
            led_since: now,
            version_proposed: None,
            superseded_by: None,
            replaced_by: None,
            counters: Counters::default(),
            lacking: Lacking::default(),
        };
        if let Some(write) = founding {
            replica.writes.add_write(write);
        }
        replica.drain();
        replica.greet();
        Ok(replica)
    }

    /// Goes on without a rule.
    #[cfg(any(test, feature = "sabotage"))]
    pub fn sabotage(&mut self, rule: Sabotage) {
        self.lacking.lack(rule);
        match rule {
            Sabotage::LeaseBound => self.lease = Lease::new(self.timing.election() * 2),
            Sabotage::BatchAssertion => self.raw.raft.set_batch_append(true),
            _ => {}
        }
    }

    /// A message from a peer. What no correct peer sends is refused and counted.
    pub fn handle_message(&mut self, mut message: Message, now: Duration) {
        // Ticks that are due come first: run after the message they would shorten the promise that
        // answering it makes.
        self.advance(now);
        if self.commands.len() >= MAX_COMMANDS {
            self.counters.overloaded += 1;
            return;
        }
        if self.is_superseded() {
            self.counters.other_generation += 1;
            return;
        }
        let admitted = self.receiver().admit(&message).and_then(|from| {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let metadata = message.get_snapshot().get_metadata();
                let position = Position {
                    index: metadata.index,
                    term: metadata.term,
                };
                if self.contradicts_commit(position) {
                    return Err(Refusal::Malformed);
                }
                self.incoming =
                    Some((position, admission::snapshot_table(message.get_snapshot())?));
            }
            Ok(from)
        });
        let from = match admitted {
            Ok(from) => from,
            Err(refusal) => return self.count(refusal),
        };
        if self.is_posthumous(&message) {
            return self.count(Refusal::Stale);
        }
        self.heard.insert(from, self.now);
        if admission::veto_is_wrong(&message, self.raw.raft.raft_log.last_term()) {
            message.priority = priority(self.id.slot());
        }
        // An error means that raft-rs ignored the message; the sender repeats what matters.
        let piles_up = self.lacking.lacks(Sabotage::BatchAssertion) && self.incoming.is_none();
        let _ = self.raw.step(message);
        if !piles_up {
            self.drain();
        }
        self.incoming = None;
        self.leave_joint();
    }

    /// A write, and with it all earlier ones, is in the store; on disk if it had to be synced.
    pub fn handle_persisted(&mut self, write: WriteId, now: Duration) {
        self.advance(now);
        while let Some(confirmed) = self.writes.confirm(write) {
            self.raw.on_persist_ready(confirmed.ready);
            for message in confirmed.messages {
                self.transmit(message);
            }
        }
        self.drain();
        self.leave_joint();
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) has passed. Harmless before.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.advance(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and what for.
    pub fn poll_timeout(&self) -> (Duration, TimerReason) {
        let tick = self.clock.next();
        match self.lease.held() {
            Some(lease) if lease.until < tick => (lease.until, TimerReason::LeaseExpiry),
            Some(_) | None => (tick, TimerReason::Tick),
        }
    }

    /// Proposes changes as one entry. Proposals made before the next
    /// [`next_command`](Self::next_command) travel together.
    ///
    /// # Errors
    /// See [`ProposeError`]; nothing was proposed.
    pub fn propose(
        &mut self,
        changes: Vec<Change>,
        now: Duration,
    ) -> Result<ProposalId, ProposeError> {
        self.advance(now);
        let term = match self.role {
            Role::Leader { term } if self.id.slot().is_data() => term,
            Role::Leader { .. } | Role::Candidate { .. } => {
                return Err(ProposeError::NotLeader { leader: None });
            }
            Role::Follower { leader, .. } => return Err(ProposeError::NotLeader { leader }),
        };
        if self.lease.is_barred(term) {
            return Err(ProposeError::Transferring);
        }
        if changes.iter().any(|change| is_reserved(change.key())) {
            return Err(ProposeError::Reserved);
        }
        let grows = changes
            .iter()
            .any(|change| matches!(change, Change::Put { .. }));
        if grows && self.raw.store().table_bytes() >= self.limits.table_bytes {
            self.counters.proposals_full += 1;
            return Err(ProposeError::TableFull);
        }
        let id = ProposalId {
            term,
            number: self.proposed + 1,
        };
        let data = Proposal {
            proposer: self.id,
            id,
            changes,
        }
        .encode();
        let (size, limit) = (data.len(), self.limits.entry_bytes);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let waiting = self.raw.raft.uncommitted_size() as u64 + self.batch_bytes;
        if self.open.len() >= self.limits.proposals
            || self.commands.len() >= MAX_COMMANDS
            || (waiting > 0 && waiting + size as u64 > self.limits.uncommitted_bytes)
        {
            self.counters.proposals_full += 1;
            return Err(ProposeError::Full);
        }
        self.batch.push(Entry {
            data,
            ..Entry::default()
        });
        self.batch_bytes += size as u64;
        self.proposed += 1;
        self.open.insert(id.number);
        self.counters.proposed += 1;
        Ok(id)
    }

    /// Hands leadership to another data node. The lease ends now and does not come back in this term;
    /// if the target does not take over within an election timeout, this replica stands for a new one.
    ///
    /// # Errors
    /// See [`TransferError`]; nothing has changed.
    pub fn transfer(&mut self, to: ReplicaId, now: Duration) -> Result<(), TransferError> {
        self.advance(now);
        let Role::Leader { term } = self.role else {
            return Err(TransferError::NotLeader);
        };
        if to == self.id || !self.raw.store().conf_state().voters.contains(&to.get()) {
            return Err(TransferError::NotAVoter(to));
        }
        if !to.slot().is_data() {
            return Err(TransferError::Witness);
        }
        if self.lease.is_barred(term) {
            return Err(TransferError::Pending);
        }
        // What was accepted before goes into the log first; raft-rs takes nothing afterwards.
        self.flush();
        if !self.lacking.lacks(Sabotage::ReleaseOrder) {
            let lost = self.lease.bar(term);
            self.report_lost_lease(lost);
        }
        self.raw.transfer_leader(to.get());
        self.drain();
        Ok(())
    }

    /// A message to this peer could not be delivered.
    pub fn handle_unreachable(&mut self, peer: ReplicaId, now: Duration) {
        self.advance(now);
        self.raw.report_unreachable(peer.get());
        self.drain();
    }

    /// A [`Snapshot`](crate::MessageClass::Snapshot) message was delivered, or was not.
    pub fn handle_snapshot_sent(&mut self, peer: ReplicaId, ok: bool, now: Duration) {
        self.advance(now);
        let status = if ok {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.raw.report_snapshot(peer.get(), status);
        self.drain();
    }

    /// The next side effect. Drain after every call.
    pub fn next_command(&mut self) -> Option<Command> {
        if self.commands.is_empty() {
            self.flush();
        }
        self.commands.pop_front()
    }

    /// The committed and applied table.
    pub fn table(&self) -> &Table {
        self.raw.store().table()
    }

    /// Whether this replica may serve at `now`.
    pub fn is_serving(&self, now: Duration) -> bool {
        self.lease.held().is_some_and(|lease| now < lease.until)
    }

    /// A view of the moment.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let log = self.raw.store();
        let leads = raft.state == StateRole::Leader;
        let voters = &log.conf_state().voters;
        let peers = raft.prs().iter().filter_map(|(&number, progress)| {
            let id = ReplicaId::try_from(number)
                .ok()
                .filter(|id| *id != self.id)?;
            Some(PeerStatus {
                id,
                voter: voters.contains(&number),
                matched: if leads { progress.matched } else { 0 },
                recent_active: leads && progress.recent_active,
                snapshot: leads && progress.state == ProgressState::Snapshot,
                last_heard: self.heard.get(&id).copied(),
                said_applied: self.said_applied(id),
            })
        });
        let mut peers: Vec<_> = peers.collect();
        peers.sort_by_key(|peer| peer.id);
        Status {
            id: self.id,
            role: self.role,
            term: raft.term,
            leader: ReplicaId::try_from(raft.leader_id).ok(),
            last_index: log.last(),
            commit: raft.raft_log.committed,
            applied: log.applied().index,
            first_index: log.first(),
            proposals: self.open.len(),
            writes: self.writes.len(),
            lease: self.lease.held(),
            peers,
            membership: self.membership.clone(),
            cluster_version: self.cluster_version(),
            generation: self.origin.generation,
            superseded_by: self.superseded_by,
            replaced_by: self.replaced_by,
            counters: self.counters,
        }
    }

    fn receiver(&self) -> Receiver<'_> {
        let raft = &self.raw.raft;
        let last_index = raft.raft_log.last_index();
        Receiver {
            id: self.id,
            role: raft.state,
            term: raft.term,
            leader: raft.leader_id,
            last_index,
            log_persisted: raft.raft_log.persisted == last_index,
            installing: self.writes.snapshot_pending(),
            refuses_votes: self.refuses_votes(),
            checks_appends: !self.lacking.lacks(Sabotage::BatchAssertion),
            conf_state: self.raw.store().conf_state(),
        }
    }

    /// raft-rs would take the snapshot: it drops older ones, and trusts the term of one that is as old as its commit.
    fn contradicts_commit(&self, snapshot: Position) -> bool {
        let log = &self.raw.raft.raft_log;
        snapshot.index == log.committed && log.term(snapshot.index).ok() != Some(snapshot.term)
    }

    /// A heartbeat answered just before a crash promised an election timeout without a vote. Nothing
    /// remembers it, so every start keeps it anew.
    fn refuses_votes(&self) -> bool {
        let kept = !self.lacking.lacks(Sabotage::VoteRefusal);
        kept && self.now < self.started + self.timing.election()
    }

    fn count(&mut self, refusal: Refusal) {
        let counters = &mut self.counters;
        *match refusal {
            Refusal::Misaddressed => &mut counters.misaddressed,
            Refusal::UnknownSender => &mut counters.unknown_sender,
            Refusal::Malformed => &mut counters.malformed,
            Refusal::BeyondLog => &mut counters.beyond_log,
            Refusal::VoteRefused => &mut counters.votes_refused,
            Refusal::Empty => &mut counters.votes_refused_empty,
            Refusal::Stale => &mut counters.stale,
        } += 1;
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

fn initial_conf_state(id: ReplicaId, voters: &[ReplicaId]) -> Result<ConfState, ConfigError> {
    if !voters.contains(&id) {
        return Err(ConfigError::NotAVoter(id));
    }
    let mut slots = BTreeSet::new();
    for voter in voters {
        if !slots.insert(voter.slot()) {
            return Err(ConfigError::DuplicateSlot(voter.slot()));
        }
    }
    let voters = voters.iter().map(|voter| voter.get()).collect();
    Ok(ConfState {
        voters,
        ..ConfState::default()
    })
}

fn raft_config(id: ReplicaId, timing: Timing, limits: &Limits, applied: u64) -> raft::Config {
    let election_tick = timing.election_ticks as usize;
    let timeout = election_timeout(id.slot(), timing.election_ticks) as usize;
    raft::Config {
        id: id.get(),
        election_tick,
        // Heartbeats leave with the lease's probe every tick; raft-rs's own are a fallback.
        heartbeat_tick: election_tick - 1,
        applied,
        max_size_per_msg: MAX_APPEND_BYTES.min(limits.uncommitted_bytes),
        max_inflight_msgs: MAX_INFLIGHT_APPENDS,
        check_quorum: true,
        pre_vote: true,
        min_election_tick: timeout,
        max_election_tick: timeout + 1,
        read_only_option: ReadOnlyOption::Safe,
        skip_bcast_commit: false,
        batch_append: false,
        priority: priority(id.slot()),
        max_uncommitted_size: limits.uncommitted_bytes,
        max_committed_size_per_ready: MAX_APPLY_BYTES,
    }
}

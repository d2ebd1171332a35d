//! Which messages may reach raft-rs.
//!
//! raft-rs trusts its peers and panics on content that no correct peer sends; it also lets some late
//! answers end a promise that a lease rests on. Both are stopped here.

use bytes::Bytes;
use raft::StateRole;
use raft::eraftpb::{ConfState, Message, MessageType, Snapshot};

use crate::codec::decode_table;
use crate::{ReplicaId, Slot, Table};

/// Terms and indices beyond this come from no real log; arithmetic on smaller ones cannot overflow.
const MAX_NUMBER: u64 = 1 << 56;

/// Why a message was not delivered. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// For another replica.
    Misaddressed,
    /// From no replica, from our own slot, or from an incarnation that was replaced.
    UnknownSender,
    /// Content that no correct peer sends.
    Malformed,
    /// The leader believes we hold entries that we do not: our disk lost a tail.
    BeyondLog,
    /// We restarted a moment ago and may have promised not to vote.
    VoteRefused,
    /// We have no log: what we may have voted for and acknowledged is forgotten.
    Empty,
    /// An answer to a role we no longer have.
    Stale,
}

/// The receiver's state that decides admission.
#[derive(Debug)]
pub(crate) struct Receiver<'a> {
    pub(crate) id: ReplicaId,
    pub(crate) role: StateRole,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) last_index: u64,
    /// Whether the whole log is on disk.
    pub(crate) log_persisted: bool,
    /// Whether a snapshot is still being written.
    pub(crate) installing: bool,
    /// Whether the vote refusal after start still holds.
    pub(crate) refuses_votes: bool,
    /// Whether entries must connect to what they are said to follow; see [`crate::sabotage`].
    pub(crate) checks_appends: bool,
    pub(crate) conf_state: &'a ConfState,
}

impl Receiver<'_> {
    /// Decides about one message. On success returns the sender.
    pub(crate) fn admit(&self, message: &Message) -> Result<ReplicaId, Refusal> {
        if message.to != self.id.get() {
            return Err(Refusal::Misaddressed);
        }
        let from = self.known_sender(message.from)?;
        // A zero term would pass as a local message.
        if message.term == 0 || numbers(message).any(|number| number > MAX_NUMBER) {
            return Err(Refusal::Malformed);
        }
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                if self.is_empty() {
                    Err(Refusal::Empty)
                } else if self.refuses_votes {
                    Err(Refusal::VoteRefused)
                } else {
                    Ok(())
                }
            }
            MessageType::MsgTimeoutNow => self.admit_timeout_now(message),
            MessageType::MsgAppend => self.admit_append(message),
            MessageType::MsgHeartbeat => {
                // raft-rs: "to_commit is out of range" is fatal.
                let beyond = message.term >= self.term && message.commit > self.last_index;
                if beyond {
                    Err(Refusal::BeyondLog)
                } else {
                    Ok(())
                }
            }
            MessageType::MsgSnapshot => {
                let sane = snapshot_is_sane(message.get_snapshot(), message.term);
                if sane {
                    Ok(())
                } else {
                    Err(Refusal::Malformed)
                }
            }
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
                self.admit_leader_answer(message)
            }
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
                self.admit_vote_answer()
            }
            // Local to a replica, or forwarded requests, which this pair does not use.
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp => Err(Refusal::Malformed),
        }?;
        Ok(from)
    }

    /// A replica need not be in our configuration: ours may be older than the sender's. But a replaced
    /// incarnation has lost its log and must not be heard again.
    fn known_sender(&self, from: u64) -> Result<ReplicaId, Refusal> {
        let from = ReplicaId::try_from(from).map_err(|_| Refusal::UnknownSender)?;
        let replaced = members(self.conf_state)
            .filter_map(|id| ReplicaId::try_from(id).ok())
            .any(|member| {
                member.slot() == from.slot() && member.incarnation() > from.incarnation()
            });
        if from.slot() == self.id.slot() || replaced {
            return Err(Refusal::UnknownSender);
        }
        Ok(from)
    }

    /// Not told yet who belongs to the pair.
    fn is_empty(&self) -> bool {
        *self.conf_state == ConfState::default()
    }

    fn admit_timeout_now(&self, message: &Message) -> Result<(), Refusal> {
        if self.refuses_votes {
            return Err(Refusal::VoteRefused);
        }
        // While a snapshot is being written raft-rs cannot stand for election.
        if message.term != self.term || message.from != self.leader || self.installing {
            return Err(Refusal::Stale);
        }
        Ok(())
    }

    fn admit_append(&self, message: &Message) -> Result<(), Refusal> {
        // Every log begins behind a snapshot. Entries from the first on would leave out who founded the pair.
        if self.is_empty() && message.index == 0 {
            return Err(Refusal::Malformed);
        }
        // raft-rs takes term 0 for "any index outside the log".
        if (message.log_term == 0) != (message.index == 0) || message.log_term > message.term {
            return Err(Refusal::Malformed);
        }
        if !self.checks_appends {
            return Ok(());
        }
        let (mut index, mut term) = (message.index, message.log_term);
        for entry in message.entries.iter() {
            if entry.index != index + 1 || entry.term < term.max(1) || entry.term > message.term {
                return Err(Refusal::Malformed);
            }
            (index, term) = (entry.index, entry.term);
        }
        Ok(())
    }

    /// Answers count for the leader only. A late one with a higher term would make a follower forget
    /// its leader, and with it the promise behind that leader's lease.
    fn admit_leader_answer(&self, message: &Message) -> Result<(), Refusal> {
        if self.role != StateRole::Leader || message.term < self.term {
            return Err(Refusal::Stale);
        }
        if message.term > self.term {
            return Ok(());
        }
        let claimed = [message.index, message.commit, message.request_snapshot];
        // raft-rs would take the index for persisted there, and commit on it later.
        if claimed.into_iter().any(|index| index > self.last_index) {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    /// The same for candidates. raft-rs asserts that a new leader's log is persisted; a correct peer
    /// has not even seen the request before it is.
    fn admit_vote_answer(&self) -> Result<(), Refusal> {
        match self.role {
            StateRole::Candidate | StateRole::PreCandidate if self.log_persisted => Ok(()),
            StateRole::Candidate | StateRole::PreCandidate => Err(Refusal::Malformed),
            StateRole::Follower | StateRole::Leader => Err(Refusal::Stale),
        }
    }
}

fn numbers(message: &Message) -> impl Iterator<Item = u64> {
    [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
    ]
    .into_iter()
}

fn members(conf_state: &ConfState) -> impl Iterator<Item = u64> {
    [
        &conf_state.voters,
        &conf_state.voters_outgoing,
        &conf_state.learners,
        &conf_state.learners_next,
    ]
    .into_iter()
    .flat_map(|ids| ids.iter().copied())
}

fn snapshot_is_sane(snapshot: &Snapshot, message_term: u64) -> bool {
    let metadata = snapshot.get_metadata();
    metadata.index != 0
        && metadata.index <= MAX_NUMBER
        && metadata.term != 0
        && metadata.term <= message_term
        && conf_state_is_sane(metadata.get_conf_state())
}

/// raft-rs panics on a configuration that it cannot restore.
pub(crate) fn conf_state_is_sane(conf_state: &ConfState) -> bool {
    let ConfState {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave,
        ..
    } = conf_state;
    let joint = !voters_outgoing.is_empty();
    !voters.is_empty()
        && members(conf_state).all(|id| ReplicaId::try_from(id).is_ok())
        && [voters, learners, voters_outgoing, learners_next]
            .into_iter()
            .all(|ids| is_set(ids))
        && !learners
            .iter()
            .any(|id| voters.contains(id) || voters_outgoing.contains(id))
        && learners_next
            .iter()
            .all(|id| voters_outgoing.contains(id) && !voters.contains(id))
        && (joint || !*auto_leave)
}

fn is_set(ids: &[u64]) -> bool {
    ids.iter()
        .enumerate()
        .all(|(position, id)| !ids.iter().take(position).any(|other| other == id))
}

/// Decodes a snapshot's table before raft-rs commits to installing it.
pub(crate) fn snapshot_table(snapshot: &Snapshot) -> Result<Table, Refusal> {
    decode_table(Bytes::clone(&snapshot.data)).map_err(|_| Refusal::Malformed)
}

/// Whether the slot's candidacy may be vetoed by priority: raft-rs compares only lengths of logs, so a
/// voter with a longer but older log would veto the witness for ever and never be elected itself.
pub(crate) fn veto_is_wrong(message: &Message, own_last_term: u64) -> bool {
    let vote = matches!(
        message.get_msg_type(),
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
    );
    let witness = ReplicaId::try_from(message.from).is_ok_and(|id| id.slot() == Slot::Witness);
    vote && witness && message.log_term > own_last_term
}

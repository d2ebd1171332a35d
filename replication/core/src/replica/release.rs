//! A leader's death, certified by its guard: the promise to it ends at once.
//!
//! ```text
//!                           certified: exactly this leader in exactly this term
//!   follows leader L in T ------------------------------------------------------> no leader in T
//!                                             data node: stands for election  ------> candidate
//! ```
//! Who answered a heartbeat of leader L in term T has promised not to elect anybody else for one election timeout,
//! so that L may serve under its lease. The promise protects against a leader that lives and is not heard. A process
//! that the kernel has reported dead needs no protection: it can never act as leader of T again, because its own
//! vote of T is on its disk, and whoever starts from that disk can lead only a later term. So a genuine certificate
//! does no harm however often, however late and by whomever it is repeated.
//!
//! Not accepted in the first election timeout after start: the promise that the vote refusal keeps then may have been
//! made to a leader of a later term, which this replica no longer knows of.

use std::time::Duration;

use raft::eraftpb::{Message, MessageType};
use raft::{INVALID_ID, StateRole};

use super::Replica;
use crate::ReplicaId;

/// A process that has ended, by the word of whoever waited for its end. The shell has verified who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Who it was.
    pub replica: ReplicaId,
    /// The term in which it led; 0 if it did not lead when it died.
    pub epoch: u64,
}

/// Why a death releases nothing. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeathRefusal {
    /// This very death has been taken already.
    #[error("it was taken already")]
    Replayed,
    /// Of an epoch that is over, or that never was.
    #[error("its epoch is over")]
    OlderEpoch,
    /// Not a member, or a member under another incarnation, or this replica's own slot.
    #[error("it is of no other member")]
    Foreign,
    /// This replica does not follow it in that epoch; a leader follows nobody.
    #[error("it is not of the leader followed")]
    NotOurLeader,
    /// This replica started a moment ago and may have promised more than it remembers.
    #[error("this replica has just started")]
    Starting,
}

impl Replica {
    /// The leader's process is dead: ends the promise to it, and on a data node stands for election.
    ///
    /// # Errors
    /// See [`DeathRefusal`]; nothing has changed.
    pub fn handle_death(&mut self, death: Death, now: Duration) -> Result<(), DeathRefusal> {
        self.advance(now);
        let judged = self.judge(death);
        let counters = &mut self.counters;
        *match judged {
            Ok(()) => &mut counters.deaths_accepted,
            Err(DeathRefusal::Replayed) => &mut counters.deaths_replayed,
            Err(DeathRefusal::OlderEpoch) => &mut counters.deaths_older_epoch,
            Err(DeathRefusal::Foreign) => &mut counters.deaths_foreign,
            Err(DeathRefusal::NotOurLeader) => &mut counters.deaths_not_our_leader,
            Err(DeathRefusal::Starting) => &mut counters.deaths_starting,
        } += 1;
        judged?;
        self.released = Some(death);
        // As the next leader this replica holds appends to the witness for a standby that is heard (`crate::gate`):
        // not for a dead one.
        self.heard.remove(&death.replica);
        self.raw.raft.become_follower(death.epoch, INVALID_ID);
        self.drain();
        // raft-rs panics when it stands for election before a snapshot it installed is durable.
        if self.id.slot().is_data() && !self.writes.snapshot_pending() {
            // Fails only for lack of a vote to ask for.
            let _ = self.raw.campaign();
            self.drain();
        }
        Ok(())
    }

    fn judge(&self, death: Death) -> Result<(), DeathRefusal> {
        let Death { replica, epoch } = death;
        let raft = &self.raw.raft;
        let is_member = raft.prs().conf().voters().contains(replica.get());
        if replica.slot() == self.id.slot() || !is_member {
            Err(DeathRefusal::Foreign)
        } else if self.released == Some(death) {
            Err(DeathRefusal::Replayed)
        } else if epoch < raft.term {
            Err(DeathRefusal::OlderEpoch)
        } else if raft.state != StateRole::Follower
            || epoch != raft.term
            || raft.leader_id != replica.get()
        {
            Err(DeathRefusal::NotOurLeader)
        } else if self.refuses_votes() {
            Err(DeathRefusal::Starting)
        } else {
            Ok(())
        }
    }

    /// Whether the leader of the current term is known to be dead. The other voters may learn of it a moment later
    /// than this one, so it asks them for a pre-vote more often.
    pub(super) fn is_bereft(&self) -> bool {
        self.released
            .is_some_and(|death| death.epoch == self.raw.raft.term)
    }

    /// Whether a message is what a dead leader had sent before it died. It would be taken for the leader again, and
    /// the promise to it renewed. Dropping a message is always safe; what it carried comes from the next leader.
    pub(super) fn is_posthumous(&self, message: &Message) -> bool {
        let leads = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        leads
            && self.released.is_some_and(|Death { replica, epoch }| {
                (message.from, message.term) == (replica.get(), epoch)
            })
    }
}

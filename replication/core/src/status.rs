//! What a replica shows of itself.

use std::time::Duration;

use crate::{Membership, ReplicaId, Role, Slot};

/// A moment's view, cheap enough to take every tick.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// This replica.
    pub id: ReplicaId,
    /// Its role.
    pub role: Role,
    /// Raft's current term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<ReplicaId>,
    /// Last log index.
    pub last_index: u64,
    /// Last index known committed.
    pub commit: u64,
    /// Last index applied to the table.
    pub applied: u64,
    /// First index still in the log.
    pub first_index: u64,
    /// Proposals not yet applied or dropped.
    pub proposals: usize,
    /// Writes issued and not yet confirmed.
    pub writes: usize,
    /// The lease, while it is held.
    pub lease: Option<LeaseStatus>,
    /// The other members; progress is known to the leader only.
    pub peers: Vec<PeerStatus>,
    /// Everybody who belongs to the pair; empty while this replica waits to be added.
    pub membership: Membership,
    /// What the pair has agreed that everybody can read; see
    /// [`Replica::cluster_version`](crate::Replica::cluster_version).
    pub cluster_version: u16,
    /// Forced takeovers this replica knows of.
    pub generation: u32,
    /// A newer generation was heard of: this replica no longer takes part.
    pub superseded_by: Option<u32>,
    /// The active knows a newer incarnation of this slot: nobody listens to this one any more.
    pub replaced_by: Option<ReplicaId>,
    /// Totals since start.
    pub counters: Counters,
}

impl Status {
    /// Of a replica of this slot that does not know yet which incarnation it is.
    pub fn unknown(slot: Slot) -> Status {
        Status {
            id: ReplicaId::first(slot),
            role: Role::Follower {
                term: 0,
                leader: None,
            },
            term: 0,
            leader: None,
            last_index: 0,
            commit: 0,
            applied: 0,
            first_index: 0,
            proposals: 0,
            writes: 0,
            lease: None,
            peers: Vec::new(),
            membership: Membership::default(),
            cluster_version: 0,
            generation: 0,
            superseded_by: None,
            replaced_by: None,
            counters: Counters::default(),
        }
    }

    /// Whether it is the only voter: the loss of this replica would lose what the others have not copied yet,
    /// and nobody would take over by itself.
    pub fn is_alone(&self) -> bool {
        let Membership {
            voters,
            outgoing,
            learners,
        } = &self.membership;
        voters.len() == 1
            && outgoing.is_empty()
            && !learners.is_empty()
            && voters.contains(&self.id)
    }
}

/// A held lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The leader's term.
    pub term: u64,
    /// CLOCK_BOOTTIME; exclusive.
    pub until: Duration,
}

/// Another member, as this replica sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The member.
    pub id: ReplicaId,
    /// Whether it votes.
    pub voter: bool,
    /// Highest log index known to be persisted there. Leader only, else 0.
    pub matched: u64,
    /// Heard from within the last election timeout. Leader only, else false.
    pub recent_active: bool,
    /// Is being sent a snapshot. Leader only, else false.
    pub snapshot: bool,
    /// When its last message came in.
    pub last_heard: Option<Duration>,
    /// The last entry it said to have applied, if it has said so since this replica started.
    pub said_applied: Option<u64>,
}

/// Totals since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Proposals accepted.
    pub proposed: u64,
    /// Proposals refused because a bound was reached.
    pub proposals_full: u64,
    /// Proposals dropped after they had been accepted.
    pub proposals_dropped: u64,
    /// Messages refused: addressed to somebody else.
    pub misaddressed: u64,
    /// Messages refused: from nobody this replica may talk to.
    pub unknown_sender: u64,
    /// Messages refused: content that no correct peer sends.
    pub malformed: u64,
    /// Messages refused: the leader counts on entries this replica does not hold. Its disk lost them;
    /// it must come back under a new incarnation.
    pub beyond_log: u64,
    /// Messages refused: answers to a role this replica no longer has.
    pub stale: u64,
    /// Messages and ticks refused because the shell does not drain the commands.
    pub overloaded: u64,
    /// Vote requests refused shortly after start.
    pub votes_refused: u64,
    /// Vote requests refused because this replica has no log yet.
    pub votes_refused_empty: u64,
    /// Raft messages refused: sent before a forced takeover that one of the two does not know of.
    pub other_generation: u64,
    /// Hellos taken.
    pub hellos: u64,
    /// Hellos refused: from a slot outside the pair, or overtaken by a newer one.
    pub hellos_refused: u64,
    /// Changes of the membership proposed.
    pub membership_changes: u64,
    /// Elections started, retries included.
    pub campaigns: u64,
    /// Leaderships won.
    pub elected: u64,
    /// Leases lost for any reason.
    pub leases_lost: u64,
    /// Ticks that were due but not run because the process was late.
    pub ticks_skipped: u64,
    /// Snapshots sent.
    pub snapshots_sent: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Log compactions.
    pub compactions: u64,
    /// Appends to the witness that waited for the standby.
    pub appends_gated: u64,
    /// Times the standby was too slow and the gate opened.
    pub gate_opened: u64,
    /// Committed entries that could not be decoded and changed nothing.
    pub undecodable: u64,
    /// Deaths of the leader certified by its guard: the promise to it was released.
    pub deaths_accepted: u64,
    /// Certified deaths refused: taken already. A guard repeats its datagram, so some of these follow each accepted
    /// one.
    pub deaths_replayed: u64,
    /// Certified deaths refused: of an epoch that is over.
    pub deaths_older_epoch: u64,
    /// Certified deaths refused: of no other member, or of another incarnation.
    pub deaths_foreign: u64,
    /// Certified deaths refused: of a replica that is not followed in that epoch.
    pub deaths_not_our_leader: u64,
    /// Certified deaths refused shortly after start.
    pub deaths_starting: u64,
}

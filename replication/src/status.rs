//! A replica's state in plain values, for `/status` and `/metrics`.

use std::time::Duration;

use serde::Serialize;
use tandem_replication_core::{Counters, Membership, PeerStatus, Role, Slot, Status as CoreStatus};

use crate::link::LinkCounters;
use crate::measure::{Latency, StoreStatus};
use crate::punctuality::Punctuality;

/// One moment, at most a tick old.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// This replica, as `slot.incarnation`.
    pub id: String,
    /// `leader`, `follower` or `candidate`.
    pub role: &'static str,
    /// Raft's current term.
    pub term: u64,
    /// The leader, if one is known, as `slot.incarnation`.
    pub leader: Option<String>,
    /// First index still in the log.
    pub first_index: u64,
    /// Last log index.
    pub last_index: u64,
    /// Last index known committed.
    pub commit: u64,
    /// Last index applied to the table.
    pub applied: u64,
    /// Proposals neither applied nor dropped.
    pub proposals: usize,
    /// Writes issued and not confirmed by the store.
    pub writes: usize,
    /// Milliseconds the lease still lasts; absent without a lease.
    pub lease_ms: Option<u64>,
    /// Everybody who belongs to the pair, voters first.
    pub members: Vec<Member>,
    /// What a replica with an empty store waits for.
    pub waiting: Option<String>,
    /// Whether this replica is the only voter, and the others only follow.
    pub alone: bool,
    /// The newest form of records that every member can read; newer forms must not be written.
    pub cluster_version: u16,
    /// Counts forced takeovers.
    pub generation: u32,
    /// The generation that was heard of and that this replica does not belong to: it takes no part any more.
    pub superseded_by: Option<u32>,
    /// The incarnation that took this one's place: nobody listens to this one any more.
    pub replaced_by: Option<String>,
    /// Whether the store failed, which stops the replica.
    pub store_failed: bool,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// The disk.
    pub store: StoreStatus,
    /// From a proposal's arrival at the Raft thread until it was applied.
    pub commit_latency: Latency,
    /// The Raft thread's ticks and leases.
    pub punctuality: Punctuality,
    /// Messages the Raft thread was sent, by the link.
    pub link: LinkCounters,
    /// Totals of the replica.
    pub counters: ReplicaCounters,
}

/// One who belongs to the pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// As `slot.incarnation`.
    pub id: String,
    /// `voter`, `learner`, or `leaving` while a joint change takes its vote.
    pub part: &'static str,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// `a`, `b` or `witness`.
    pub slot: String,
    /// As `slot.incarnation`; absent if the slot is no member.
    pub id: Option<String>,
    /// Whether it votes.
    pub voter: bool,
    /// Whether this node's connection to it is up.
    pub connected: bool,
    /// Highest index known to be persisted there; leader only.
    pub matched: Option<u64>,
    /// Entries it lacks of this replica's log; leader only.
    pub lag: Option<u64>,
    /// Whether it is being sent a snapshot; leader only.
    pub snapshot: bool,
    /// Milliseconds since its last message.
    pub last_contact_ms: Option<u64>,
    /// The last entry it said to have applied, if it has said so since this replica started.
    pub said_applied: Option<u64>,
}

macro_rules! replica_counters {
    ($($name:ident),* $(,)?) => {
        /// Totals since start; see [`Counters`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct ReplicaCounters {
            $(#[doc = concat!("See [`Counters::", stringify!($name), "`].")] pub $name: u64,)*
        }

        impl From<Counters> for ReplicaCounters {
            fn from(counters: Counters) -> ReplicaCounters {
                // Exhaustive, so that a new counter cannot be forgotten here.
                let Counters { $($name,)* } = counters;
                ReplicaCounters { $($name,)* }
            }
        }
    };
}

replica_counters! {
    proposed, proposals_full, proposals_dropped, misaddressed, unknown_sender, malformed, beyond_log,
    stale, overloaded,
    votes_refused, votes_refused_empty, other_generation, hellos, hellos_refused, membership_changes, campaigns, elected, leases_lost, ticks_skipped, snapshots_sent, snapshots_installed,
    compactions, appends_gated, gate_opened, undecodable,
    deaths_accepted, deaths_replayed, deaths_older_epoch, deaths_foreign, deaths_not_our_leader, deaths_starting,
}

/// What a status is made of besides the replica's own.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) now: Duration,
    pub(crate) store_failed: bool,
    pub(crate) store: StoreStatus,
    pub(crate) commit_latency: Latency,
    pub(crate) punctuality: Punctuality,
    /// What it waits for if it does not know who it is.
    pub(crate) waiting: Option<String>,
    pub(crate) link: LinkCounters,
    /// Slots with a configured address, and whether this node's connection there is up.
    pub(crate) connected: Vec<(Slot, bool)>,
}

impl Status {
    pub(crate) fn new(core: &CoreStatus, around: Surroundings) -> Status {
        let leads = matches!(core.role, Role::Leader { .. });
        let peers = around.connected.iter().map(|(slot, connected)| {
            let members = core.peers.iter().filter(|peer| peer.id.slot() == *slot);
            let member = members.max_by_key(|peer| peer.id);
            peer(
                *slot,
                *connected,
                member,
                leads.then_some(core.last_index),
                around.now,
            )
        });
        Status {
            id: match &around.waiting {
                Some(_) => format!("{}.?", core.id.slot()),
                None => core.id.to_string(),
            },
            role: match core.role {
                Role::Leader { .. } => "leader",
                Role::Follower { .. } => "follower",
                Role::Candidate { .. } => "candidate",
            },
            term: core.term,
            leader: core.leader.map(|leader| leader.to_string()),
            first_index: core.first_index,
            last_index: core.last_index,
            commit: core.commit,
            applied: core.applied,
            proposals: core.proposals,
            writes: core.writes,
            lease_ms: core
                .lease
                .map(|lease| millis(lease.until.saturating_sub(around.now)))
                .filter(|remaining| *remaining > 0),
            members: members(&core.membership),
            alone: core.is_alone(),
            cluster_version: core.cluster_version,
            generation: core.generation,
            superseded_by: core.superseded_by,
            replaced_by: core.replaced_by.map(|id| id.to_string()),
            waiting: around.waiting.or_else(|| {
                let joining = core.membership.is_empty();
                joining.then(|| format!("waiting for the active node to add {}", core.id))
            }),
            store_failed: around.store_failed,
            peers: peers.collect(),
            store: around.store,
            commit_latency: around.commit_latency,
            punctuality: around.punctuality,
            link: around.link,
            counters: core.counters.into(),
        }
    }
}

fn members(membership: &Membership) -> Vec<Member> {
    let Membership {
        voters,
        outgoing,
        learners,
    } = membership;
    let leaving = outgoing.iter().filter(|id| !voters.contains(*id));
    let parts = voters.iter().map(|id| (id, "voter"));
    let parts = parts.chain(leaving.map(|id| (id, "leaving")));
    parts
        .chain(learners.iter().map(|id| (id, "learner")))
        .map(|(id, part)| Member {
            id: id.to_string(),
            part,
        })
        .collect()
}

fn peer(
    slot: Slot,
    connected: bool,
    member: Option<&PeerStatus>,
    last_index: Option<u64>,
    now: Duration,
) -> Peer {
    let matched = member
        .filter(|_| last_index.is_some())
        .map(|member| member.matched);
    Peer {
        slot: slot.to_string(),
        id: member.map(|member| member.id.to_string()),
        voter: member.is_some_and(|member| member.voter),
        connected,
        matched,
        lag: matched
            .zip(last_index)
            .map(|(matched, last)| last.saturating_sub(matched)),
        snapshot: member.is_some_and(|member| member.snapshot),
        last_contact_ms: member
            .and_then(|member| member.last_heard)
            .map(|heard| millis(now.saturating_sub(heard))),
        said_applied: member.and_then(|member| member.said_applied),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

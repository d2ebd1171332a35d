//! A replica's state in plain values, for `/status` and `/metrics`.

use std::time::Duration;

use serde::Serialize;
use tandem_replication_core::{Counters, PeerStatus, Role, Slot, Status as CoreStatus};

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
    votes_refused, campaigns, elected, leases_lost, ticks_skipped, snapshots_sent, snapshots_installed,
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
    pub(crate) link: LinkCounters,
    /// Slots with a configured address, and whether this node's connection there is up.
    pub(crate) connected: Vec<(Slot, bool)>,
}

impl Status {
    pub(crate) fn new(core: &CoreStatus, around: Surroundings) -> Status {
        let leads = matches!(core.role, Role::Leader { .. });
        let peers = around.connected.iter().map(|(slot, connected)| {
            let member = core.peers.iter().find(|peer| peer.id.slot() == *slot);
            peer(
                *slot,
                *connected,
                member,
                leads.then_some(core.last_index),
                around.now,
            )
        });
        Status {
            id: core.id.to_string(),
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
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

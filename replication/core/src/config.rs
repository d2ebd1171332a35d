//! Settings of a replica, parsed into values that cannot contradict each other.

use std::{collections::BTreeSet, str::FromStr, time::Duration};

use crate::{Founders, OnSingle, ReplicaId, Slot, StoreId, Versions};

/// How fast the pair decides. All replicas of a pair use the same profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Tick 2 ms, election 20 ms, lease 16 ms: dedicated, quiet hosts with a real-time tick thread only. A host
    /// that keeps that thread waiting for 16 ms loses its lease, which any shared host does now and then.
    Turbo,
    /// Tick 5 ms, election 50 ms, lease 40 ms: quiet hosts.
    Fast,
    /// Tick 10 ms, election 100 ms, lease 80 ms.
    #[default]
    Standard,
    /// Tick 50 ms, election 500 ms, lease 400 ms: noisy hosts.
    Relaxed,
}

/// The durations behind a [`Profile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One step of Raft's logical clock; also the heartbeat interval.
    pub tick: Duration,
    /// Shortest silence after which a follower stands for election, in ticks.
    pub election_ticks: u32,
    /// How long a confirmed heartbeat entitles the leader to serve, in ticks from its send time.
    pub lease_ticks: u32,
}

/// The text names no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a profile: turbo, fast, standard or relaxed")]
pub struct InvalidProfile(pub String);

impl FromStr for Profile {
    type Err = InvalidProfile;

    fn from_str(text: &str) -> Result<Profile, InvalidProfile> {
        Profile::ALL
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| InvalidProfile(text.to_owned()))
    }
}

impl Profile {
    /// Every profile, fastest first.
    pub const ALL: [Profile; 4] = [
        Profile::Turbo,
        Profile::Fast,
        Profile::Standard,
        Profile::Relaxed,
    ];

    /// As in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Turbo => "turbo",
            Profile::Fast => "fast",
            Profile::Standard => "standard",
            Profile::Relaxed => "relaxed",
        }
    }

    /// The profile's durations.
    pub const fn timing(self) -> Timing {
        let tick = match self {
            Profile::Turbo => Duration::from_millis(2),
            Profile::Fast => Duration::from_millis(5),
            Profile::Standard => Duration::from_millis(10),
            Profile::Relaxed => Duration::from_millis(50),
        };
        Timing {
            tick,
            election_ticks: 10,
            lease_ticks: 8,
        }
    }
}

impl Timing {
    /// Shortest election timeout.
    pub const fn election(self) -> Duration {
        self.tick.saturating_mul(self.election_ticks)
    }

    /// Lease length.
    pub const fn lease(self) -> Duration {
        self.tick.saturating_mul(self.lease_ticks)
    }
}

/// Bounds of a replica. The defaults suit a pair with tens of thousands of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Proposals neither applied nor dropped; at the bound `propose` answers `Full`.
    pub proposals: usize,
    /// Bytes of one encoded proposal; beyond it `propose` answers `TooLarge`.
    pub entry_bytes: usize,
    /// Bytes appended but not committed; beyond it `propose` answers `Full`.
    pub uncommitted_bytes: u64,
    /// Bytes of keys and values in the table; at the bound `propose` answers `TableFull`.
    pub table_bytes: usize,
    /// Applied entries kept for followers that are behind; older ones are compacted away.
    pub log_entries: u64,
    /// Bytes of applied entries kept likewise.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            proposals: 4096,
            entry_bytes: 1 << 20,
            uncommitted_bytes: 16 << 20,
            table_bytes: 512 << 20,
            log_entries: 65_536,
            log_bytes: 64 << 20,
        }
    }
}

/// Settings of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// Voters of a new pair, used only with an empty store. Empty: wait to be added by a leader.
    pub voters: Vec<ReplicaId>,
    /// Timing.
    pub profile: Profile,
    /// Bounds.
    pub limits: Limits,
    /// Seed of this replica's random numbers.
    pub seed: u64,
    /// The other slots of the pair.
    pub others: BTreeSet<Slot>,
    /// What it says of itself.
    pub origin: Origin,
    /// What the active does when a replica is gone.
    pub on_single: OnSingle,
    /// What this build reads and writes.
    pub versions: Versions,
}

/// Where a replica comes from: what hellos tell beside its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its store.
    pub store: StoreId,
    /// Drawn at each start; not 0.
    pub life: u64,
    /// Forced takeovers it knows of.
    pub generation: u32,
    /// Who founded the pair, if this store took part.
    pub founders: Founders,
}

/// Why a [`Replica`](crate::Replica) was not built.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The initial voters do not include this replica.
    #[error("{0} is not among the initial voters")]
    NotAVoter(ReplicaId),
    /// Two initial voters share a slot.
    #[error("two initial voters in slot {0}")]
    DuplicateSlot(Slot),
    /// The restored store contradicts itself; the disk must be treated as lost.
    #[error("inconsistent store: {0}")]
    Inconsistent(&'static str),
    /// raft-rs refused the configuration.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}

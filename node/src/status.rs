//! What a node says of itself: one structure behind `/status`, `tandem status` and `/metrics`.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::cdr::CdrStatus;

/// Entries a healthy peer may be behind: what is on its way at the highest rates. A transfer waits for these itself.
pub(crate) const CAUGHT_UP: u64 = 1_000;
/// An engine that has not spoken for this long is stuck, and says so in `reasons`.
pub(crate) const ENGINE_STALE: Duration = Duration::from_secs(1);
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

/// The engine's own part, published several times a second.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineView {
    pub(crate) serving: bool,
    pub(crate) epoch: u64,
    pub(crate) calls: usize,
    /// Messages waiting for their commit.
    pub(crate) held: usize,
    pub(crate) cdr: CdrStatus,
    pub(crate) counters: BTreeMap<String, u64>,
    /// CLOCK_BOOTTIME when this was taken.
    pub(crate) at: Duration,
}

/// A node's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) version: String,
    pub(crate) slot: String,
    /// `owner`, `standby`, `candidate` or `witness`.
    pub(crate) role: String,
    pub(crate) epoch: u64,
    /// Whether the loss of any one of the three hosts would lose nothing.
    pub(crate) protected: bool,
    /// Why not, if not.
    pub(crate) reasons: Vec<String>,
    pub(crate) calls: usize,
    pub(crate) held: usize,
    pub(crate) worker_pid: u32,
    pub(crate) guard: GuardView,
    pub(crate) replication: ReplicationStatus,
    /// `None` on the witness.
    pub(crate) address: Option<AddressView>,
    pub(crate) cdr: Option<CdrStatus>,
    pub(crate) counters: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicationStatus {
    /// This replica, as `slot.incarnation`.
    pub(crate) id: String,
    /// Everybody who belongs to the pair.
    pub(crate) members: Vec<Member>,
    /// What a replica with an empty store waits for.
    pub(crate) waiting: Option<String>,
    /// Whether this replica is the only voter.
    pub(crate) alone: bool,
    /// Counts forced takeovers.
    pub(crate) generation: u32,
    /// The newest form of records that every member can read.
    pub(crate) cluster_version: u16,
    pub(crate) term: u64,
    pub(crate) leader: Option<String>,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    pub(crate) peers: Vec<Peer>,
    /// Time to make a write durable, in microseconds.
    pub(crate) sync_us: Times,
    /// How late Raft's ticks ran, in microseconds.
    pub(crate) tick_late_us: Times,
    /// The least that was left of a lease when it was renewed, in microseconds; zero when one ran out.
    pub(crate) worst_lease_margin_us: Option<u64>,
    pub(crate) disk: Disk,
    /// Death certificates received, by what became of them.
    pub(crate) certificates: BTreeMap<String, u64>,
}

/// The state directory's file system, and what an acknowledgement rests on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// `durable` or `memory`.
    pub(crate) durability: String,
    pub(crate) free_bytes: u64,
    /// Below the low-water mark.
    pub(crate) low: bool,
}

/// The parent process, as its worker knows it, and how both are scheduled.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct GuardView {
    /// `on`, or `off (reason)`.
    pub(crate) realtime: String,
    pub(crate) realtime_on: bool,
    /// Workers that ended before this one.
    pub(crate) workers_ended: u64,
    /// Those of them that had stopped beating and were killed.
    pub(crate) workers_frozen: u64,
    /// Death certificates that left for them, repetitions included.
    pub(crate) certificates_sent: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    /// As `slot.incarnation`.
    pub(crate) id: String,
    /// `voter`, `learner` or `leaving`.
    pub(crate) part: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) slot: String,
    pub(crate) connected: bool,
    /// Log entries it has not confirmed; known to the leader only.
    pub(crate) lag: Option<u64>,
    /// Milliseconds since its last message.
    pub(crate) silent_ms: Option<u64>,
    /// The last log entry it said to have applied, if it has said so since this node started.
    pub(crate) said_applied: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

impl From<tandem_replication::Latency> for Times {
    fn from(latency: tandem_replication::Latency) -> Times {
        Times {
            p50: latency.p50_us,
            p99: latency.p99_us,
            max: latency.max_us,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AddressView {
    pub(crate) mover: String,
    /// Held and verified on this node.
    pub(crate) holds: bool,
    pub(crate) state: String,
    pub(crate) last_error: Option<String>,
}

impl NodeStatus {
    pub(crate) fn to_json(&self) -> String {
        // Plain strings and numbers: there is nothing that could fail to serialise.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part.as_str() {
            "voter" => f.write_str(&self.id),
            part => write!(f, "{} ({part})", self.id),
        }
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "node {}: {}, epoch {}, {} calls",
            self.slot, self.role, self.epoch, self.calls
        )?;
        let leader = self.replication.leader.as_deref().unwrap_or("none");
        let ReplicationStatus {
            term,
            commit,
            applied,
            ..
        } = &self.replication;
        writeln!(
            f,
            "  log      leader {leader}, term {term}, commit {commit}, applied {applied}"
        )?;
        let members: Vec<_> = self
            .replication
            .members
            .iter()
            .map(Member::to_string)
            .collect();
        if !members.is_empty() {
            writeln!(f, "  members  {}", members.join(", "))?;
        }
        for Peer {
            slot,
            connected,
            lag,
            silent_ms,
            said_applied: _,
        } in &self.replication.peers
        {
            write!(
                f,
                "  {slot:8} {}",
                if *connected {
                    "connected"
                } else {
                    "not connected"
                }
            )?;
            if let Some(lag) = lag {
                write!(f, ", {lag} entries behind")?;
            }
            if let Some(silent) = silent_ms {
                write!(f, ", heard {silent} ms ago")?;
            }
            writeln!(f)?;
        }
        let disk = &self.replication.disk;
        writeln!(
            f,
            "  disk     {} MiB free, acknowledgements are {}",
            disk.free_bytes >> 20,
            match disk.durability.as_str() {
                "memory" => "in memory",
                durable => durable,
            }
        )?;
        if let Some(address) = &self.address {
            write!(f, "  address  {} by {}", address.state, address.mover)?;
            match &address.last_error {
                Some(error) => writeln!(f, ": {error}")?,
                None => writeln!(f)?,
            }
        }
        writeln!(
            f,
            "  guard    {} workers ended before this one; realtime: {}",
            self.guard.workers_ended, self.guard.realtime
        )?;
        if let Some(cdr) = &self.cdr {
            writeln!(
                f,
                "  cdr      {} written, {} waiting",
                cdr.written, cdr.waiting
            )?;
        }
        if self.protected {
            return f.write_str("protected: any one host may be lost");
        }
        f.write_str("NOT fully protected")?;
        self.reasons
            .iter()
            .try_for_each(|reason| write!(f, "\n  - {reason}"))
    }
}

/// Of requests to an admin address; their answers come with every status.
pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(FETCH_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into()
}

/// Asks a node's admin address.
pub(crate) fn fetch(admin: SocketAddr) -> anyhow::Result<NodeStatus> {
    let url = format!("http://{admin}/status");
    let mut response = agent()
        .get(&url)
        .call()
        .with_context(|| format!("no node answers at {admin}"))?;
    ensure!(
        response.status().is_success(),
        "{url} answered {}",
        response.status()
    );
    let body = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("reading {url}"))?;
    serde_json::from_str(&body).with_context(|| format!("{url} is not a node's status"))
}

//! A pair and its witness in this process: three replicas with their own threads and stores, and the real
//! peer link over loopback.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tandem_replication::{
    Change, Event, KeyPaths, ProposeError, Replication, Settings, Slot, Ticket, pki,
};
use tokio::runtime::Runtime;

const SLOTS: [Slot; 3] = [Slot::A, Slot::B, Slot::Witness];

/// As in a node.
const RUNTIME_THREADS: usize = 2;

/// Outcomes that wait for the measuring thread: twice what can be in flight. One more is counted in
/// [`Replicas::overflows`], and the measurement is void.
const OUTCOMES: usize = 8_192;

/// Longest wait for a leader with everybody caught up; also for the outcome of a proposal.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the followers have caught up is a question, not an event: it is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// What became of a proposal.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub ticket: Ticket,
    /// When it was applied on the leader; `None` when it was dropped.
    pub applied: Option<Instant>,
}

/// What the replicas tell, as far as a measurement asks.
#[derive(Debug)]
struct Told {
    leader: Mutex<Option<Slot>>,
    changed: Condvar,
    outcomes: SyncSender<Outcome>,
    overflows: AtomicU64,
    leases_lost: AtomicU64,
}

/// The three replicas. Dropping them stops them.
#[derive(Debug)]
pub struct Replicas {
    replicas: BTreeMap<Slot, Replication>,
    told: Arc<Told>,
    outcomes: Receiver<Outcome>,
    /// Connections live on it; goes last.
    _runtime: Runtime,
}

impl Replicas {
    /// Makes keys and starts all three with their files below `directory`; `tune` may change each one's
    /// settings.
    pub fn start(directory: &Path, tune: impl Fn(&mut Settings)) -> anyhow::Result<Replicas> {
        let keys = directory.join("keys");
        pki::create_pair(&keys, "bench")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .enable_all()
            .build()?;
        let addresses = free_addresses()?;
        let (sender, outcomes) = sync_channel(OUTCOMES);
        let told = Arc::new(Told {
            leader: Mutex::new(None),
            changed: Condvar::new(),
            outcomes: sender,
            overflows: AtomicU64::new(0),
            leases_lost: AtomicU64::new(0),
        });
        let mut replicas = BTreeMap::new();
        for slot in SLOTS {
            let mut peers = addresses.clone();
            let listen = peers.remove(&slot).context("each slot has an address")?;
            let mut settings = Settings::new(
                slot,
                directory.join(format!("state-{slot}")),
                listen,
                peers,
                KeyPaths::in_directory(&keys.join(slot.to_string())),
            );
            tune(&mut settings);
            let sink = Arc::clone(&told);
            let replication =
                tandem_replication::start(settings, runtime.handle(), move |event| {
                    sink.take(slot, event);
                })?;
            replicas.insert(slot, replication);
        }
        Ok(Replicas {
            replicas,
            told,
            outcomes,
            _runtime: runtime,
        })
    }

    /// Waits until a data node holds the lease and both others are connected and have all of its log.
    pub fn await_leader(&self) -> anyhow::Result<(Slot, &Replication)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.told.await_lease(deadline)?;
            let replication = self
                .replicas
                .get(&leader)
                .context("a leader is a replica")?;
            let status = replication.status();
            let whole = status
                .peers
                .iter()
                .all(|peer| peer.connected && peer.lag == Some(0));
            if whole && status.peers.len() == SLOTS.len() - 1 {
                return Ok((leader, replication));
            }
            ensure!(Instant::now() < deadline, "not caught up: {status:?}");
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// The next outcome of a proposal.
    pub fn outcome(&self) -> anyhow::Result<Outcome> {
        match self.outcomes.recv_timeout(PATIENCE) {
            Ok(outcome) => Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {
                bail!("no proposal was settled within {PATIENCE:?}")
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the replicas have stopped"),
        }
    }

    /// The next outcome if there is one already.
    pub fn settled(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }

    /// Outcomes that were lost; a measurement with any is void.
    pub fn overflows(&self) -> u64 {
        self.told.overflows.load(Ordering::Relaxed)
    }

    /// How often a leader lost its lease since the start.
    pub fn leases_lost(&self) -> u64 {
        self.told.leases_lost.load(Ordering::Relaxed)
    }
}

impl Drop for Replicas {
    /// The directories must outlive the stores in them.
    fn drop(&mut self) {
        for replication in self.replicas.values() {
            replication.shutdown();
        }
    }
}

impl Told {
    fn take(&self, slot: Slot, event: Event) {
        match event {
            Event::Applied {
                ticket: Some(ticket),
                ..
            } => self.settle(ticket, Some(Instant::now())),
            Event::Dropped { ticket, .. } => self.settle(ticket, None),
            Event::Lease { .. } => self.lead(|leader| *leader = Some(slot)),
            Event::LeaseLost { .. } => {
                self.leases_lost.fetch_add(1, Ordering::Relaxed);
                self.lead(|leader| {
                    leader.take_if(|leader| *leader == slot);
                });
            }
            Event::Applied { ticket: None, .. }
            | Event::Restored { .. }
            | Event::Role(_)
            | Event::PeerUp(_)
            | Event::PeerDown(_)
            | Event::DiskLow { .. }
            | Event::DiskRecovered => {}
            Event::StoreFailed(error) => tracing::error!(%slot, %error, "the store failed"),
        }
    }

    fn settle(&self, ticket: Ticket, applied: Option<Instant>) {
        if self.outcomes.try_send(Outcome { ticket, applied }).is_err() {
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lead(&self, change: impl FnOnce(&mut Option<Slot>)) {
        let mut leader = self.leader();
        let before = *leader;
        change(&mut leader);
        if *leader != before {
            self.changed.notify_all();
        }
    }

    fn await_lease(&self, deadline: Instant) -> anyhow::Result<Slot> {
        let wait = deadline.saturating_duration_since(Instant::now());
        let (leader, _) = self
            .changed
            .wait_timeout_while(self.leader(), wait, |leader| leader.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        leader.context("nobody leads")
    }

    fn leader(&self) -> MutexGuard<'_, Option<Slot>> {
        // One assignment under the lock: whole at every step.
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Proposes, and says when the replica takes no more for now.
pub fn propose(
    replication: &Replication,
    changes: Vec<Change>,
) -> anyhow::Result<Option<(Ticket, Instant)>> {
    let begun = Instant::now();
    match replication.propose(changes) {
        Ok(ticket) => Ok(Some((ticket, begun))),
        Err(ProposeError::Full | ProposeError::NotLeader { .. }) => Ok(None),
        Err(error @ ProposeError::Stopped) => Err(error.into()),
    }
}

/// Ports that were free a moment ago.
fn free_addresses() -> anyhow::Result<BTreeMap<Slot, SocketAddr>> {
    let sockets = SLOTS
        .into_iter()
        .map(|slot| Ok((slot, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    sockets
        .iter()
        .map(|(slot, socket)| Ok((*slot, socket.local_addr()?)))
        .collect()
}

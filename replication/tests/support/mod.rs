//! Whole pairs in one process: keys, addresses, directories, and what each replica reported.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tandem_replication::{
    Change, Event, KeyPaths, LinkError, Replication, Role, Settings, Slot, StartError, Table,
    Ticket, pki, start,
};
use tokio::runtime::Runtime;

pub(crate) const SLOTS: [Slot; 3] = [Slot::A, Slot::B, Slot::Witness];

/// Generous: a test that waits this long has failed, and the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What one replica has told so far.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) table: Table,
    pub(crate) applied: BTreeMap<Ticket, (u64, Instant)>,
    pub(crate) dropped: Vec<Ticket>,
    pub(crate) restored: usize,
    pub(crate) role: Option<Role>,
    pub(crate) leading: bool,
    pub(crate) peers_up: BTreeMap<Slot, bool>,
    pub(crate) disk_low: Option<u64>,
    pub(crate) store_failed: Option<String>,
    pub(crate) index: u64,
}

#[derive(Default)]
pub(crate) struct Observer {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Observer {
    fn take(&self, event: Event) {
        let mut seen = self.seen.lock().unwrap();
        match event {
            Event::Restored { index, table } => {
                seen.table = table;
                seen.index = index;
                seen.restored += 1;
            }
            Event::Applied {
                index,
                ticket,
                changes,
                ..
            } => {
                assert_eq!(index, seen.index + 1, "indices are contiguous");
                seen.index = index;
                for change in changes {
                    match change {
                        Change::Put { key, value } => drop(seen.table.insert(key, value)),
                        Change::Delete { key } => drop(seen.table.remove(&key)),
                    }
                }
                if let Some(ticket) = ticket {
                    seen.applied.insert(ticket, (index, Instant::now()));
                }
            }
            Event::Dropped { ticket, .. } => seen.dropped.push(ticket),
            Event::Role(role) => seen.role = Some(role),
            Event::Lease { .. } => seen.leading = true,
            Event::LeaseLost { .. } => seen.leading = false,
            Event::PeerUp(slot) => drop(seen.peers_up.insert(slot, true)),
            Event::PeerDown(slot) => drop(seen.peers_up.insert(slot, false)),
            Event::DiskLow { free_bytes } => seen.disk_low = Some(free_bytes),
            Event::DiskRecovered => seen.disk_low = None,
            Event::StoreFailed(reason) => seen.store_failed = Some(reason),
        }
        drop(seen);
        self.changed.notify_all();
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Waits until it holds.
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        let seen = self.seen.lock().unwrap();
        let (_seen, timeout) = self
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| !condition(seen))
            .unwrap();
        assert!(!timeout.timed_out(), "never came: {what}");
    }
}

pub(crate) struct Node {
    pub(crate) replication: Replication,
    pub(crate) observer: Arc<Observer>,
}

/// Three nodes that can be started and stopped.
pub(crate) struct Pair {
    pub(crate) runtime: Runtime,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) addresses: BTreeMap<Slot, SocketAddr>,
    pub(crate) nodes: BTreeMap<Slot, Node>,
    pub(crate) tune: fn(&mut Settings),
}

impl Pair {
    pub(crate) fn new(tune: fn(&mut Settings)) -> Pair {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        pki::create_pair(&directory.path().join("keys"), "test").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let addresses = free_addresses();
        Pair {
            runtime,
            directory,
            addresses,
            nodes: BTreeMap::new(),
            tune,
        }
    }

    pub(crate) fn state_dir(&self, slot: Slot) -> PathBuf {
        self.directory.path().join(format!("state-{slot}"))
    }

    pub(crate) fn keys(&self, slot: Slot) -> KeyPaths {
        keys_in(&self.directory.path().join("keys"), slot)
    }

    pub(crate) fn settings(&self, slot: Slot) -> Settings {
        let mut peers = self.addresses.clone();
        let listen = peers.remove(&slot).unwrap();
        let mut settings =
            Settings::new(slot, self.state_dir(slot), listen, peers, self.keys(slot));
        (self.tune)(&mut settings);
        settings
    }

    pub(crate) fn start(&mut self, slot: Slot) {
        self.start_with(slot, self.settings(slot));
    }

    pub(crate) fn start_with(&mut self, slot: Slot, settings: Settings) {
        let observer = Arc::new(Observer::default());
        let begun = Instant::now();
        let replication = loop {
            let sink = Arc::clone(&observer);
            let started = start(settings.clone(), self.runtime.handle(), move |event| {
                sink.take(event);
            });
            match started {
                // A shutdown waits for the address only so long; a machine that is busy may need longer.
                Err(StartError::Link(LinkError::Bind { .. })) if begun.elapsed() < PATIENCE => {}
                started => break started.unwrap(),
            }
        };
        self.nodes.insert(
            slot,
            Node {
                replication,
                observer,
            },
        );
    }

    pub(crate) fn stop(&mut self, slot: Slot) {
        self.nodes.remove(&slot).unwrap().replication.shutdown();
    }

    /// Waits until one of the running nodes holds the lease.
    pub(crate) fn leader(&self) -> Slot {
        let begun = Instant::now();
        loop {
            let leader = self
                .nodes
                .iter()
                .find(|(slot, node)| slot.is_data() && node.observer.with(|seen| seen.leading));
            if let Some((slot, _)) = leader {
                return *slot;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "no leader: {:#?}",
                self.statuses()
            );
            std::thread::yield_now();
        }
    }

    /// Proposes to whoever leads until it is applied there; returns how long the last attempt took. A busy
    /// machine may cost a leader its term, which is no failure of what is tested.
    pub(crate) fn commit(&self, changes: &[Change]) -> Duration {
        loop {
            let leader = self.nodes.get(&self.leader()).unwrap();
            let begun = Instant::now();
            let Ok(ticket) = leader.replication.propose(changes.to_vec()) else {
                continue;
            };
            leader.observer.wait("applied or dropped", |seen| {
                seen.applied.contains_key(&ticket) || seen.dropped.contains(&ticket)
            });
            let applied = leader
                .observer
                .with(|seen| seen.applied.get(&ticket).copied());
            if let Some((_, applied)) = applied {
                return applied - begun;
            }
        }
    }

    pub(crate) fn replication(&self, slot: Slot) -> &Replication {
        &self.nodes.get(&slot).unwrap().replication
    }

    pub(crate) fn statuses(&self) -> Vec<tandem_replication::Status> {
        self.nodes
            .values()
            .map(|node| node.replication.status())
            .collect()
    }

    pub(crate) fn observer(&self, slot: Slot) -> &Observer {
        &self.nodes.get(&slot).unwrap().observer
    }
}

impl Drop for Pair {
    /// The directories must outlive the stores in them.
    fn drop(&mut self) {
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.replication.shutdown();
        }
    }
}

pub(crate) fn keys_in(directory: &Path, slot: Slot) -> KeyPaths {
    KeyPaths::in_directory(&directory.join(slot.to_string()))
}

/// Addresses no other test is given, not even while their nodes are down.
pub(crate) fn free_addresses() -> BTreeMap<Slot, SocketAddr> {
    static GIVEN: AtomicU8 = AtomicU8::new(0);
    let pair = GIVEN.fetch_add(1, Ordering::Relaxed);
    // Tests of other processes are told apart by the port.
    let port = 30_000 + u16::try_from(std::process::id() % 2_000).unwrap();
    SLOTS
        .into_iter()
        .zip(1..)
        .map(|(slot, node)| (slot, SocketAddr::from(([127, 65, pair, node], port))))
        .collect()
}

pub(crate) fn put(number: u64, bytes: usize) -> Vec<Change> {
    let key = format!("c{number:08}").into_bytes().into();
    let value = number.to_be_bytes().repeat(bytes.div_ceil(8)).into();
    vec![Change::Put { key, value }]
}

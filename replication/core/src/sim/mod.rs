//! Three replicas in virtual time: one thread, one seed, every run repeats exactly.
//!
//! What only replicas by themselves show: how long a takeover takes, how a pair is founded, each moment of a change
//! of the membership. Everything that a pair must survive is played by the simulator of the whole pair
//! (`chaos/simulator`), at random and directed. [`Invariants`] watch every command.

mod alone;
mod birth;
mod certificate;
mod directed;
mod disk;
mod force;
mod invariants;
mod membership;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::birth::Birth;
use self::disk::Disk;
use self::invariants::Invariants;
use crate::{
    Change, Command, Death, Envelope, Founding, Greeting, Limits, MessageClass, OnSingle,
    PeerMessage, Profile, ProposalId, ProposeError, Replica, ReplicaId, Role, Slot, Versions,
    WriteId,
};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const WITNESS: usize = 2;
const SLOTS: [Slot; 3] = [Slot::A, Slot::B, Slot::Witness];

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One machine's CLOCK_BOOTTIME against true time.
#[derive(Clone, Copy, Debug)]
struct LocalClock {
    offset: Duration,
    drift_ppm: i64,
}

impl LocalClock {
    fn local(self, truth: Duration) -> Duration {
        let drift = truth.as_nanos() as i64 / 1_000_000 * self.drift_ppm;
        let nanos = self.offset.as_nanos() as i64 + truth.as_nanos() as i64 + drift;
        Duration::from_nanos(nanos as u64)
    }

    /// The first true time at which the local clock shows at least `local`.
    fn truth(self, local: Duration) -> Duration {
        let elapsed = local.saturating_sub(self.offset);
        elapsed.mul_f64(1.0 / (1.0 + self.drift_ppm as f64 / 1e6)) + Duration::from_micros(2)
    }
}

#[derive(Debug)]
struct Node {
    replica: Option<Replica>,
    /// Runs while an empty store does not know who it is.
    founding: Option<Founding>,
    birth: Option<Birth>,
    disk: Disk,
    clock: LocalClock,
    /// Counts starts; events of an earlier life are void.
    life: u64,
    /// Counts timers set; earlier ones are void.
    timer: u64,
    disk_free_at: Duration,
}

#[derive(Clone, Debug)]
enum Event {
    Deliver {
        from: usize,
        to: usize,
        envelope: Box<Envelope>,
    },
    Persisted {
        node: usize,
        life: u64,
        write: WriteId,
    },
    Timer {
        node: usize,
        life: u64,
        timer: u64,
    },
    SnapshotSent {
        node: usize,
        life: u64,
        to: ReplicaId,
        ok: bool,
    },
    Certificate {
        node: usize,
        death: Death,
    },
}

impl Event {
    fn node(&self) -> usize {
        match self {
            Event::Deliver { to: node, .. }
            | Event::Persisted { node, .. }
            | Event::Timer { node, .. }
            | Event::Certificate { node, .. }
            | Event::SnapshotSent { node, .. } => *node,
        }
    }
}

/// What the test may change while it runs.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    pub(super) profile: Profile,
    pub(super) limits: Limits,
    /// One-way network delay in microseconds.
    pub(super) delay_us: (u64, u64),
    /// Time of one synced write in microseconds.
    pub(super) fsync_us: (u64, u64),
    /// How late a timer fires at most, in microseconds.
    pub(super) lateness_us: u64,
    /// Directed links that drop everything.
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) on_single: OnSingle,
    /// What the builds on the three hosts can read.
    pub(super) versions: [Versions; 3],
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            profile: Profile::Standard,
            limits: Limits::default(),
            delay_us: (80, 400),
            fsync_us: (150, 1500),
            lateness_us: 500,
            cut: BTreeSet::new(),
            on_single: OnSingle::Stop,
            versions: [Versions::SUPPORTED; 3],
        }
    }
}

fn others(node: usize) -> BTreeSet<Slot> {
    let others = SLOTS.iter().filter(|slot| **slot != SLOTS[node]);
    others.copied().collect()
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Duration,
    pub(super) conditions: Conditions,
    pub(super) rng: StdRng,
    invariants: Invariants,
    nodes: Vec<Node>,
    events: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    keys: u64,
}

impl World {
    pub(super) fn new(seed: u64, conditions: Conditions) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = SLOTS.iter().map(|_| Node {
            replica: None,
            founding: None,
            birth: None,
            disk: Disk::default(),
            clock: LocalClock {
                offset: Duration::from_secs(rng.random_range(10..100_000)),
                drift_ppm: rng.random_range(-200..=200),
            },
            life: 0,
            timer: 0,
            disk_free_at: Duration::ZERO,
        });
        let mut world = World {
            seed,
            now: Duration::ZERO,
            conditions,
            nodes: nodes.collect(),
            rng,
            invariants: Invariants::default(),
            events: BTreeMap::new(),
            sequence: 0,
            keys: 0,
        };
        for node in [A, B, WITNESS] {
            world.start(node);
        }
        world
    }

    pub(super) fn id(node: usize) -> ReplicaId {
        ReplicaId::first(SLOTS[node])
    }

    pub(super) fn replica(&self, node: usize) -> Option<&Replica> {
        self.nodes[node].replica.as_ref()
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].replica.is_some() || self.nodes[node].founding.is_some()
    }

    fn local_now(&self, node: usize) -> Duration {
        self.nodes[node].clock.local(self.now)
    }

    pub(super) fn is_serving(&self, node: usize) -> bool {
        self.replica(node)
            .is_some_and(|replica| replica.is_serving(self.local_now(node)))
    }

    pub(super) fn serving(&self) -> Option<usize> {
        [A, B, WITNESS]
            .into_iter()
            .find(|node| self.is_serving(*node))
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |node: &usize| {
            self.replica(*node)
                .is_some_and(|it| matches!(it.status().role, Role::Leader { .. }))
        };
        [A, B, WITNESS]
            .into_iter()
            .filter(leads)
            .max_by_key(|node| {
                self.replica(*node)
                    .map_or(0, |replica| replica.status().term)
            })
    }

    /// For messages of failing tests.
    fn statuses(&self) -> Vec<Option<crate::Status>> {
        self.nodes
            .iter()
            .map(|node| node.replica.as_ref().map(Replica::status))
            .collect()
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    fn micros(&mut self, (low, high): (u64, u64)) -> Duration {
        Duration::from_micros(self.rng.random_range(low..=high))
    }

    // Faults.

    /// Stops a process. Of the writes in flight a random number of the first ones survive.
    pub(super) fn crash(&mut self, node: usize) {
        self.nodes[node].replica = None;
        self.nodes[node].founding = None;
        let survivors = self.rng.random_range(0..=self.nodes[node].disk.pending());
        self.nodes[node].disk.crash(survivors);
        self.invariants.stopped(node);
    }

    pub(super) fn crash_if_up(&mut self, node: usize) {
        if self.is_up(node) {
            self.crash(node);
        }
    }

    pub(super) fn start_if_down(&mut self, node: usize) {
        if !self.is_up(node) {
            self.start(node);
        }
    }

    pub(super) fn cut(&mut self, one: usize, other: usize) {
        self.conditions.cut.insert((one, other));
        self.conditions.cut.insert((other, one));
    }

    pub(super) fn isolate(&mut self, node: usize) {
        for other in [A, B, WITNESS].into_iter().filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    pub(super) fn heal(&mut self) {
        self.conditions.cut.clear();
    }

    // Inputs.

    /// Proposes one change under a key of its own.
    pub(super) fn propose(
        &mut self,
        node: usize,
        bytes: usize,
    ) -> Result<ProposalId, ProposeError> {
        let now = self.local_now(node);
        self.keys += 1;
        let key = Bytes::copy_from_slice(&self.keys.to_be_bytes());
        let change = Change::Put {
            key: key.clone(),
            value: Bytes::from(vec![7; bytes]),
        };
        let Some(replica) = &mut self.nodes[node].replica else {
            return Err(ProposeError::NotLeader { leader: None });
        };
        let result = replica.propose(vec![change], now);
        if let Ok(proposal) = result {
            self.invariants.proposed(node, proposal, key);
        }
        self.execute(node);
        result
    }

    pub(super) fn transfer(&mut self, from: usize, to: usize) -> Result<(), crate::TransferError> {
        let now = self.local_now(from);
        let target = self.id_of(to);
        let Some(replica) = &mut self.nodes[from].replica else {
            return Err(crate::TransferError::NotLeader);
        };
        let result = replica.transfer(target, now);
        self.execute(from);
        result
    }

    // Time.

    /// Runs the next event, if it is due by `until`.
    fn step(&mut self, until: Duration) -> bool {
        let Some(entry) = self
            .events
            .first_entry()
            .filter(|entry| entry.key().0 <= until)
        else {
            self.now = until;
            return false;
        };
        let ((at, _), event) = entry.remove_entry();
        self.now = self.now.max(at);
        let node = event.node();
        if self.is_void(&event) {
            return true;
        }
        self.handle(event);
        self.execute(node);
        let serving: Vec<_> = [A, B, WITNESS]
            .into_iter()
            .filter(|it| self.is_serving(*it))
            .collect();
        self.invariants.serving(self.now, &serving);
        true
    }

    pub(super) fn run_for(&mut self, length: Duration) {
        let until = self.now + length;
        while self.step(until) {}
    }

    /// Runs until the condition holds; returns how long that took, `None` if it did not within `limit`.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        condition: impl Fn(&World) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !condition(self) {
            if !self.step(start + limit) {
                return None;
            }
        }
        Some(self.now - start)
    }

    /// Meant for an earlier life or replaced by a later timer, or the link is cut by now.
    fn is_void(&self, event: &Event) -> bool {
        let node = &self.nodes[event.node()];
        match event {
            Event::Deliver { from, to, .. } => self.conditions.cut.contains(&(*from, *to)),
            Event::Timer { life, timer, .. } => (*life, *timer) != (node.life, node.timer),
            Event::Persisted { life, .. } | Event::SnapshotSent { life, .. } => *life != node.life,
            // Another socket than the replica's, and the guard's own: cut where it is sent.
            Event::Certificate { .. } => false,
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.local_now(event.node());
        let Node {
            replica,
            founding,
            disk,
            ..
        } = &mut self.nodes[event.node()];
        if let Some(founding) = founding {
            match event {
                Event::Deliver { envelope, .. } => match envelope.message {
                    PeerMessage::Hello(hello) => founding.handle_hello(hello, now),
                    PeerMessage::Raft(_) => {}
                },
                Event::Timer { .. } => founding.handle_timeout(now),
                Event::Persisted { .. }
                | Event::SnapshotSent { .. }
                | Event::Certificate { .. } => {}
            }
            return;
        }
        let Some(replica) = replica else { return };
        match event {
            Event::Deliver { envelope, .. } => replica.handle_envelope(*envelope, now),
            Event::Persisted { write, .. } => {
                disk.complete(write);
                replica.handle_persisted(write, now);
            }
            Event::Timer { .. } => replica.handle_timeout(now),
            Event::SnapshotSent { to, ok, .. } => replica.handle_snapshot_sent(to, ok, now),
            // A refusal is counted.
            Event::Certificate { death, .. } => drop(replica.handle_death(death, now)),
        }
    }

    /// Executes a node's commands and arms its timer.
    fn execute(&mut self, node: usize) {
        while let Some(greeting) = self.nodes[node]
            .founding
            .as_mut()
            .and_then(Founding::next_command)
        {
            self.greet(node, greeting);
        }
        self.decide(node);
        while let Some(command) = self.nodes[node]
            .replica
            .as_mut()
            .and_then(Replica::next_command)
        {
            let table = self.nodes[node].replica.as_ref().map(Replica::table);
            self.invariants.command(node, &command, table, self.now);
            match command {
                Command::Send { to, message, class } => {
                    let generation = self.nodes[node]
                        .replica
                        .as_ref()
                        .map_or(0, Replica::generation);
                    let message = PeerMessage::Raft(message);
                    let envelope = Envelope {
                        generation,
                        message,
                    };
                    self.transmit(node, to, envelope, class);
                }
                Command::Greet(greeting) => self.greet(node, greeting),
                Command::Persist(write) => {
                    let took = self.micros(self.conditions.fsync_us);
                    let Node {
                        disk,
                        disk_free_at,
                        life,
                        ..
                    } = &mut self.nodes[node];
                    *disk_free_at = (*disk_free_at).max(self.now) + took;
                    let (delay, life, id) = (*disk_free_at - self.now, *life, write.id);
                    disk.write(write);
                    self.after(
                        delay,
                        Event::Persisted {
                            node,
                            life,
                            write: id,
                        },
                    );
                }
                Command::Applied { .. }
                | Command::Dropped { .. }
                | Command::Restored { .. }
                | Command::Role(_)
                | Command::Lease { .. }
                | Command::LeaseLost { .. } => {}
            }
        }
        let late = self.micros((0, self.conditions.lateness_us));
        let Node {
            replica,
            founding,
            clock,
            timer,
            life,
            ..
        } = &mut self.nodes[node];
        let deadline = match (replica, founding) {
            (Some(replica), _) => replica.poll_timeout().0,
            (None, Some(founding)) => founding.poll_timeout(),
            (None, None) => return,
        };
        *timer += 1;
        let (timer, life) = (*timer, *life);
        let due = clock.truth(deadline).saturating_sub(self.now) + late;
        self.after(due, Event::Timer { node, life, timer });
    }

    fn greet(&mut self, from: usize, Greeting { to, hello }: Greeting) {
        // Like every message it goes to a slot's host, whoever is there.
        let to = ReplicaId::first(to);
        self.transmit(from, to, Envelope::hello(hello), MessageClass::Datagram);
    }

    fn transmit(&mut self, from: usize, to: ReplicaId, envelope: Envelope, class: MessageClass) {
        let Some(target) = SLOTS.iter().position(|slot| *slot == to.slot()) else {
            return;
        };
        let lost = self.conditions.cut.contains(&(from, target));
        let delay = self.micros(self.conditions.delay_us);
        if class == MessageClass::Snapshot {
            let life = self.nodes[from].life;
            let ok = !lost && self.is_up(target);
            self.after(
                delay * 2,
                Event::SnapshotSent {
                    node: from,
                    life,
                    to,
                    ok,
                },
            );
        }
        if !lost {
            self.after(
                delay,
                Event::Deliver {
                    from,
                    to: target,
                    envelope: Box::new(envelope),
                },
            );
        }
    }
}

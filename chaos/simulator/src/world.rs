//! A pair, its witness, its network, its phones, in virtual time: one thread, one seed, every run repeats exactly.
//!
//! Everything is an event with a time. A machine runs the real cores as its threads would: the replica and the engine
//! each have a queue with a delay of its own, so what one has decided reaches the other later. A packet leaves only
//! through the gate, by the machine's own clock.
//!
//! * [`birth`]: who a machine is at each start, and what lost disks and operators make of that.
//! * [`faults`]: what can be done to it.
//! * [`guard`]: certified deaths.
//! * [`machine`]: a machine's parts.
//! * [`execute`]: what becomes of the commands of its cores.

mod birth;
mod execute;
mod faults;
mod guard;
mod machine;
mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tandem_engine::{Batch, Committed};
use tandem_failover_core::Epoch;
use tandem_failover_core::address::{Failure, ObservationId, OperationId, Source};
use tandem_replication_core::{
    Change, Death, Envelope, Limits, OnSingle, Profile, ReplicaId, WriteId,
};
use tandem_sip::config::SipConfig;
use tandem_sip::flow::RealmId;

use self::machine::Machine;
use crate::clock::{ms, wall};
use crate::disk::{Decided, Durability};
use crate::fabric::{Fabric, FabricKind};
use crate::invariants::Invariants;
use crate::lanes::{Lanes, sip_config};
use crate::trace::Trace;
use crate::{NODES, Safeguard};

/// What a scenario may change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    pub(crate) profile: Profile,
    pub(crate) limits: Limits,
    pub(crate) durability: Durability,
    pub(crate) on_single: OnSingle,
    /// Callers, each with one call after another; 0 for a run without phones.
    pub(crate) lanes: usize,
    pub(crate) fabric: FabricKind,
    /// One-way network delay in microseconds; messages overtake each other within it.
    pub(crate) delay_us: (u64, u64),
    /// Time of one write in microseconds.
    pub(crate) fsync_us: (u64, u64),
    /// From one thread of a process to another, in microseconds.
    pub(crate) hop_us: (u64, u64),
    /// How late a timer fires at most, in microseconds.
    pub(crate) lateness_us: u64,
    /// Of all packets.
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    /// Directed links between machines that drop everything.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Machines that phones and address users do not reach.
    pub(crate) phones_cut: BTreeSet<usize>,
    /// Machines that do not reach the EC2 API.
    pub(crate) api_cut: BTreeSet<usize>,
    /// How long a call of the EC2 API takes, in microseconds.
    pub(crate) api_us: (u64, u64),
    /// From an accepted call to its effect.
    pub(crate) effect_us: (u64, u64),
    /// Of all calls of the EC2 API.
    pub(crate) throttled: f64,
    /// How old a description may be.
    pub(crate) stale_us: u64,
    /// What is switched off.
    pub(crate) without: Option<Safeguard>,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            profile: Profile::Standard,
            limits: Limits::default(),
            durability: Durability::Durable,
            on_single: OnSingle::Stop,
            lanes: 2,
            fabric: FabricKind::Lan,
            delay_us: (80, 400),
            fsync_us: (150, 1500),
            hop_us: (5, 150),
            lateness_us: 500,
            loss: 0.0,
            duplication: 0.0,
            cut: BTreeSet::new(),
            phones_cut: BTreeSet::new(),
            api_cut: BTreeSet::new(),
            api_us: (20_000, 80_000),
            effect_us: (0, 300_000),
            throttled: 0.0,
            stale_us: 100_000,
            without: None,
        }
    }
}

/// To the thread that owns the engine.
#[derive(Clone, Debug)]
enum ToEngine {
    Committed(Committed),
    Datagram {
        realm: RealmId,
        source: SocketAddr,
        bytes: Bytes,
    },
    Refused(Batch),
    TransferRefused(Epoch),
}

/// To the thread that owns the replica.
#[derive(Clone, Debug)]
enum ToReplica {
    Propose { batch: Batch, changes: Vec<Change> },
    Transfer { epoch: Epoch },
}

/// A machine's timers; a later one replaces an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Replica,
    Engine,
    Address,
}

/// What happens to one process. Void if that has ended.
#[derive(Clone, Debug)]
enum Local {
    Persisted(WriteId),
    Timer(Timer, u64),
    SnapshotSent {
        to: ReplicaId,
        ok: bool,
    },
    ToEngine(ToEngine),
    ToReplica(ToReplica),
    AddressDone {
        id: OperationId,
        claim: bool,
        result: Result<(), Failure>,
    },
    AddressSeen {
        id: ObservationId,
        source: Source,
    },
    /// The link to this machine has come up.
    PeerUp(usize),
    /// Who this is has reached the disk.
    Decided(Decided),
}

#[derive(Clone, Debug)]
enum Event {
    Message {
        from: usize,
        to: usize,
        envelope: Box<Envelope>,
    },
    /// A death certificate. Its datagram has been sent: links are asked then.
    Certificate {
        node: usize,
        death: Death,
    },
    Local {
        node: usize,
        life: u64,
        what: Local,
    },
    /// Between a phone and the floating address.
    Packet {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    Phones,
    /// The guard takes the address of a dead process off its machine.
    Withdraw {
        node: usize,
        life: u64,
    },
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) conditions: Conditions,
    pub(crate) rng: StdRng,
    pub(crate) invariants: Invariants,
    pub(crate) trace: Trace,
    pub(crate) steps: u64,
    pub(crate) counts: Counts,
    /// Of both nodes.
    config: SipConfig,
    machines: Vec<Machine>,
    fabric: Fabric,
    lanes: Lanes,
    events: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    phones_due: Option<Duration>,
    load: u64,
    /// Since when nothing has been wrong.
    calm_since: Option<Duration>,
    /// When to look whether the membership is what it should be, if it may not be.
    reforming: Option<Duration>,
    /// Every death that a guard has certified.
    deaths: Vec<Death>,
}

/// How much of what a run is for has happened in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub takeovers: u64,
    pub leases: u64,
    pub elections: u64,
    pub witness_led: u64,
    pub snapshots: u64,
    pub confirmed: u64,
    pub calls: u64,
    pub calls_answered: u64,
    pub packets: u64,
    pub crashes: u64,
    pub power_cuts: u64,
    pub disks_lost: u64,
    pub deaths_certified: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        let Counts {
            takeovers,
            leases,
            elections,
            witness_led,
            snapshots,
            confirmed,
            calls,
            calls_answered,
            packets,
            crashes,
            power_cuts,
            disks_lost,
            deaths_certified,
        } = other;
        self.takeovers += takeovers;
        self.leases += leases;
        self.elections += elections;
        self.witness_led += witness_led;
        self.snapshots += snapshots;
        self.confirmed += confirmed;
        self.calls += calls;
        self.calls_answered += calls_answered;
        self.packets += packets;
        self.crashes += crashes;
        self.power_cuts += power_cuts;
        self.disks_lost += disks_lost;
        self.deaths_certified += deaths_certified;
    }
}

impl World {
    pub(crate) fn new(seed: u64, conditions: Conditions, traced: bool) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let machine = |_| Machine::new(&mut rng, conditions.durability);
        let machines = NODES.map(machine).into_iter().collect();
        let lanes = Lanes::new(conditions.lanes, &mut rng);
        let mut world = World {
            now: Duration::ZERO,
            config: sip_config(conditions.lanes),
            fabric: Fabric::new(conditions.fabric),
            conditions,
            rng,
            invariants: Invariants::new(),
            trace: Trace::new(traced),
            steps: 0,
            counts: Counts::default(),
            machines,
            lanes,
            events: BTreeMap::new(),
            sequence: 0,
            phones_due: None,
            load: 0,
            calm_since: Some(Duration::ZERO),
            reforming: Some(Duration::ZERO),
            deaths: Vec::new(),
        };
        for node in NODES {
            world.start(node);
        }
        world.arm_phones();
        world
    }

    // Time.

    pub(crate) fn run_for(&mut self, length: Duration) {
        let until = self.now + length;
        while self.step(until) {}
    }

    /// Runs until the condition holds; returns how long that took, `None` if it did not within `limit`.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        condition: impl Fn(&mut World) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !condition(self) {
            if !self.step(start + limit) {
                return None;
            }
        }
        Some(self.now - start)
    }

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
        self.steps += 1;
        if let Some(node) = self.node_of(&event) {
            let paused_until = self.machines[node].paused_until;
            if paused_until > self.now {
                self.at(paused_until, event);
                return true;
            }
        }
        if !self.is_void(&event) {
            self.handle(event);
            self.after_step();
        }
        true
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((when, self.sequence), event);
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn local(&mut self, node: usize, delay: Duration, what: Local) {
        let life = self.machines[node].life;
        self.after(delay, Event::Local { node, life, what });
    }

    fn micros(&mut self, (low, high): (u64, u64)) -> Duration {
        Duration::from_micros(self.rng.random_range(low..=high))
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability)
    }

    /// The machine whose process has to run for this event to take place.
    fn node_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Message { to: node, .. }
            | Event::Local { node, .. }
            | Event::Certificate { node, .. } => Some(*node),
            Event::Packet { .. } | Event::Phones | Event::Withdraw { .. } => None,
        }
    }

    fn is_void(&self, event: &Event) -> bool {
        match event {
            Event::Message { from, to, .. } => self.conditions.cut.contains(&(*from, *to)),
            Event::Local { node, life, what } => {
                let machine = &self.machines[*node];
                let replaced = match what {
                    Local::Timer(timer, number) => machine.timers[*timer as usize] != *number,
                    _ => false,
                };
                *life != machine.life || machine.process.is_none() || replaced
            }
            Event::Withdraw { node, life } => {
                let machine = &self.machines[*node];
                *life != machine.life || machine.process.is_some()
            }
            Event::Packet { .. } | Event::Phones | Event::Certificate { .. } => false,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Message { from, to, envelope } => self.deliver(from, to, *envelope),
            Event::Certificate { node, death } => self.bury(node, death),
            Event::Local { node, what, .. } => self.happen(node, what),
            Event::Packet { from, to, bytes } => self.packet(from, to, bytes),
            Event::Phones => self.phones(),
            Event::Withdraw { node, .. } => self.fabric.remove_local(node),
        }
    }

    // Phones and their network.

    fn phones(&mut self) {
        self.phones_due = None;
        let wall = wall(self.now);
        let before = self.lanes.calls.len();
        self.lanes.begin_calls(self.now, wall, &mut self.rng);
        self.counts.calls += (self.lanes.calls.len() - before) as u64;
        self.lanes.handle_timeout(wall);
        self.collect();
    }

    /// Puts what the phones have sent on its way.
    fn collect(&mut self) {
        for out in self.lanes.outgoing() {
            self.send_packet(out.from, out.to, out.bytes);
        }
        self.arm_phones();
    }

    fn send_packet(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let copies = 1 + usize::from(self.chance(self.conditions.duplication));
        for _ in 0..copies {
            if !self.chance(self.conditions.loss) {
                let delay = self.micros(self.conditions.delay_us) * 2;
                let bytes = bytes.clone();
                self.after(delay, Event::Packet { from, to, bytes });
            }
        }
    }

    fn packet(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let realms = self.config.realms.iter();
        let Some(realm) = realms.into_iter().find(|realm| realm.advertised == to) else {
            self.trace
                .note(self.now, || format!("{to} hears {}", first_line(&bytes)));
            self.lanes.receive(from, to, &bytes, wall(self.now));
            return self.collect();
        };
        let realm = realm.id;
        let Some(node) = self.fabric.holder(self.now) else {
            return;
        };
        let cut = self.conditions.phones_cut.contains(&node);
        if cut || self.machines[node].process.is_none() {
            return;
        }
        self.trace.note(self.now, || {
            format!("node {node} gets {}", first_line(&bytes))
        });
        let datagram = ToEngine::Datagram {
            realm,
            source: from,
            bytes,
        };
        self.queue_for_engine(node, datagram);
    }

    fn arm_phones(&mut self) {
        let elapsed = wall(self.now);
        let phones = self
            .lanes
            .poll_timeout()
            .map(|due| self.now + elapsed.until(due));
        let calls = self.lanes.next_call().map(|due| due.max(self.now));
        let Some(due) = phones.into_iter().chain(calls).min() else {
            return;
        };
        // A phone's clock counts whole milliseconds.
        let due = due.max(self.now + ms(1));
        if self.phones_due.is_none_or(|armed| due < armed) {
            self.phones_due = Some(due);
            self.at(due, Event::Phones);
        }
    }
}

fn first_line(bytes: &[u8]) -> String {
    let line = bytes
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

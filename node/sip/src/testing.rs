//! A virtual world for tests of whole calls: time, a network, a log, a port pool, and phones that keep to RFC 3261
//! on their side.
//!
//! The world does what the node's shell does: it puts the Replicate and Cdr commands of a batch into the log in one
//! piece, reports the commit, and only then releases what was held. It can kill the owner at any input and go on with
//! a new one made from the log alone.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use crate::cdr::CdrRecord;
use crate::command::{Command, MediaPort, MediaPorts, MediaStream, When};
use crate::config::{CallTimers, Limits, Realm, Route, SipConfig, Target, TargetGroup};
use crate::core::Sip;
use crate::flow::RealmId;
use crate::message::{Message, Method};
use crate::phone::Phone;
use crate::record::{CallKey, CallRecord};
use crate::time::Timestamp;
use crate::transaction::TimerConfig;

pub(crate) const INSIDE: RealmId = RealmId(1);
pub(crate) const OUTSIDE: RealmId = RealmId(2);
pub(crate) const INSIDE_BOUND: &str = "10.0.0.100:5060";
pub(crate) const OUTSIDE_BOUND: &str = "10.0.0.100:5070";
pub(crate) const OUTSIDE_ADVERTISED: &str = "203.0.113.100:5070";

const LATENCY: Duration = Duration::from_millis(5);
/// A scenario that is not over after so many events never will be.
const MAX_EVENTS: usize = 20_000;

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("address in a test")
}

/// Inside goes to the targets given, outside to the phone inside.
pub(crate) fn config(targets: Vec<Target>) -> SipConfig {
    let realm = |id, name: &str, bound, advertised| Realm {
        id,
        name: name.into(),
        bound: address(bound),
        advertised: address(advertised),
    };
    SipConfig {
        realms: vec![
            realm(INSIDE, "pbx", INSIDE_BOUND, INSIDE_BOUND),
            realm(OUTSIDE, "trunk", OUTSIDE_BOUND, OUTSIDE_ADVERTISED),
        ],
        groups: vec![TargetGroup {
            name: "carrier".into(),
            realm: OUTSIDE,
            targets,
        }],
        routes: vec![Route {
            from: INSIDE,
            group: 0,
        }],
        timers: TimerConfig::default(),
        call_timers: CallTimers::default(),
        limits: Limits::default(),
        user_agent: "tandem".into(),
    }
}

pub(crate) fn target(text: &str, priority: u16) -> Target {
    Target {
        address: address(text),
        priority,
        weight: 1,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub taken: BTreeSet<MediaPort>,
    pub size: usize,
}

impl MediaPorts for Pool {
    fn allocate(&mut self, realm: RealmId) -> Option<MediaPort> {
        let free = (0..self.size).map(|index| MediaPort {
            realm,
            rtp: 20000 + 2 * index as u16,
        });
        let port = free.into_iter().find(|port| !self.taken.contains(port))?;
        self.taken.insert(port);
        Some(port)
    }

    fn reserve(&mut self, port: MediaPort) -> bool {
        self.taken.insert(port)
    }

    fn release(&mut self, port: MediaPort) {
        assert!(self.taken.remove(&port), "{port:?} released twice");
    }
}

/// What of the owner's last batch the world still gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The log entry was lost with the owner; what was to leave at once had left.
    BeforeCommit,
    /// The entry is committed, the held messages were never sent.
    BeforeReveal,
    /// Everything was sent.
    AfterReveal,
}

#[derive(Debug)]
enum Event {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
}

#[derive(Debug)]
pub(crate) struct World {
    pub now: Timestamp,
    pub config: SipConfig,
    pub sip: Sip,
    pub epoch: u64,
    pub pool: Pool,
    pub phones: Vec<Phone>,
    pub log: BTreeMap<CallKey, Bytes>,
    pub cdrs: Vec<CdrRecord>,
    pub media: BTreeMap<CallKey, Vec<MediaStream>>,
    /// Everything that left us, with its destination.
    pub sent: Vec<(SocketAddr, Bytes)>,
    /// Everything that reached us, with its source.
    pub received: Vec<(RealmId, SocketAddr, Bytes)>,
    /// Inputs given to the owner so far.
    pub inputs: usize,
    /// Kill the owner with this input.
    pub crash: Option<(usize, Crash)>,
    /// The network loses, doubles and delays, and owners die now and then.
    pub weather: Option<StdRng>,
    /// Commits are reported this much later than they are asked for.
    pub commit_delay: Duration,
    pending_commits: Vec<(Timestamp, Vec<Command>)>,
    events: BTreeMap<(Timestamp, u64), Event>,
    next_event: u64,
    seen: BTreeSet<Bytes>,
}

impl World {
    pub(crate) fn new(config: SipConfig, phones: Vec<Phone>) -> World {
        let mut sip = Sip::new(config.clone(), 1);
        let pool = Pool {
            taken: BTreeSet::new(),
            size: 100,
        };
        let now = Timestamp(1_700_000_000_000);
        sip.activate(1);
        World {
            now,
            config,
            sip,
            epoch: 1,
            pool,
            phones,
            log: BTreeMap::new(),
            cdrs: Vec::new(),
            media: BTreeMap::new(),
            sent: Vec::new(),
            received: Vec::new(),
            inputs: 0,
            crash: None,
            weather: None,
            commit_delay: Duration::ZERO,
            pending_commits: Vec::new(),
            events: BTreeMap::new(),
            next_event: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Runs until nothing is left to happen.
    pub(crate) fn run(&mut self) {
        self.run_until(Timestamp::MAX);
        assert!(self.pending_commits.is_empty());
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    fn run_until(&mut self, end: Timestamp) {
        for _ in 0..MAX_EVENTS {
            let Some(next) = self.next_time().filter(|next| *next <= end) else {
                self.now = if end == Timestamp::MAX { self.now } else { end };
                return;
            };
            self.now = self.now.max(next);
            self.one_event();
        }
        panic!(
            "the scenario does not come to rest; phones: {:#?}",
            self.phones
        );
    }

    fn next_time(&self) -> Option<Timestamp> {
        if self.sip.awaiting() > 0 {
            return Some(self.now);
        }
        let phones = self.phones.iter().filter_map(Phone::poll_timeout);
        let network = self.events.keys().next().map(|(time, _)| *time);
        let owner = self.sip.poll_timeout().map(|(time, _)| time);
        let commits = self.pending_commits.first().map(|(time, _)| *time);
        phones.chain(network).chain(owner).chain(commits).min()
    }

    fn one_event(&mut self) {
        // As the engine does: between two inputs, a few at a time.
        if self.sip.awaiting() > 0 {
            self.sip.take_over(1, self.now, &mut self.pool);
            let batch = self.drain();
            return self.commit(batch, true);
        }
        if self
            .pending_commits
            .first()
            .is_some_and(|(time, _)| *time <= self.now)
        {
            let (_, batch) = self.pending_commits.remove(0);
            return self.commit(batch, true);
        }
        if let Some(entry) = self
            .events
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let Event::Datagram { from, to, bytes } = entry.remove();
            return self.deliver(from, to, bytes);
        }
        if self
            .sip
            .poll_timeout()
            .is_some_and(|(time, _)| time <= self.now)
        {
            self.sip.handle_timeout(self.now, &mut self.pool);
            return self.after_input();
        }
        for phone in &mut self.phones {
            phone.handle_timeout(self.now);
        }
        self.collect();
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let realm = self
            .config
            .realms
            .iter()
            .find(|realm| realm.advertised == to)
            .map(|realm| realm.id);
        match realm {
            Some(realm) => {
                self.received.push((realm, from, bytes.clone()));
                self.sip
                    .handle_datagram(realm, from, bytes, self.now, &mut self.pool);
                self.after_input();
            }
            None => {
                if let Some(phone) = self.phones.iter_mut().find(|phone| phone.address == to) {
                    phone.receive(from, &bytes, self.now);
                }
                self.collect();
            }
        }
    }

    fn collect(&mut self) {
        let mut out = Vec::new();
        for phone in &mut self.phones {
            let from = phone.address;
            out.extend(phone.outbox.drain(..).map(|(to, bytes)| (from, to, bytes)));
        }
        for (from, to, bytes) in out {
            self.post(from, to, bytes);
        }
    }

    pub(crate) fn post(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let (copies, jitter) = match &mut self.weather {
            None => (1, 0),
            // About one in seven is lost.
            Some(rng) => (
                [0, 1, 1, 1, 1, 1, 2][rng.random_range(0..7)],
                rng.random_range(0..40),
            ),
        };
        for copy in 0..copies {
            self.next_event += 1;
            let at = self.now + LATENCY + Duration::from_millis(jitter * (copy + 1));
            let event = Event::Datagram {
                from,
                to,
                bytes: bytes.clone(),
            };
            self.events.insert((at, self.next_event), event);
        }
    }

    fn drain(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.sip.next_command()).collect()
    }

    fn after_input(&mut self) {
        self.inputs += 1;
        let batch = self.drain();
        let crash = self
            .crash
            .filter(|(at, _)| *at == self.inputs)
            .map(|(_, crash)| crash);
        let struck = self.weather.as_mut().and_then(|rng| {
            let crashes = [Crash::BeforeCommit, Crash::BeforeReveal, Crash::AfterReveal];
            rng.random_bool(0.05)
                .then(|| crashes[rng.random_range(0..3)])
        });
        match crash.or(struck) {
            Some(crash) => self.fail_over(crash, batch),
            None if self.commit_delay.is_zero() => self.commit(batch, true),
            None => {
                self.release(&batch, When::Now);
                let at = self.now + self.commit_delay;
                self.pending_commits.push((
                    at,
                    batch
                        .into_iter()
                        .filter(|command| !is_now(command))
                        .collect(),
                ));
            }
        }
    }

    /// One log entry for the batch, then everything it held.
    fn commit(&mut self, batch: Vec<Command>, reveal: bool) {
        for command in &batch {
            match command {
                Command::Replicate {
                    key,
                    record: Some(bytes),
                    sequence,
                } => {
                    self.log.insert(*key, bytes.clone());
                    self.sip.handle_committed(*sequence);
                }
                Command::Replicate {
                    key,
                    record: None,
                    sequence,
                } => {
                    self.log.remove(key);
                    self.sip.handle_committed(*sequence);
                }
                Command::Cdr(cdr) => self.cdrs.push(cdr.clone()),
                Command::Media { key, streams } => {
                    self.media.insert(*key, streams.clone());
                    self.media.retain(|_, streams| !streams.is_empty());
                }
                Command::Send { .. } => {}
            }
        }
        self.release(&batch, When::Now);
        if reveal {
            self.release(&batch, When::Committed);
        }
    }

    fn release(&mut self, batch: &[Command], which: When) {
        for command in batch {
            let Command::Send { bytes, flow, when } = command else {
                continue;
            };
            if *when != which {
                continue;
            }
            if which == When::Now {
                self.check_shows_nothing(bytes);
            }
            self.seen.insert(bytes.clone());
            self.sent.push((flow.remote, bytes.clone()));
            let from = self.config.realm(flow.realm).unwrap().advertised;
            self.post(from, flow.remote, bytes.clone());
        }
    }

    /// Contract 2, commit before reveal: what leaves at once is a stateless answer, or something that is
    /// in the committed log or has left before.
    fn check_shows_nothing(&self, bytes: &Bytes) {
        let message = Message::parse(bytes.clone()).expect("we send well-formed messages");
        let stateless = message.status().is_some_and(|status| {
            matches!(status, 400 | 404 | 405 | 413 | 415 | 416 | 420)
                || matches!(status, 481..=483 | 488 | 500 | 501 | 503 | 513)
        });
        let capabilities = message.status() == Some(200) && message.method() == Method::Options;
        let committed = self.log.values().any(|record| contains(record, bytes));
        assert!(
            stateless || capabilities || committed || self.seen.contains(bytes),
            "revealed before commit: {}",
            String::from_utf8_lossy(bytes)
        );
    }

    /// The owner dies with this batch; the other node takes over with what the log has.
    fn fail_over(&mut self, crash: Crash, batch: Vec<Command>) {
        match crash {
            Crash::BeforeCommit => self.release(&batch, When::Now),
            Crash::BeforeReveal => self.commit(batch, false),
            Crash::AfterReveal => self.commit(batch, true),
        }
        self.take_over();
    }

    pub(crate) fn take_over(&mut self) {
        self.epoch += 1;
        self.pending_commits.clear();
        self.sip = Sip::new(self.config.clone(), self.epoch);
        self.pool = Pool {
            taken: BTreeSet::new(),
            size: self.pool.size,
        };
        self.media.clear();
        for (key, bytes) in &self.log {
            let record = CallRecord::from_bytes(bytes).expect("a committed record decodes");
            assert_eq!(record.to_bytes(), bytes);
            self.sip.apply(*key, Some(record), &mut self.pool);
        }
        self.sip.activate(self.epoch);
        assert_eq!(self.sip.counters().port_conflicts, 0);
        // What the new owner's media plane was told as a standby.
        let batch = self.drain();
        self.commit(batch, true);
    }

    /// Nothing is left of any call.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(
            self.sip.calls(),
            0,
            "{:#?}",
            self.sip.records().collect::<Vec<_>>()
        );
        assert!(self.log.is_empty());
        assert!(self.pool.taken.is_empty(), "{:?}", self.pool.taken);
        assert!(self.media.is_empty(), "{:?}", self.media);
        assert_eq!(self.sip.poll_timeout(), None);
    }
}

fn is_now(command: &Command) -> bool {
    matches!(
        command,
        Command::Send {
            when: When::Now,
            ..
        }
    )
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

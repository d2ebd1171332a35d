//! The engine: the one thread that owns the SIP core and the ownership machine.
//!
//! A message's way, top to bottom:
//!
//! ```text
//! socket ─▶ inbox ─▶ Engine::handle ─▶ Sip (transaction, dialog, B2BUA) ─▶ commands
//!   Replicate, Cdr ─▶ one log entry a batch ─▶ replication ─▶ Applied ─▶ release the held sends
//!   Send Now ──────▶ gate ─▶ socket            Send Committed ─▶ held until then ─▶ gate ─▶ socket
//!   Media ─────────▶ datapath
//! ```
//!
//! Inputs that wait together share one log entry (group commit): under load the entry grows while the
//! disk syncs, without a timer in the way.
//!
//! On a standby the same thread applies committed records into the same table and the same datapath,
//! so taking over opens the gate and arms timers, nothing else.

mod held;
mod table;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tandem_datapath::{Datapath, Gate, boottime};
use tandem_failover::{Healer, log_transition};
use tandem_failover_core::{
    Desired, Epoch, Ownership,
    ownership::{Command as OwnershipCommand, Input as OwnershipInput, Phase},
};
use tandem_replication::{Change, Event, Replication, Role, Slot};
use tandem_sip::{
    command::{Command, MediaStream, When},
    core::Sip,
    flow::Flow,
    record::{CallKey, CallRecord},
    time::Timestamp,
};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

pub(crate) use self::table::failover_slot;
use self::{held::Held, table::Key};
use crate::{
    cdr::CdrFile,
    fatal::Fatal,
    inbox::{Inbox, Input, Received},
    ports::Pools,
    signalling::RealmSocket,
    status::EngineView,
};

/// Inputs handled before their changes go into one log entry.
const BATCH: usize = 256;
/// The longest the engine sleeps: how old the published view can get.
const VIEW_INTERVAL: Duration = Duration::from_millis(200);

/// What the engine works with; built by the worker.
pub(crate) struct Parts {
    pub(crate) slot: Slot,
    pub(crate) inbox: Inbox,
    pub(crate) sip: Sip,
    pub(crate) sockets: Vec<RealmSocket>,
    pub(crate) pools: Pools,
    pub(crate) datapath: Arc<Datapath>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) replication: Replication,
    pub(crate) desired: watch::Sender<Desired>,
    pub(crate) healer: Healer,
    pub(crate) cdrs: CdrFile,
    pub(crate) view: watch::Sender<EngineView>,
    pub(crate) fatal: Fatal,
}

pub(crate) struct Engine {
    parts: Parts,
    ownership: Ownership,
    /// The epoch being served; input from the network is taken only then.
    serving: Option<Epoch>,
    held: Held,
    counters: Counters,
    published: Duration,
}

/// What the engine itself counts; the cores count for themselves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// SIP datagrams that came while this node was not the owner.
    pub(crate) not_owner: u64,
    /// Sends refused because the lease had ended.
    pub(crate) gate_closed: u64,
    /// Sends the kernel refused.
    pub(crate) send_errors: u64,
    pub(crate) sent: u64,
    /// Log entries proposed.
    pub(crate) proposals: u64,
    /// Batches that could not be proposed; the node then stops serving this epoch.
    pub(crate) proposals_refused: u64,
    /// Media plans the datapath refused.
    pub(crate) media_refused: u64,
    /// Table entries that could not be decoded.
    pub(crate) undecodable: u64,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Engine {
        let ownership = Ownership::new(failover_slot(parts.slot));
        Engine {
            parts,
            ownership,
            serving: None,
            held: Held::default(),
            counters: Counters::default(),
            published: Duration::ZERO,
        }
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        loop {
            let mut next = match self.parts.inbox.receive(self.sleep()) {
                Received::Input(Input::Stop) | Received::Closed => return self.stop(),
                Received::Input(input) => Some(input),
                Received::TimedOut => None,
            };
            let mut handled = 0;
            while let Some(input) = next {
                if matches!(input, Input::Stop) {
                    return self.stop();
                }
                self.handle(input);
                handled += 1;
                next = if handled < BATCH {
                    self.parts.inbox.try_receive()
                } else {
                    None
                };
            }
            self.handle_timeouts();
            self.flush();
            self.publish();
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Datagram {
                realm,
                source,
                bytes,
            } => {
                if self.serving.is_none() {
                    self.counters.not_owner += 1;
                    return;
                }
                let ports = self.parts.pools.at(boottime());
                self.parts
                    .sip
                    .handle_datagram(realm, source, bytes, wall_clock(), ports);
            }
            Input::Media(event) => {
                if self.serving.is_some() {
                    self.parts
                        .sip
                        .handle_media(table::media_event(event), wall_clock());
                }
            }
            Input::Replication(event) => self.handle_replication(event),
            Input::Stop => {}
        }
    }

    fn handle_replication(&mut self, event: Event) {
        match event {
            Event::Applied {
                term,
                ticket,
                changes,
                ..
            } => {
                let own = ticket.is_some() && self.serving.is_some();
                for change in changes {
                    self.apply(change, own);
                }
                if let Some(ticket) = ticket {
                    self.release(ticket);
                }
                debug!(term, "applied");
            }
            Event::Dropped { ticket, reason } => {
                debug!(?ticket, %reason, "a proposal was dropped");
                if let Some(epoch) = self.held.dropped(ticket) {
                    self.own(OwnershipInput::CommitRefused { epoch });
                }
            }
            Event::Restored { table, .. } => self.restore(table),
            Event::Role(Role::Leader { term }) => {
                self.own(OwnershipInput::Leader { epoch: Epoch(term) });
            }
            Event::Role(Role::Follower { .. } | Role::Candidate { .. }) => {
                self.own(OwnershipInput::NotLeader);
            }
            Event::Lease { term, until } => {
                self.own(OwnershipInput::Lease {
                    epoch: Epoch(term),
                    until,
                });
            }
            Event::LeaseLost { term } => {
                self.own(OwnershipInput::LeaseLost { epoch: Epoch(term) });
            }
            Event::PeerUp(peer) => {
                info!(%peer, "connected");
                // The peer may have believed that the address was its own.
                self.parts.healer.heal();
            }
            Event::PeerDown(peer) => warn!(%peer, "not connected"),
            // The worker takes it before it comes here.
            Event::StoreFailed(_) => {}
        }
    }

    /// Feeds the ownership machine and carries out what it commands, in order.
    fn own(&mut self, input: OwnershipInput) {
        self.ownership.handle_input(input, boottime());
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.ownership.next_command() {
            match command {
                OwnershipCommand::CommitOwner { epoch } => self.commit_owner(epoch),
                OwnershipCommand::Activate { epoch } => {
                    self.parts.pools.reset();
                    let ports = self.parts.pools.at(boottime());
                    self.parts.sip.activate(epoch.0, wall_clock(), ports);
                    self.serving = Some(epoch);
                }
                OwnershipCommand::OpenGate { until, .. }
                | OwnershipCommand::ExtendGate { until, .. } => self.open_gate(until),
                OwnershipCommand::CloseGate => self.parts.gate.close(),
                OwnershipCommand::Deactivate => self.deactivate(),
                OwnershipCommand::Desire(desired) => {
                    self.parts.desired.send_replace(desired);
                }
                OwnershipCommand::Transition(transition) => {
                    log_transition(&transition, failover_slot(self.parts.slot));
                    self.published = Duration::ZERO;
                }
            }
        }
    }

    fn open_gate(&self, until: Duration) {
        self.parts
            .gate
            .open_until(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
    }

    fn commit_owner(&mut self, epoch: Epoch) {
        let change = table::owner(self.parts.slot, epoch);
        match self.parts.replication.propose(vec![change]) {
            Ok(ticket) => self.held.owner_entry(ticket, epoch),
            Err(error) => {
                warn!(%epoch, %error, "the owner entry was refused");
                self.own(OwnershipInput::CommitRefused { epoch });
            }
        }
    }

    /// What was not committed never happened: the SIP core forgets, and reads the committed table.
    fn deactivate(&mut self) {
        self.serving = None;
        self.held.clear_sends();
        self.parts.sip.deactivate();
        match self.parts.replication.table() {
            Ok(table) => self.restore(table),
            Err(error) => self
                .parts
                .fatal
                .raise(&format!("rereading the committed table: {error}")),
        }
    }

    /// Applies one committed change. An own change of the epoch being served is in the SIP core already.
    fn apply(&mut self, change: Change, own: bool) {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value)),
            Change::Delete { key } => (key, None),
        };
        match (Key::parse(&key), value) {
            (Some(Key::Call(_)), _) if own => {}
            (Some(Key::Call(key)), value) => self.apply_call(key, value),
            (Some(Key::Cdr(id)), Some(record)) => self.parts.cdrs.put(id, record),
            (Some(Key::Cdr(id)), None) => self.parts.cdrs.delete(id),
            (Some(Key::Owner), Some(owner)) => match table::parse_owner(&owner) {
                Some((slot, epoch)) => self.own(OwnershipInput::OwnerApplied { slot, epoch }),
                None => self.undecodable("owner entry"),
            },
            (Some(Key::Owner), None) => {}
            (None, _) => self.undecodable("key"),
        }
    }

    fn apply_call(&mut self, key: CallKey, value: Option<Bytes>) {
        match value
            .map(|bytes| CallRecord::from_bytes(&bytes))
            .transpose()
        {
            Ok(record) => self.parts.sip.apply(key, record),
            Err(error) => {
                self.counters.undecodable += 1;
                error!(?key, %error, "a committed call record cannot be read");
            }
        }
    }

    fn undecodable(&mut self, what: &str) {
        self.counters.undecodable += 1;
        error!(what, "a committed table entry cannot be read");
    }

    /// A whole table instead of changes: after a snapshot, and after ownership was lost.
    fn restore(&mut self, table: BTreeMap<Bytes, Bytes>) {
        let mut cdrs = BTreeMap::new();
        let mut calls = BTreeMap::new();
        for (key, value) in table {
            match Key::parse(&key) {
                Some(Key::Cdr(id)) => {
                    cdrs.insert(id, value);
                }
                Some(Key::Call(key)) => {
                    calls.insert(key, value);
                }
                Some(Key::Owner) => {}
                None => self.undecodable("key"),
            }
        }
        self.parts.cdrs.replace(cdrs);
        let known: Vec<CallKey> = self.parts.sip.records().map(|(key, _)| key).collect();
        for key in known.into_iter().filter(|key| !calls.contains_key(key)) {
            self.parts.sip.apply(key, None);
        }
        for (key, value) in calls {
            self.apply_call(key, Some(value));
        }
    }

    fn handle_timeouts(&mut self) {
        let now = boottime();
        if self
            .ownership
            .poll_timeout()
            .is_some_and(|(due, _)| due <= now)
        {
            self.ownership.handle_timeout(now);
            self.carry_out();
        }
        if self.serving.is_some() {
            let ports = self.parts.pools.at(now);
            self.parts.sip.handle_timeout(wall_clock(), ports);
        }
    }

    /// Carries out the SIP core's commands: immediate sends now, the rest behind one log entry.
    fn flush(&mut self) {
        let mut changes = Vec::new();
        let mut sends = Vec::new();
        let mut sequence = None;
        while let Some(command) = self.parts.sip.next_command() {
            match command {
                Command::Replicate {
                    key,
                    record,
                    sequence: number,
                } => {
                    changes.push(table::call(key, record));
                    sequence = Some(number);
                }
                Command::Cdr(record) => changes.push(table::cdr(&record)),
                Command::Media { key, streams } => self.set_media(key, &streams),
                Command::Send {
                    bytes,
                    flow,
                    when: When::Now,
                } => self.send(&bytes, flow),
                Command::Send {
                    bytes,
                    flow,
                    when: When::Committed,
                } => sends.push((bytes, flow)),
            }
        }
        if changes.is_empty() {
            self.hold_behind_latest(sends);
            return;
        }
        let surplus = self.parts.cdrs.surplus();
        changes.extend(surplus.into_iter().map(table::cdr_deletion));
        match self.parts.replication.propose(changes) {
            Ok(ticket) => {
                self.counters.proposals += 1;
                self.held.sends(ticket, sequence, sends);
            }
            Err(error) => {
                // The SIP core is ahead of the log and cannot go back piecemeal: stop serving, reread the
                // committed table, commit a fresh owner entry. Phones retransmit.
                self.counters.proposals_refused += 1;
                warn!(%error, "a batch could not be proposed");
                if let Some(epoch) = self.serving {
                    self.own(OwnershipInput::LeaseLost { epoch });
                }
            }
        }
    }

    /// A send that shows a state which an earlier, uncommitted batch made waits for that batch.
    fn hold_behind_latest(&mut self, sends: Vec<(Bytes, Flow)>) {
        if let Some(sends) = self.held.behind_latest(sends) {
            for (bytes, flow) in sends {
                self.send(&bytes, flow);
            }
        }
    }

    fn release(&mut self, ticket: tandem_replication::Ticket) {
        let released = self.held.release(ticket);
        if let Some(sequence) = released.sequence {
            self.parts.sip.handle_committed(sequence);
        }
        for (bytes, flow) in released.sends {
            self.send(&bytes, flow);
        }
    }

    fn send(&mut self, bytes: &[u8], Flow { realm, remote, .. }: Flow) {
        let remote: SocketAddr = remote;
        if !self.parts.gate.is_open() {
            self.counters.gate_closed += 1;
            return;
        }
        let Some(socket) = self.parts.sockets.get(usize::from(realm.0)) else {
            self.counters.send_errors += 1;
            return;
        };
        match socket.send(bytes, remote) {
            Ok(()) => self.counters.sent += 1,
            Err(error) => {
                self.counters.send_errors += 1;
                debug!(%remote, %error, "sending SIP");
            }
        }
    }

    fn set_media(&mut self, key: CallKey, streams: &[MediaStream]) {
        let plans = table::plans(streams);
        if let Err(error) = self.parts.datapath.set(table::session(key), plans) {
            self.counters.media_refused += 1;
            error!(?key, %error, "media could not be set up");
        }
    }

    fn sleep(&self) -> Duration {
        let mut sleep = VIEW_INTERVAL;
        if let Some((due, _)) = self.ownership.poll_timeout() {
            sleep = sleep.min(due.saturating_sub(boottime()));
        }
        if self.serving.is_some()
            && let Some((due, _)) = self.parts.sip.poll_timeout()
        {
            sleep = sleep.min(wall_clock().until(due));
        }
        sleep
    }

    fn publish(&mut self) {
        let now = boottime();
        if now < self.published + VIEW_INTERVAL {
            return;
        }
        self.published = now;
        let ownership = self.ownership.status();
        let view = EngineView {
            serving: ownership.phase == Phase::Serving,
            epoch: ownership.epoch.0,
            calls: self.parts.sip.calls(),
            held: self.held.len(),
            cdr: self.parts.cdrs.status(),
            counters: self.counter_list(),
            at: now,
        };
        self.parts.view.send_replace(view);
    }

    fn counter_list(&self) -> BTreeMap<String, u64> {
        let engine = &self.counters;
        let ownership = self.ownership.counters();
        let own = [
            (
                "datagrams_dropped_queue_full",
                self.parts.inbox.datagrams_dropped(),
            ),
            ("datagrams_dropped_not_owner", engine.not_owner),
            ("messages_sent", engine.sent),
            ("sends_refused_gate_closed", engine.gate_closed),
            ("send_errors", engine.send_errors),
            ("proposals", engine.proposals),
            ("proposals_refused", engine.proposals_refused),
            ("media_refused", engine.media_refused),
            ("table_undecodable", engine.undecodable),
            ("owner_stale_epoch", ownership.stale_epoch),
            ("owner_activations", ownership.activations),
            ("owner_leases_lost", ownership.leases_lost),
        ];
        let sip = self
            .parts
            .sip
            .counters()
            .entries()
            .map(|(name, value)| (format!("sip_{name}"), value));
        own.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(sip)
            .collect()
    }

    fn stop(mut self) {
        self.parts.gate.close();
        self.parts.desired.send_replace(Desired::Release);
        self.published = Duration::ZERO;
        self.publish();
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(tandem_sip::time::millis(since))
}

//! The engine's shell: the one thread that owns a [`tandem_engine::Engine`], and everything it commands.
//!
//! A message's way, top to bottom:
//!
//! ```text
//! socket ─▶ inbox ─▶ Shell::handle ─▶ Engine ─▶ its commands, in order
//!   Propose ─▶ replication ─▶ Applied, back through the inbox
//!   Send ────▶ gate ─▶ socket
//!   Media ───▶ datapath        OpenGate ─▶ gate        Desire ─▶ address driver
//! ```
//!
//! Inputs that wait together share one log entry (group commit): under load the entry grows while the
//! disk syncs, without a timer in the way.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tandem_datapath::{Datapath, Gate, boottime};
use tandem_engine::{Batch, Command, Committed, Engine, Now, failover_slot};
use tandem_failover::{Healer, log_transition};
use tandem_failover_core::{Desired, Epoch, ownership::Phase};
use tandem_replication::{Change, Event, Replication, Slot, Ticket};
use tandem_sip::{command::MediaStream, flow::Flow, record::CallKey};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::{
    cdr::CdrFile,
    fatal::Fatal,
    inbox::{Inbox, Input, Received},
    signalling::RealmSocket,
    status::{CAUGHT_UP, EngineView},
};

/// Inputs handled before their changes go into one log entry.
const BATCH: usize = 256;
/// The longest the engine sleeps: how old the published view can get.
const VIEW_INTERVAL: Duration = Duration::from_millis(200);

/// What the engine works with; built by the worker.
pub(crate) struct Parts {
    pub(crate) slot: Slot,
    pub(crate) inbox: Inbox,
    pub(crate) engine: Engine,
    pub(crate) sockets: Vec<RealmSocket>,
    pub(crate) datapath: Arc<Datapath>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) replication: Replication,
    pub(crate) desired: watch::Sender<Desired>,
    pub(crate) healer: Healer,
    pub(crate) cdrs: CdrFile,
    pub(crate) view: watch::Sender<EngineView>,
    pub(crate) fatal: Fatal,
}

pub(crate) struct Shell {
    parts: Parts,
    /// Proposals that replication has accepted; bounded by its own bound.
    proposed: BTreeMap<Ticket, Batch>,
    counters: Counters,
    published: Duration,
    /// Just before the gate was opened or extended.
    opened: Duration,
}

/// What happened between the engine's commands and the kernel.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// Sends refused because the lease had ended.
    gate_closed: u64,
    /// Sends the kernel refused.
    send_errors: u64,
    sent: u64,
    /// Media plans the datapath refused.
    media_refused: u64,
}

impl Shell {
    pub(crate) fn new(parts: Parts) -> Shell {
        Shell {
            parts,
            proposed: BTreeMap::new(),
            counters: Counters::default(),
            published: Duration::ZERO,
            opened: Duration::ZERO,
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
            self.parts.engine.handle_timeout(now());
            self.execute();
            let cdrs = &self.parts.cdrs;
            self.parts.engine.flush(|| cdrs.surplus());
            self.execute();
            self.publish();
        }
    }

    fn handle(&mut self, input: Input) {
        let engine = &mut self.parts.engine;
        match input {
            Input::Datagram {
                realm,
                source,
                bytes,
            } => engine.handle_datagram(realm, source, bytes, now()),
            Input::Media(event) => engine.handle_media(tandem_engine::media_event(event), now()),
            Input::Replication(event) => {
                if let Some(committed) = self.committed(event) {
                    self.parts.engine.handle_committed(committed, now());
                }
            }
            Input::Stop => {}
        }
        self.execute();
    }

    /// Replication's events in the engine's words; those that are not the engine's end here.
    fn committed(&mut self, event: Event) -> Option<Committed> {
        Some(match event {
            Event::Applied {
                ticket, changes, ..
            } => Committed::Applied {
                batch: ticket.and_then(|ticket| self.proposed.remove(&ticket)),
                changes,
            },
            Event::Dropped { ticket, reason } => {
                debug!(?ticket, %reason, "a proposal was dropped");
                Committed::Dropped {
                    batch: self.proposed.remove(&ticket)?,
                }
            }
            Event::Restored { table, .. } => Committed::Restored { table },
            Event::Role(role) => Committed::Role(role),
            Event::Lease { term, until } => Committed::Lease { term, until },
            Event::LeaseLost { term } => Committed::LeaseLost { term },
            Event::PeerUp(peer) => {
                info!(%peer, "connected");
                // The peer may have believed that the address was its own.
                self.parts.healer.heal();
                return None;
            }
            Event::PeerDown(peer) => {
                warn!(%peer, "not connected");
                return None;
            }
            Event::DiskLow { free_bytes } => {
                let standby_ready = self.standby_is_ready();
                warn!(
                    free_bytes,
                    standby_ready,
                    "the disk is running full: an owner hands over, or takes no new calls"
                );
                self.parts.engine.handle_disk_low(standby_ready, now());
                return None;
            }
            Event::DiskRecovered => {
                info!("the disk has room again");
                self.parts.engine.handle_disk_recovered();
                return None;
            }
            // The worker takes it before it comes here.
            Event::StoreFailed(_) => return None,
        })
    }

    /// Carries out what the engine commands, in order.
    fn execute(&mut self) {
        while let Some(command) = self.parts.engine.next_command() {
            match command {
                Command::Propose { batch, changes } => self.propose(batch, changes),
                Command::Send { bytes, flow } => self.send(&bytes, flow),
                Command::Media { key, streams } => self.set_media(key, &streams),
                Command::OpenGate { until } => {
                    let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
                    self.opened = boottime();
                    self.parts.gate.open_until(until);
                }
                Command::CloseGate => self.parts.gate.close(),
                Command::Desire(desired) => {
                    self.parts.desired.send_replace(desired);
                }
                Command::Transition(mut transition) => {
                    // The machine's own time is that of the decision; the gate opens here.
                    if transition.event == tandem_failover_core::Event::GateOpened {
                        transition.at = transition.at.max(self.opened);
                    }
                    log_transition(&transition, failover_slot(self.parts.slot));
                    self.published = Duration::ZERO;
                }
                Command::Transfer { epoch } => self.transfer(epoch),
                Command::Reread => self.reread(),
                Command::CdrPut { id, record } => self.parts.cdrs.put(id, record),
                Command::CdrDelete { id } => self.parts.cdrs.delete(id),
                Command::CdrReplace { records } => self.parts.cdrs.replace(records),
                Command::Undecodable { what } => {
                    error!(what, "a committed table entry cannot be read");
                }
            }
        }
    }

    fn propose(&mut self, batch: Batch, changes: Vec<Change>) {
        match self.parts.replication.propose(changes) {
            Ok(ticket) => {
                self.proposed.insert(ticket, batch);
            }
            Err(error) => {
                warn!(?batch, %error, "a batch could not be proposed");
                self.parts.engine.handle_refused(batch, now());
            }
        }
    }

    fn standby(&self) -> Slot {
        match self.parts.slot {
            Slot::A => Slot::B,
            Slot::B | Slot::Witness => Slot::A,
        }
    }

    /// Whether the other data node could serve at once: connected, and as far as what is on its way allows.
    fn standby_is_ready(&self) -> bool {
        let standby = self.standby().to_string();
        let peers = self.parts.replication.status().peers;
        peers.iter().any(|peer| {
            let near = peer.lag.is_some_and(|lag| lag <= CAUGHT_UP);
            peer.slot == standby && peer.voter && peer.connected && near
        })
    }

    fn transfer(&mut self, epoch: Epoch) {
        let standby = self.standby();
        if let Err(error) = self.parts.replication.transfer(standby) {
            warn!(%standby, %error, "ownership could not be handed over");
            self.parts.engine.handle_transfer_refused(epoch, now());
        }
    }

    fn reread(&mut self) {
        match self.parts.replication.table() {
            Ok(table) => self.parts.engine.handle_restored(table, now()),
            Err(error) => self
                .parts
                .fatal
                .raise(&format!("rereading the committed table: {error}")),
        }
    }

    fn send(&mut self, bytes: &Bytes, Flow { realm, remote, .. }: Flow) {
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
        let plans = tandem_engine::plans(streams);
        if let Err(error) = self.parts.datapath.set(tandem_engine::session(key), plans) {
            self.counters.media_refused += 1;
            error!(?key, %error, "media could not be set up");
        }
    }

    fn sleep(&self) -> Duration {
        let due = self.parts.engine.poll_timeout(now());
        due.map_or(VIEW_INTERVAL, |due| due.min(VIEW_INTERVAL))
    }

    fn publish(&mut self) {
        let now = boottime();
        if now < self.published + VIEW_INTERVAL {
            return;
        }
        self.published = now;
        let engine = &self.parts.engine;
        let ownership = engine.ownership();
        let view = EngineView {
            serving: ownership.phase == Phase::Serving,
            epoch: ownership.epoch.0,
            calls: engine.sip().calls(),
            held: engine.held(),
            cdr: self.parts.cdrs.status(),
            counters: self.counter_list(),
            at: now,
        };
        self.parts.view.send_replace(view);
    }

    fn counter_list(&self) -> BTreeMap<String, u64> {
        let engine = self.parts.engine.counters();
        let ownership = self.parts.engine.ownership_counters();
        let own = [
            (
                "datagrams_dropped_queue_full",
                self.parts.inbox.datagrams_dropped(),
            ),
            ("datagrams_dropped_not_owner", engine.not_owner),
            ("messages_sent", self.counters.sent),
            ("sends_refused_gate_closed", self.counters.gate_closed),
            ("send_errors", self.counters.send_errors),
            ("proposals", engine.proposals),
            ("proposals_refused", engine.proposals_refused),
            ("media_refused", self.counters.media_refused),
            ("table_undecodable", engine.undecodable),
            ("handed_over_disk_low", engine.handed_over_disk_low),
            ("owner_stale_epoch", ownership.stale_epoch),
            ("owner_activations", ownership.activations),
            ("owner_leases_lost", ownership.leases_lost),
        ];
        let sip = self
            .parts
            .engine
            .sip()
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

fn now() -> Now {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now::new(boottime(), wall)
}

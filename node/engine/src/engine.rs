//! The engine: owns the SIP core, the ownership machine and the messages that wait for their commit.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use tandem_failover_core::{
    Epoch, Ownership,
    ownership::{Command as OwnershipCommand, Input as OwnershipInput, Status as OwnershipStatus},
};
use tandem_replication_core::{Change, Role, Slot, Table};
use tandem_sip::{
    command::{Command as SipCommand, MediaEvent, When},
    config::SipConfig,
    core::Sip,
    flow::{Flow, RealmId},
    record::{CallKey, CallRecord},
    time::Timestamp,
};

use crate::{
    CdrId, Counters,
    command::{Batch, Command, Committed, Now},
    failover_slot,
    held::{Held, HeldSend},
    ports::Pools,
    table::{self, Key},
};

/// Calls of a former owner that are taken over between two looks at the queue.
const TAKEOVER_STEP: usize = 64;
/// While so many batches wait for their commit, no further calls are taken over: what that changes must not fill the
/// log.
const TAKEOVER_IN_FLIGHT: usize = 8;

/// What an engine is built from.
#[derive(Debug)]
pub struct Settings {
    pub slot: Slot,
    pub sip: SipConfig,
    /// Media ports of each realm, indexed by [`RealmId`].
    pub media_ports: Vec<RangeInclusive<u16>>,
    /// Must differ between processes: tags, branches and Call-IDs come from it.
    pub seed: u64,
}

/// See the crate.
#[derive(Debug)]
pub struct Engine {
    slot: Slot,
    sip: Sip,
    pools: Pools,
    ownership: Ownership,
    /// The epoch being served; input from the network is taken only then.
    serving: Option<Epoch>,
    held: Held,
    last_batch: u64,
    commands: VecDeque<Command>,
    counters: Counters,
    #[cfg(feature = "sabotage")]
    reveals_at_once: bool,
}

impl Engine {
    /// A standby with an empty table.
    pub fn new(settings: Settings) -> Engine {
        let Settings {
            slot,
            sip,
            media_ports,
            seed,
        } = settings;
        Engine {
            slot,
            sip: Sip::new(sip, seed),
            pools: Pools::new(media_ports),
            ownership: Ownership::new(failover_slot(slot)),
            serving: None,
            held: Held::default(),
            last_batch: 0,
            commands: VecDeque::new(),
            counters: Counters::default(),
            #[cfg(feature = "sabotage")]
            reveals_at_once: false,
        }
    }

    /// Switches commit before reveal off.
    #[cfg(feature = "sabotage")]
    pub fn reveal_at_once(&mut self) {
        self.reveals_at_once = true;
    }

    /// Asks for a transfer without stopping first.
    #[cfg(feature = "sabotage")]
    pub fn hand_over_open(&mut self) -> bool {
        let Some(epoch) = self.serving else {
            return false;
        };
        self.commands.push_back(Command::Transfer { epoch });
        true
    }

    /// The ownership machine, for switching a safeguard of it off.
    #[cfg(feature = "sabotage")]
    pub fn ownership_mut(&mut self) -> &mut Ownership {
        &mut self.ownership
    }

    /// A SIP datagram. Only the owner takes it.
    pub fn handle_datagram(&mut self, realm: RealmId, source: SocketAddr, bytes: Bytes, now: Now) {
        if self.serving.is_none() {
            self.counters.not_owner += 1;
            return;
        }
        let ports = self.pools.at(now.boot);
        self.sip
            .handle_datagram(realm, source, bytes, now.wall, ports);
    }

    /// What the relay learnt.
    pub fn handle_media(&mut self, event: MediaEvent, now: Now) {
        if self.serving.is_some() {
            self.sip.handle_media(event, now.wall);
        }
    }

    /// Begins to hand ownership on: stops serving, and only then asks for the transfer. False if there is nothing
    /// to hand on.
    pub fn hand_over(&mut self, now: Now) -> bool {
        let Some(epoch) = self.serving else {
            return false;
        };
        self.own(OwnershipInput::Yield { epoch }, now);
        self.commands.push_back(Command::Transfer { epoch });
        true
    }

    /// The transfer of [`Command::Transfer`] was refused: this replica leads as before.
    pub fn handle_transfer_refused(&mut self, epoch: Epoch, now: Now) {
        self.own(OwnershipInput::Leader { epoch }, now);
    }

    /// The disk that the log is on is running full. An owner hands over to a standby that is ready for it; without one
    /// it keeps its calls and takes no new ones. Only an owner that serves while this happens hands over: one that took
    /// over with a full disk stays, or the two would go on handing each other what neither can keep.
    pub fn handle_disk_low(&mut self, standby_ready: bool, now: Now) {
        self.sip.close_to_new_calls(true);
        if standby_ready && self.hand_over(now) {
            self.counters.handed_over_disk_low += 1;
        }
    }

    /// There is room again.
    pub fn handle_disk_recovered(&mut self) {
        self.sip.close_to_new_calls(false);
    }

    /// What the log tells, in its order.
    pub fn handle_committed(&mut self, committed: Committed, now: Now) {
        match committed {
            Committed::Applied { batch, changes } => {
                let own = batch.is_some() && self.serving.is_some();
                for change in changes {
                    self.apply(change, own, now);
                }
                if let Some(batch) = batch {
                    self.release(batch);
                }
            }
            Committed::Dropped { batch } => {
                if let Some(epoch) = self.held.dropped(batch) {
                    self.own(OwnershipInput::CommitRefused { epoch }, now);
                }
            }
            Committed::Restored { table } => self.handle_restored(table, now),
            Committed::Role(Role::Leader { term }) => {
                self.own(OwnershipInput::Leader { epoch: Epoch(term) }, now);
            }
            Committed::Role(Role::Follower { .. } | Role::Candidate { .. }) => {
                self.own(OwnershipInput::NotLeader, now);
            }
            Committed::Lease { term, until } => {
                let epoch = Epoch(term);
                self.own(OwnershipInput::Lease { epoch, until }, now);
            }
            Committed::LeaseLost { term } => {
                self.own(OwnershipInput::LeaseLost { epoch: Epoch(term) }, now);
            }
        }
    }

    /// A batch was not accepted into the log.
    pub fn handle_refused(&mut self, batch: Batch, now: Now) {
        if let Some(epoch) = self.held.dropped(batch) {
            return self.own(OwnershipInput::CommitRefused { epoch }, now);
        }
        // The SIP core is ahead of the log and cannot go back piecemeal: stop serving, reread the committed table,
        // commit a fresh owner entry. Phones retransmit.
        self.counters.proposals_refused += 1;
        if let Some(epoch) = self.serving {
            self.own(OwnershipInput::LeaseLost { epoch }, now);
        }
    }

    /// A whole table instead of changes: at start, after a snapshot, and after ownership was lost.
    pub fn handle_restored(&mut self, table: Table, now: Now) {
        let mut records = BTreeMap::new();
        let mut calls = BTreeMap::new();
        for (key, value) in table {
            match Key::parse(&key) {
                Some(Key::Cdr(id)) => {
                    records.insert(id, value);
                }
                Some(Key::Call(key)) => {
                    calls.insert(key, value);
                }
                Some(Key::Owner) => {}
                None => self.undecodable("key"),
            }
        }
        self.commands.push_back(Command::CdrReplace { records });
        let known: Vec<CallKey> = self.sip.records().map(|(key, _)| key).collect();
        for key in known.into_iter().filter(|key| !calls.contains_key(key)) {
            self.sip.apply(key, None, self.pools.at(now.boot));
        }
        for (key, value) in calls {
            self.apply_call(key, Some(value), now);
        }
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) has come. Harmless before.
    pub fn handle_timeout(&mut self, now: Now) {
        let due = |deadline: Option<Duration>| deadline.is_some_and(|due| due <= now.boot);
        if due(self.ownership.poll_timeout().map(|(due, _)| due)) {
            self.ownership.handle_timeout(now.boot);
            self.carry_out(now);
        }
        if self.serving.is_some() {
            let may_take_over = self.may_take_over();
            let ports = self.pools.at(now.boot);
            self.sip.handle_timeout(now.wall, ports);
            if may_take_over {
                self.sip.take_over(TAKEOVER_STEP, now.wall, ports);
            }
        }
    }

    /// How long the shell may wait before it calls [`handle_timeout`](Self::handle_timeout); None: for ever.
    pub fn poll_timeout(&self, now: Now) -> Option<Duration> {
        if self.serving.is_some() && self.may_take_over() {
            return Some(Duration::ZERO);
        }
        let ownership = self
            .ownership
            .poll_timeout()
            .map(|(due, _)| due.saturating_sub(now.boot));
        let sip = self
            .serving
            .and_then(|_| self.sip.poll_timeout())
            .map(|(due, _)| now.wall.until(due));
        ownership.into_iter().chain(sip).min()
    }

    /// Ends a batch of inputs: what the SIP core changed becomes one log entry, and what shows these changes waits
    /// for it. `surplus` names the call detail records that are to leave the table with the next entry.
    pub fn flush(&mut self, surplus: impl FnOnce() -> Vec<CdrId>) {
        let mut changes = Vec::new();
        let mut sends = Vec::new();
        let mut sequence = None;
        while let Some(command) = self.sip.next_command() {
            match command {
                SipCommand::Replicate {
                    key,
                    record,
                    sequence: number,
                } => {
                    changes.push(table::call(key, record));
                    sequence = Some(number);
                }
                SipCommand::Cdr(record) => changes.push(table::cdr(&record)),
                SipCommand::Media { key, streams } => {
                    self.commands.push_back(Command::Media { key, streams });
                }
                SipCommand::Send { bytes, flow, when } => match self.waits(when) {
                    true => sends.push((bytes, flow)),
                    false => self.send(bytes, flow),
                },
            }
        }
        if changes.is_empty() {
            // A send that shows a state which an earlier, uncommitted batch made waits for that batch.
            if let Some(sends) = self.held.behind_latest(sends) {
                self.send_all(sends);
            }
            return;
        }
        changes.extend(surplus().into_iter().map(table::cdr_deletion));
        self.counters.proposals += 1;
        let batch = self.propose(changes);
        self.held.sends(batch, sequence, sends);
    }

    /// Drain after every call.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The SIP core, to look at.
    pub fn sip(&self) -> &Sip {
        &self.sip
    }

    /// The role in words, epoch and owner.
    pub fn ownership(&self) -> OwnershipStatus {
        self.ownership.status()
    }

    /// The ownership machine's totals.
    pub fn ownership_counters(&self) -> &tandem_failover_core::ownership::Counters {
        self.ownership.counters()
    }

    /// Totals of the engine's own.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Messages that wait for their commit.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn may_take_over(&self) -> bool {
        self.sip.awaiting() > 0 && self.held.batches() < TAKEOVER_IN_FLIGHT
    }

    fn waits(&self, when: When) -> bool {
        #[cfg(feature = "sabotage")]
        if self.reveals_at_once {
            return false;
        }
        match when {
            When::Now => false,
            When::Committed => true,
        }
    }

    fn propose(&mut self, changes: Vec<Change>) -> Batch {
        self.last_batch += 1;
        let batch = Batch(self.last_batch);
        self.commands.push_back(Command::Propose { batch, changes });
        batch
    }

    /// Feeds the ownership machine and carries out what it commands, in order.
    fn own(&mut self, input: OwnershipInput, now: Now) {
        self.ownership.handle_input(input, now.boot);
        self.carry_out(now);
    }

    fn carry_out(&mut self, now: Now) {
        while let Some(command) = self.ownership.next_command() {
            match command {
                OwnershipCommand::CommitOwner { epoch } => {
                    let batch = self.propose(vec![table::owner(self.slot, epoch)]);
                    self.held.owner_entry(batch, epoch);
                }
                OwnershipCommand::Activate { epoch } => {
                    self.sip.activate(epoch.0);
                    self.serving = Some(epoch);
                }
                OwnershipCommand::OpenGate { until, .. }
                | OwnershipCommand::ExtendGate { until, .. } => {
                    self.commands.push_back(Command::OpenGate { until });
                }
                OwnershipCommand::CloseGate => self.commands.push_back(Command::CloseGate),
                OwnershipCommand::Deactivate => self.deactivate(now),
                OwnershipCommand::Desire(desired) => {
                    self.commands.push_back(Command::Desire(desired));
                }
                OwnershipCommand::Transition(transition) => {
                    self.commands.push_back(Command::Transition(transition));
                }
            }
        }
    }

    /// What was not committed never happened: the committed table is read over the SIP core's.
    fn deactivate(&mut self, now: Now) {
        self.serving = None;
        self.held.clear_sends();
        self.pools.reset();
        self.sip.deactivate(self.pools.at(now.boot));
        self.commands.push_back(Command::Reread);
    }

    /// Applies one committed change. An own change of the epoch being served is in the SIP core already.
    fn apply(&mut self, change: Change, own: bool, now: Now) {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value)),
            Change::Delete { key } => (key, None),
        };
        match (Key::parse(&key), value) {
            (Some(Key::Call(_)), _) if own => {}
            (Some(Key::Call(key)), value) => self.apply_call(key, value, now),
            (Some(Key::Cdr(id)), Some(record)) => {
                self.commands.push_back(Command::CdrPut { id, record });
            }
            (Some(Key::Cdr(id)), None) => self.commands.push_back(Command::CdrDelete { id }),
            (Some(Key::Owner), Some(owner)) => match table::parse_owner(&owner) {
                Some((slot, epoch)) => {
                    self.own(OwnershipInput::OwnerApplied { slot, epoch }, now);
                }
                None => self.undecodable("owner entry"),
            },
            (Some(Key::Owner), None) => {}
            (None, _) => self.undecodable("key"),
        }
    }

    fn apply_call(&mut self, key: CallKey, value: Option<Bytes>, now: Now) {
        let record = value
            .map(|bytes| CallRecord::from_bytes(&bytes))
            .transpose();
        match record {
            Ok(record) => self.sip.apply(key, record, self.pools.at(now.boot)),
            Err(_) => self.undecodable("call record"),
        }
    }

    fn undecodable(&mut self, what: &'static str) {
        self.counters.undecodable += 1;
        self.commands.push_back(Command::Undecodable { what });
    }

    fn release(&mut self, batch: Batch) {
        let released = self.held.release(batch);
        if let Some(sequence) = released.sequence {
            self.sip.handle_committed(sequence);
        }
        self.send_all(released.sends);
    }

    fn send_all(&mut self, sends: Vec<HeldSend>) {
        for (bytes, flow) in sends {
            self.send(bytes, flow);
        }
    }

    fn send(&mut self, bytes: Bytes, flow: Flow) {
        self.commands.push_back(Command::Send { bytes, flow });
    }
}

/// The wall clock as the SIP core reads it.
impl Now {
    /// `wall` is the time since 1970.
    pub fn new(boot: Duration, wall: Duration) -> Now {
        Now {
            boot,
            wall: Timestamp(tandem_sip::time::millis(wall)),
        }
    }
}

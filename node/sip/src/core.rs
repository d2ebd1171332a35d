//! The SIP core as the node's shell drives it.
//!
//! [`Sip`] owns the call table, the indexes over it and the timers. It is either *inactive*, a standby that only takes
//! committed records with [`Sip::apply`], or *active*, the owner that serves. Inputs are datagrams, timeouts, media
//! events and commit reports; outputs are [`Command`]s, in order.
//!
//! **Commit before reveal.** Each [`Command::Replicate`] carries a rising `sequence`. The shell reports with
//! [`Sip::handle_committed`] how far the log has committed. A message that shows a new state is issued as
//! [`When::Committed`], after the Replicate it depends on, in the same batch. A repeat (a retransmission, a stateless
//! refusal inside a call) is [`When::Now`] if everything issued for its call has been reported committed, and is
//! suppressed otherwise: what it would repeat has not left yet, and its peer or its timer asks again. 100 Trying
//! waits for the commit like any other: it stops the caller's retransmissions, so a caller who got one for an INVITE
//! that was lost with its owner would wait in vain. Commits take milliseconds and callers repeat after T1, so nothing
//! is gained by sending it sooner.
//!
//! **Takeover.** The standby has applied every committed record and reserved the media ports it names, so
//! [`Sip::activate`] only notes that every call is to be taken over: its timers re-armed, the provisional response
//! repeated that the old owner may have held. That happens before the call's next input, and for the rest in bounded
//! steps, [`Sip::take_over`]: how soon a new owner answers does not grow with its calls (contract 8).
//! After [`Sip::deactivate`] the table may be ahead of the log; the shell starts a fresh port pool and applies the
//! committed table over it.

mod lookup;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::b2bua::{self, ALLOW, Context, Effects, Identity, Input, Refusal, Shows};
use crate::command::{Command, MediaEvent, MediaPort, MediaPorts, TimerReason, When};
use crate::config::SipConfig;
use crate::counters::Counters;
use crate::flow::{Flow, RealmId, Transport};
use crate::message::{DropReason, Message, Method, Name, ParseError};
use crate::record::{AddressRecord, CallKey, CallRecord};
use crate::time::Timestamp;
use crate::transaction::{ClientKey, ServerKey};
use lookup::Lookup;

/// Calls that one timeout steps; the others are due at once again. So no turn of the shell grows with its calls.
const DUE_AT_ONCE: usize = 256;

/// See the module.
pub struct Sip {
    config: SipConfig,
    identity: Identity,
    rng: StdRng,
    /// Epoch of the ownership; None on a standby.
    epoch: Option<u64>,
    /// New calls get 503; those that are up go on.
    closed: bool,
    /// The epoch in which the next two count. It outlives a loss of ownership, so that no number comes twice.
    numbered_epoch: u64,
    /// Calls made in this epoch.
    last_call: u32,
    /// Call detail records written in this epoch.
    last_cdr: u64,
    /// Of the last Replicate; never restarts.
    last_sequence: u64,
    table: BTreeMap<CallKey, Entry>,
    lookups: BTreeMap<Lookup, CallKey>,
    deadlines: BTreeSet<(Timestamp, CallKey, TimerReason)>,
    /// Calls of a former owner that have not been stepped since.
    awaiting: BTreeSet<CallKey>,
    /// Replicates not reported committed, by sequence, and the last one of each such call.
    in_flight: BTreeMap<u64, CallKey>,
    uncommitted: BTreeMap<CallKey, u64>,
    commands: VecDeque<Command>,
    counters: Counters,
}

/// A record with what follows from it alone.
#[derive(Debug)]
struct Entry {
    record: CallRecord,
    lookups: Vec<Lookup>,
    deadline: Option<(Timestamp, TimerReason)>,
}

/// Ports that a record holds.
fn ports_of(record: Option<&CallRecord>) -> BTreeSet<MediaPort> {
    record.into_iter().flat_map(b2bua::ports).collect()
}

/// RFC 3261 section 21.5.4.
fn unavailable() -> Refusal {
    Refusal::new(503, "Service Unavailable").with(Name::RetryAfter, "5")
}

impl fmt::Debug for Sip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sip")
            .field("epoch", &self.epoch)
            .field("calls", &self.table.len())
            .field("commands", &self.commands.len())
            .finish_non_exhaustive()
    }
}

impl Sip {
    /// A standby with an empty table. `seed` must differ between processes: tags, branches and Call-IDs come from it.
    pub fn new(config: SipConfig, seed: u64) -> Sip {
        Sip {
            identity: Identity::of(&config),
            config,
            rng: StdRng::seed_from_u64(seed),
            epoch: None,
            closed: false,
            numbered_epoch: 0,
            last_call: 0,
            last_cdr: 0,
            last_sequence: 0,
            table: BTreeMap::new(),
            lookups: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            awaiting: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            uncommitted: BTreeMap::new(),
            commands: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A datagram that arrived in a realm.
    pub fn handle_datagram(
        &mut self,
        realm: RealmId,
        source: SocketAddr,
        bytes: Bytes,
        now: Timestamp,
        ports: &mut dyn MediaPorts,
    ) {
        self.counters.datagrams_received += 1;
        if self.epoch.is_none() {
            self.counters.dropped_inactive += 1;
            return;
        }
        if self.config.realm(realm).is_none() {
            self.counters.dropped_unknown_realm += 1;
            return;
        }
        let flow = Flow {
            realm,
            transport: Transport::Udp,
            remote: source,
        };
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(error) => return self.refuse_malformed(error, flow),
        };
        if !message.is_request() {
            return self.handle_response(&message, now, ports);
        }
        match message.received_from(source) {
            Ok(request) => self.handle_request(&request, flow, now, ports),
            Err(error) => self.refuse_malformed(error, flow),
        }
    }

    /// Refuses new calls with 503, or takes them again. What is up goes on.
    pub fn close_to_new_calls(&mut self, closed: bool) {
        self.closed = closed;
    }

    /// To be called when the deadline of [`Sip::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Timestamp, ports: &mut dyn MediaPorts) {
        if self.epoch.is_none() {
            return;
        }
        // Each due call is stepped once: a deadline that is still in the past afterwards waits for the next round, and
        // so does what is beyond the bound.
        let due: Vec<CallKey> = self
            .deadlines
            .iter()
            .take_while(|(deadline, _, _)| *deadline <= now)
            .take(DUE_AT_ONCE)
            .map(|(_, key, _)| *key)
            .collect();
        for key in due {
            self.step(key, Input::Timeout, now, ports);
        }
    }

    /// What the media plane found out. A latched source goes into the record: a new owner keeps the lock.
    pub fn handle_media(&mut self, event: MediaEvent, _now: Timestamp) {
        match event {
            MediaEvent::FirstPacket { .. } => self.counters.media_first_packets += 1,
            MediaEvent::Latched {
                key,
                stream,
                leg,
                source,
            } => self.latch(key, stream, leg, source),
        }
    }

    /// The log has committed every Replicate up to this sequence.
    pub fn handle_committed(&mut self, sequence: u64) {
        while let Some(first) = self
            .in_flight
            .first_entry()
            .filter(|entry| *entry.key() <= sequence)
        {
            let (done, key) = first.remove_entry();
            if self.uncommitted.get(&key) == Some(&done) {
                self.uncommitted.remove(&key);
            }
        }
    }

    /// The next deadline and why; None on a standby.
    pub fn poll_timeout(&self) -> Option<(Timestamp, TimerReason)> {
        self.epoch?;
        self.deadlines
            .first()
            .map(|(deadline, _, reason)| (*deadline, *reason))
    }

    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Standby: a committed change of the table. The owner's table is ahead of the log, so there it has no effect.
    /// `ports` is the pool that this node would serve from: it follows the table.
    pub fn apply(&mut self, key: CallKey, record: Option<CallRecord>, ports: &mut dyn MediaPorts) {
        let known = self.table.get(&key).map(|entry| &entry.record);
        if self.epoch.is_some() || known == record.as_ref() {
            return;
        }
        let before = known.map(b2bua::plan).unwrap_or_default();
        let after = record.as_ref().map(b2bua::plan).unwrap_or_default();
        let held = ports_of(known);
        let wanted = ports_of(record.as_ref());
        for port in held.difference(&wanted) {
            ports.release(*port);
        }
        for port in wanted.difference(&held) {
            self.reserve(*port, ports);
        }
        match record {
            Some(record) => self.insert(key, record),
            None => {
                self.remove(key);
            }
        }
        if before != after {
            self.commands.push_back(Command::Media {
                key,
                streams: after,
            });
        }
    }

    /// Becomes the owner. `epoch` is not below any epoch before, and the same one only after a lease was lost and
    /// regained: then numbers go on.
    pub fn activate(&mut self, epoch: u64) {
        self.epoch = Some(epoch);
        if self.numbered_epoch != epoch {
            self.numbered_epoch = epoch;
            self.last_call = 0;
            self.last_cdr = 0;
        }
        self.in_flight.clear();
        self.uncommitted.clear();
        self.counters.takeovers += 1;
        self.awaiting = self.table.keys().copied().collect();
    }

    /// Takes over up to `limit` of the calls that have had no input since [`Sip::activate`].
    pub fn take_over(&mut self, limit: usize, now: Timestamp, ports: &mut dyn MediaPorts) {
        for _ in 0..limit {
            let Some(key) = self.awaiting.pop_first() else {
                return;
            };
            self.advance(key, Input::Takeover, now, ports);
        }
    }

    /// Calls that are still to be taken over.
    pub fn awaiting(&self) -> usize {
        self.awaiting.len()
    }

    /// Ownership is lost: the table may be ahead of the log, and commands not yet taken must not be carried out. What
    /// the media plane was to be told is still true of this table, and what is different in the committed one will be
    /// told with it. `ports` is a fresh pool: it gets what the table holds.
    pub fn deactivate(&mut self, ports: &mut dyn MediaPorts) {
        self.epoch = None;
        self.commands
            .retain(|command| matches!(command, Command::Media { .. }));
        self.awaiting.clear();
        self.in_flight.clear();
        self.uncommitted.clear();
        let records = self.table.values().map(|entry| &entry.record);
        let held: Vec<MediaPort> = records.flat_map(b2bua::ports).collect();
        for port in held {
            self.reserve(port, ports);
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Records in the table, calls that are over and wait for their last transaction included.
    pub fn calls(&self) -> usize {
        self.table.len()
    }

    pub fn record(&self, key: CallKey) -> Option<&CallRecord> {
        self.table.get(&key).map(|entry| &entry.record)
    }

    /// Every record, in order of key.
    pub fn records(&self) -> impl Iterator<Item = (CallKey, &CallRecord)> {
        self.table.iter().map(|(key, entry)| (*key, &entry.record))
    }

    fn handle_response(&mut self, response: &Message, now: Timestamp, ports: &mut dyn MediaPorts) {
        if response.bytes().len() > self.config.limits.message_bytes {
            self.counters.responses_too_large += 1;
            return;
        }
        match self
            .lookups
            .get(&Lookup::Client(ClientKey::of(response)))
            .copied()
        {
            Some(key) => self.step(key, Input::Response { message: response }, now, ports),
            None => self.counters.responses_stray += 1,
        }
    }

    fn handle_request(
        &mut self,
        request: &Message,
        flow: Flow,
        now: Timestamp,
        ports: &mut dyn MediaPorts,
    ) {
        if request.bytes().len() > self.config.limits.message_bytes {
            self.counters.rejected_too_large += 1;
            return self.refuse(request, flow, Refusal::new(513, "Message Too Large"));
        }
        if let Some(key) = self.find(request) {
            return self.step(
                key,
                Input::Request {
                    message: request,
                    source: flow,
                },
                now,
                ports,
            );
        }
        let in_dialog = request.to_tag().is_some();
        match request.method() {
            Method::Ack => self.counters.acknowledgements_stray += 1,
            Method::Invite if !in_dialog => self.open(request, flow, now, ports),
            Method::Options if !in_dialog => {
                let mut context = self.context(now, ports);
                b2bua::capabilities(request, flow, &mut context);
                let effects = context.effects;
                self.emit_stateless(effects);
            }
            Method::Invite | Method::Bye | Method::Cancel | Method::Options | Method::Info => {
                self.counters.rejected_unknown_dialog += 1;
                self.refuse(
                    request,
                    flow,
                    Refusal::new(481, "Call/Transaction Does Not Exist"),
                );
            }
            Method::Message if in_dialog => {
                self.counters.rejected_unknown_dialog += 1;
                self.refuse(
                    request,
                    flow,
                    Refusal::new(481, "Call/Transaction Does Not Exist"),
                );
            }
            Method::Other(_) => {
                self.counters.rejected_method += 1;
                self.refuse(
                    request,
                    flow,
                    Refusal::new(501, "Not Implemented").with(Name::Allow, ALLOW),
                );
            }
            Method::Message
            | Method::Register
            | Method::Prack
            | Method::Update
            | Method::Subscribe
            | Method::Notify
            | Method::Refer
            | Method::Publish => {
                self.counters.rejected_method += 1;
                self.refuse(
                    request,
                    flow,
                    Refusal::new(405, "Method Not Allowed").with(Name::Allow, ALLOW),
                );
            }
        }
    }

    /// The call a request belongs to: by transaction, for CANCEL by the INVITE it names, by dialog.
    fn find(&self, request: &Message) -> Option<CallKey> {
        let by = |lookup: Lookup| self.lookups.get(&lookup).copied();
        by(Lookup::Server(ServerKey::of(request))).or_else(|| {
            if request.method() == Method::Cancel {
                return by(Lookup::Server(ServerKey::of_cancelled(request)));
            }
            let call_id = Bytes::copy_from_slice(request.call_id());
            by(Lookup::Dialog(
                call_id,
                Bytes::copy_from_slice(request.to_tag()?),
            ))
        })
    }

    fn open(&mut self, invite: &Message, flow: Flow, now: Timestamp, ports: &mut dyn MediaPorts) {
        let merged = Lookup::Merged(
            Bytes::copy_from_slice(invite.call_id()),
            Bytes::copy_from_slice(invite.from_tag().unwrap_or_default()),
            invite.cseq().0,
        );
        if self.lookups.contains_key(&merged) {
            self.counters.rejected_merged += 1;
            return self.refuse(invite, flow, Refusal::new(482, "Loop Detected"));
        }
        if self.closed {
            self.counters.rejected_closed += 1;
            return self.refuse(invite, flow, unavailable());
        }
        let counter = self
            .last_call
            .checked_add(1)
            .filter(|_| self.table.len() < self.config.limits.calls);
        let (Some(epoch), Some(counter)) = (self.epoch, counter) else {
            self.counters.rejected_calls_limit += 1;
            return self.refuse(invite, flow, unavailable());
        };
        let key = CallKey::new(epoch, counter);
        let mut context = self.context(now, ports);
        let created = b2bua::create(key, invite, flow, &mut context);
        let effects = context.effects;
        match created {
            Ok(record) => {
                self.last_call = counter;
                self.finish(key, record, effects);
            }
            Err(refusal) => self.refuse(invite, flow, refusal),
        }
    }

    fn context<'a>(&'a mut self, now: Timestamp, ports: &'a mut dyn MediaPorts) -> Context<'a> {
        Context {
            config: &self.config,
            identity: self.identity,
            now,
            rng: &mut self.rng,
            ports,
            counters: &mut self.counters,
            effects: Effects::default(),
        }
    }

    /// Gives a call an input; if it comes from a former owner, it is taken over first.
    fn step(&mut self, key: CallKey, input: Input<'_>, now: Timestamp, ports: &mut dyn MediaPorts) {
        if self.awaiting.remove(&key) {
            self.advance(key, Input::Takeover, now, ports);
        }
        self.advance(key, input, now, ports);
    }

    fn advance(
        &mut self,
        key: CallKey,
        input: Input<'_>,
        now: Timestamp,
        ports: &mut dyn MediaPorts,
    ) {
        let Some(mut record) = self.remove(key) else {
            return;
        };
        let mut context = self.context(now, ports);
        b2bua::step(&mut record, input, &mut context);
        let effects = context.effects;
        self.finish(key, record, effects);
    }

    /// Turns a step's effects into commands, and puts the record back unless it is finished.
    fn finish(&mut self, key: CallKey, record: CallRecord, effects: Effects) {
        let finished = record.is_finished();
        if effects.changed || finished {
            self.last_sequence += 1;
            self.in_flight.insert(self.last_sequence, key);
            self.uncommitted.insert(key, self.last_sequence);
            let record = (!finished).then(|| record.to_bytes());
            self.commands.push_back(Command::Replicate {
                key,
                record,
                sequence: self.last_sequence,
            });
        }
        if let (Some(mut cdr), Some(epoch)) = (effects.cdr, self.epoch) {
            self.last_cdr += 1;
            self.counters.cdrs_written += 1;
            cdr.epoch = epoch;
            cdr.sequence = self.last_cdr;
            self.commands.push_back(Command::Cdr(cdr));
        }
        if effects.media_changed {
            self.commands.push_back(Command::Media {
                key,
                streams: b2bua::plan(&record),
            });
        }
        let committed = !self.uncommitted.contains_key(&key);
        for send in effects.sends {
            let when = match send.shows {
                Shows::New => When::Committed,
                Shows::Known if committed => {
                    self.counters.retransmissions_sent += 1;
                    When::Now
                }
                Shows::Known => {
                    self.counters.retransmissions_suppressed += 1;
                    continue;
                }
            };
            self.commands.push_back(Command::Send {
                bytes: send.bytes,
                flow: send.flow,
                when,
            });
        }
        if !finished {
            self.insert(key, record);
        }
    }

    fn emit_stateless(&mut self, effects: Effects) {
        for send in effects.sends {
            self.commands.push_back(Command::Send {
                bytes: send.bytes,
                flow: send.flow,
                when: When::Now,
            });
        }
    }

    /// Refuses a request that belongs to no call.
    fn refuse(&mut self, request: &Message, flow: Flow, refusal: Refusal) {
        match b2bua::refuse_statelessly(request, refusal, self.identity, &self.config) {
            Ok(bytes) => {
                let remote = request.top_via().response_destination(flow.remote);
                let flow = Flow { remote, ..flow };
                self.commands.push_back(Command::Send {
                    bytes,
                    flow,
                    when: When::Now,
                });
            }
            Err(_) => self.counters.sends_failed += 1,
        }
    }

    fn refuse_malformed(&mut self, error: ParseError, flow: Flow) {
        match error {
            ParseError::Drop(DropReason::KeepAlive) => self.counters.keep_alives += 1,
            ParseError::Drop(_) => self.counters.dropped_malformed += 1,
            ParseError::Answer(answer) => {
                let tag = format!("{:016x}", rand::Rng::random::<u64>(&mut self.rng));
                let bytes = answer.response(flow.remote, &tag);
                self.counters.answered_malformed += 1;
                let flow = Flow {
                    remote: answer.destination(flow.remote),
                    ..flow
                };
                self.commands.push_back(Command::Send {
                    bytes,
                    flow,
                    when: When::Now,
                });
            }
        }
    }

    fn latch(&mut self, key: CallKey, stream: u32, leg: usize, source: SocketAddr) {
        let known = self.epoch.is_some()
            && self
                .table
                .get(&key)
                .is_some_and(|entry| (stream as usize) < entry.record.streams.len() && leg < 2);
        let Some(mut record) = known.then(|| self.remove(key)).flatten() else {
            self.counters.media_events_stray += 1;
            return;
        };
        self.counters.media_latched += 1;
        let latched = Some(AddressRecord::from(source));
        let mut effects = Effects::default();
        if let Some(stream) = record
            .streams
            .get_mut(stream as usize)
            .map(|stream| stream.leg_mut(leg))
        {
            effects.changed = stream.latched != latched;
            stream.latched = latched;
        }
        self.finish(key, record, effects);
    }

    fn reserve(&mut self, port: MediaPort, ports: &mut dyn MediaPorts) {
        if !ports.reserve(port) {
            self.counters.port_conflicts += 1;
        }
    }

    fn insert(&mut self, key: CallKey, record: CallRecord) {
        self.remove(key);
        let lookups = Lookup::all_of(&record);
        for lookup in &lookups {
            self.lookups.insert(lookup.clone(), key);
        }
        let deadline = b2bua::timers(&record).min();
        if let Some((deadline, reason)) = deadline {
            self.deadlines.insert((deadline, key, reason));
        }
        self.table.insert(
            key,
            Entry {
                record,
                lookups,
                deadline,
            },
        );
    }

    fn remove(&mut self, key: CallKey) -> Option<CallRecord> {
        let entry = self.table.remove(&key)?;
        for lookup in &entry.lookups {
            // A later call may have taken a lookup over (an INVITE repeated with credentials): it keeps it.
            if self.lookups.get(lookup) == Some(&key) {
                self.lookups.remove(lookup);
            }
        }
        if let Some((deadline, reason)) = entry.deadline {
            self.deadlines.remove(&(deadline, key, reason));
        }
        Some(entry.record)
    }
}

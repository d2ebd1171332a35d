//! What becomes of the commands of a machine's cores: its threads, in short.

use std::time::Duration;

use tandem_engine::{Command as EngineCommand, Committed, Now};
use tandem_failover_core::Transition;
use tandem_failover_core::address::{
    Command as AddressCommand, Failure, FailureKind, ObservationId, OperationId, Source,
};
use tandem_replication_core::{
    Command, Envelope, Greeting, MessageClass, PeerMessage, Replica, ReplicaId, Write,
};

use super::machine::Party;
use super::{Event, Local, Timer, ToEngine, ToReplica, World, first_line};
use crate::clock::ms;
use crate::fabric::{FabricKind, failure};
use crate::invariants::Sighting;
use crate::{A, B, SLOTS};

impl World {
    pub(super) fn deliver(&mut self, from: usize, to: usize, envelope: Envelope) {
        let now = self.machines[to].clock.boot(self.now);
        self.trace.note(self.now, || match &envelope.message {
            PeerMessage::Hello(hello) => format!("{from} -> {to}: {:?}", hello.standing),
            PeerMessage::Raft(message) => {
                let (kind, term, index) = (message.get_msg_type(), message.term, message.index);
                let entries = message.entries.len();
                format!("{from} -> {to}: {kind:?} term {term} index {index} entries {entries}")
            }
        });
        let machine = &mut self.machines[to];
        if let Some(replica) = machine.replica_mut() {
            replica.handle_envelope(envelope, now);
        } else if let Some(founding) = machine.founding_mut()
            && let PeerMessage::Hello(hello) = envelope.message
        {
            founding.handle_hello(hello, now);
        }
        self.execute_replica(to);
        self.arm(to);
    }

    pub(super) fn happen(&mut self, node: usize, what: Local) {
        let now = self.machines[node].clock.boot(self.now);
        if let Local::Timer(timer, _) = &what {
            self.machines[node].armed[*timer as usize] = None;
        }
        let machine = &mut self.machines[node];
        match what {
            Local::Persisted(write) => {
                machine.disk.complete(write);
                if let Some(replica) = machine.replica_mut() {
                    replica.handle_persisted(write, now);
                }
                self.execute_replica(node);
            }
            Local::Timer(Timer::Replica, _) => {
                if let Some(replica) = machine.replica_mut() {
                    replica.handle_timeout(now);
                } else if let Some(founding) = machine.founding_mut() {
                    founding.handle_timeout(now);
                }
                self.execute_replica(node);
            }
            Local::SnapshotSent { to, ok } => {
                if let Some(replica) = machine.replica_mut() {
                    replica.handle_snapshot_sent(to, ok, now);
                }
                self.execute_replica(node);
            }
            Local::Decided(decided) => self.begin(node, decided),
            Local::ToReplica(request) => self.ask_replica(node, request, now),
            Local::Timer(Timer::Engine, _) => self.execute_engine(node),
            Local::ToEngine(input) => self.tell_engine(node, input),
            Local::Timer(Timer::Address, _) => {
                if let Some(data) = machine.data_mut() {
                    data.address.handle_timeout(now);
                }
                self.execute_address(node);
            }
            Local::AddressDone { id, claim, result } => {
                self.address_done(node, id, claim, result, now);
            }
            Local::AddressSeen { id, source } => self.address_seen(node, id, source, now),
            Local::PeerUp(peer) => self.peer_up(node, peer, now),
        }
        self.arm(node);
    }

    fn peer_up(&mut self, node: usize, peer: usize, now: Duration) {
        if self.conditions.cut.contains(&(node, peer)) || !self.is_up(peer) {
            return;
        }
        let machine = &mut self.machines[node];
        if let Some(replica) = machine.replica_mut() {
            replica.handle_peer_up(SLOTS[peer], now);
        } else if let Some(founding) = machine.founding_mut() {
            founding.handle_peer_up(SLOTS[peer], now);
        }
        if let Some(data) = machine.data_mut() {
            data.address.handle_heal(now);
        }
        self.execute_replica(node);
        self.execute_address(node);
    }

    // The replica's thread.

    fn ask_replica(&mut self, node: usize, request: ToReplica, now: Duration) {
        let other = self.id_of((A + B).abs_diff(node));
        let replica = self.machines[node].replica_mut();
        match request {
            ToReplica::Propose { batch, changes } => {
                let key = changes.last().map(|change| change.key().clone());
                let proposed = replica.map(|replica| replica.propose(changes, now));
                let Some(Ok(proposal)) = proposed else {
                    return self.queue_for_engine(node, ToEngine::Refused(batch));
                };
                if let Some(process) = &mut self.machines[node].process {
                    process.batches.insert(proposal, batch);
                }
                // Deleted again by the change that ends its call: only what is put for ever is watched.
                let key = key.filter(|key| key.first() == Some(&b'd'));
                let key = key.unwrap_or_else(|| b"o".as_slice().into());
                let key = key.as_ref();
                self.see(Sighting::Proposed {
                    node,
                    proposal,
                    key,
                });
            }
            ToReplica::Transfer { epoch } => {
                let asked = replica.map(|replica| replica.transfer(other, now));
                if !matches!(asked, Some(Ok(()))) {
                    self.queue_for_engine(node, ToEngine::TransferRefused(epoch));
                }
            }
        }
        self.execute_replica(node);
    }

    pub(super) fn execute_replica(&mut self, node: usize) {
        self.ask(node);
        while let Some(command) = self.machines[node]
            .replica_mut()
            .and_then(Replica::next_command)
        {
            self.see_command(node, &command);
            match command {
                Command::Send { to, message, class } => {
                    let generation = self.replica(node).map_or(0, Replica::generation);
                    let message = PeerMessage::Raft(message);
                    let envelope = Envelope {
                        generation,
                        message,
                    };
                    self.transmit(node, to, envelope, class);
                }
                Command::Greet(greeting) => self.greet(node, greeting),
                Command::Persist(write) => self.persist(node, write),
                Command::Applied {
                    proposal, changes, ..
                } => {
                    let process = self.machines[node].process.as_mut();
                    let batch = process.and_then(|process| process.batches.remove(&proposal?));
                    self.committed(node, Committed::Applied { batch, changes });
                }
                Command::Dropped { proposal } => {
                    let process = self.machines[node].process.as_mut();
                    let batch = process.and_then(|process| process.batches.remove(&proposal));
                    if let Some(batch) = batch {
                        self.committed(node, Committed::Dropped { batch });
                    }
                }
                Command::Restored { .. } => {
                    let table = self.node_table(node);
                    self.committed(node, Committed::Restored { table });
                }
                Command::Role(role) => {
                    self.trace
                        .note(self.now, || format!("node {node}: {role:?}"));
                    self.committed(node, Committed::Role(role));
                }
                Command::Lease { term, until } => {
                    self.counts.leases += 1;
                    self.committed(node, Committed::Lease { term, until });
                }
                Command::LeaseLost { term } => {
                    self.trace
                        .note(self.now, || format!("node {node} has lost lease {term}"));
                    self.committed(node, Committed::LeaseLost { term });
                }
            }
        }
    }

    fn persist(&mut self, node: usize, write: Write) {
        let took = self.micros(self.conditions.fsync_us);
        let machine = &mut self.machines[node];
        machine.disk_free_at = machine.disk_free_at.max(self.now) + took;
        let (delay, id) = (machine.disk_free_at - self.now, write.id);
        machine.disk.write(write);
        self.local(node, delay, Local::Persisted(id));
    }

    /// Like every message a hello goes to a slot's machine, whoever is there.
    pub(super) fn greet(&mut self, from: usize, Greeting { to, hello }: Greeting) {
        let envelope = Envelope::hello(hello);
        self.transmit(from, ReplicaId::first(to), envelope, MessageClass::Datagram);
    }

    fn transmit(&mut self, from: usize, to: ReplicaId, envelope: Envelope, class: MessageClass) {
        let Some(target) = SLOTS.iter().position(|slot| *slot == to.slot()) else {
            return;
        };
        let cut = self.conditions.cut.contains(&(from, target));
        let copies = 1 + usize::from(self.chance(self.conditions.duplication));
        let mut sent = false;
        for _ in 0..copies {
            if cut || self.chance(self.conditions.loss) {
                continue;
            }
            sent = true;
            let delay = self.micros(self.conditions.delay_us);
            let envelope = Box::new(envelope.clone());
            self.after(
                delay,
                Event::Message {
                    from,
                    to: target,
                    envelope,
                },
            );
        }
        if class == MessageClass::Snapshot {
            let ok = sent && self.is_up(target);
            let delay = self.micros(self.conditions.delay_us) * 2;
            self.local(from, delay, Local::SnapshotSent { to, ok });
        }
    }

    // The engine's thread.

    fn committed(&mut self, node: usize, committed: Committed) {
        self.queue_for_engine(node, ToEngine::Committed(committed));
    }

    pub(super) fn queue_for_engine(&mut self, node: usize, input: ToEngine) {
        let hop = self.micros(self.conditions.hop_us);
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        if process.data.is_none() {
            return;
        }
        process.engine_queue = process.engine_queue.max(self.now + hop);
        let delay = process.engine_queue - self.now;
        self.local(node, delay, Local::ToEngine(input));
    }

    fn queue_for_replica(&mut self, node: usize, request: ToReplica) {
        let hop = self.micros(self.conditions.hop_us);
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        process.replica_queue = process.replica_queue.max(self.now + hop);
        let delay = process.replica_queue - self.now;
        self.local(node, delay, Local::ToReplica(request));
    }

    pub(super) fn engine_now(&self, node: usize) -> Now {
        let clock = self.machines[node].clock;
        Now {
            boot: clock.boot(self.now),
            wall: clock.wall(self.now),
        }
    }

    fn tell_engine(&mut self, node: usize, input: ToEngine) {
        let now = self.engine_now(node);
        let Some(data) = self.machines[node].data_mut() else {
            return;
        };
        match input {
            ToEngine::Committed(committed) => data.engine.handle_committed(committed, now),
            ToEngine::Datagram {
                realm,
                source,
                bytes,
            } => data.engine.handle_datagram(realm, source, bytes, now),
            ToEngine::Refused(batch) => data.engine.handle_refused(batch, now),
            ToEngine::TransferRefused(epoch) => data.engine.handle_transfer_refused(epoch, now),
        }
        self.execute_engine(node);
    }

    /// As the shell's loop: commands, timeouts, one log entry for the batch.
    pub(super) fn execute_engine(&mut self, node: usize) {
        self.engine_commands(node);
        let now = self.engine_now(node);
        if let Some(data) = self.machines[node].data_mut() {
            data.engine.handle_timeout(now);
        }
        self.engine_commands(node);
        if let Some(data) = self.machines[node].data_mut() {
            data.engine.flush(Vec::new);
        }
        self.engine_commands(node);
    }

    fn engine_commands(&mut self, node: usize) {
        while let Some(data) = self.machines[node].data_mut()
            && let Some(command) = data.engine.next_command()
        {
            match command {
                EngineCommand::Propose { batch, changes } => {
                    self.queue_for_replica(node, ToReplica::Propose { batch, changes });
                }
                EngineCommand::Transfer { epoch } => {
                    self.queue_for_replica(node, ToReplica::Transfer { epoch });
                }
                EngineCommand::Send { bytes, flow } => self.emit(node, bytes, flow),
                EngineCommand::OpenGate { until } => self.open_gate(node, until),
                EngineCommand::CloseGate => data.gate = None,
                EngineCommand::Desire(desired) => {
                    let now = self.machines[node].clock.boot(self.now);
                    if let Some(data) = self.machines[node].data_mut() {
                        data.address.handle_desired(desired, now);
                    }
                    self.execute_address(node);
                }
                EngineCommand::Reread => {
                    let table = self.node_table(node);
                    let now = self.engine_now(node);
                    if let Some(data) = self.machines[node].data_mut() {
                        data.engine.handle_restored(table, now);
                    }
                }
                EngineCommand::Transition(transition) => self.note(node, &transition),
                EngineCommand::Undecodable { what } => {
                    self.violate("decodable", format!("node {node} cannot read a {what}"));
                }
                EngineCommand::Media { .. }
                | EngineCommand::CdrPut { .. }
                | EngineCommand::CdrDelete { .. }
                | EngineCommand::CdrReplace { .. } => {}
            }
        }
    }

    fn open_gate(&mut self, node: usize, until: Duration) {
        let Some(data) = self.machines[node].data_mut() else {
            return;
        };
        let opens = data.gate.replace(until).is_none();
        data.epoch = data.engine.ownership().epoch.0;
        if opens {
            self.see_activation(node);
        }
    }

    fn emit(&mut self, node: usize, bytes: bytes::Bytes, flow: tandem_sip::flow::Flow) {
        let Some(epoch) = self.machines[node].may_emit(self.now) else {
            return;
        };
        self.see(Sighting::Emitted { node, epoch });
        self.counts.packets += 1;
        self.trace.note(self.now, || {
            format!("node {node} says {} to {}", first_line(&bytes), flow.remote)
        });
        let lets_out = match self.conditions.fabric {
            // A VPC checks the source.
            FabricKind::Ec2 => self.fabric.holder(self.now) == Some(node),
            FabricKind::Lan => true,
        };
        if !lets_out || self.conditions.phones_cut.contains(&node) {
            return;
        }
        if let Some(from) = self.config.realm(flow.realm).map(|realm| realm.advertised) {
            self.send_packet(from, flow.remote, bytes);
        }
    }

    // The address driver.

    pub(super) fn execute_address(&mut self, node: usize) {
        while let Some(data) = self.machines[node].data_mut()
            && let Some(command) = data.address.next_command()
        {
            match command {
                AddressCommand::Claim { id, .. } => {
                    data.operation = Some(id);
                    self.claim(node, id);
                }
                AddressCommand::Release { id } => {
                    data.operation = Some(id);
                    let done = Local::AddressDone {
                        id,
                        claim: false,
                        result: Ok(()),
                    };
                    self.local(node, ms(1), done);
                }
                // A call that was sent has its effect all the same.
                AddressCommand::Abandon { .. } => data.operation = None,
                AddressCommand::Observe { id, source } => {
                    let took = match source {
                        Source::Netlink => Duration::from_micros(200),
                        Source::Ec2Describe => self.micros(self.conditions.api_us),
                    };
                    self.local(node, took, Local::AddressSeen { id, source });
                }
                AddressCommand::Announce { .. } => {
                    if !self.conditions.phones_cut.contains(&node) {
                        self.fabric.announced(node, self.now);
                    }
                }
                AddressCommand::Transition(transition) => self.note(node, &transition),
            }
        }
    }

    fn claim(&mut self, node: usize, id: OperationId) {
        let (took, result) = match self.conditions.fabric {
            FabricKind::Lan => (ms(1), Ok(())),
            FabricKind::Ec2 => {
                let took = self.micros(self.conditions.api_us);
                let result = if self.conditions.api_cut.contains(&node) {
                    Err(failure(FailureKind::Unreachable))
                } else if self.chance(self.conditions.throttled) {
                    Err(failure(FailureKind::Throttled))
                } else {
                    let effect = took + self.micros(self.conditions.effect_us);
                    self.fabric.accept_claim(node, self.now + effect);
                    Ok(())
                };
                (took, result)
            }
        };
        let claim = true;
        self.local(node, took, Local::AddressDone { id, claim, result });
    }

    fn address_done(
        &mut self,
        node: usize,
        id: OperationId,
        claim: bool,
        result: Result<(), Failure>,
        now: Duration,
    ) {
        let Some(data) = self.machines[node].data_mut() else {
            return;
        };
        if data.operation != Some(id) {
            return;
        }
        data.operation = None;
        match (claim, &result) {
            (true, Ok(())) => self.fabric.add_local(node),
            (false, Ok(())) => self.fabric.remove_local(node),
            (_, Err(_)) => {}
        }
        data.address.handle_result(id, result, now);
        self.execute_address(node);
    }

    fn address_seen(&mut self, node: usize, id: ObservationId, source: Source, now: Duration) {
        let unreachable = source == Source::Ec2Describe && self.conditions.api_cut.contains(&node);
        let result = if unreachable {
            Err(failure(FailureKind::Unreachable))
        } else {
            let age = self.micros((0, self.conditions.stale_us));
            let as_of = self.now.saturating_sub(age);
            Ok(self.fabric.look(node, source, self.now, as_of))
        };
        if let Some(data) = self.machines[node].data_mut() {
            data.address.handle_observation(id, source, result, now);
        }
        self.execute_address(node);
    }

    fn note(&mut self, node: usize, transition: &Transition) {
        self.trace.note(self.now, || {
            let (event, epoch) = (transition.event.as_str(), transition.epoch);
            format!("node {node}: {event} in epoch {epoch}")
        });
    }

    // Timers.

    /// Sets each of a machine's timers to what its cores ask for.
    pub(super) fn arm(&mut self, node: usize) {
        let late = self.micros((0, self.conditions.lateness_us));
        let clock = self.machines[node].clock;
        let engine_now = self.engine_now(node);
        let Some(process) = &self.machines[node].process else {
            return;
        };
        let replica = match &process.party {
            Party::Asking(founding) => Some(founding.poll_timeout()),
            Party::Deciding(_) => None,
            Party::Replica(replica) => Some(replica.poll_timeout().0),
        };
        let data = process.data.as_ref();
        let engine = data
            .and_then(|data| data.engine.poll_timeout(engine_now))
            .map(|wait| engine_now.boot + wait);
        let address = data
            .and_then(|data| data.address.poll_timeout())
            .map(|(due, _)| due);
        for (timer, due) in [
            (Timer::Replica, replica),
            (Timer::Engine, engine),
            (Timer::Address, address),
        ] {
            let machine = &mut self.machines[node];
            if machine.armed[timer as usize] == due {
                continue;
            }
            machine.armed[timer as usize] = due;
            machine.timers[timer as usize] += 1;
            let Some(due) = due else { continue };
            let number = machine.timers[timer as usize];
            let delay = clock.truth(due).saturating_sub(self.now) + late;
            self.local(node, delay, Local::Timer(timer, number));
        }
    }
}

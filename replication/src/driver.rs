//! The Raft thread: owns the replica and nothing that could make it wait.
//!
//! It lives from [`start`](crate::start) until it is told to stop or the store fails. It runs ticks by deadline,
//! passes in what arrives in the mailbox, and executes what the replica commands: writes go to the store
//! thread's queue, messages to the link's queues, the rest to the node's sink. None of these blocks: a full
//! message queue drops (Raft repeats), a full write queue counts as a failed store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tandem_replication_core::{
    Command, Envelope, Forced, Founders, Greeting, MessageClass, PeerMessage, ProposalId, Replica,
    ReplicaId, Role, Slot, Status as CoreStatus, Table, Waiting, is_reserved,
};
use tokio::runtime::Handle;

use crate::certificate::DeathCertificate;
use crate::clock;
use crate::event::{DropReason, Event, Ticket};
use crate::handle::ForceFailed;
use crate::hooks::{Hooks, Pulse};
use crate::link::Link;
use crate::mailbox::{Mail, Mailbox, PendingProposal, Received, Report, Request};
use crate::measure::{LatencyMeter, StoreMeter};
use crate::panics::guarded;
use crate::punctuality::PunctualityMeter;
use crate::store::{Birth, Decided, SpaceChange, StoreThread};

/// What the Raft thread shows to the handles.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Mutex<CoreStatus>,
    pub(crate) store_failed: AtomicBool,
    pub(crate) store: Arc<StoreMeter>,
    pub(crate) commit_latency: LatencyMeter,
    pub(crate) punctuality: PunctualityMeter,
    pub(crate) link: Link,
    /// What a replica that does not know who it is waits for.
    waiting: Mutex<Option<Waiting>>,
}

impl Shared {
    pub(crate) fn new(core: CoreStatus, store: Arc<StoreMeter>, link: Link) -> Shared {
        Shared {
            core: Mutex::new(core),
            store_failed: AtomicBool::new(false),
            store,
            commit_latency: LatencyMeter::default(),
            punctuality: PunctualityMeter::default(),
            link,
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().expect("no holder of this lock panics")
    }

    /// Sends a hello; the next one makes up for a lost one.
    pub(crate) fn greet(&self, Greeting { to, hello }: Greeting) {
        let envelope = Envelope::hello(hello);
        self.link
            .send(ReplicaId::first(to), envelope, MessageClass::Datagram);
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, CoreStatus> {
        self.core.lock().expect("no holder of this lock panics")
    }
}

/// A proposal on its way.
#[derive(Debug)]
struct Open {
    ticket: Ticket,
    since: Duration,
}

/// Why the thread ends.
#[derive(Debug)]
pub(crate) enum End {
    Stopped,
    Failed(String),
}

/// The Raft thread's state.
pub(crate) struct Driver<Sink> {
    pub(crate) replica: Replica,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: StoreThread,
    pub(crate) runtime: Handle,
    pub(crate) sink: Sink,
    pub(crate) hooks: Hooks,
    pub(crate) birth: Birth,
    pub(crate) state_dir: PathBuf,
    pub(crate) local: Local,
}

/// What the thread remembers for itself.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// Taken from the mailbox and not yet proposed.
    waiting: VecDeque<PendingProposal>,
    open: BTreeMap<ProposalId, Open>,
    /// Peers that a message could not be queued for; the replica is told at the next turn.
    unreachable: BTreeSet<ReplicaId>,
    snapshots_failed: BTreeSet<ReplicaId>,
    lease: Option<u64>,
}

impl<Sink: FnMut(Event)> Driver<Sink> {
    /// Runs until told to stop, then stops the link and the store thread.
    ///
    /// `stored` is what the store held. The replica's own table may already be ahead of it: what it applied when
    /// it was built comes out as commands.
    pub(crate) fn run(mut self, stored: (u64, Table)) {
        (self.hooks.started)();
        let (index, mut table) = stored;
        table.retain(|key, _| !is_reserved(key));
        (self.sink)(Event::Restored { index, table });
        let end = guarded(|| self.turns()).unwrap_or_else(End::Failed);
        self.wind_up(end);
    }

    fn turns(&mut self) -> End {
        if let Err(end) = self.execute() {
            return end;
        }
        loop {
            self.publish();
            let (deadline, _) = self.replica.poll_timeout();
            let mail = self.mailbox.take(deadline.saturating_sub(clock::now()));
            self.shared.punctuality.woke(deadline, clock::now());
            if let Err(end) = self.turn(mail) {
                return end;
            }
        }
    }

    fn turn(&mut self, mail: Mail) -> Result<(), End> {
        self.local.waiting.extend(mail.proposals);
        self.replica.handle_timeout(clock::now());
        self.report_failures();
        self.execute()?;
        for report in mail.reports {
            self.take_report(report)?;
            self.execute()?;
        }
        for Received { envelope, .. } in mail.messages {
            self.replica.handle_envelope(envelope, clock::now());
            self.execute()?;
        }
        // After what the dead leader still had to say: afterwards it is not listened to.
        for certificate in mail.certificates {
            self.take_certificate(certificate);
            self.execute()?;
        }
        self.propose();
        self.execute()?;
        for request in mail.requests {
            self.answer(request)?;
            self.execute()?;
        }
        if mail.stop { Err(End::Stopped) } else { Ok(()) }
    }

    fn take_report(&mut self, report: Report) -> Result<(), End> {
        match report {
            Report::Persisted(write) => self.replica.handle_persisted(write, clock::now()),
            Report::StoreFailed(error) => return Err(End::Failed(error.to_string())),
            Report::PeerUp(slot) => {
                self.replica.handle_peer_up(slot, clock::now());
                (self.sink)(Event::PeerUp(slot));
            }
            Report::PeerDown(slot) => {
                for member in self.members(slot) {
                    self.replica.handle_unreachable(member, clock::now());
                }
                (self.sink)(Event::PeerDown(slot));
            }
            Report::SnapshotSent { to, ok } => {
                self.replica.handle_snapshot_sent(to, ok, clock::now());
            }
            Report::Space(SpaceChange::Low { free_bytes }) => {
                tracing::warn!(free_bytes, "the disk is running full");
                (self.sink)(Event::DiskLow { free_bytes });
            }
            Report::Space(SpaceChange::Recovered) => {
                tracing::info!("the disk has room again");
                (self.sink)(Event::DiskRecovered);
            }
        }
        Ok(())
    }

    fn take_certificate(&mut self, certificate: DeathCertificate) {
        let DeathCertificate {
            replica,
            epoch,
            life,
            grace,
        } = certificate;
        let life = format_args!("{life:016x}");
        match self.replica.handle_death(certificate.into(), clock::now()) {
            Ok(()) => {
                tracing::info!(%replica, epoch, %life, ?grace, "the leader's death is certified: promise released");
            }
            Err(refusal) => {
                tracing::debug!(%replica, epoch, %life, %refusal, "death certificate not taken");
            }
        }
    }

    fn members(&self, slot: Slot) -> Vec<ReplicaId> {
        let peers = self.replica.status().peers;
        peers
            .into_iter()
            .map(|peer| peer.id)
            .filter(|id| id.slot() == slot)
            .collect()
    }

    fn report_failures(&mut self) {
        for peer in std::mem::take(&mut self.local.unreachable) {
            self.replica.handle_unreachable(peer, clock::now());
        }
        for peer in std::mem::take(&mut self.local.snapshots_failed) {
            self.replica.handle_snapshot_sent(peer, false, clock::now());
        }
    }

    /// Proposals that came in together travel in one message: the replica collects them until it is next asked
    /// for a command.
    fn propose(&mut self) {
        while let Some(PendingProposal { ticket, changes }) = self.local.waiting.pop_front() {
            let since = clock::now();
            match self.replica.propose(changes, since) {
                Ok(id) => {
                    self.local.open.insert(id, Open { ticket, since });
                }
                Err(error) => {
                    (self.sink)(Event::Dropped {
                        ticket,
                        reason: DropReason::Refused(error),
                    });
                }
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<(), End> {
        // Who asked may have stopped waiting.
        match request {
            Request::Transfer { to, answer } => {
                let _ = answer.try_send(self.replica.transfer(to, clock::now()));
            }
            Request::Table { answer } => {
                let _ = answer.try_send(self.replica.node_table());
            }
            Request::Force { answer } => {
                let forced = self.force();
                let ended = forced.as_ref().ok().map(|forced| {
                    End::Failed(format!(
                        "a takeover was forced: starting anew as {}",
                        forced.id
                    ))
                });
                let _ = answer.try_send(forced);
                return ended.map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// Decides that this store is the pair; the next start does it. This waits for the disk, which costs nobody a
    /// lease: nobody leads.
    fn force(&mut self) -> Result<Forced, ForceFailed> {
        let forced @ Forced { id, generation } = self.replica.forced()?;
        let status = self.replica.status();
        tracing::warn!(
            %id,
            generation,
            last_index = status.last_index,
            term = status.term,
            "a takeover is forced by an operator: what the others held beyond this store is lost"
        );
        let founders = Founders::new();
        let decided = Decided {
            id,
            generation,
            founders,
        };
        self.birth.decide(&self.state_dir, decided)?;
        Ok(forced)
    }

    /// Executes everything the replica has decided.
    fn execute(&mut self) -> Result<(), End> {
        while let Some(command) = self.replica.next_command() {
            match command {
                Command::Send { to, message, class } => {
                    let envelope = Envelope {
                        generation: self.replica.generation(),
                        message: PeerMessage::Raft(message),
                    };
                    if !self.shared.link.send(to, envelope, class) {
                        match class {
                            MessageClass::Datagram => {}
                            MessageClass::Stream => drop(self.local.unreachable.insert(to)),
                            MessageClass::Snapshot => drop(self.local.snapshots_failed.insert(to)),
                        }
                    }
                }
                Command::Greet(greeting) => self.shared.greet(greeting),
                Command::Persist(write) => {
                    if !self.store.write(write) {
                        return Err(self.lost_store());
                    }
                }
                Command::Applied {
                    index,
                    term,
                    proposal,
                    changes,
                } => {
                    let ticket = proposal.and_then(|proposal| self.close(proposal));
                    (self.sink)(Event::Applied {
                        index,
                        term,
                        ticket,
                        changes,
                    });
                }
                Command::Dropped { proposal } => {
                    if let Some(Open { ticket, .. }) = self.local.open.remove(&proposal) {
                        let reason = DropReason::LeadershipLost;
                        (self.sink)(Event::Dropped { ticket, reason });
                    }
                }
                Command::Restored { index } => {
                    debug_assert_eq!(self.replica.status().applied, index, "nothing follows yet");
                    tracing::info!(index, "a snapshot replaced the table");
                    let table = self.replica.node_table();
                    (self.sink)(Event::Restored { index, table });
                }
                Command::Role(role) => self.take_role(role),
                Command::Lease { term, until } => {
                    self.local.lease = Some(term);
                    self.shared.punctuality.leased(term, until, clock::now());
                    (self.sink)(Event::Lease { term, until });
                }
                Command::LeaseLost { term } => {
                    self.local.lease = None;
                    self.shared.punctuality.lost(clock::now());
                    tracing::info!(term, "lease lost");
                    (self.sink)(Event::LeaseLost { term });
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, proposal: ProposalId) -> Option<Ticket> {
        let Open { ticket, since } = self.local.open.remove(&proposal)?;
        self.shared
            .commit_latency
            .record(clock::now().saturating_sub(since));
        Some(ticket)
    }

    fn take_role(&mut self, role: Role) {
        match role {
            Role::Leader { term } => tracing::info!(term, "leader"),
            Role::Follower {
                term,
                leader: Some(leader),
            } => {
                tracing::info!(term, %leader, "follower");
            }
            Role::Follower { term, leader: None } => {
                tracing::info!(term, "follower without leader")
            }
            Role::Candidate { term } => tracing::info!(term, "candidate"),
        }
        // The handles refuse proposals by what is published, so they learn it before the node does; the guard learns of
        // a leadership before anything is done with it.
        self.publish();
        (self.sink)(Event::Role(role));
    }

    fn publish(&self) {
        let status = self.replica.status();
        let epoch = match status.role {
            Role::Leader { term } => term,
            Role::Follower { .. } | Role::Candidate { .. } => 0,
        };
        let replica = status.id;
        *self.shared.core() = status;
        (self.hooks.pulse)(Pulse { replica, epoch });
    }

    /// The store thread reports why before its queue closes.
    fn lost_store(&self) -> End {
        let mail = self.mailbox.take(Duration::ZERO);
        let reason = mail.reports.into_iter().find_map(|report| match report {
            Report::StoreFailed(error) => Some(error.to_string()),
            Report::Persisted(_)
            | Report::PeerUp(_)
            | Report::PeerDown(_)
            | Report::SnapshotSent { .. }
            | Report::Space(_) => None,
        });
        End::Failed(reason.unwrap_or_else(|| "the store does not keep up".to_owned()))
    }

    /// Takes back what was promised to the node, then ends what this thread owns.
    fn wind_up(mut self, end: End) {
        self.mailbox.stop();
        if let Some(term) = self.local.lease.take() {
            (self.sink)(Event::LeaseLost { term });
        }
        let open = self.local.open.into_values().map(|open| open.ticket);
        let waiting = self.local.waiting.into_iter();
        let tickets = open.chain(waiting.map(|proposal| proposal.ticket));
        close(&self.mailbox, tickets.collect(), &mut self.sink);
        fail(&self.shared, end, &mut self.sink);
        self.store.stop();
        self.shared.link.stop(&self.runtime);
    }
}

/// Takes nothing more in; whoever waits for an answer, or proposed these or what is in the mailbox, learns it.
pub(crate) fn close(mailbox: &Mailbox, tickets: Vec<Ticket>, sink: &mut impl FnMut(Event)) {
    mailbox.stop();
    let waiting = mailbox.take(Duration::ZERO).proposals;
    mailbox.close();
    let waiting = waiting.into_iter().map(|proposal| proposal.ticket);
    for ticket in tickets.into_iter().chain(waiting) {
        sink(Event::Dropped {
            ticket,
            reason: DropReason::Stopped,
        });
    }
}

/// Reports an end that was not asked for.
pub(crate) fn fail(shared: &Shared, end: End, sink: &mut impl FnMut(Event)) {
    if let End::Failed(reason) = end {
        shared.store_failed.store(true, Ordering::Relaxed);
        sink(Event::StoreFailed(reason));
    }
}

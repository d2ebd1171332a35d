//! What follows every step of raft-rs: its `Ready` becomes commands.

use std::mem;

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, Snapshot,
};
use raft::{ReadState, StateRole};

use super::Replica;
use crate::gate::{GATE_TICKS, Standby};
use crate::lease::Probe;
use crate::sabotage::Sabotage;
use crate::{
    Change, Command, Membership, MessageClass, Position, Proposal, ProposalId, ReplicaId, Role,
    SnapshotWrite, Write, is_reserved,
};

impl Replica {
    /// Turns everything raft-rs has to say into commands.
    pub(super) fn drain(&mut self) {
        self.note_role();
        loop {
            while self.raw.has_ready() {
                self.take_ready();
            }
            if !mem::take(&mut self.ask_now) {
                break;
            }
            self.ask_for_lease();
        }
        self.advance_applied();
        self.release_gate();
        if let Some(position) = self.raw.mut_store().compact(&self.limits) {
            let mut write = Write::empty();
            write.compact_to = Some(position);
            self.writes.add_write(write);
            self.counters.compactions += 1;
        }
        while let Some(write) = self.writes.issue() {
            self.commands.push_back(Command::Persist(write));
        }
    }

    /// Gives the batched proposals to raft-rs as one message.
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id.get();
        let first = self.proposed - self.batch.len() as u64 + 1;
        message.set_entries(mem::take(&mut self.batch).into());
        self.batch_bytes = 0;
        if self.raw.step(message).is_err() {
            let Role::Leader { term } = self.role else {
                return;
            };
            for number in first..=self.proposed {
                self.drop_proposal(ProposalId { term, number });
            }
        }
        self.drain();
    }

    fn drop_proposal(&mut self, proposal: ProposalId) {
        if self.open.remove(&proposal.number) {
            self.counters.proposals_dropped += 1;
            self.commands.push_back(Command::Dropped { proposal });
        }
    }

    pub(super) fn report_lost_lease(&mut self, lost: Option<u64>) {
        if let Some(term) = lost {
            self.counters.leases_lost += 1;
            self.commands.push_back(Command::LeaseLost { term });
        }
    }

    fn note_role(&mut self) {
        let raft = &self.raw.raft;
        let term = raft.term;
        let role = match raft.state {
            StateRole::Leader => Role::Leader { term },
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate { term },
            StateRole::Follower => Role::Follower {
                term,
                leader: ReplicaId::try_from(raft.leader_id).ok(),
            },
        };
        if role == self.role {
            return;
        }
        // The lease first: nothing else may be done under it.
        let lost = self.lease.release();
        self.report_lost_lease(lost);
        let before = mem::replace(&mut self.role, role);
        self.commands.push_back(Command::Role(role));
        if let Role::Leader { term } = before {
            self.batch.clear();
            self.batch_bytes = 0;
            self.gate.clear();
            for number in mem::take(&mut self.open) {
                self.counters.proposals_dropped += 1;
                self.commands.push_back(Command::Dropped {
                    proposal: ProposalId { term, number },
                });
            }
        }
        match role {
            Role::Leader { .. } => {
                self.proposed = 0;
                self.led_since = self.now;
                self.version_proposed = None;
                self.counters.elected += 1;
            }
            Role::Candidate { .. } => self.counters.campaigns += 1,
            Role::Follower { .. } => {}
        }
    }

    fn take_ready(&mut self) {
        let mut ready = self.raw.ready();
        self.note_role();
        for message in ready.take_messages() {
            self.send(message);
        }
        let mut write = Write::empty();
        write.must_sync = ready.must_sync();
        write.hard_state = ready.hs().cloned();
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot(), &mut write);
        }
        write.entries = ready.take_entries();
        write.truncate_from = self.raw.mut_store().append(&write.entries);
        // An answer to a heartbeat claims nothing about the disk; behind a slow one it would cost the
        // leader its lease.
        let (prompt, durable): (Vec<_>, Vec<_>) = ready
            .take_persisted_messages()
            .into_iter()
            .partition(|message| {
                self.lacking.lacks(Sabotage::DiskBeforeAnswer)
                    || message.get_msg_type() == MessageType::MsgHeartbeatResponse
            });
        let committed = ready.take_committed_entries();
        let reads = ready.take_read_states();
        let number = ready.number();
        self.raw.advance_append_async(ready);

        for entry in committed {
            self.apply(entry, &mut write);
        }
        let (unblocked, persisted) = self.writes.add(number, write, durable);
        if persisted {
            self.raw.on_persist_ready(number);
        }
        self.advance_applied();
        for message in prompt.into_iter().chain(unblocked) {
            self.transmit(message);
        }
        for read in reads {
            self.extend_lease(&read);
        }
    }

    /// raft-rs takes an applied index only once it is persisted; an installed snapshot is applied here
    /// before it is.
    fn advance_applied(&mut self) {
        let log = &self.raw.raft.raft_log;
        let applied = self.raw.store().applied().index.min(log.persisted);
        if applied > log.applied {
            self.raw.advance_apply_to(applied);
        }
    }

    fn install(&mut self, snapshot: &Snapshot, write: &mut Write) {
        let metadata = snapshot.get_metadata();
        let (position, table) = self
            .incoming
            .take()
            .expect("raft-rs installs only the snapshot that was just stepped");
        assert_eq!(
            position.index, metadata.index,
            "one snapshot is stepped at a time"
        );
        let conf_state = metadata.get_conf_state().clone();
        self.raw
            .mut_store()
            .install(position, conf_state.clone(), table.clone());
        self.membership = Membership::from(&conf_state);
        write.conf_state = Some(conf_state);
        write.snapshot = Some(SnapshotWrite { position, table });
        self.counters.snapshots_installed += 1;
        self.commands.push_back(Command::Restored {
            index: position.index,
        });
    }

    fn apply(&mut self, entry: Entry, write: &mut Write) {
        let Position { index, term } = Position {
            index: entry.index,
            term: entry.term,
        };
        let mut proposal = None;
        let mut changes = Vec::new();
        match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => self.note_opened(term),
            EntryType::EntryNormal => {
                (proposal, changes) = self.decode(entry);
            }
            EntryType::EntryConfChange => {
                let mut change = ConfChange::default();
                let applied = change.merge_from_bytes(&entry.data).is_ok();
                let result = applied.then(|| self.raw.apply_conf_change(&change));
                self.note_conf_state(result.and_then(Result::ok), write);
            }
            EntryType::EntryConfChangeV2 => {
                let mut change = ConfChangeV2::default();
                let applied = change.merge_from_bytes(&entry.data).is_ok();
                let result = applied.then(|| self.raw.apply_conf_change(&change));
                self.note_conf_state(result.and_then(Result::ok), write);
            }
        }
        self.raw
            .mut_store()
            .apply(Position { index, term }, &changes);
        write.changes.extend(changes.iter().cloned());
        write.applied = Some(index);
        changes.retain(|change| !is_reserved(change.key()));
        self.commands.push_back(Command::Applied {
            index,
            term,
            proposal,
            changes,
        });
    }

    /// The entry that opens this leader's term is applied, and so is everything committed before it:
    /// the table is complete.
    fn note_opened(&mut self, term: u64) {
        if self.role == (Role::Leader { term }) {
            self.opened = term;
            self.ask_now = true;
        }
    }

    fn decode(&mut self, entry: Entry) -> (Option<ProposalId>, Vec<Change>) {
        let Ok(Proposal {
            proposer,
            id,
            changes,
        }) = Proposal::decode(entry.data)
        else {
            // The same bytes on every replica: they all skip it.
            self.counters.undecodable += 1;
            return (None, Vec::new());
        };
        let own = proposer == self.id
            && id.term == entry.term
            && self.role == (Role::Leader { term: id.term })
            && self.open.remove(&id.number);
        (own.then_some(id), changes)
    }

    /// A change that raft-rs refuses changes nothing, on every replica alike.
    fn note_conf_state(&mut self, conf_state: Option<ConfState>, write: &mut Write) {
        match conf_state {
            Some(conf_state) => {
                self.membership = Membership::from(&conf_state);
                self.raw.mut_store().set_conf_state(conf_state.clone());
                write.conf_state = Some(conf_state);
            }
            None => self.counters.undecodable += 1,
        }
    }

    fn extend_lease(&mut self, read: &ReadState) {
        let Some(probe) = Probe::decode(&read.request_ctx) else {
            return;
        };
        let leads = self.role == (Role::Leader { term: probe.term });
        let handing_on =
            self.raw.raft.lead_transferee.is_some() && !self.lacking.lacks(Sabotage::ReleaseOrder);
        if !leads || self.opened != probe.term || handing_on {
            return;
        }
        if let Some(lease) = self.lease.confirm(probe, self.now) {
            self.commands.push_back(Command::Lease {
                term: lease.term,
                until: lease.until,
            });
        }
    }

    /// Sends as leader: appends for the witness pass its gate.
    fn send(&mut self, message: Message) {
        if let (MessageType::MsgAppend, Some(first)) =
            (message.get_msg_type(), message.entries.first())
        {
            let unchecked = self.lacking.lacks(Sabotage::BatchAssertion);
            assert!(
                unchecked || first.index == message.index + 1,
                "an append does not connect to its log"
            );
        }
        let gated = message.get_msg_type() == MessageType::MsgAppend
            && ReplicaId::try_from(message.to).is_ok_and(|to| !to.slot().is_data());
        match self.standby().filter(|_| gated) {
            Some(standby) => match self.gate.offer(message, standby) {
                Some(message) => self.transmit(message),
                None => self.counters.appends_gated += 1,
            },
            None => self.transmit(message),
        }
    }

    fn release_gate(&mut self) {
        let Some(standby) = self.standby() else {
            return;
        };
        while let Some((message, opened)) = self.gate.release(standby) {
            self.counters.gate_opened += u64::from(opened);
            self.transmit(message);
        }
    }

    /// The other data node, as its leader sees it.
    fn standby(&self) -> Option<Standby> {
        let raft = &self.raw.raft;
        let ungated = self.lacking.lacks(Sabotage::WitnessGate);
        if raft.state != StateRole::Leader || !self.id.slot().is_data() || ungated {
            return None;
        }
        let standbys = raft.prs().iter().filter_map(|(&number, progress)| {
            let id = ReplicaId::try_from(number).ok()?;
            let standby =
                id != self.id && id.slot().is_data() && raft.prs().conf().voters().contains(number);
            let silence = self.timing.tick * GATE_TICKS as u32;
            standby.then(|| {
                (
                    id,
                    Standby {
                        matched: progress.matched,
                        heard: self
                            .heard
                            .get(&id)
                            .is_some_and(|heard| self.now < *heard + silence),
                    },
                )
            })
        });
        // During a joint change the slot may have two; the older one has lost its disk.
        standbys
            .max_by_key(|(id, _)| *id)
            .map(|(_, standby)| standby)
    }

    pub(super) fn transmit(&mut self, message: Message) {
        // Ids come from the configuration; one that no replica can have is never reachable.
        let Ok(to) = ReplicaId::try_from(message.to) else {
            return;
        };
        let class = match message.get_msg_type() {
            MessageType::MsgSnapshot => {
                self.counters.snapshots_sent += 1;
                MessageClass::Snapshot
            }
            MessageType::MsgAppend
            | MessageType::MsgAppendResponse
            | MessageType::MsgTimeoutNow => MessageClass::Stream,
            MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp => MessageClass::Datagram,
        };
        self.commands
            .push_back(Command::Send { to, message, class });
    }
}

//! Hellos, membership and cluster version: what the replica says and hears beside Raft, and what its leader
//! makes of it.

use std::time::Duration;

use super::{MAX_COMMANDS, Replica};
use crate::greeter::{BEAT, WAITING_BEAT};
use crate::membership::{PRESENT, Seen, View};
use crate::version::{self, VERSION_KEY};
use crate::{
    Change, Command, Envelope, ForceError, Forced, Greeting, Hello, Member, PeerMessage, Proposal,
    ProposalId, ReplicaId, Role, Slot, Standing, Table, is_reserved,
};

/// A hello older than three beats says nothing about now.
const RECENT: Duration = Duration::from_secs(3);

impl Replica {
    /// Whatever a peer sends.
    pub fn handle_envelope(&mut self, envelope: Envelope, now: Duration) {
        match envelope.message {
            PeerMessage::Hello(hello) => self.handle_hello(hello, now),
            PeerMessage::Raft(message) if envelope.generation == self.origin.generation => {
                self.handle_message(message, now);
            }
            PeerMessage::Raft(_) => {
                self.advance(now);
                self.counters.other_generation += 1;
            }
        }
    }

    /// A hello of a peer.
    pub fn handle_hello(&mut self, hello: Hello, now: Duration) {
        self.advance(now);
        let slot = hello.slot;
        if !self.greeter.take(hello, self.now) {
            self.counters.hellos_refused += 1;
            return;
        }
        self.counters.hellos += 1;
        self.note_generation(slot);
        self.note_replacement(slot);
        self.greet();
    }

    /// The link to a peer has come up.
    pub fn handle_peer_up(&mut self, peer: Slot, now: Duration) {
        self.advance(now);
        self.greeter.owe(peer);
        self.greet();
    }

    /// The newest form of records and messages that every member can read. Newer forms must not be written.
    pub fn cluster_version(&self) -> u16 {
        version::of(self.raw.store().table())
    }

    /// The table without the replicas' own keys.
    pub fn node_table(&self) -> Table {
        let mut table = self.raw.store().table().clone();
        table.retain(|key, _| !is_reserved(key));
        table
    }

    /// The generation that everything this replica sends belongs to.
    pub fn generation(&self) -> u32 {
        self.origin.generation
    }

    /// What a forced takeover would make of this replica. It is done to its store, before it starts again.
    ///
    /// # Errors
    /// See [`ForceError`].
    pub fn forced(&self) -> Result<Forced, ForceError> {
        if !self.id.slot().is_data() {
            return Err(ForceError::Witness);
        }
        if self.membership.is_empty() {
            return Err(ForceError::Empty);
        }
        let leader = match self.role {
            Role::Leader { .. } => Some(self.id),
            Role::Follower { leader, .. } => leader,
            Role::Candidate { .. } => None,
        };
        if let Some(leader) = leader {
            return Err(ForceError::Led(leader));
        }
        if let Some(successor) = self.replaced_by {
            return Err(ForceError::Replaced(successor));
        }
        let newest = self.membership.newest(self.id.slot()).unwrap_or(self.id);
        let incarnation = newest.max(self.id).incarnation().saturating_add(1);
        let known = self.superseded_by.unwrap_or_default();
        Ok(Forced {
            id: ReplicaId::new(self.id.slot(), incarnation).map_err(|_| ForceError::Empty)?,
            generation: self.origin.generation.max(known).saturating_add(1),
        })
    }

    /// A newer generation is about: an operator has decided that its side is the pair.
    pub(super) fn is_superseded(&self) -> bool {
        self.superseded_by.is_some()
    }

    /// Stands down for a newer generation: it neither leads, nor votes, nor follows any more.
    fn note_generation(&mut self, from: Slot) {
        let said = self.greeter.heard(from).map(|heard| heard.hello.generation);
        let Some(newer) = said.filter(|said| *said > self.origin.generation) else {
            return;
        };
        if self.superseded_by.is_none_or(|known| known < newer) {
            self.superseded_by = Some(newer);
            let lost = self.lease.bar(u64::MAX);
            self.report_lost_lease(lost);
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
            self.drain();
        }
    }

    fn note_replacement(&mut self, from: Slot) {
        let Some(hello) = self.greeter.fresh(from) else {
            return;
        };
        if let Standing::Member(member) = &hello.standing
            && member.serving
            && hello.generation == self.origin.generation
        {
            let newest = member.membership.newest(self.id.slot());
            self.replaced_by = newest.filter(|newest| *newest > self.id);
        }
    }

    fn standing(&self) -> Standing {
        if self.membership.is_empty() {
            return Standing::Joining(self.id);
        }
        Standing::Member(Member {
            id: self.id,
            applied: self.raw.store().applied(),
            membership: self.membership.clone(),
            founders: self.origin.founders.clone(),
            serving: self.is_serving(self.now),
        })
    }

    /// Sends the hellos that are due.
    pub(super) fn greet(&mut self) {
        // Nobody takes them; the next beat makes up for it.
        if self.commands.len() >= MAX_COMMANDS {
            return;
        }
        let serving = self.is_serving(self.now);
        if self.said.1 != serving || self.said.0 != self.membership {
            self.said = (self.membership.clone(), serving);
            self.greeter.owe_all();
        }
        let beat = if self.membership.is_empty() {
            WAITING_BEAT
        } else {
            BEAT
        };
        for to in self.greeter.due(beat, self.now) {
            let hello = Hello {
                slot: self.id.slot(),
                store: self.origin.store,
                life: self.origin.life,
                sequence: self.greeter.number(),
                heard: self.greeter.life_of(to),
                generation: self.origin.generation,
                versions: self.versions,
                standing: self.standing(),
            };
            self.commands
                .push_back(Command::Greet(Greeting { to, hello }));
        }
    }

    /// The hello of a slot, if it still says something about now and its sender takes part.
    fn recent(&self, slot: Slot) -> Option<&Hello> {
        let heard = self.greeter.heard(slot)?;
        let recent = self.now < heard.at + RECENT;
        let ours = heard.hello.generation == self.origin.generation;
        (recent && ours).then_some(&heard.hello)
    }

    pub(super) fn said_applied(&self, id: ReplicaId) -> Option<u64> {
        match &self.greeter.heard(id.slot())?.hello.standing {
            Standing::Member(member) if member.id == id => Some(member.applied.index),
            Standing::Member(_) | Standing::Waiting | Standing::Joining(_) => None,
        }
    }

    fn look(&self, id: ReplicaId) -> Seen {
        let progress = self.raw.raft.prs().get(id.get());
        if id == self.id {
            return Seen {
                matched: self.raw.store().last(),
                present: true,
                silent: Duration::ZERO,
            };
        }
        let heard = self.heard.get(&id).copied();
        Seen {
            matched: progress.map_or(0, |progress| progress.matched),
            present: heard.is_some_and(|heard| self.now < heard + PRESENT),
            silent: self
                .now
                .saturating_sub(heard.unwrap_or_default().max(self.led_since)),
        }
    }

    /// Whether it may change anything for the pair: it leads under a lease and goes on doing so.
    fn decides(&self) -> Option<u64> {
        let Role::Leader { term } = self.role else {
            return None;
        };
        let decides = self.is_serving(self.now)
            && !self.lease.is_barred(term)
            && self.raw.raft.lead_transferee.is_none();
        decides.then_some(term)
    }

    /// A joint change is left as soon as it is agreed on, not with the next tick: until then both sides need each
    /// other.
    pub(super) fn leave_joint(&mut self) {
        if self.membership.is_joint() {
            self.drive_membership();
        }
    }

    /// Takes the next step towards the membership that should be, one at a time.
    pub(super) fn drive_membership(&mut self) {
        if self.decides().is_none() || self.raw.raft.has_pending_conf() {
            return;
        }
        let others = self.greeter.others();
        let joiners: Vec<_> = others
            .iter()
            .filter_map(|slot| match self.recent(*slot)?.standing {
                Standing::Joining(id) => Some(id),
                Standing::Waiting | Standing::Member(_) => None,
            })
            .collect();
        let mut slots = others.clone();
        slots.insert(self.id.slot());
        let view = View {
            own: self.id,
            membership: &self.membership,
            slots: &slots,
            joiners: &joiners,
            commit: self.raw.raft.raft_log.committed,
            on_single: self.on_single,
            look: |id| self.look(id),
        };
        let Some(step) = view.next_step() else {
            return self.yield_to_voter();
        };
        self.flush();
        // Refused while too much is uncommitted; what should be is looked at again with the next tick.
        if self
            .raw
            .propose_conf_change(Vec::new(), step.change())
            .is_ok()
        {
            self.counters.membership_changes += 1;
        }
        self.drain();
    }

    /// A leader that the change it finished has made a learner: it led only because the one who began the change
    /// was away. Who votes decides, and needs nobody for it, so that one goes on.
    fn yield_to_voter(&mut self) {
        let voters = &self.membership.voters;
        if voters.contains(&self.id) {
            return;
        }
        let mut data = voters.iter().copied().filter(|id| id.slot().is_data());
        if let Some(voter) = data.find(|id| self.look(*id).present) {
            // Refused only when one is under way.
            let _ = self.transfer(voter, self.now);
        }
    }

    /// Raises the cluster version to what every member says it can read.
    pub(super) fn drive_version(&mut self) {
        let Some(term) = self.decides() else {
            return;
        };
        let current = self.cluster_version();
        let Some(version) = self.supported().filter(|version| *version > current) else {
            return;
        };
        if self.version_proposed == Some(version) {
            return;
        }
        // Number 0 is nobody's proposal: it is confirmed to no one.
        let data = Proposal {
            proposer: self.id,
            id: ProposalId { term, number: 0 },
            changes: vec![Change::Put {
                key: VERSION_KEY.into(),
                value: version::value(version),
            }],
        }
        .encode();
        self.flush();
        if self.raw.propose(Vec::new(), data.to_vec()).is_ok() {
            self.version_proposed = Some(version);
        }
        self.drain();
    }

    /// The newest version that every member can read; `None` while one of them has not said.
    fn supported(&self) -> Option<u16> {
        let members = self.membership.parts().into_iter().flatten();
        let others = members.filter(|id| **id != self.id);
        others
            .into_iter()
            .try_fold(self.versions.max, |lowest, id| {
                let hello = self.recent(id.slot())?;
                (hello.id() == Some(*id)).then(|| lowest.min(hello.versions.max))
            })
    }
}

//! Who a machine is at each start, and what lost disks and operators make of that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use tandem_engine::{Committed, Engine, Settings};
use tandem_failover_core::AddressEngine;
use tandem_replication_core::{
    Config, Decision, ForceError, Founders, Founding, Origin, Replica, ReplicaId, Restored, Slot,
    StoreId, Table, Versions, is_reserved,
};

use super::machine::{Data, Party, Process};
use super::{Local, ToEngine, World};
use crate::clock::ms;
use crate::disk::{Birth, Decided, Disk, last};
use crate::invariants::Sighting;
use crate::lanes::media_ports;
use crate::{NODES, SLOTS, Safeguard};

fn others(node: usize) -> BTreeSet<Slot> {
    let others = SLOTS.iter().filter(|slot| **slot != SLOTS[node]);
    others.copied().collect()
}

impl World {
    /// Starts a machine's process. With an empty disk it asks the others who it is.
    pub(crate) fn start(&mut self, node: usize) {
        assert!(!self.is_up(node), "node {node} is up");
        self.rejoin_if_unclean(node);
        let boot = self.machines[node].clock.boot(self.now);
        let store = StoreId(self.rng.random());
        let origin_life = self.rng.random_range(1..u64::MAX);
        let careless = self.lacks(Safeguard::AskingFirst).then(|| Decided {
            id: ReplicaId::first(SLOTS[node]),
            generation: 0,
            founders: Founders::from([(SLOTS[node], store)]),
        });
        let birth = self.machines[node].disk.birth.get_or_insert(Birth {
            store,
            decided: careless,
        });
        let (store, decided) = (birth.store, birth.decided.clone());
        let founding = Founding::new(
            (SLOTS[node], store),
            origin_life,
            others(node),
            Versions::SUPPORTED,
            boot,
        );
        let data = SLOTS[node].is_data().then(|| self.data_parts(node, boot));
        let machine = &mut self.machines[node];
        machine.life += 1;
        machine.armed = [None; 3];
        machine.disk_free_at = self.now;
        machine.process = Some(Process {
            party: Party::Asking(founding),
            origin_life,
            batches: BTreeMap::new(),
            engine_queue: self.now,
            replica_queue: self.now,
            data,
        });
        match decided {
            Some(decided) => self.begin(node, decided),
            None => {
                self.trace.note(self.now, || {
                    format!("node {node} starts with an empty disk")
                });
                let table = Table::new();
                self.queue_for_engine(node, ToEngine::Committed(Committed::Restored { table }));
                self.execute_replica(node);
            }
        }
        self.execute_address(node);
        self.arm(node);
        self.link_up(node);
    }

    /// Links to and from a machine are there again.
    pub(super) fn link_up(&mut self, node: usize) {
        for peer in NODES.into_iter().filter(|peer| *peer != node) {
            self.local(peer, ms(1), Local::PeerUp(node));
            self.local(node, ms(1), Local::PeerUp(peer));
        }
    }

    /// Sends what an empty store has to say, and looks whether it has learnt who it is.
    pub(super) fn ask(&mut self, node: usize) {
        while let Some(greeting) = self.machines[node]
            .founding_mut()
            .and_then(Founding::next_command)
        {
            self.greet(node, greeting);
        }
        let founding = self.machines[node].founding_mut();
        let Some(decision) = founding.and_then(|founding| founding.decision()) else {
            return;
        };
        let decided = match decision {
            Decision::Found(founders) => Decided {
                id: ReplicaId::first(SLOTS[node]),
                generation: 0,
                founders,
            },
            Decision::Join { id, generation } => Decided {
                id,
                generation,
                founders: Founders::new(),
            },
        };
        if let Some(process) = &mut self.machines[node].process {
            process.party = Party::Deciding(decided.clone());
        }
        let took = self.micros(self.conditions.fsync_us);
        self.local(node, took, Local::Decided(decided));
    }

    /// The process ends; a decision that is on its way to the disk may have reached it.
    pub(super) fn keep_decision(&mut self, node: usize) {
        let process = self.machines[node].process.as_ref();
        let Some(Party::Deciding(decided)) = process.map(|process| &process.party) else {
            return;
        };
        let decided = decided.clone();
        if self.chance(0.5)
            && let Some(birth) = &mut self.machines[node].disk.birth
        {
            birth.decided = Some(decided);
        }
    }

    /// A store that knows who it is begins.
    pub(super) fn begin(&mut self, node: usize, decided: Decided) {
        let Some(origin_life) = self.machines[node]
            .process
            .as_ref()
            .map(|process| process.origin_life)
        else {
            return;
        };
        let disk = &mut self.machines[node].disk;
        let restored = disk.restored();
        let Some(birth) = &mut disk.birth else { return };
        birth.decided = Some(decided.clone());
        let founds = !decided.founders.is_empty();
        let config = Config {
            id: decided.id,
            voters: SLOTS
                .iter()
                .filter(|_| founds)
                .map(|slot| ReplicaId::first(*slot))
                .collect(),
            profile: self.conditions.profile,
            limits: self.conditions.limits,
            seed: self.rng.random(),
            others: others(node),
            origin: Origin {
                store: birth.store,
                life: origin_life,
                generation: decided.generation,
                founders: decided.founders,
            },
            on_single: self.conditions.on_single,
            versions: Versions::SUPPORTED,
        };
        let boot = self.machines[node].clock.boot(self.now);
        let empty = restored == Restored::default();
        let (applied, mut table) = (restored.applied, restored.table.clone());
        table.retain(|key, _| !is_reserved(key));
        let mut replica = Replica::new(config, restored, boot).expect("the disk is consistent");
        let applied = if empty {
            replica.status().applied
        } else {
            applied
        };
        self.without(&mut replica);
        self.trace.note(self.now, || {
            format!("node {node} begins as {}, applied {applied}", decided.id)
        });
        self.see(Sighting::Started { node, applied });
        if let Some(process) = &mut self.machines[node].process {
            process.party = Party::Replica(Box::new(replica));
        }
        let restored = Committed::Restored { table };
        self.queue_for_engine(node, ToEngine::Committed(restored));
        self.execute_replica(node);
    }

    fn data_parts(&mut self, node: usize, boot: Duration) -> Data {
        #[cfg_attr(not(feature = "sabotage"), expect(unused_mut))]
        let mut engine = Engine::new(Settings {
            slot: SLOTS[node],
            sip: self.config.clone(),
            media_ports: media_ports(self.conditions.lanes),
            seed: self.rng.random(),
        });
        #[cfg(feature = "sabotage")]
        match self.conditions.without {
            Some(Safeguard::CommitBeforeReveal) => engine.reveal_at_once(),
            Some(Safeguard::EpochCheck) => engine.ownership_mut().ignore_epochs(),
            _ => {}
        }
        let address = AddressEngine::new(self.fabric.address_config(), self.rng.random(), boot);
        Data {
            engine,
            address,
            operation: None,
            gate: None,
            epoch: 0,
        }
    }

    #[cfg(feature = "sabotage")]
    fn without(&self, replica: &mut Replica) {
        if let Some(sabotage) = self.conditions.without.and_then(Safeguard::of_replica) {
            replica.sabotage(sabotage);
        }
    }

    #[cfg(not(feature = "sabotage"))]
    fn without(&self, _replica: &mut Replica) {
        assert_eq!(
            self.conditions.without, None::<Safeguard>,
            "built without the switches"
        );
    }

    /// Whether the run is without a rule that is not in a core but in how the store is started.
    fn lacks(&self, rule: Safeguard) -> bool {
        self.conditions.without == Some(rule)
    }

    // Disks and operators.

    /// Takes a stopped machine's disk away and puts an empty one in.
    pub(crate) fn wipe(&mut self, node: usize) {
        assert!(!self.is_up(node), "node {node} is up");
        self.trace
            .note(self.now, || format!("node {node} has an empty disk"));
        self.machines[node].disk = Disk::new(self.conditions.durability);
        self.machines[node].unclean = false;
        self.counts.disks_lost += 1;
        self.reforming = Some(self.now);
        self.disturb();
    }

    /// The disk fails with everything on it; the machine gets a new one and starts at once.
    pub(crate) fn lose_disk(&mut self, node: usize) {
        self.power_cut(node);
        self.wipe(node);
        self.start(node);
    }

    /// A store whose acknowledgements went with the memory is refused, and the operator moves it aside.
    fn rejoin_if_unclean(&mut self, node: usize) {
        let unclean = std::mem::take(&mut self.machines[node].unclean);
        if unclean && !self.lacks(Safeguard::UncleanRefused) {
            self.wipe(node);
        }
    }

    /// An operator forces a takeover on a running node: its store is changed, and it starts again.
    pub(crate) fn force(&mut self, node: usize) -> Result<(), ForceError> {
        let replica = self.replica(node);
        let forced = replica.map_or(Err(ForceError::Empty), Replica::forced)?;
        self.crash(node);
        self.machines[node].disk.force(forced);
        let held = self.machines[node].disk.restored();
        self.see(Sighting::Forced {
            last: last(&held),
            table: &held.table,
        });
        self.reforming = Some(self.now);
        self.start(node);
        Ok(())
    }

    // Questions.

    /// Who a machine is by now.
    pub(crate) fn id_of(&self, node: usize) -> ReplicaId {
        let birth = self.machines[node].disk.birth.as_ref();
        let decided = birth.and_then(|birth| birth.decided.as_ref());
        decided.map_or(ReplicaId::first(SLOTS[node]), |decided| decided.id)
    }

    /// Whether every machine is a voter that holds everything: then any one disk may be lost.
    pub(crate) fn is_whole(&self) -> bool {
        let active = self.serving().and_then(|node| self.status(node));
        let Some(status) = active else { return false };
        let told = |node: usize| {
            let replica = self.replica(node);
            replica.is_some_and(|replica| !replica.status().membership.is_empty())
        };
        NODES.into_iter().all(told)
            && status.membership.voters == NODES.map(|node| self.id_of(node)).into()
            && !status.membership.is_joint()
            && status.membership.learners.is_empty()
            && status
                .peers
                .iter()
                .all(|peer| peer.matched >= status.commit)
    }
}

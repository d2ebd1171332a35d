//! Starting and losing disks: who a node is at each start, and what an operator makes of it.

use std::collections::BTreeSet;

use rand::Rng;

use super::disk::Disk;
use super::{A, B, Node, SLOTS, WITNESS, World, others};
use crate::{
    Config, Decision, ForceError, Forced, Founders, Founding, Origin, Replica, ReplicaId, Restored,
    StoreId,
};

/// What a state directory says beside its log. Written before anything is done by it.
#[derive(Clone, Debug)]
pub(super) struct Birth {
    pub(super) store: StoreId,
    /// Who it is, the generation it belongs to and the founders it knows.
    pub(super) decided: Option<(ReplicaId, u32, Founders)>,
}

impl Node {
    /// Takes a stopped node's disk out.
    pub(super) fn keep(&mut self) -> (Option<Birth>, Disk) {
        (self.birth.take(), std::mem::take(&mut self.disk))
    }

    /// Puts one back in.
    pub(super) fn put_back(&mut self, (birth, disk): (Option<Birth>, Disk)) {
        (self.birth, self.disk) = (birth, disk);
    }
}

impl World {
    /// Who a node is by now.
    pub(super) fn id_of(&self, node: usize) -> ReplicaId {
        let birth = self.nodes[node].birth.as_ref();
        let decided = birth.and_then(|birth| birth.decided.as_ref());
        decided.map_or(World::id(node), |(id, ..)| *id)
    }

    pub(super) fn start(&mut self, node: usize) {
        assert!(!self.is_up(node), "node {node} is up");
        self.nodes[node].life += 1;
        self.nodes[node].disk_free_at = self.now;
        let store = StoreId(self.rng.random());
        let birth = self.nodes[node].birth.get_or_insert(Birth {
            store,
            decided: None,
        });
        if birth.decided.is_some() {
            self.start_replica(node);
        } else {
            let founding = Founding::new(
                (SLOTS[node], birth.store),
                self.rng.random_range(1..u64::MAX),
                others(node),
                self.conditions.versions[node],
                self.nodes[node].clock.local(self.now),
            );
            self.nodes[node].founding = Some(founding);
        }
        self.execute(node);
    }

    fn start_replica(&mut self, node: usize) {
        let Some(Birth {
            store,
            decided: Some((id, generation, founders)),
        }) = self.nodes[node].birth.clone()
        else {
            return;
        };
        let founds = id.incarnation() == 1 && generation == 0;
        let voters = SLOTS.iter().filter(|_| founds);
        let config = Config {
            id,
            voters: voters.map(|slot| ReplicaId::first(*slot)).collect(),
            profile: self.conditions.profile,
            limits: self.conditions.limits,
            seed: self.rng.random(),
            others: others(node),
            origin: Origin {
                store,
                life: self.rng.random_range(1..u64::MAX),
                generation,
                founders,
            },
            on_single: self.conditions.on_single,
            versions: self.conditions.versions[node],
        };
        let restored = self.nodes[node].disk.restored();
        let applied = if restored == Restored::default() {
            u64::from(founds)
        } else {
            restored.applied
        };
        self.invariants.started(node, applied);
        let now = self.local_now(node);
        let replica = Replica::new(config, restored, now).expect("the disk is consistent");
        self.nodes[node].replica = Some(replica);
    }

    /// An empty store has learnt who it is: that is written down, then it begins.
    pub(super) fn decide(&mut self, node: usize) {
        let decision = self.nodes[node]
            .founding
            .as_ref()
            .and_then(Founding::decision);
        let Some(decision) = decision else { return };
        let decided = match decision {
            Decision::Found(founders) => (World::id(node), 0, founders),
            Decision::Join { id, generation } => (id, generation, Founders::new()),
        };
        self.nodes[node].founding = None;
        if let Some(birth) = &mut self.nodes[node].birth {
            birth.decided = Some(decided);
        }
        self.start_replica(node);
    }

    /// Takes a stopped node's disk away.
    pub(super) fn wipe(&mut self, node: usize) {
        assert!(!self.is_up(node), "node {node} is up");
        self.nodes[node].disk = Disk::default();
        self.nodes[node].birth = None;
    }

    /// An operator forces a takeover on a running node: its store is changed, and it starts again.
    pub(super) fn force(&mut self, node: usize) -> Result<(), ForceError> {
        let replica = self.nodes[node].replica.as_ref();
        let Forced { id, generation } = replica.map_or(Err(ForceError::Empty), Replica::forced)?;
        self.crash(node);
        let Node { birth, disk, .. } = &mut self.nodes[node];
        if let Some(birth) = birth {
            birth.decided = Some((id, generation, Founders::new()));
        }
        if let Some(write) = disk.restored().forced(id) {
            disk.write(write);
            disk.crash(1);
        }
        let held = disk.restored();
        self.invariants.forced(
            held.entries
                .last()
                .map_or(held.compacted.index, |entry| entry.index),
            &held.table,
        );
        self.start(node);
        Ok(())
    }

    /// Whether one disk may be lost without losing what was acknowledged: everybody holds everything.
    pub(super) fn is_whole(&self) -> bool {
        let Some(status) = self
            .serving()
            .and_then(|node| self.replica(node))
            .map(Replica::status)
        else {
            return false;
        };
        let ids: BTreeSet<_> = [A, B, WITNESS]
            .into_iter()
            .map(|node| self.id_of(node))
            .collect();
        let told = |node: usize| {
            let replica = self.replica(node);
            replica.is_some_and(|replica| !replica.status().membership.is_empty())
        };
        let everybody = [A, B, WITNESS].into_iter().all(told)
            && status.membership.voters == ids
            && !status.membership.is_joint()
            && status.membership.learners.is_empty();
        everybody
            && status
                .peers
                .iter()
                .all(|peer| peer.matched >= status.commit)
    }
}

//! Showing the invariants what happened.

use std::collections::BTreeSet;
use std::time::Duration;

use tandem_replication_core::{Command, Role};

use super::World;
use crate::clock::ms;
use crate::invariants::Sighting;
use crate::{A, B, NODES, WITNESS};

/// After so long without a fault, what was late has arrived. Longer than the witness gate waits for a slow standby.
const CALM_AFTER: Duration = ms(300);

/// How often it is looked whether everybody is a voter again.
const REFORMING_BEAT: Duration = ms(5);

impl World {
    pub(super) fn see(&mut self, sighting: Sighting<'_>) {
        self.invariants.see(&sighting, self.now, self.steps);
    }

    /// The engine of a node has become the owner.
    pub(super) fn see_activation(&mut self, node: usize) {
        let World {
            machines,
            invariants,
            lanes,
            counts,
            now,
            steps,
            ..
        } = self;
        let machine = &machines[node];
        let (Some(replica), Some(data)) = (machine.replica(), machine.data()) else {
            return;
        };
        let owner = data.engine.ownership().owner;
        let node_of = |slot| match slot {
            tandem_failover_core::Slot::A => A,
            tandem_failover_core::Slot::B => B,
            tandem_failover_core::Slot::Witness => WITNESS,
        };
        let serves: BTreeSet<String> = data
            .engine
            .sip()
            .records()
            .filter_map(|(_, record)| record.legs.first())
            .map(|caller| String::from_utf8_lossy(&caller.call_id).into_owned())
            .collect();
        counts.takeovers += 1;
        let sighting = Sighting::Activated {
            node,
            epoch: data.epoch,
            owner: owner.map(|(slot, epoch)| (node_of(slot), epoch.0)),
            serves,
            table: replica.table(),
            calls: &lanes.calls,
        };
        invariants.see(&sighting, *now, *steps);
    }

    pub(super) fn see_command(&mut self, node: usize, command: &Command) {
        let World {
            machines,
            invariants,
            counts,
            reforming,
            now,
            steps,
            ..
        } = self;
        match command {
            Command::Role(Role::Leader { .. }) => {
                counts.elections += 1;
                counts.witness_led += u64::from(node == WITNESS);
            }
            Command::Restored { .. } => counts.snapshots += 1,
            // A change of the membership: the witness may be ahead of a standby that is no voter yet.
            Command::Persist(write) if write.conf_state.is_some() => *reforming = Some(*now),
            Command::Applied {
                proposal: Some(_), ..
            } => counts.confirmed += 1,
            _ => {}
        }
        let Some(replica) = machines[node].replica() else {
            return;
        };
        let sighting = Sighting::Replica {
            node,
            command,
            table: replica.table(),
        };
        invariants.see(&sighting, *now, *steps);
    }

    pub(super) fn after_step(&mut self) {
        let mut serving = [(0, 0); 2];
        let mut count = 0;
        for node in [A, B] {
            if let Some(epoch) = self.machines[node].may_emit(self.now) {
                serving[count] = (node, epoch);
                count += 1;
            }
        }
        self.see(Sighting::Serving {
            nodes: &serving[..count],
        });
        self.watch_calm();
    }

    fn watch_calm(&mut self) {
        let conditions = &self.conditions;
        let whole = conditions.cut.is_empty()
            && conditions.loss == 0.0
            && conditions.delay_us.1 < 1000
            && NODES.iter().all(|node| {
                let machine = &self.machines[*node];
                machine.process.is_some()
                    && machine.paused_until <= self.now
                    // A stall outlasts the queue of ordinary writes.
                    && machine.disk_free_at <= self.now + ms(10)
            });
        if !whole {
            self.calm_since = None;
            return;
        }
        if let Some(look_at) = self.reforming {
            if self.now >= look_at {
                let whole = self.is_whole();
                self.reforming = (!whole).then_some(self.now + REFORMING_BEAT);
            }
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(self.now);
        if self.now < since + CALM_AFTER {
            return;
        }
        // Only under a data node's lead: the witness leads for what it alone holds.
        let Some(standby) = self.serving().map(|active| A + B - active) else {
            return;
        };
        self.see(Sighting::Calm {
            witness: self.machines[WITNESS].disk.acknowledged_last(),
            standby: self.machines[standby].disk.acknowledged_last(),
        });
    }
}

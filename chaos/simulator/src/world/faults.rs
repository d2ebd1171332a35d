//! What can be done to the world, and asked of it.

use std::time::Duration;

use rand::Rng;
use tandem_replication_core::{ProposeError, Replica, Role, Status, Table, TransferError};
use tandem_sip::record::Phase;

use super::{Event, World};
#[cfg(feature = "sabotage")]
use crate::Safeguard;
use crate::clock::ms;
use crate::disk::Durability;
use crate::invariants::{Sighting, Violation};
use crate::table::load;
use crate::{A, B, NODES};

/// From the death of a process until its guard has taken the address off.
const WITHDRAWAL: Duration = ms(3);

impl World {
    // Faults.

    /// The process dies; the machine stays. Of the writes in flight a random number of the first ones survive.
    pub(crate) fn crash(&mut self, node: usize) {
        let survivors = self
            .rng
            .random_range(0..=self.machines[node].disk.pending());
        self.machines[node].disk.crash(survivors);
        self.keep_decision(node);
        self.counts.crashes += 1;
        self.stop(node, "crashes");
        let life = self.machines[node].life;
        self.after(WITHDRAWAL, Event::Withdraw { node, life });
    }

    /// The machine loses power; what was not synced may be lost.
    pub(crate) fn power_cut(&mut self, node: usize) {
        let survivors = self
            .rng
            .random_range(0..=self.machines[node].disk.at_risk());
        self.machines[node].disk.power_cut(survivors);
        self.keep_decision(node);
        self.machines[node].unclean = self.conditions.durability == Durability::Memory;
        self.counts.power_cuts += 1;
        self.stop(node, "loses power");
        self.fabric.remove_local(node);
    }

    fn stop(&mut self, node: usize, how: &str) {
        self.trace.note(self.now, || format!("node {node} {how}"));
        let machine = &mut self.machines[node];
        machine.process = None;
        machine.paused_until = Duration::ZERO;
        machine.life += 1;
        self.see(Sighting::Stopped { node });
        self.disturb();
    }

    pub(crate) fn pause(&mut self, node: usize, length: Duration) {
        self.trace
            .note(self.now, || format!("node {node} is paused for {length:?}"));
        self.machines[node].paused_until = self.now + length;
        self.disturb();
    }

    pub(crate) fn stall_disk(&mut self, node: usize, length: Duration) {
        self.trace.note(self.now, || {
            format!("the disk of {node} stalls for {length:?}")
        });
        self.machines[node].disk_free_at = self.now + length;
        self.disturb();
    }

    /// Nothing passes from one to the other.
    pub(crate) fn cut_one_way(&mut self, from: usize, to: usize) {
        self.trace
            .note(self.now, || format!("the link from {from} to {to} is cut"));
        self.conditions.cut.insert((from, to));
        self.disturb();
    }

    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    pub(crate) fn isolate(&mut self, node: usize) {
        for other in NODES.into_iter().filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    /// Links are whole again, nothing is lost any more.
    pub(crate) fn heal(&mut self) {
        self.trace
            .note(self.now, || "all links are whole".to_owned());
        let conditions = &mut self.conditions;
        conditions.cut.clear();
        conditions.phones_cut.clear();
        conditions.api_cut.clear();
        (
            conditions.loss,
            conditions.duplication,
            conditions.throttled,
        ) = (0.0, 0.0, 0.0);
        conditions.delay_us = (80, 400);
        self.disturb();
        for node in NODES {
            self.link_up(node);
        }
    }

    /// Everything is whole, and every process runs.
    pub(crate) fn repair(&mut self) {
        self.heal();
        for node in NODES {
            if !self.is_up(node) {
                self.start(node);
            }
        }
    }

    /// Something is wrong or has just been: from now on it is counted how long all has been well.
    pub(crate) fn disturb(&mut self) {
        self.calm_since = None;
    }

    // Inputs.

    /// One change that is only load, straight into the log.
    pub(crate) fn propose(&mut self, node: usize, bytes: usize) -> Result<(), ProposeError> {
        self.load += 1;
        let change = load(self.load, bytes);
        let key = change.key().clone();
        let now = self.machines[node].clock.boot(self.now);
        let Some(replica) = self.machines[node].replica_mut() else {
            return Err(ProposeError::NotLeader { leader: None });
        };
        let proposed = replica.propose(vec![change], now);
        if let Ok(proposal) = proposed {
            let key = key.as_ref();
            self.see(Sighting::Proposed {
                node,
                proposal,
                key,
            });
        }
        self.execute_replica(node);
        self.arm(node);
        proposed.map(|_| ())
    }

    /// Asks the replica for a transfer behind the engine's back.
    pub(crate) fn transfer(&mut self, from: usize, to: usize) -> Result<(), TransferError> {
        let now = self.machines[from].clock.boot(self.now);
        let to = self.id_of(to);
        let Some(replica) = self.machines[from].replica_mut() else {
            return Err(TransferError::NotLeader);
        };
        let result = replica.transfer(to, now);
        self.execute_replica(from);
        self.arm(from);
        result
    }

    /// The planned way: the engine stops, then asks.
    pub(crate) fn hand_over(&mut self, node: usize) -> bool {
        let now = self.engine_now(node);
        #[cfg(feature = "sabotage")]
        let skips_yield = self.conditions.without == Some(Safeguard::ReleaseOrder);
        let Some(data) = self.machines[node].data_mut() else {
            return false;
        };
        #[cfg(feature = "sabotage")]
        if skips_yield {
            return data.engine.hand_over_open() && {
                self.execute_engine(node);
                true
            };
        }
        let began = data.engine.hand_over(now);
        self.execute_engine(node);
        self.arm(node);
        began
    }

    // Questions.

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.machines[node].process.is_some()
    }

    pub(crate) fn replica(&self, node: usize) -> Option<&Replica> {
        self.machines[node].replica()
    }

    pub(crate) fn status(&self, node: usize) -> Option<Status> {
        self.replica(node).map(Replica::status)
    }

    pub(crate) fn table(&self, node: usize) -> Option<&Table> {
        self.replica(node).map(Replica::table)
    }

    /// What the node is shown of it.
    pub(super) fn node_table(&self, node: usize) -> Table {
        self.replica(node)
            .map(Replica::node_table)
            .unwrap_or_default()
    }

    /// Whether a packet would leave this node now.
    pub(crate) fn is_serving(&self, node: usize) -> bool {
        self.machines[node].may_emit(self.now).is_some()
    }

    pub(crate) fn serving(&self) -> Option<usize> {
        [A, B].into_iter().find(|node| self.is_serving(*node))
    }

    /// Whether packets to the floating address reach the node that serves.
    pub(crate) fn address_is_right(&mut self) -> bool {
        let holder = self.fabric.holder(self.now);
        holder.is_some() && holder == self.serving()
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |node: &usize| {
            self.status(*node)
                .is_some_and(|status| matches!(status.role, Role::Leader { .. }))
        };
        NODES
            .into_iter()
            .filter(leads)
            .max_by_key(|node| self.status(*node).map(|status| status.term))
    }

    /// Whether every replica has applied what the leader has.
    pub(crate) fn settled(&self) -> bool {
        let tables = NODES.map(|node| self.table(node));
        tables
            .iter()
            .all(|table| table.is_some() && *table == tables[0])
    }

    /// No new calls; those that are up end by their scripts.
    pub(crate) fn stop_calls(&mut self) {
        self.lanes.stop(self.now);
    }

    /// Whether the phones have nothing left to do, and the owner no call that is not over.
    pub(crate) fn calls_over(&self) -> bool {
        let over = |node: usize| {
            let engine = &self.machines[node].data()?.engine;
            let mut calls = engine.sip().records();
            Some(calls.all(|(_, record)| record.phase() == Phase::Ended))
        };
        self.lanes.idle() && self.serving().and_then(over) == Some(true)
    }

    /// Everything is over: looks at what is left.
    pub(crate) fn finish(&mut self) {
        self.counts.calls_answered = self
            .lanes
            .calls
            .values()
            .filter(|call| call.answered)
            .count() as u64;
        let Some(table) = self.table(A).cloned() else {
            return;
        };
        let calls = std::mem::take(&mut self.lanes.calls);
        self.see(Sighting::End {
            table: &table,
            calls: &calls,
        });
        self.lanes.calls = calls;
    }

    /// A scenario's own expectation.
    pub(crate) fn expect(&mut self, holds: bool, what: impl FnOnce(&World) -> String) {
        if !holds {
            let what = what(self);
            self.violate("scenario", what);
        }
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        let violation = Violation::new(invariant, what, self.now, self.steps);
        self.invariants.violated(violation);
    }
}

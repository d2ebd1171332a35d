//! The guards of the machines' processes: a death that is certified.

use std::time::Duration;

use rand::Rng;
use tandem_replication_core::{Death, Role};

use super::{Event, World};
use crate::NODES;
use crate::clock::ms;

/// From the death of a process until its guard has waited for it and signed, in microseconds.
const SIGNED_AFTER_US: (u64, u64) = (100, 800);

/// When a guard sends its datagram, in milliseconds after it has signed.
const REPEATS_MS: [u64; 5] = [0, 2, 5, 10, 20];

impl World {
    /// A process crashes, and its guard tells the others.
    pub(crate) fn die(&mut self, node: usize) {
        let death = self.death(node);
        self.crash(node);
        self.deaths.push(death);
        self.counts.deaths_certified += 1;
        let signed = self.micros(SIGNED_AFTER_US);
        for other in NODES.into_iter().filter(|other| *other != node) {
            for repeat in REPEATS_MS {
                self.certify(node, other, death, signed + ms(repeat));
            }
        }
    }

    /// What the guard of a process would certify now.
    fn death(&self, node: usize) -> Death {
        let role = self.status(node).map(|status| status.role);
        let epoch = match role {
            Some(Role::Leader { term }) => term,
            Some(Role::Follower { .. } | Role::Candidate { .. }) | None => 0,
        };
        Death {
            replica: self.id_of(node),
            epoch,
        }
    }

    fn certify(&mut self, from: usize, node: usize, death: Death, after: Duration) {
        let cut = self.conditions.cut.contains(&(from, node));
        if !cut && !self.chance(self.conditions.loss) {
            let delay = after + self.micros(self.conditions.delay_us);
            self.after(delay, Event::Certificate { node, death });
        }
    }

    /// Somebody who has recorded certificates sends an old one again.
    pub(crate) fn replay_a_death(&mut self, node: usize) {
        if !self.deaths.is_empty() {
            let death = self.deaths[self.rng.random_range(0..self.deaths.len())];
            self.after(Duration::ZERO, Event::Certificate { node, death });
        }
    }

    /// A certificate has reached a machine.
    pub(super) fn bury(&mut self, node: usize, death: Death) {
        let now = self.machines[node].clock.boot(self.now);
        let Some(replica) = self.machines[node].replica_mut() else {
            return;
        };
        let taken = replica.handle_death(death, now);
        self.trace.note(self.now, || {
            let (replica, epoch) = (death.replica, death.epoch);
            format!("node {node} hears of the death of {replica} in term {epoch}: {taken:?}")
        });
        self.execute_replica(node);
        self.arm(node);
    }
}

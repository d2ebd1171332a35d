//! What must hold whatever happens. A violation is recorded, so that a test can also demand one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::WITNESS;
use crate::{Change, Command, ProposalId, Role, Table, is_reserved};

#[derive(Debug, Default)]
pub(super) struct Invariants {
    pub(super) violations: Vec<String>,
    pub(super) acknowledged: BTreeSet<Bytes>,
    pub(super) roles: Vec<(Duration, usize, Role)>,
    leaders: BTreeMap<u64, usize>,
    committed: BTreeMap<u64, (u64, Vec<Change>)>,
    applied: BTreeMap<usize, u64>,
    open: BTreeMap<(usize, ProposalId), Bytes>,
    held: BTreeMap<usize, (u64, Duration)>,
}

impl Invariants {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    pub(super) fn started(&mut self, node: usize, applied: u64) {
        self.applied.insert(node, applied);
    }

    pub(super) fn stopped(&mut self, node: usize) {
        self.held.remove(&node);
        self.open.retain(|(proposer, _), _| *proposer != node);
    }

    /// What was committed beyond the end of a log that an operator made the pair is lost, as was said.
    pub(super) fn forced(&mut self, last: u64, table: &Table) {
        self.committed.retain(|index, _| *index <= last);
        self.acknowledged.retain(|key| table.contains_key(key));
    }

    pub(super) fn proposed(&mut self, node: usize, proposal: ProposalId, key: Bytes) {
        self.open.insert((node, proposal), key);
    }

    /// Two replicas never serve at the same time, each by its own clock.
    pub(super) fn serving(&mut self, now: Duration, serving: &[usize]) {
        self.require(serving.len() <= 1, || {
            format!("{now:?}: dual lease: {serving:?}")
        });
    }

    pub(super) fn command(
        &mut self,
        node: usize,
        command: &Command,
        table: Option<&Table>,
        now: Duration,
    ) {
        match command {
            Command::Role(role) => self.role(node, *role, now),
            Command::Applied {
                index,
                term,
                proposal,
                changes,
            } => {
                self.applied(node, (*index, *term), *proposal, changes);
            }
            Command::Dropped { proposal } => {
                let open = self.open.remove(&(node, *proposal)).is_some();
                self.require(open, || {
                    format!("{node}: {proposal:?} dropped but not open")
                });
            }
            Command::Restored { index } => {
                self.applied.insert(node, *index);
            }
            Command::Lease { term, until } => self.lease(node, *term, *until, table),
            Command::LeaseLost { term } => {
                let held = self.held.remove(&node).map(|(held, _)| held);
                self.require(held == Some(*term), || {
                    format!("{node}: lost lease {term}, held {held:?}")
                });
            }
            Command::Send { .. } | Command::Greet(_) | Command::Persist(_) => {}
        }
    }

    /// Election safety: at most one leader a term.
    fn role(&mut self, node: usize, role: Role, now: Duration) {
        self.roles.push((now, node, role));
        if let Role::Leader { term } = role {
            let leader = *self.leaders.entry(term).or_insert(node);
            self.require(leader == node, || {
                format!("term {term} led by {leader} and {node}")
            });
        } else {
            let held = self.held.get(&node).copied();
            self.require(held.is_none(), || {
                format!("{node}: {role:?} while holding lease {held:?}")
            });
        }
    }

    /// State machine safety: every replica applies the same entry at the same index, without gaps.
    fn applied(
        &mut self,
        node: usize,
        (index, term): (u64, u64),
        proposal: Option<ProposalId>,
        changes: &[Change],
    ) {
        let previous = self.applied.insert(node, index);
        self.require(previous == Some(index - 1), || {
            format!("{node}: applied {index} after {previous:?}")
        });
        let own = changes.iter().any(|change| is_reserved(change.key()));
        self.require(!own, || {
            format!("{node}: the node was shown a reserved key at {index}")
        });
        let entry = self
            .committed
            .entry(index)
            .or_insert_with(|| (term, changes.to_vec()));
        let same = entry.0 == term && entry.1 == changes;
        self.require(same, || format!("{node}: conflicting commit at {index}"));
        if let Some(proposal) = proposal {
            match self.open.remove(&(node, proposal)) {
                Some(key) => {
                    self.acknowledged.insert(key);
                }
                None => self
                    .violations
                    .push(format!("{node}: {proposal:?} confirmed but not open")),
            }
        }
    }

    /// Who may serve has everything that was ever acknowledged; a witness never may.
    fn lease(&mut self, node: usize, term: u64, until: Duration, table: Option<&Table>) {
        self.require(node != WITNESS, || format!("the witness got lease {term}"));
        let before = self.held.insert(node, (term, until));
        let extends = before.is_none_or(|(held, expiry)| held == term && expiry < until);
        self.require(extends, || {
            format!("{node}: lease {term} until {until:?} after {before:?}")
        });
        if before.is_none() {
            self.complete(node, table);
        }
    }

    pub(super) fn complete(&mut self, node: usize, table: Option<&Table>) {
        let lost = self
            .acknowledged
            .iter()
            .filter(|key| table.is_none_or(|table| !table.contains_key(*key)))
            .count();
        self.require(lost == 0, || {
            format!("{node}: {lost} acknowledged proposals are missing")
        });
    }
}

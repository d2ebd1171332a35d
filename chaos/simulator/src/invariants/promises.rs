//! What a replica says of itself keeps together: leases are held by leaders, only extended, lost once; the witness
//! gets none; each proposal is confirmed or dropped once; and whoever gets a lease has everything that was ever
//! confirmed to a proposer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tandem_replication_core::{Command, ProposalId, Role, Table};

use super::{Invariant, Sighting, require};
use crate::WITNESS;

#[derive(Debug, Default)]
pub(super) struct Promises {
    open: BTreeMap<(usize, ProposalId), Vec<u8>>,
    confirmed: BTreeSet<Vec<u8>>,
    held: BTreeMap<usize, (u64, Duration)>,
}

impl Invariant for Promises {
    fn name(&self) -> &'static str {
        "promises"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        match sighting {
            Sighting::Stopped { node } => {
                self.held.remove(node);
                self.open.retain(|(proposer, _), _| proposer != node);
                Ok(())
            }
            Sighting::Proposed {
                node,
                proposal,
                key,
            } => {
                self.open.insert((*node, *proposal), key.to_vec());
                Ok(())
            }
            Sighting::Replica {
                node,
                command,
                table,
            } => self.command(*node, command, table),
            Sighting::Forced { table, .. } => {
                self.confirmed
                    .retain(|key| table.contains_key(key.as_slice()));
                Ok(())
            }
            Sighting::End { table, .. } => self.complete("the pair", table),
            _ => Ok(()),
        }
    }
}

impl Promises {
    fn command(&mut self, node: usize, command: &Command, table: &Table) -> Result<(), String> {
        match command {
            Command::Role(role) => {
                let held = self.held.get(&node);
                let leads = matches!(role, Role::Leader { .. });
                require(leads || held.is_none(), || {
                    format!("node {node}: {role:?} while holding lease {held:?}")
                })
            }
            Command::Applied {
                proposal: Some(proposal),
                ..
            } => match self.open.remove(&(node, *proposal)) {
                Some(key) => {
                    self.confirmed.insert(key);
                    Ok(())
                }
                None => Err(format!("node {node}: {proposal:?} confirmed, but not open")),
            },
            Command::Dropped { proposal } => {
                let open = self.open.remove(&(node, *proposal)).is_some();
                require(open, || {
                    format!("node {node}: {proposal:?} dropped, but not open")
                })
            }
            Command::Lease { term, until } => self.lease(node, *term, *until, table),
            Command::LeaseLost { term } => {
                let held = self.held.remove(&node).map(|(held, _)| held);
                require(held == Some(*term), || {
                    format!("node {node}: lost lease {term}, held {held:?}")
                })
            }
            Command::Applied { proposal: None, .. }
            | Command::Send { .. }
            | Command::Persist(_)
            | Command::Greet(_)
            | Command::Restored { .. } => Ok(()),
        }
    }

    fn lease(
        &mut self,
        node: usize,
        term: u64,
        until: Duration,
        table: &Table,
    ) -> Result<(), String> {
        require(node != WITNESS, || format!("the witness got lease {term}"))?;
        let before = self.held.insert(node, (term, until));
        let extends = before.is_none_or(|(held, expiry)| held == term && expiry < until);
        require(extends, || {
            format!("node {node}: lease {term} until {until:?} after {before:?}")
        })?;
        match before {
            None => self.complete(&format!("node {node}"), table),
            Some(_) => Ok(()),
        }
    }

    fn complete(&self, who: &str, table: &Table) -> Result<(), String> {
        let lost = self
            .confirmed
            .iter()
            .filter(|key| !table.contains_key(key.as_slice()))
            .count();
        require(lost == 0, || {
            format!("{who} lacks {lost} confirmed proposals")
        })
    }
}

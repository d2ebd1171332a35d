//! Raft's state machine safety: every replica applies the same entry at the same index, without gaps.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_replication_core::{Change, Command};

use super::{Invariant, Sighting, require};

#[derive(Debug, Default)]
pub(super) struct NoConflictingCommit {
    committed: BTreeMap<u64, (u64, Vec<Change>)>,
    applied: BTreeMap<usize, u64>,
}

impl Invariant for NoConflictingCommit {
    fn name(&self) -> &'static str {
        "no conflicting commit"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        match sighting {
            Sighting::Started { node, applied } => {
                self.applied.insert(*node, *applied);
            }
            Sighting::Forced { last, .. } => self.committed.retain(|index, _| index <= last),
            Sighting::Replica {
                node,
                command: Command::Restored { index },
                ..
            } => {
                self.applied.insert(*node, *index);
            }
            Sighting::Replica {
                node,
                command:
                    Command::Applied {
                        index,
                        term,
                        changes,
                        ..
                    },
                ..
            } => {
                let previous = self.applied.insert(*node, *index);
                require(previous == Some(index - 1), || {
                    format!("node {node} applied {index} after {previous:?}")
                })?;
                let entry = self
                    .committed
                    .entry(*index)
                    .or_insert_with(|| (*term, changes.clone()));
                return require(entry.0 == *term && entry.1 == *changes, || {
                    format!(
                        "node {node} applied another entry at {index}: term {term}, not {}",
                        entry.0
                    )
                });
            }
            _ => {}
        }
        Ok(())
    }
}

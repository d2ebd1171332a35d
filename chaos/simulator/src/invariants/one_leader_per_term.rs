//! Raft's election safety: at most one leader a term.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_replication_core::{Command, Role};

use super::{Invariant, Sighting, require};

#[derive(Debug, Default)]
pub(super) struct OneLeaderPerTerm {
    leaders: BTreeMap<u64, usize>,
}

impl Invariant for OneLeaderPerTerm {
    fn name(&self) -> &'static str {
        "one leader per term"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        let Sighting::Replica {
            node,
            command: Command::Role(Role::Leader { term }),
            ..
        } = sighting
        else {
            return Ok(());
        };
        let leader = *self.leaders.entry(*term).or_insert(*node);
        require(leader == *node, || {
            format!("term {term} is led by {leader} and by {node}")
        })
    }
}

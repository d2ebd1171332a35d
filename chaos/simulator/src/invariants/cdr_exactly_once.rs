//! Contract 3: one call detail record for each call, in order, across any failover.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tandem_engine::CdrId;
use tandem_replication_core::{Change, Command, Table};
use tandem_sip::cdr::CdrStatus;

use super::{Invariant, Sighting, require};
use crate::lanes::{Call, Script};
use crate::table::{LOAD_EPOCH, cdr, cdrs};

#[derive(Debug, Default)]
pub(super) struct CdrExactlyOnce {
    /// Log indices whose records have been looked at.
    seen: BTreeSet<u64>,
    last: Option<CdrId>,
}

impl Invariant for CdrExactlyOnce {
    fn name(&self) -> &'static str {
        "CDR exactly once"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        match sighting {
            Sighting::Replica {
                command: Command::Applied { index, changes, .. },
                ..
            } if self.seen.insert(*index) => self.in_order(changes),
            Sighting::End { table, calls } => once(table, calls),
            _ => Ok(()),
        }
    }
}

impl CdrExactlyOnce {
    /// A node's file is written up to a watermark, so ids must rise in the order of the log.
    fn in_order(&mut self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            let Change::Put { key, value } = change else {
                continue;
            };
            let Some((id, _)) = cdr(key, value) else {
                continue;
            };
            if id.epoch == LOAD_EPOCH {
                continue;
            }
            let before = self.last.replace(id);
            require(before < Some(id), || {
                format!("{id} committed after {before:?}")
            })?;
        }
        Ok(())
    }
}

fn once(table: &Table, calls: &BTreeMap<String, Call>) -> Result<(), String> {
    let mut records: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (_, record) in cdrs(table).filter(|(id, _)| id.epoch != LOAD_EPOCH) {
        let call = record.caller_call_id.clone();
        records.entry(call).or_default().push(record);
    }
    for (id, call) in calls {
        let written = records.get(id).map_or(0, Vec::len);
        require(written <= 1, || format!("{written} records of {id}"))?;
        let shown = call.ringing || call.answered;
        require(written == 1 || !shown, || {
            format!("no record of {id}, {call:?}")
        })?;
        let completed = records
            .get(id)
            .and_then(|records| records.first())
            .is_some_and(|record| record.status() == CdrStatus::Completed);
        let talked = matches!(call.script, Script::CallerHangsUp | Script::CalleeHangsUp);
        require(completed || !(talked && call.answered), || {
            format!(
                "the answered call {id} was not completed: {:?}",
                records.get(id)
            )
        })?;
    }
    Ok(())
}

//! Contract 2: what a phone was shown survives. A call whose caller heard 180 or 200 is in the table of whoever begins
//! to serve, or its call detail record is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tandem_replication_core::Table;

use super::{Invariant, Sighting, require};
use crate::lanes::Call;
use crate::table::cdrs;

#[derive(Debug, Default)]
pub(super) struct AcknowledgedCalls;

impl Invariant for AcknowledgedCalls {
    fn name(&self) -> &'static str {
        "acknowledged call present at takeover"
    }

    fn see(&mut self, sighting: &Sighting<'_>, _now: Duration) -> Result<(), String> {
        match sighting {
            Sighting::Activated {
                node,
                table,
                calls,
                serves,
                ..
            } => present(&format!("node {node}"), serves.clone(), table, calls),
            Sighting::End { table, calls } => {
                present("the pair", BTreeSet::new(), table, calls)?;
                let unanswered = calls
                    .iter()
                    .find(|(_, call)| call.bye_sent && !call.bye_answered);
                require(unanswered.is_none(), || {
                    format!("nobody answered the BYE of {unanswered:?}")
                })
            }
            _ => Ok(()),
        }
    }
}

/// `known` are the calls that are served; those of ended calls are in the table.
fn present(
    who: &str,
    mut known: BTreeSet<String>,
    table: &Table,
    calls: &BTreeMap<String, Call>,
) -> Result<(), String> {
    known.extend(cdrs(table).map(|(_, record)| record.caller_call_id));
    let lost: Vec<_> = calls
        .iter()
        .filter(|(id, call)| (call.ringing || call.answered) && !known.contains(*id))
        .collect();
    require(lost.is_empty(), || format!("{who} lacks {lost:?}"))
}

//! The pair and its witness as a drill sees them: three processes, their transitions and their
//! status.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

use crate::capture::ServeTime;
use crate::fabric::Fabric;
use crate::host::HostId;
use crate::node_process::{NodeFiles, NodeProcess, NodeStatus, Transition};

/// Status is a question, not an event: it is asked this often.
const STATUS_EVERY: Duration = Duration::from_millis(100);

/// From the first claim to the verified address; EC2's effect delay comes on top.
const VERIFY_WITHIN: Duration = Duration::from_secs(20);

/// The nodes of one run.
#[derive(Debug)]
pub struct Pair {
    nodes: BTreeMap<HostId, NodeProcess>,
}

/// How ownership came to the survivor.
#[derive(Debug, Clone)]
pub struct Takeover {
    pub survivor: HostId,
    pub epoch: u64,
    /// CLOCK_BOOTTIME of each step; None when the survivor did not report it in time.
    pub elected: Option<Duration>,
    pub gate_opened: Duration,
    pub address_claimed: Option<Duration>,
    pub address_verified: Option<Duration>,
}

/// Who owned, just before the fault.
#[derive(Debug, Clone)]
pub struct Owner {
    pub id: HostId,
    pub epoch: u64,
}

impl Pair {
    /// Creates keys and starts all three.
    pub fn start(fabric: &Fabric, files: &NodeFiles) -> anyhow::Result<Pair> {
        files.create_keys()?;
        let start = |id| Ok((id, NodeProcess::start(fabric, id, files)?));
        let nodes = HostId::NODES
            .into_iter()
            .map(start)
            .collect::<anyhow::Result<_>>()?;
        Ok(Pair { nodes })
    }

    /// Starts a node's process afresh, on the state that it left; a process that still runs is killed.
    pub fn restart(
        &mut self,
        fabric: &Fabric,
        id: HostId,
        files: &NodeFiles,
    ) -> anyhow::Result<()> {
        // The old one must be gone before the new one binds its address.
        drop(self.nodes.remove(&id));
        self.nodes
            .insert(id, NodeProcess::start(fabric, id, files)?);
        Ok(())
    }

    /// One node.
    pub fn node(&self, id: HostId) -> anyhow::Result<&NodeProcess> {
        self.nodes
            .get(&id)
            .with_context(|| format!("{id} is not a node"))
    }

    /// Waits until all three answer, one data node owns and the others call the pair protected.
    pub async fn await_protected(&mut self, limit: Duration) -> anyhow::Result<Owner> {
        let deadline = Instant::now() + limit;
        loop {
            let missing = match self.assess() {
                Ok(owner) => return Ok(owner),
                Err(missing) => missing,
            };
            for node in self.nodes.values_mut() {
                if let Some(status) = node.exit()? {
                    bail!("tandem on {} ended: {status}; see its log", node.id());
                }
            }
            if Instant::now() > deadline {
                bail!("not protected within {limit:?}: {missing:#}");
            }
            sleep(STATUS_EVERY).await;
        }
    }

    /// Waits until the pair is protected again, on the same terms; returns why not.
    pub async fn await_protected_again(&mut self, limit: Duration) -> Option<String> {
        self.await_protected(limit)
            .await
            .err()
            .map(|error| format!("{error:#}"))
    }

    /// Waits until both data nodes have this many calls.
    pub async fn await_calls(&self, calls: u32, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let counts = HostId::DATA_NODES
                .into_iter()
                .map(|id| block_in_place(|| Ok(self.node(id)?.status()?.calls)))
                .collect::<anyhow::Result<Vec<_>>>();
            match &counts {
                Ok(counts) if counts.iter().all(|count| *count == calls as usize) => return Ok(()),
                Ok(_) | Err(_) if Instant::now() < deadline => {}
                Ok(_) | Err(_) => bail!("{counts:?} instead of {calls} calls within {limit:?}"),
            }
            sleep(STATUS_EVERY).await;
        }
    }

    fn assess(&self) -> anyhow::Result<Owner> {
        let mut owners = Vec::new();
        for (id, node) in &self.nodes {
            let NodeStatus {
                protected,
                reasons,
                epoch,
                role,
                ..
            } = block_in_place(|| node.status())?;
            if !protected {
                bail!("{id}, {role}: {}", reasons.join("; "));
            }
            if role == "owner" {
                owners.push(Owner { id: *id, epoch });
            }
        }
        match owners.as_slice() {
            [owner] => Ok(owner.clone()),
            owners => bail!("{} owners", owners.len()),
        }
    }

    /// Waits until a data node opens its gate in a later epoch than `before`, then for the address.
    pub async fn await_takeover(
        &self,
        before: &Owner,
        limit: Duration,
    ) -> anyhow::Result<Takeover> {
        let opened = |seen: &Transition| seen.event == "gate_opened" && seen.epoch > before.epoch;
        let [one, other] = [self.node(HostId::NodeA)?, self.node(HostId::NodeB)?];
        let first = timeout(limit, async {
            tokio::select! {
                gate = one.await_transition(opened) => (one, gate),
                gate = other.await_transition(opened) => (other, gate),
            }
        });
        let (node, gate) = first
            .await
            .with_context(|| format!("nobody took over within {limit:?}"))?;
        let epoch = gate.epoch;
        let of = |event: &'static str| {
            move |seen: &Transition| seen.event == event && seen.epoch == epoch
        };
        let verified = timeout(VERIFY_WITHIN, node.await_transition(of("address_verified"))).await;
        let seen = node.transitions();
        let at = |event| seen.iter().find(|seen| of(event)(seen)).map(|seen| seen.at);
        Ok(Takeover {
            survivor: node.id(),
            epoch,
            elected: at("elected"),
            gate_opened: gate.at,
            address_claimed: at("address_claimed"),
            address_verified: verified.ok().map(|seen| seen.at),
        })
    }

    /// When which node began to serve.
    pub fn serve_times(&self) -> Vec<ServeTime> {
        let opened = |node: &NodeProcess| {
            let gates = node
                .transitions()
                .into_iter()
                .filter(|seen| seen.event == "gate_opened");
            let id = node.id();
            gates
                .map(move |seen| ServeTime {
                    node: id,
                    epoch: seen.epoch,
                    from: seen.at,
                })
                .collect::<Vec<_>>()
        };
        self.nodes.values().flat_map(opened).collect()
    }

    /// Waits until the file of each of `nodes` has at least `expected` records; the worst file's
    /// count.
    pub async fn count_records(
        &self,
        nodes: &[HostId],
        expected: usize,
        limit: Duration,
    ) -> anyhow::Result<RecordCount> {
        let deadline = Instant::now() + limit;
        loop {
            let counts = nodes
                .iter()
                .map(|id| Ok(RecordCount::of(&self.node(*id)?.call_records()?)))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let worst = RecordCount {
                written: counts.iter().map(|count| count.written).min().unwrap_or(0),
                duplicated: counts
                    .iter()
                    .map(|count| count.duplicated)
                    .max()
                    .unwrap_or(0),
            };
            if worst.written >= expected || Instant::now() > deadline {
                return Ok(worst);
            }
            sleep(STATUS_EVERY).await;
        }
    }
}

/// Call detail records in one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCount {
    /// Calls that have a record.
    pub written: usize,
    /// Records beyond the first of an id or of a call.
    pub duplicated: usize,
}

impl RecordCount {
    fn of(records: &[serde_json::Value]) -> RecordCount {
        let mut ids = BTreeSet::new();
        let mut calls = BTreeSet::new();
        let mut written = 0;
        for record in records {
            let text = |key| {
                record
                    .get(key)
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default()
            };
            // A record without an id or a Call-ID equals any other such record: it counts once,
            // then as duplicate.
            let new_id = ids.insert(text("id"));
            let new_call = calls.insert(text("call_id"));
            written += usize::from(new_id && new_call);
        }
        RecordCount {
            written,
            duplicated: records.len() - written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RecordCount;
    use serde_json::json;

    #[test]
    fn a_call_recorded_under_two_ids_is_a_duplicate() {
        let records = [
            json!({"id": "1-1", "call_id": "x"}),
            json!({"id": "1-2", "call_id": "y"}),
            json!({"id": "2-1", "call_id": "y"}),
            json!({"id": "1-1", "call_id": "z"}),
        ];
        assert_eq!(
            RecordCount::of(&records),
            RecordCount {
                written: 2,
                duplicated: 2
            }
        );
    }
}

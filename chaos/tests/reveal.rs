//! Contract 2, commit before reveal: a 200 OK does not leave before its record is on two voters.
//!
//! The disks of the standby and of the witness hang: their store threads are stopped, while leases,
//! votes and heartbeats go on. The owner keeps its lease and its own disk; what it lacks is a second
//! copy. A call that is answered then must stay unanswered for its caller, and be answered as soon as
//! one disk moves on.
//!
//! Seen failing: with `When::Committed` sent at once by the engine, the caller is answered while both
//! disks hang.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_chaos::drill::{Pair, PhonePair};
use tandem_chaos::fabric::Fabric;
use tandem_chaos::host::HostId;
use tandem_chaos::host::frozen::FrozenThread;
use tandem_chaos::node_process::NodeFiles;
use tandem_chaos::scenario::{Run, Scenario, node_files};
use tokio::task::block_in_place;

const READY_WITHIN: Duration = Duration::from_secs(60);
const ESTABLISH_WITHIN: Duration = Duration::from_secs(20);
/// The callee repeats its 200 OK after 0.5 s, 1 s and 2 s (RFC 3261 section 13.3.1.4): the caller gets
/// four chances to hear what it must not hear.
const HANG: Duration = Duration::from_secs(4);
const RINGING: u32 = 4;

fn main() -> ExitCode {
    let run: Run = |directory| Box::pin(scenario(directory));
    tandem_chaos::scenario::main(&[Scenario {
        name: "reveal",
        programs: &[],
        run,
    }])
}

async fn scenario(directory: &Path) -> anyhow::Result<()> {
    let fabric = Fabric::lan()?;
    // A lease that a busy machine does not lose: losing it would close the gate and hide what is tested.
    let files = NodeFiles {
        profile: "relaxed".into(),
        ..node_files(directory)?
    };
    let mut pair = Pair::start(&fabric, &files)?;
    let owner = pair.await_protected(READY_WITHIN).await?;
    let phones = PhonePair::start(&fabric, 0, RINGING, 1)?;
    let silent = phones.place_calls(ESTABLISH_WITHIN).await?;
    ensure!(silent.is_empty(), "calls that do not ring: {silent:?}");

    let followers = HostId::NODES.into_iter().filter(|id| *id != owner.id);
    let workers = followers
        .map(|id| pair.node(id)?.worker())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let hung = workers
        .iter()
        .map(|worker| FrozenThread::freeze(worker.pid(), "tandem-store"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let unanswered = phones.answer_ringing(HANG).await?;
    ensure!(
        unanswered == phones.ringing,
        "callers heard an answer that only one disk knows: {:?} of {:?} still ring",
        unanswered,
        phones.ringing
    );
    let status = block_in_place(|| pair.node(owner.id)?.status())?;
    ensure!(
        status.is_owner() && status.epoch == owner.epoch,
        "the owner lost its lease, so this proves nothing: {status:?}"
    );

    drop(hung);
    let silent = phones.await_flow(&phones.ringing, ESTABLISH_WITHIN).await;
    ensure!(
        silent.is_empty(),
        "not answered when the disks moved on: {silent:?}"
    );
    phones
        .hang_up(ESTABLISH_WITHIN)
        .await
        .context("hanging up")?;
    Ok(())
}

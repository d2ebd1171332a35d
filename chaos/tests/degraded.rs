//! Contract 9, degraded is visible: whatever takes protection away shows in the status and in the exit
//! code of `tandem status`, with its reason, and goes when it is mended.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;
use tandem_chaos::drill::{Pair, default_binary};
use tandem_chaos::fabric::{Fabric, Faults, Outage};
use tandem_chaos::host::HostId;
use tandem_chaos::scenario::{Scenario, node_files};
use tokio::task::block_in_place;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// The contract.
const VISIBLE_WITHIN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);
/// Room for a node's state; its low-water mark is a twentieth of it.
const DISK_BYTES: u64 = 128 << 20;
/// What is left when it runs full: below the mark, and enough to go on with.
const LEFT_BYTES: u64 = 4 << 20;

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "standby_away",
        programs: &[],
        run: |directory| Box::pin(host_away(directory, other)),
    },
    Scenario {
        name: "witness_away",
        programs: &[],
        run: |directory| Box::pin(host_away(directory, |_| HostId::Witness)),
    },
    Scenario {
        name: "ec2_api_away",
        programs: &[],
        run: |directory| Box::pin(api_away(directory)),
    },
    Scenario {
        name: "owners_disk_full",
        programs: &[],
        run: |directory| Box::pin(owners_disk_full(directory)),
    },
];

fn main() -> ExitCode {
    tandem_chaos::scenario::main(&SCENARIOS)
}

fn other(owner: HostId) -> HostId {
    if owner == HostId::NodeA {
        HostId::NodeB
    } else {
        HostId::NodeA
    }
}

async fn host_away(directory: &Path, choose: fn(HostId) -> HostId) -> anyhow::Result<()> {
    let fabric = Fabric::lan()?;
    let mut pair = Pair::start(&fabric, &node_files(directory)?)?;
    let owner = pair.await_protected(READY_WITHIN).await?;
    let (code, text) = ask(&fabric, owner.id)?;
    ensure!(
        code == Some(0) && text.contains("protected: any one host may be lost"),
        "{text}"
    );

    let lost = choose(owner.id);
    block_in_place(|| fabric.host(lost).power_cut())?;
    let slot = lost.slot().context("a node has a slot")?;
    let visible = await_reason(&pair, owner.id, slot, READY_WITHIN).await?;
    ensure!(
        visible <= VISIBLE_WITHIN,
        "the loss of {lost} showed after {visible:?}"
    );
    let (code, text) = ask(&fabric, owner.id)?;
    ensure!(
        code == Some(1) && text.contains("NOT fully protected"),
        "exit {code:?}: {text}"
    );
    let status = block_in_place(|| pair.node(owner.id)?.status())?;
    ensure!(
        status.is_owner() && status.epoch == owner.epoch,
        "still serving: {status:?}"
    );
    Ok(())
}

/// With no API an owner serves, says loudly that it cannot claim, and claims when the API is back.
async fn api_away(directory: &Path) -> anyhow::Result<()> {
    let fabric = Fabric::ec2()?;
    let Fabric::Ec2(ec2) = &fabric else {
        bail!("an EC2 fabric was asked for")
    };
    ec2.set_faults(Faults {
        outage: Some(Outage::Reset),
        ..Faults::default()
    })?;
    let mut pair = Pair::start(&fabric, &node_files(directory)?)?;
    let owner = await_owner(&pair).await?;
    await_reason(&pair, owner, "10.0.0.1:7700", READY_WITHIN).await?;
    let (code, text) = ask(&fabric, owner)?;
    ensure!(
        code == Some(1) && text.contains("10.0.0.1:7700"),
        "exit {code:?}: {text}"
    );

    ec2.set_faults(Faults::default())?;
    pair.await_protected(READY_WITHIN).await?;
    Ok(())
}

/// The owner's disk runs full: it hands over while it still can, and says why it is not protected.
async fn owners_disk_full(directory: &Path) -> anyhow::Result<()> {
    let state = |id: HostId| directory.join(id.name()).join("state");
    for id in HostId::DATA_NODES {
        fs::create_dir_all(state(id))?;
        // The scenario's own mount namespace: it goes with the process.
        let (source, options) = (Some("tmpfs"), Some(format!("size={DISK_BYTES}")));
        mount(
            source,
            &state(id),
            source,
            MsFlags::empty(),
            options.as_deref(),
        )?;
    }
    let fabric = Fabric::lan()?;
    let mut pair = Pair::start(&fabric, &node_files(directory)?)?;
    let owner = pair.await_protected(READY_WITHIN).await?;

    let room = statvfs(&state(owner.id))?;
    let free = room.blocks_available() * room.fragment_size();
    let filler = usize::try_from(free.saturating_sub(LEFT_BYTES))?;
    fs::write(state(owner.id).join("filler"), vec![0; filler])?;
    await_reason(&pair, owner.id, "the disk is running full", READY_WITHIN).await?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let other = block_in_place(|| pair.node(other(owner.id))?.status())?;
        if other.is_owner() && other.epoch > owner.epoch {
            break;
        }
        ensure!(Instant::now() < deadline, "no handover: {other:?}");
        tokio::time::sleep(POLL).await;
    }

    fs::remove_file(state(owner.id).join("filler"))?;
    pair.await_protected(READY_WITHIN).await?;
    Ok(())
}

async fn await_owner(pair: &Pair) -> anyhow::Result<HostId> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        for id in HostId::DATA_NODES {
            if block_in_place(|| pair.node(id)?.status()).is_ok_and(|status| status.is_owner()) {
                return Ok(id);
            }
        }
        ensure!(Instant::now() < deadline, "no owner");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the node is not protected for a reason that names `what`; returns how long it took.
async fn await_reason(
    pair: &Pair,
    id: HostId,
    what: &str,
    limit: Duration,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    loop {
        let status = block_in_place(|| pair.node(id)?.status())?;
        if !status.protected && status.reasons.iter().any(|reason| reason.contains(what)) {
            return Ok(started.elapsed());
        }
        ensure!(
            started.elapsed() < limit,
            "{what:?} is not among the reasons: {status:?}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// `tandem status` on a host: its exit code and what it prints.
fn ask(fabric: &Fabric, id: HostId) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(default_binary()?);
    command
        .arg("status")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut process = fabric.host(id).spawn(command)?;
    let mut text = String::new();
    process
        .take_stdout()
        .context("standard output is piped")?
        .read_to_string(&mut text)?;
    Ok((process.wait()?.code(), text))
}

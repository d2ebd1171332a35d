//! The guard: a small parent that outlives the worker.
//!
//! The worker holds everything that can crash; the guard holds nothing. It learns of the worker's
//! death from the kernel, takes the floating address off this host at once, so that two hosts never
//! answer for it, and starts the worker again with a bounded, growing delay.
//!
//! The worker dies with the guard (parent-death signal, set by the worker), so killing the guard is
//! also safe: the lease ends and the other node takes over.

use std::{
    net::IpAddr,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use ipnet::IpNet;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};
use tracing::{error, info, warn};

use crate::{
    cli::RunArgs,
    config::{Config, Floating},
};

const RESTART_DELAY_FIRST: Duration = Duration::from_millis(100);
/// Restarts go on for ever at this pace: a node that is down for a reason an operator can remove must
/// come back by itself.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// A worker that lived this long starts over with the first delay.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long a worker may take to leave after SIGTERM before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. Returns an error only when the worker cannot be started at all.
pub(crate) fn run(config: &Config, args: &RunArgs) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the guard's runtime")?
        .block_on(watch(config, args))
}

async fn watch(config: &Config, args: &RunArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    let floating = config.border.as_ref().map(|border| &border.floating);
    let mut delay = RESTART_DELAY_FIRST;
    // A previous guard may have died by SIGKILL and left the address behind.
    withdraw(floating).await;
    loop {
        let started = Instant::now();
        let mut worker = start_worker(args)?;
        tokio::select! {
            status = worker.wait() => {
                withdraw(floating).await;
                report(status.context("waiting for the worker")?, started.elapsed());
            }
            _ = terminate.recv() => return stop(worker, floating).await,
            _ = interrupt.recv() => return stop(worker, floating).await,
        }
        if started.elapsed() >= STABLE_AFTER {
            delay = RESTART_DELAY_FIRST;
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
        delay = (delay * 2).min(RESTART_DELAY_MAX);
    }
}

fn start_worker(args: &RunArgs) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("finding our own program")?;
    Command::new(&program)
        .arg("worker")
        .arg("--config")
        .arg(&args.config)
        .args(["--log-format", args.log_format.name(), "--log", &args.log])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting the worker {}", program.display()))
}

fn report(status: ExitStatus, lived: Duration) {
    let lived_ms = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX);
    error!(%status, lived_ms, "the worker ended; the floating address is withdrawn, restarting");
}

async fn stop(mut worker: Child, floating: Option<&Floating>) -> anyhow::Result<()> {
    info!("stopping");
    if let Some(pid) = worker.id().and_then(|pid| i32::try_from(pid).ok())
        && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
    {
        warn!(%error, "SIGTERM to the worker");
    }
    if tokio::time::timeout(STOP_GRACE, worker.wait())
        .await
        .is_err()
    {
        warn!("the worker did not stop in time; killing it");
        worker.kill().await.context("killing the worker")?;
    }
    withdraw(floating).await;
    Ok(())
}

/// Takes the floating address off the interface. Level-triggered and idempotent; a failure is loud,
/// because an address left behind answers ARP for calls that are served elsewhere.
async fn withdraw(floating: Option<&Floating>) {
    let Some(Floating {
        interface,
        addresses,
        ..
    }) = floating
    else {
        return;
    };
    let addresses: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
    if let Err(error) = tandem_failover::remove_addresses(interface, &addresses).await {
        error!(%error, %interface, "the floating address could not be withdrawn");
    }
}

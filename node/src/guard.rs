//! The guard: a small parent that outlives the worker.
//!
//! The worker holds everything that can crash; the guard holds nothing. It learns of the worker's death from the
//! kernel, and of a worker that is alive and does nothing from the beats that stop coming ([`beat`]): that one it
//! kills first. Then, in this order:
//!
//! ```text
//!   dead, by waitpid ─▶ certify to witness and peer ─▶ withdraw the address ─▶ start a new worker, after a delay
//!                       (they release their promise    (two hosts never
//!                        to exactly this epoch)          answer for it)
//! ```
//! The certificate goes first because the takeover waits for it; the address follows at once.
//!
//! The worker dies with the guard (parent-death signal, set by the worker), so killing the guard is also safe: the
//! lease ends and the other node takes over.

mod announce;
pub(crate) mod beat;

use std::{
    net::IpAddr,
    process::ExitStatus,
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

use self::{
    announce::Announcer,
    beat::{Beats, silence_limit},
};
use crate::{
    cli::{GuardArgs, RunArgs},
    config::{Config, Floating},
    realtime::{Rank, Realtime},
};

const RESTART_DELAY_FIRST: Duration = Duration::from_millis(100);
/// Restarts go on for ever at this pace: a node that is down for a reason an operator can remove must
/// come back by itself.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// A worker that lived this long starts over with the first delay.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long a worker may take to leave after SIGTERM before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. Returns an error when the worker cannot be started at all, or real-time scheduling is
/// required and not to be had.
pub(crate) fn run(config: &Config, args: &RunArgs) -> anyhow::Result<()> {
    let realtime = Realtime::prepare(config.realtime)?;
    // It has little to do, and a takeover waits for that little.
    realtime.adopt(Rank::Guard);
    let guard = Guard {
        config,
        args,
        realtime,
        floating: config.border.as_ref().map(|border| &border.floating),
        totals: GuardArgs::default(),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the guard's runtime")?
        .block_on(guard.watch())
}

struct Guard<'a> {
    config: &'a Config,
    args: &'a RunArgs,
    realtime: Realtime,
    floating: Option<&'a Floating>,
    /// The next worker shows them: they change only between two workers.
    totals: GuardArgs,
}

/// One worker process.
struct Worker {
    process: Child,
    beats: Beats,
    announcer: Option<Announcer>,
    life: u64,
    started: Instant,
}

/// Why a worker is no longer watched.
enum End {
    Died(ExitStatus),
    Frozen(ExitStatus),
    /// It still runs: an operator wants the node to stop.
    Asked,
}

impl Guard<'_> {
    async fn watch(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
        let mut delay = RESTART_DELAY_FIRST;
        // A previous guard may have died by SIGKILL and left the address behind.
        withdraw(self.floating).await;
        loop {
            let mut worker = self.start_worker()?;
            let end = tokio::select! {
                end = worker.end() => end?,
                _ = terminate.recv() => End::Asked,
                _ = interrupt.recv() => End::Asked,
            };
            let lived = worker.started.elapsed();
            match end {
                End::Asked => {
                    stop(&mut worker.process).await?;
                    return self.settle(worker).await;
                }
                End::Died(status) => report(status, lived, "the worker ended; restarting"),
                End::Frozen(status) => {
                    self.totals.workers_frozen += 1;
                    report(
                        status,
                        lived,
                        "the worker stopped beating and was killed; restarting",
                    );
                }
            }
            self.totals.workers_ended += 1;
            self.settle(worker).await?;
            if lived >= STABLE_AFTER {
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

    fn start_worker(&mut self) -> anyhow::Result<Worker> {
        let announcer = Announcer::load(self.config)
            .inspect_err(|error| {
                let error = format!("{error:#}");
                error!(error, "this worker's death could not be certified");
            })
            .ok();
        let timing = self.config.pair.profile.timing();
        let limit = silence_limit(timing, self.realtime.is_on());
        let (beats, input) = Beats::pair(limit).context("the socket for beats")?;
        let life = rand::random();
        self.totals.life = life;
        let program = std::env::current_exe().context("finding our own program")?;
        let process = Command::new(&program)
            .arg("worker")
            .arg("--config")
            .arg(&self.args.config)
            .args(["--log-format", self.args.log_format.name()])
            .args(["--log", &self.args.log])
            .args(self.totals.to_arguments())
            .stdin(input)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting the worker {}", program.display()))?;
        Ok(Worker {
            process,
            beats,
            announcer,
            life,
            started: Instant::now(),
        })
    }

    /// What follows the death of a worker that has been waited for.
    async fn settle(&mut self, worker: Worker) -> anyhow::Result<()> {
        let Worker {
            beats,
            announcer,
            life,
            ..
        } = worker;
        let announcing = async {
            match (announcer, beats.last_words()) {
                (Some(announcer), Some(pulse)) => announcer.announce(pulse, life).await,
                (_, None) | (None, Some(_)) => 0,
            }
        };
        // In this order: the first datagrams leave before the address is looked at.
        let (sent, ()) = tokio::join!(announcing, withdraw(self.floating));
        self.totals.certificates_sent += sent;
        Ok(())
    }
}

impl Worker {
    /// Waits for its death, and brings it about when it stops beating.
    async fn end(&mut self) -> anyhow::Result<End> {
        tokio::select! {
            status = self.process.wait() => {
                return Ok(End::Died(status.context("waiting for the worker")?));
            }
            () = self.beats.silence() => {}
        }
        // Frozen, or so late that nobody can tell the difference. SIGKILL reaches a stopped process too.
        self.process.start_kill().context("killing the worker")?;
        let status = self.process.wait().await;
        Ok(End::Frozen(status.context("waiting for the worker")?))
    }
}

fn report(status: ExitStatus, lived: Duration, what: &str) {
    let lived_ms = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX);
    error!(%status, lived_ms, "{what}");
}

/// Asks the worker to leave, and waits until it has.
async fn stop(worker: &mut Child) -> anyhow::Result<()> {
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

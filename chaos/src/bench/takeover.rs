//! `bench takeover`: from a fault to the open gate and to the claimed address.
//!
//! One pair stays up for all runs. The owner is struck, the other takes over, the struck one comes back, and
//! when the pair is fully protected again the new owner is struck. All times are CLOCK_BOOTTIME of the one
//! kernel that all hosts share: here when the fault begins, in the node when its gate opens.

mod memory;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use super::{micros, write_json};
use crate::clock::boottime;
use crate::drill::{Artifacts, FaultKind, Owner, Pair, Takeover, binary};
use crate::fabric::Fabric;
use crate::job::Job;
use crate::load::{Load, LoadReport};
use crate::node_process::NodeFiles;
pub use memory::{CallMemory, FileBudget};

/// Exit status when a run failed.
const EXIT_INCOMPLETE: u8 = 1;

/// Three processes, an election, and with calls the binding of every media port; generous, because how long a
/// node takes to come back is not what is measured.
const READY_WITHIN: Duration = Duration::from_secs(180);
const TAKEOVER_WITHIN: Duration = Duration::from_secs(30);
/// 50,000 calls at 100 a second.
const ESTABLISH_WITHIN: Duration = Duration::from_secs(500);

/// The fault comes at a random instant in this after the pair is protected, so that it meets every phase of
/// the nodes' timers.
const SETTLE_MS: std::ops::Range<u64> = 200..400;

/// Options.
#[derive(Debug, Clone, clap::Args)]
pub struct TakeoverArgs {
    /// Timing profiles of the pair, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "standard")]
    profile: Vec<String>,
    /// Takeovers of each profile and number of calls.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// What happens to the owner: kill-host or kill-worker.
    #[arg(long, default_value = "kill-host")]
    fault: FaultKind,
    /// Established calls in the table during the runs.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    calls: Vec<u32>,
    /// Of these calls, at most so many with audio and so with media ports; by default as many as the system's limit
    /// of open files allows.
    #[arg(long)]
    media_calls: Option<u32>,
    /// Seed of the instants of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the report to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The `tandem` binary; by default the one beside this program.
    #[arg(long, env = crate::drill::BINARY_VARIABLE)]
    tandem: Option<PathBuf>,
    /// Keep logs, configurations and reports here; by default they are kept only when a run fails.
    #[arg(long)]
    artifacts: Option<PathBuf>,
}

/// What one job measures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeoverOptions {
    pub profile: String,
    pub fault: FaultKind,
    pub runs: u32,
    pub calls: u32,
    pub media_calls: Option<u32>,
    pub seed: u64,
    pub tandem: PathBuf,
    /// Exists; nodes' directories are made in it.
    pub directory: PathBuf,
}

/// What one job found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeoverReport {
    pub profile: String,
    pub fault: FaultKind,
    pub calls: Option<CallFigures>,
    pub samples: Vec<Sample>,
    /// New epochs that no fault had asked for; a takeover that one of them spoilt is measured again.
    pub unasked: u64,
    /// Why the job ended before its last run.
    pub failure: Option<String>,
}

/// What the calls cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CallFigures {
    pub established: usize,
    /// Those with media ports; the others have their stream disabled.
    pub with_media: u32,
    pub files: FileBudget,
    pub load: LoadReport,
    pub memory: CallMemory,
}

/// One takeover, in microseconds from the fault.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sample {
    pub elected_us: Option<u64>,
    pub gate_us: u64,
    pub claimed_us: Option<u64>,
    /// How long the fault took to be complete: with kill-host from the order to the last link down, with
    /// kill-worker until the signal was sent.
    pub fault_us: u64,
    /// From the fault until the pair was fully protected again.
    pub protected_us: u64,
}

/// Measures every combination and prints the table.
pub(super) fn bench(args: &TakeoverArgs) -> anyhow::Result<ExitCode> {
    if args.fault == FaultKind::Partition {
        bail!("a partition is a drill's fault: the old owner is not lost");
    }
    let tandem = binary(args.tandem.as_deref())?;
    let artifacts = Artifacts::create(args.artifacts.as_deref())?;
    let mut reports = Vec::new();
    for profile in &args.profile {
        for calls in &args.calls {
            let directory = artifacts.path().join(format!("{profile}-{calls}"));
            fs::create_dir_all(&directory)
                .with_context(|| format!("create {}", directory.display()))?;
            let options = TakeoverOptions {
                profile: profile.clone(),
                fault: args.fault,
                runs: args.runs,
                calls: *calls,
                media_calls: args.media_calls,
                seed: args.seed,
                tandem: tandem.clone(),
                directory: directory.clone(),
            };
            let report: anyhow::Result<TakeoverReport> = Job::Takeover(options).start(&directory);
            reports.push(report.unwrap_or_else(|error| TakeoverReport {
                profile: profile.clone(),
                fault: args.fault,
                calls: None,
                samples: Vec::new(),
                unasked: 0,
                failure: Some(format!("{calls} calls: {error:#}")),
            }));
        }
    }
    write_json(args.json.as_deref(), &reports)?;
    let complete = reports.iter().all(|report| report.failure.is_none());
    let mut out = std::io::stdout().lock();
    artifacts.settle(complete, &mut out)?;
    table::write(&mut out, &reports)?;
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_INCOMPLETE)
    })
}

/// Runs one job. Call it inside the sandbox and a multi-threaded runtime.
pub async fn run(options: &TakeoverOptions) -> anyhow::Result<TakeoverReport> {
    let files_per_node = FileBudget::raise(options.calls);
    let fabric = match options.calls {
        0 => Fabric::lan()?,
        calls => Fabric::lan_for(calls)?,
    };
    let mut bench = Bench {
        files: NodeFiles {
            binary: options.tandem.clone(),
            directory: options.directory.clone(),
            profile: options.profile.clone(),
            calls: options.calls,
        },
        fault: options.fault,
        random: StdRng::seed_from_u64(options.seed),
        pair: None,
        fabric,
    };
    let mut report = TakeoverReport {
        profile: options.profile.clone(),
        fault: options.fault,
        calls: None,
        samples: Vec::new(),
        unasked: 0,
        failure: None,
    };
    if let Err(error) = bench.measure(options, files_per_node, &mut report).await {
        report.failure = Some(format!("{error:#}"));
    }
    Ok(report)
}

struct Bench {
    files: NodeFiles,
    fault: FaultKind,
    random: StdRng,
    /// Dropped before its hosts.
    pair: Option<Pair>,
    fabric: Fabric,
}

impl Bench {
    async fn measure(
        &mut self,
        options: &TakeoverOptions,
        files: FileBudget,
        report: &mut TakeoverReport,
    ) -> anyhow::Result<()> {
        self.pair = Some(Pair::start(&self.fabric, &self.files)?);
        let mut owner = self.pair()?.await_protected(READY_WITHIN).await?;
        if options.calls > 0 {
            let with_media = files
                .calls
                .min(options.media_calls.unwrap_or(options.calls));
            report.calls = Some(self.establish(options.calls, with_media, files).await?);
        }
        for attempt in 1..=options.runs * 2 {
            let (sample, survivor) = self
                .take_over(&owner, options.calls)
                .await
                .with_context(|| format!("attempt {attempt}"))?;
            tracing::info!(attempt, ?sample, "measured");
            let measured = u64::from(sample.is_some());
            report.samples.extend(sample);
            report.unasked += survivor.epoch.saturating_sub(owner.epoch + measured);
            if attempt == 1
                && let Some(calls) = &mut report.calls
            {
                calls.memory.restarted =
                    block_in_place(|| memory::of_worker(self.pair_ref()?, owner.id))?;
            }
            if report.samples.len() == options.runs as usize {
                return Ok(());
            }
            owner = survivor;
        }
        bail!("ownership moves so often by itself that nothing can be measured")
    }

    fn pair(&mut self) -> anyhow::Result<&mut Pair> {
        self.pair.as_mut().context("started before")
    }

    fn pair_ref(&self) -> anyhow::Result<&Pair> {
        self.pair.as_ref().context("started before")
    }

    async fn establish(
        &mut self,
        calls: u32,
        with_media: u32,
        files: FileBudget,
    ) -> anyhow::Result<CallFigures> {
        let mut memory = block_in_place(|| CallMemory::before(self.pair_ref()?))?;
        let load = block_in_place(|| {
            Load::open(&self.fabric)?.establish(0..calls, with_media, ESTABLISH_WITHIN)
        })?;
        if load.established < calls as usize {
            bail!(
                "{} of {calls} calls were established: {load:?}",
                load.established
            );
        }
        self.pair_ref()?.await_calls(calls, READY_WITHIN).await?;
        block_in_place(|| memory.after(self.pair_ref()?))?;
        tracing::info!(?load, ?memory, "calls established");
        Ok(CallFigures {
            established: load.established,
            with_media: with_media.min(calls),
            files,
            load,
            memory,
        })
    }

    /// One takeover, until the pair is protected again; who owns then. Without a sample when ownership had moved
    /// before the fault came.
    async fn take_over(
        &mut self,
        owner: &Owner,
        calls: u32,
    ) -> anyhow::Result<(Option<Sample>, Owner)> {
        let settle = Duration::from_millis(self.random.random_range(SETTLE_MS));
        tokio::time::sleep(settle).await;
        let (at, struck) = block_in_place(|| self.strike(owner))
            .with_context(|| format!("{} of {}", self.fault.name(), owner.id))?;
        let taken = self
            .pair_ref()?
            .await_takeover(owner, TAKEOVER_WITHIN)
            .await?;
        self.bring_back(owner)?;
        let pair = self.pair()?;
        let survivor = pair.await_protected(READY_WITHIN).await?;
        pair.await_calls(calls, READY_WITHIN).await?;
        let sample = (taken.gate_opened > at).then(|| sample(at, struck, &taken));
        Ok((sample, survivor))
    }

    /// When the fault began and when it was complete.
    fn strike(&self, owner: &Owner) -> anyhow::Result<(Duration, Duration)> {
        match self.fault {
            FaultKind::KillHost => {
                let host = self.fabric.host(owner.id);
                let at = boottime();
                host.cut_links()?;
                let cut = boottime();
                // A dead machine takes no processor time from the survivor. Ours share processors, and thousands
                // of sockets take time to close: it stands still for now, and is ended after the takeover.
                host.pause()?;
                Ok((at, cut))
            }
            FaultKind::KillWorker => {
                let worker = self.pair_ref()?.node(owner.id)?.worker()?;
                let at = boottime();
                worker.kill()?;
                Ok((at, boottime()))
            }
            FaultKind::Partition => bail!("refused at the start"),
        }
    }

    /// A fresh process also after a worker's death: a guard whose workers keep dying lets more and more time
    /// pass, which would only make the runs longer.
    fn bring_back(&mut self, owner: &Owner) -> anyhow::Result<()> {
        let Bench {
            fabric,
            files,
            pair,
            ..
        } = self;
        if self.fault == FaultKind::KillHost {
            let host = fabric.host(owner.id);
            block_in_place(|| host.lose_everything().and_then(|()| host.power_on()))?;
        }
        let pair = pair.as_mut().context("started before")?;
        block_in_place(|| pair.restart(fabric, owner.id, files))
    }
}

fn sample(at: Duration, struck: Duration, taken: &Takeover) -> Sample {
    // An election can be under way when the fault comes; then detection took no time.
    let since = |then: Duration| micros(then.saturating_sub(at));
    Sample {
        elected_us: taken.elected.map(since),
        gate_us: since(taken.gate_opened),
        claimed_us: taken.address_claimed.map(since),
        fault_us: since(struck),
        protected_us: since(boottime()),
    }
}

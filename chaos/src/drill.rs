//! Drills: a pair carries calls, a fault comes, and a report says what survived.
//!
//! Each run is a process of its own, because a sandbox is entered once and before any thread
//! exists. The drill's process starts the runs one after another, collects their reports and judges
//! them:
//!
//! ```text
//! tandem-chaos drill kill-host --runs 2      prints the table, writes --json, exits with the verdict
//! ├─ tandem-chaos run-once  (seed S)         sandbox, fabric, nodes, phones, fault; writes its report
//! └─ tandem-chaos run-once  (seed S + 1)
//! ```

mod pair;
mod phones;
mod run;
pub mod soak;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::job::Job;
use crate::report::{Contract, DrillReport, write_table};
pub use pair::{Owner, Pair, RecordCount, Takeover};
pub use phones::PhonePair;
pub use run::{inject, run_once};

/// Names the `tandem` to drill.
pub(crate) const BINARY_VARIABLE: &str = "TANDEM_BINARY";

/// Exit status when the contract is broken, or a run failed.
const EXIT_BROKEN: u8 = 1;

/// What happens to the owner while calls are up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum FaultKind {
    /// Its host loses power: links down, every process gone.
    KillHost,
    /// Its worker process dies by SIGKILL; host and guard live.
    KillWorker,
    /// Its host is cut off from everything, and comes back later.
    Partition,
}

impl FaultKind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::KillHost => "kill-host",
            FaultKind::KillWorker => "kill-worker",
            FaultKind::Partition => "partition",
        }
    }

    /// Whether the old owner is there at the end and must have rejoined.
    pub fn old_owner_returns(self) -> bool {
        match self {
            FaultKind::KillHost => false,
            FaultKind::KillWorker | FaultKind::Partition => true,
        }
    }
}

/// Where the hosts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum FabricKind {
    Ec2,
    Lan,
}

impl FabricKind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FabricKind::Ec2 => "ec2",
            FabricKind::Lan => "lan",
        }
    }
}

/// What to drill.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum DrillCommand {
    /// The owner's host loses power: links down, every process gone.
    KillHost(DrillArgs),
    /// The owner's worker process dies by SIGKILL; host and guard live.
    KillWorker(DrillArgs),
    /// The owner's host is cut off from everything, and comes back later.
    Partition(DrillArgs),
    /// A busy machine and a lossy peer link; nothing fails, so nobody may take over.
    Soak(soak::SoakArgs),
}

impl DrillCommand {
    /// Runs it; the exit status is the verdict.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            DrillCommand::KillHost(args) => drill(FaultKind::KillHost, args),
            DrillCommand::KillWorker(args) => drill(FaultKind::KillWorker, args),
            DrillCommand::Partition(args) => drill(FaultKind::Partition, args),
            DrillCommand::Soak(args) => soak::soak(args),
        }
    }
}

/// Options of a drill.
#[derive(Debug, Clone, clap::Args)]
pub struct DrillArgs {
    /// Network that the hosts stand in.
    #[arg(long)]
    fabric: FabricKind,
    /// Calls established before the fault.
    #[arg(long, default_value_t = 50)]
    calls: u32,
    /// Calls that ring during the fault; by default a tenth of --calls, 5 at least.
    #[arg(long)]
    ringing: Option<u32>,
    /// Runs, each with the next seed.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Seed of speech, tags, and the instant of the fault.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the report to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Timing profile of the pair.
    #[arg(long, default_value = "standard")]
    profile: String,
    /// On EC2: how long a change takes to have effect after its call returned.
    #[arg(long, default_value_t = 1_000)]
    effect_delay_ms: u64,
    /// Longest media gap allowed; by default 200 ms (p99) on a LAN, and the effect delay plus 200
    /// ms (every call) on EC2.
    #[arg(long)]
    gap_limit_ms: Option<u64>,
    /// The `tandem` binary; by default the one beside this program.
    #[arg(long, env = BINARY_VARIABLE)]
    tandem: Option<PathBuf>,
    /// Keep logs, configurations and reports here; by default they are kept only when the drill
    /// fails.
    #[arg(long)]
    artifacts: Option<PathBuf>,
}

/// One run, as its process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunOptions {
    pub fault: FaultKind,
    pub fabric: FabricKind,
    pub calls: u32,
    pub ringing: u32,
    pub seed: u64,
    pub profile: String,
    pub effect_delay: Duration,
    pub contract: Contract,
    pub tandem: PathBuf,
    /// Exists; nodes' directories are made in it.
    pub directory: PathBuf,
}

impl DrillArgs {
    fn contract(&self) -> Contract {
        let stated = match self.fabric {
            FabricKind::Lan => Contract::lan(),
            FabricKind::Ec2 => Contract::ec2(Duration::from_millis(self.effect_delay_ms)),
        };
        match self.gap_limit_ms {
            Some(limit) => Contract {
                gap: Duration::from_millis(limit),
                ..stated
            },
            None => stated,
        }
    }

    fn options(
        &self,
        fault: FaultKind,
        number: u32,
        tandem: &Path,
        directory: PathBuf,
    ) -> RunOptions {
        RunOptions {
            fault,
            fabric: self.fabric,
            calls: self.calls,
            ringing: self.ringing.unwrap_or((self.calls / 10).max(5)),
            seed: self.seed.wrapping_add(u64::from(number) - 1),
            profile: self.profile.clone(),
            effect_delay: Duration::from_millis(self.effect_delay_ms),
            contract: self.contract(),
            tandem: tandem.to_owned(),
            directory,
        }
    }
}

/// The binary to drill, absolute; without a wish the default one.
pub(crate) fn binary(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    let binary = match asked {
        Some(binary) => binary.to_owned(),
        None => default_binary()?,
    };
    binary
        .canonicalize()
        .with_context(|| format!("no tandem binary at {}", binary.display()))
}

/// The binary that the environment names, else `tandem` beside the running program; for a test program, which cargo puts into `deps`, one level
/// up.
pub fn default_binary() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(named.into());
    }
    let program = std::env::current_exe().context("path of this program")?;
    let beside = program.parent().map(|directory| directory.join("tandem"));
    let above = program
        .ancestors()
        .nth(2)
        .map(|directory| directory.join("tandem"));
    [beside, above]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .context("no tandem binary beside this program: build it, or name it with --tandem")
}

/// Runs the drill; the exit status says whether the contract held.
fn drill(fault: FaultKind, args: &DrillArgs) -> anyhow::Result<ExitCode> {
    let tandem = binary(args.tandem.as_deref())?;
    let artifacts = Artifacts::create(args.artifacts.as_deref())?;
    let contract = args.contract();
    let mut runs = Vec::new();
    let mut failures = Vec::new();
    for number in 1..=args.runs {
        let directory = artifacts.path().join(format!("run-{number}"));
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let options = args.options(fault, number, &tandem, directory.clone());
        match Job::Drill(options).start(&directory) {
            Ok(report) => runs.push(report),
            Err(error) => failures.push(format!("run {number} gave no result: {error:#}")),
        }
    }
    let report = DrillReport::new(fault.name(), args.fabric.name(), &contract, runs, failures);
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    let mut out = std::io::stdout().lock();
    artifacts.settle(report.passed(), &mut out)?;
    write_table(&mut out, &report)?;
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_BROKEN)
    })
}

/// Where a drill's files are: a directory of the user's, or one that goes when all went well.
pub(crate) enum Artifacts {
    Asked(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Artifacts {
    pub(crate) fn create(asked: Option<&Path>) -> anyhow::Result<Artifacts> {
        match asked {
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
                Ok(Artifacts::Asked(path.canonicalize()?))
            }
            None => Ok(Artifacts::Temporary(
                tempfile::Builder::new().prefix("tandem-drill-").tempdir()?,
            )),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Artifacts::Asked(path) => path,
            Artifacts::Temporary(directory) => directory.path(),
        }
    }

    pub(crate) fn settle(self, passed: bool, out: &mut impl Write) -> anyhow::Result<()> {
        let kept = match self {
            Artifacts::Asked(path) => path,
            Artifacts::Temporary(directory) if passed => return Ok(directory.close()?),
            Artifacts::Temporary(directory) => directory.keep(),
        };
        Ok(writeln!(out, "logs: {}", kept.display())?)
    }
}

//! `tandem-chaos`: drills for a Tandem pair.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tandem_chaos::bench::BenchTask;
use tandem_chaos::burn::burn;
use tandem_chaos::drill::DrillCommand;
use tandem_chaos::job::Job;
use tandem_chaos::simulate::{SimulateArgs, simulate};

/// Exit status of a drill that could not be run at all.
const EXIT_FAILED: u8 = 2;

/// Breaks a pair on purpose, with calls up, and says what survived.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Put calls through a pair, let a fault come, and judge the result.
    #[command(subcommand)]
    Drill(DrillCommand),
    /// Run the pair's cores in virtual time, under faults at random and directed ones, and watch what must hold.
    Simulate(SimulateArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchTask),
    /// Take processor time: a soak's other work.
    #[command(hide = true)]
    Burn {
        #[arg(long)]
        seconds: u64,
    },
    /// One job, in this process.
    #[command(hide = true)]
    RunOnce {
        /// The job with its options, as JSON.
        #[arg(long)]
        job: String,
        /// Where to write the run's report.
        #[arg(long)]
        report: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Drill(command) => command.run(),
        Task::Burn { seconds } => burn(Duration::from_secs(seconds)).map(|()| ExitCode::SUCCESS),
        Task::Simulate(args) => simulate(&args),
        Task::Bench(task) => task.run(),
        Task::RunOnce { job, report } => run(&job, &report).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // The reader of standard error may be gone; the exit status remains.
        let _ = writeln!(std::io::stderr(), "tandem-chaos: {error:#}");
        ExitCode::from(EXIT_FAILED)
    })
}

fn run(job: &str, report: &Path) -> anyhow::Result<()> {
    let job: Job = serde_json::from_str(job).context("options of the run")?;
    job.run_here(report)
}

//! `tandem-chaos`: drills for a Tandem pair.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tandem_chaos::drill::{DrillArgs, RunOptions, drill, run_once};
use tandem_chaos::sandbox;
use tandem_chaos::simulate::{SimulateArgs, simulate};
use tracing_subscriber::EnvFilter;

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
    Drill(DrillArgs),
    /// Run the pair's cores in virtual time, under faults at random and directed ones, and watch what must hold.
    Simulate(SimulateArgs),
    /// One run of a drill, in this process.
    #[command(hide = true)]
    RunOnce {
        /// The run's options, as JSON.
        #[arg(long)]
        options: String,
        /// Where to write the run's report.
        #[arg(long)]
        report: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Drill(args) => drill(&args),
        Task::Simulate(args) => simulate(&args),
        Task::RunOnce { options, report } => run(&options, &report).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // The reader of standard error may be gone; the exit status remains.
        let _ = writeln!(std::io::stderr(), "tandem-chaos: {error:#}");
        ExitCode::from(EXIT_FAILED)
    })
}

fn run(options: &str, report: &PathBuf) -> anyhow::Result<()> {
    let options: RunOptions = serde_json::from_str(options).context("options of the run")?;
    sandbox::enter()?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(run_once(&options))?;
    fs::write(report, serde_json::to_vec(&result)?)
        .with_context(|| format!("write {}", report.display()))
}

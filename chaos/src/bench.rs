//! Measurements: how fast the log commits, how fast a takeover is.

mod disk;
pub mod replicas;
pub mod replication;
pub mod takeover;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use replication::ReplicationArgs;
use takeover::TakeoverArgs;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum BenchTask {
    /// Records a second and commit latency, beside what the disk alone takes.
    Replication(ReplicationArgs),
    /// From a fault to the open gate and to the claimed address, many times over.
    Takeover(TakeoverArgs),
}

impl BenchTask {
    /// Measures and prints; the exit status says whether every measurement came about.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            BenchTask::Replication(args) => replication::bench(args),
            BenchTask::Takeover(args) => takeover::bench(args),
        }
    }
}

fn write_json(path: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let json = serde_json::to_vec_pretty(report)?;
    fs::write(path, json).with_context(|| format!("write {}", path.display()))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds as milliseconds with two decimals.
fn millis(micros: u64) -> String {
    format!("{}.{:02}", micros / 1_000, micros % 1_000 / 10)
}

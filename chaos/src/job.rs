//! Work that needs a process of its own, because a sandbox is entered once and before any thread exists.
//!
//! ```text
//! tandem-chaos drill | bench      prints, writes --json, exits with the verdict
//! └─ tandem-chaos run-once        sandbox, fabric, nodes, fault; writes its report
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::bench::takeover::{self, TakeoverOptions};
use crate::drill::soak::{self, SoakOptions};
use crate::drill::{RunOptions, run_once};
use crate::sandbox;

/// What a process is started for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// One run of a drill.
    Drill(RunOptions),
    /// A soak.
    Soak(SoakOptions),
    /// All takeovers of one profile, fault and number of calls.
    Takeover(TakeoverOptions),
}

impl Job {
    /// Runs the job in a process of its own and reads its report. The process's log and report go
    /// into `directory`.
    pub fn start<R: DeserializeOwned>(&self, directory: &Path) -> anyhow::Result<R> {
        let report = directory.join("report.json");
        let errors = directory.join("run.log");
        let log =
            fs::File::create(&errors).with_context(|| format!("create {}", errors.display()))?;
        let program = std::env::current_exe().context("path of this program")?;
        let status = Command::new(program)
            .arg("run-once")
            .arg("--job")
            .arg(serde_json::to_string(self)?)
            .arg("--report")
            .arg(&report)
            .stderr(log)
            .status()
            .context("start the run")?;
        if !status.success() {
            let log = fs::read_to_string(&errors).unwrap_or_default();
            bail!(
                "{}",
                log.lines()
                    .last()
                    .map_or_else(|| status.to_string(), str::to_owned)
            );
        }
        let json = fs::read(&report).with_context(|| format!("read {}", report.display()))?;
        serde_json::from_slice(&json).with_context(|| format!("parse {}", report.display()))
    }

    /// Runs the job in this process, which must not have started a thread.
    pub fn run_here(&self, report: &Path) -> anyhow::Result<()> {
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
        let result = runtime.block_on(self.run())?;
        fs::write(report, result).with_context(|| format!("write {}", report.display()))
    }

    async fn run(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Job::Drill(options) => serde_json::to_vec(&run_once(options).await?)?,
            Job::Soak(options) => serde_json::to_vec(&soak::run(options).await?)?,
            Job::Takeover(options) => serde_json::to_vec(&takeover::run(options).await?)?,
        })
    }
}

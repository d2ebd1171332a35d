//! `drill soak`: a pair with calls up on a busy machine and a lossy peer link. Nothing fails, so nobody may
//! take over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use super::{Artifacts, EXIT_BROKEN, FabricKind, Owner, Pair, PhonePair, binary};
use crate::burn::Burners;
use crate::fabric::{Fabric, LossCount};
use crate::host::HostId;
use crate::job::Job;
use crate::node_process::{NodeFiles, NodeStatus};
use crate::report::Quantiles;

const READY_WITHIN: Duration = Duration::from_secs(60);
const ESTABLISH_WITHIN: Duration = Duration::from_secs(20);
const FLOW_WITHIN: Duration = Duration::from_secs(10);
/// After the load: the pair has to be whole again, on whatever owner.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// Burners end by themselves this much after the drill should have ended them.
const BURN_BEYOND: Duration = Duration::from_secs(60);

/// Options.
#[derive(Debug, Clone, clap::Args)]
pub struct SoakArgs {
    /// Network that the hosts stand in.
    #[arg(long)]
    fabric: FabricKind,
    /// How long.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Timing profile of the pair.
    #[arg(long, default_value = "standard")]
    profile: String,
    /// Packets of the peer link that are lost, in percent, each way.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=50))]
    loss_percent: u8,
    /// Saturate every processor with other work.
    #[arg(long)]
    burn: bool,
    /// Calls established meanwhile.
    #[arg(long, default_value_t = 10)]
    calls: u32,
    /// Seed of speech and tags.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the report to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The `tandem` binary; by default the one beside this program.
    #[arg(long, env = super::BINARY_VARIABLE)]
    tandem: Option<PathBuf>,
    /// Keep logs, configurations and reports here; by default they are kept only when the drill fails.
    #[arg(long)]
    artifacts: Option<PathBuf>,
}

/// One soak, as its process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SoakOptions {
    pub duration: Duration,
    pub profile: String,
    pub loss_percent: u8,
    pub burn: bool,
    pub calls: u32,
    pub seed: u64,
    pub tandem: PathBuf,
    /// Exists; nodes' directories are made in it.
    pub directory: PathBuf,
}

/// What one soak found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SoakReport {
    pub options: SoakOptions,
    /// Times that a gate was opened in a later epoch.
    pub takeovers: usize,
    pub loss: LossCount,
    pub burners: usize,
    /// In the soak: longest silence of each call and direction, in ms.
    pub media_gap_ms: Quantiles,
    pub packets_lost: u64,
    pub phones_late_ms: u64,
    /// Calls on which speech did not flow at the end.
    pub silent: usize,
    pub nodes: BTreeMap<String, NodeFigures>,
    /// Why the pair was not protected at the end.
    pub unprotected: Option<String>,
}

/// One node's own figures of the soak.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeFigures {
    pub elected: u64,
    pub campaigns: u64,
    pub leases_lost: u64,
    pub ticks_skipped: u64,
    pub tick_late_p99_us: u64,
    pub tick_late_max_us: u64,
    pub worst_lease_margin_us: Option<u64>,
}

impl SoakReport {
    /// Nothing failed, so nobody took over.
    pub fn passed(&self) -> bool {
        self.takeovers == 0
    }
}

/// Runs the soak in a process of its own; the exit status says whether anybody took over.
pub fn soak(args: &SoakArgs) -> anyhow::Result<ExitCode> {
    if args.fabric != FabricKind::Lan {
        bail!("only the LAN fabric has a lossy peer link");
    }
    let artifacts = Artifacts::create(args.artifacts.as_deref())?;
    let directory = artifacts.path().join("soak");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let options = SoakOptions {
        duration: Duration::from_secs(args.seconds),
        profile: args.profile.clone(),
        loss_percent: args.loss_percent,
        burn: args.burn,
        calls: args.calls,
        seed: args.seed,
        tandem: binary(args.tandem.as_deref())?,
        directory: directory.clone(),
    };
    let report: SoakReport = Job::Soak(options).start(&directory)?;
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    let mut out = io::stdout().lock();
    artifacts.settle(report.passed(), &mut out)?;
    write_report(&mut out, &report)?;
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_BROKEN)
    })
}

/// One soak. Call it inside the sandbox and a multi-threaded runtime.
pub async fn run(options: &SoakOptions) -> anyhow::Result<SoakReport> {
    let fabric = Fabric::lan()?;
    let files = NodeFiles {
        binary: options.tandem.clone(),
        directory: options.directory.clone(),
        profile: options.profile.clone(),
        calls: 0,
    };
    let mut pair = Pair::start(&fabric, &files)?;
    let owner = pair.await_protected(READY_WITHIN).await?;
    let phones = PhonePair::start(&fabric, options.calls, 0, options.seed)?;
    let missing = phones.place_calls(ESTABLISH_WITHIN).await?;
    let silent = phones.await_flow(&phones.talking, FLOW_WITHIN).await;
    if !missing.is_empty() || !silent.is_empty() {
        bail!("before the soak: calls {missing:?} missing, {silent:?} silent");
    }
    let before = block_in_place(|| statuses(&pair))?;
    block_in_place(|| fabric.lose_on_peer_link(options.loss_percent))?;
    let burners = match options.burn {
        true => Some(Burners::start(options.duration + BURN_BEYOND)?),
        false => None,
    };
    phones.open_window();
    // The length is the test: there is no event to wait for.
    tokio::time::sleep(options.duration).await;
    phones.close_window();
    phones.end_count();
    let count = burners.as_ref().map_or(0, Burners::count);
    drop(burners);
    let loss = block_in_place(|| fabric.peer_link_loss())?;
    if options.loss_percent > 0 && loss.dropped == 0 {
        bail!("nothing was lost on the peer link: {loss:?}");
    }
    let silent = phones.await_flow(&phones.talking, FLOW_WITHIN).await;
    let unprotected = pair.await_protected_again(SETTLE_WITHIN).await;
    let after = block_in_place(|| statuses(&pair))?;
    let takeovers = takeovers(&pair, &owner);
    let calls = phones.outcomes(&silent.iter().copied().collect());
    let hearings = calls
        .iter()
        .flat_map(|call| [&call.caller_to_callee, &call.callee_to_caller]);
    Ok(SoakReport {
        options: options.clone(),
        takeovers,
        loss,
        burners: count,
        media_gap_ms: Quantiles::of(
            hearings
                .clone()
                .filter_map(|hearing| hearing.longest_gap_ms)
                .collect(),
        ),
        packets_lost: hearings
            .map(|hearing| u64::from(hearing.lost_in_window))
            .sum(),
        phones_late_ms: phones.worst_lateness().as_millis() as u64,
        silent: silent.len(),
        nodes: figures(&before, &after),
        unprotected,
    })
}

fn takeovers(pair: &Pair, owner: &Owner) -> usize {
    pair.serve_times()
        .iter()
        .filter(|serve| serve.epoch > owner.epoch)
        .count()
}

fn statuses(pair: &Pair) -> anyhow::Result<BTreeMap<HostId, NodeStatus>> {
    HostId::NODES
        .into_iter()
        .map(|id| Ok((id, pair.node(id)?.status()?)))
        .collect()
}

fn figures(
    before: &BTreeMap<HostId, NodeStatus>,
    after: &BTreeMap<HostId, NodeStatus>,
) -> BTreeMap<String, NodeFigures> {
    let figures = |(id, after): (&HostId, &NodeStatus)| {
        let total = |name: &str, status: &NodeStatus| status.counters.get(name).copied();
        let grown = |name: &str| {
            let earlier = before.get(id).and_then(|before| total(name, before));
            total(name, after)
                .unwrap_or(0)
                .saturating_sub(earlier.unwrap_or(0))
        };
        let figures = NodeFigures {
            elected: grown("raft_elected"),
            campaigns: grown("raft_campaigns"),
            leases_lost: grown("raft_leases_lost"),
            ticks_skipped: grown("raft_ticks_skipped"),
            tick_late_p99_us: after.replication.tick_late_us.p99,
            tick_late_max_us: after.replication.tick_late_us.max,
            worst_lease_margin_us: after.replication.worst_lease_margin_us,
        };
        (id.name().to_owned(), figures)
    };
    after.iter().map(figures).collect()
}

fn write_report(out: &mut impl Write, report: &SoakReport) -> io::Result<()> {
    let ms = |micros: u64| micros as f64 / 1_000.0;
    writeln!(
        out,
        "{:9} {:>8} {:>9} {:>11} {:>13} {:>12} {:>8} {:>15}",
        "node",
        "elected",
        "campaigns",
        "leases lost",
        "ticks skipped",
        "tick late 99",
        "max ms",
        "lease margin ms"
    )?;
    for (name, node) in &report.nodes {
        let margin = node
            .worst_lease_margin_us
            .map_or_else(|| "-".to_owned(), |margin| format!("{:.1}", ms(margin)));
        writeln!(
            out,
            "{name:9} {:>8} {:>9} {:>11} {:>13} {:>12.1} {:>8.1} {margin:>15}",
            node.elected,
            node.campaigns,
            node.leases_lost,
            node.ticks_skipped,
            ms(node.tick_late_p99_us),
            ms(node.tick_late_max_us),
        )?;
    }
    let LossCount { seen, dropped } = report.loss;
    let gap = report.media_gap_ms;
    writeln!(
        out,
        "peer link: {dropped} of {seen} packets lost; {} processes took processor time; media gap p50 {} max {} ms, \
         {} packets lost, phones up to {} ms late, {} calls silent at the end",
        report.burners, gap.p50, gap.max, report.packets_lost, report.phones_late_ms, report.silent,
    )?;
    if let Some(reason) = &report.unprotected {
        writeln!(out, "at the end: {reason}")?;
    }
    writeln!(
        out,
        "{} soak on lan, {} profile, {} calls, {} s: {} takeovers although nothing failed",
        if report.passed() { "PASS" } else { "FAIL" },
        report.options.profile,
        report.options.calls,
        report.options.duration.as_secs(),
        report.takeovers,
    )
}

//! `bench replication`: how many records a second the pair commits, and how long a commit takes.
//!
//! Load and disk are measured in turns, a fraction of a second each: the replicas are idle while the bare
//! file is written, and the other way round, so that both see the same disk of the same minute and neither
//! disturbs the other.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use rand::RngCore;
use serde::Serialize;
use tandem_replication::{Change, Durability, Ticket};

use super::disk::BareFile;
use super::replicas::{Outcome, Replicas, propose};
use super::{micros, millis, write_json};
use crate::report::Quantiles;

/// Load lasts this long before the disk has its turn.
const LOAD_TURN: Duration = Duration::from_millis(400);
/// The disk's turn.
const DISK_TURN: Duration = Duration::from_millis(100);
/// Loaded and not counted at the start of each workload: connections, allocator and disk settle.
const WARM_UP: Duration = Duration::from_millis(500);

/// Keys that are written over and over, as the records of that many calls.
const KEYS: u64 = 10_000;

/// Latencies kept of one workload; later ones are not measured, which the report says.
const MAX_SAMPLES: usize = 20_000_000;

/// Records in flight, a workload each. The last keeps every queue filled to where the replica still takes
/// all of it: half of what it admits.
const WORKLOADS: [(&str, usize); 3] = [
    ("1 in flight", 1),
    ("64 in flight", 64),
    ("saturation", 2_048),
];

/// Options.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplicationArgs {
    /// Whether a commit waits for the disk: durable or memory.
    #[arg(long, default_value_t = Durability::Durable)]
    durability: Durability,
    /// Time for each of the three workloads.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    record_bytes: u32,
    /// On the disk to measure; a temporary directory is made in it.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Write the report to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    durability: String,
    record_bytes: u32,
    workloads: Vec<Workload>,
}

/// One workload's figures; times in microseconds.
#[derive(Debug, Serialize)]
struct Workload {
    name: &'static str,
    in_flight: usize,
    records: usize,
    records_per_second: u64,
    commit_us: Quantiles,
    /// A record-sized write and fdatasync of a preallocated file on the same disk.
    bare_us: Quantiles,
    bare_writes: usize,
    /// Commit over bare, medians.
    ratio_p50: f64,
    /// Commit over bare, 99th percentiles.
    ratio_p99: f64,
    /// Proposals that were refused or lost their leader.
    dropped: usize,
    leases_lost: u64,
}

/// Measures every workload and prints the table.
pub(super) fn bench(args: &ReplicationArgs) -> anyhow::Result<ExitCode> {
    let directory = tempfile::Builder::new()
        .prefix("tandem-bench-")
        .tempdir_in(&args.directory)
        .with_context(|| format!("a directory in {}", args.directory.display()))?;
    let report = measure(args, directory.path())?;
    write_json(args.json.as_deref(), &report)?;
    write_table(&mut std::io::stdout().lock(), &report)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &ReplicationArgs, directory: &Path) -> anyhow::Result<Report> {
    let mut value = vec![0; args.record_bytes as usize];
    rand::rng().fill_bytes(&mut value);
    let mut bare = BareFile::create(directory, value.clone())?;
    let replicas = Replicas::start(directory, |settings| {
        settings.durability = args.durability;
    })?;
    let mut load = Load {
        replicas: &replicas,
        value: value.into(),
        next_key: 0,
        open: VecDeque::new(),
        latencies: Vec::new(),
        applied: 0,
        dropped: 0,
    };
    let workloads = WORKLOADS
        .into_iter()
        .map(|(name, in_flight)| {
            let length = Duration::from_secs(args.seconds);
            measure_one(&mut load, &mut bare, name, in_flight, length)
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(
        replicas.overflows() == 0,
        "{} outcomes were not recorded",
        replicas.overflows()
    );
    Ok(Report {
        durability: args.durability.to_string(),
        record_bytes: args.record_bytes,
        workloads,
    })
}

fn measure_one(
    load: &mut Load<'_>,
    bare: &mut BareFile,
    name: &'static str,
    in_flight: usize,
    length: Duration,
) -> anyhow::Result<Workload> {
    load.run(in_flight, WARM_UP)?;
    load.reset();
    let leases_lost = load.replicas.leases_lost();
    let deadline = Instant::now() + length;
    let mut loaded = Duration::ZERO;
    let mut bare_us = Vec::new();
    while Instant::now() < deadline {
        loaded += load.run(in_flight, LOAD_TURN)?;
        let turn = Instant::now();
        while turn.elapsed() < DISK_TURN {
            bare_us.push(micros(bare.write()?));
        }
    }
    let bare_writes = bare_us.len();
    let commit_us = Quantiles::of(std::mem::take(&mut load.latencies));
    let bare_us = Quantiles::of(bare_us);
    let ratio = |commit: u64, bare: u64| commit as f64 / bare.max(1) as f64;
    Ok(Workload {
        name,
        in_flight,
        records: load.applied,
        records_per_second: (load.applied as f64 / loaded.as_secs_f64()) as u64,
        commit_us,
        bare_us,
        bare_writes,
        ratio_p50: ratio(commit_us.p50, bare_us.p50),
        ratio_p99: ratio(commit_us.p99, bare_us.p99),
        dropped: load.dropped,
        leases_lost: load.replicas.leases_lost() - leases_lost,
    })
}

/// Keeps records in flight and notes how long each took.
struct Load<'a> {
    replicas: &'a Replicas,
    value: Bytes,
    next_key: u64,
    /// In the order of their tickets, which is the order in which they settle.
    open: VecDeque<(Ticket, Instant)>,
    latencies: Vec<u64>,
    applied: usize,
    dropped: usize,
}

impl Load<'_> {
    fn reset(&mut self) {
        self.latencies.clear();
        self.applied = 0;
        self.dropped = 0;
    }

    /// Loads for `length`, then waits until all is settled; how long both took.
    fn run(&mut self, in_flight: usize, length: Duration) -> anyhow::Result<Duration> {
        let (_, leader) = self.replicas.await_leader()?;
        let begun = Instant::now();
        while begun.elapsed() < length {
            let mut refused = false;
            while self.open.len() < in_flight && !refused {
                match propose(leader, self.changes())? {
                    Some(proposed) => self.open.push_back(proposed),
                    None => refused = true,
                }
            }
            if self.open.is_empty() {
                // The leader is none any more: this turn is over, the next one looks for another.
                break;
            }
            self.settle(self.replicas.outcome()?);
            while let Some(outcome) = self.replicas.settled() {
                self.settle(outcome);
            }
        }
        while !self.open.is_empty() {
            self.settle(self.replicas.outcome()?);
        }
        Ok(begun.elapsed())
    }

    fn changes(&mut self) -> Vec<Change> {
        let key = format!("c{:08}", self.next_key % KEYS);
        self.next_key += 1;
        vec![Change::Put {
            key: key.into(),
            value: self.value.clone(),
        }]
    }

    fn settle(&mut self, Outcome { ticket, applied }: Outcome) {
        let Some(place) = self.open.iter().position(|(open, _)| *open == ticket) else {
            return;
        };
        let Some((_, begun)) = self.open.remove(place) else {
            return;
        };
        let Some(applied) = applied else {
            self.dropped += 1;
            return;
        };
        self.applied += 1;
        if self.latencies.len() < MAX_SAMPLES {
            self.latencies
                .push(micros(applied.saturating_duration_since(begun)));
        }
    }
}

fn write_table(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let Report {
        durability,
        record_bytes,
        workloads,
    } = report;
    writeln!(
        out,
        "{durability}, {record_bytes} B records, three replicas with their stores on one disk; times in ms"
    )?;
    writeln!(
        out,
        "{:14} {:>10} {:>10} {:>8} {:>8} {:>10} {:>8} {:>8} {:>8} {:>8}",
        "", "records/s", "commit p50", "p99", "max", "bare p50", "p99", "max", "ratio 50", "99"
    )?;
    for load in workloads {
        let (commit, bare) = (load.commit_us, load.bare_us);
        writeln!(
            out,
            "{:14} {:>10} {:>10} {:>8} {:>8} {:>10} {:>8} {:>8} {:>8.1} {:>8.1}",
            load.name,
            load.records_per_second,
            millis(commit.p50),
            millis(commit.p99),
            millis(commit.max),
            millis(bare.p50),
            millis(bare.p99),
            millis(bare.max),
            load.ratio_p50,
            load.ratio_p99,
        )?;
    }
    for load in workloads {
        if load.dropped > 0 || load.leases_lost > 0 {
            writeln!(
                out,
                "{}: {} proposals dropped, {} leases lost",
                load.name, load.dropped, load.leases_lost
            )?;
        }
    }
    writeln!(
        out,
        "bare: a record-sized write and fdatasync of a preallocated file on the same disk, in turns with the load"
    )
}

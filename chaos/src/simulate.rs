//! `tandem-chaos simulate`: many seeds of the simulator, on every core, and what broke.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use tandem_simulator::{Counts, Outcome, SCENARIOS, Scenario, run, scenario};

/// Exit status when an invariant was violated.
const EXIT_VIOLATED: u8 = 1;
/// The scenario of random schedules.
const RANDOM: &str = "random";
/// Seeds of each directed scenario when none is named.
const DIRECTED_SEEDS: u64 = 20;
/// Failing runs that are shown in full; the rest is counted.
const SHOWN: usize = 3;
/// Lines of the trace that are printed; the JSON has more.
const TAIL: usize = 40;

/// Options of `simulate`.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// Random schedules to run, each with the next seed.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Only this scenario (`list` names them); by default `random`, and 20 seeds of each directed one.
    #[arg(long)]
    scenario: Option<String>,
    /// Threads; by default one for each core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Write figures and failing runs to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one scenario came to.
#[derive(Debug, Default, Serialize)]
struct Tally {
    seeds: u64,
    failed: u64,
    steps: u64,
    virtual_seconds: f64,
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct Report {
    passed: bool,
    jobs: usize,
    /// Real time.
    seconds: f64,
    /// Virtual time over the time that the cores took for it.
    times_real_time_per_core: f64,
    scenarios: BTreeMap<&'static str, Tally>,
    failures: Vec<Outcome>,
}

/// Runs the seeds; the exit status says whether everything held.
pub fn simulate(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if args.scenario.as_deref() == Some("list") {
        for Scenario { name, about, .. } in SCENARIOS {
            writeln!(out, "{name:40} {about}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let plan = plan(args)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let report = play(&plan, args.jobs.unwrap_or(cores).max(1));
    write_report(&mut out, &report)?;
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_VIOLATED)
    })
}

/// Every scenario and seed to run.
fn plan(args: &SimulateArgs) -> anyhow::Result<Vec<(&'static Scenario, u64)>> {
    let seeds = |count: u64| args.start..args.start.saturating_add(count);
    if let Some(name) = &args.scenario {
        let Some(scenario) = scenario(name) else {
            bail!("no scenario {name:?}; `--scenario list` names them");
        };
        return Ok(seeds(args.seeds).map(|seed| (scenario, seed)).collect());
    }
    let count = |scenario: &Scenario| match scenario.name {
        RANDOM => args.seeds,
        _ => DIRECTED_SEEDS.min(args.seeds),
    };
    Ok(SCENARIOS
        .iter()
        .flat_map(|scenario| seeds(count(scenario)).map(move |seed| (scenario, seed)))
        .collect())
}

fn play(plan: &[(&'static Scenario, u64)], jobs: usize) -> Report {
    let next = AtomicU64::new(0);
    let found = Mutex::new((BTreeMap::<&'static str, Tally>::new(), Vec::new()));
    let busy = Mutex::new(Duration::ZERO);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let begun = Instant::now();
                while let Ok(number) = usize::try_from(next.fetch_add(1, Ordering::Relaxed))
                    && let Some((scenario, seed)) = plan.get(number)
                {
                    let outcome = run(scenario, *seed, None, false);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.0.entry(scenario.name).or_default().add(&outcome);
                    if !outcome.violations.is_empty() {
                        found.1.push((*scenario, *seed));
                    }
                }
                *busy.lock().unwrap_or_else(PoisonError::into_inner) += begun.elapsed();
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let (scenarios, mut failed) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|(scenario, seed)| (scenario.name, *seed));
    let busy = busy.into_inner().unwrap_or_else(PoisonError::into_inner);
    let simulated: f64 = scenarios.values().map(|tally| tally.virtual_seconds).sum();
    Report {
        passed: failed.is_empty(),
        jobs,
        seconds,
        times_real_time_per_core: simulated / busy.as_secs_f64().max(f64::EPSILON),
        scenarios,
        // The same run again, in words.
        failures: failed
            .into_iter()
            .take(SHOWN)
            .map(|(scenario, seed)| run(scenario, seed, None, true))
            .collect(),
    }
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(!outcome.violations.is_empty());
        self.steps += outcome.steps;
        self.virtual_seconds += outcome.lasted.as_secs_f64();
        self.counts += outcome.counts;
    }
}

fn write_report(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    writeln!(
        out,
        "{:38} {:>6} {:>9} {:>9} {:>8} {:>9} {:>7} {:>7} {:>9} {:>6} {:>6}",
        "scenario",
        "seeds",
        "virtual s",
        "takeovers",
        "witness",
        "snapshots",
        "disks",
        "deaths",
        "confirmed",
        "calls",
        "failed"
    )?;
    for (name, tally) in &report.scenarios {
        let Counts {
            takeovers,
            witness_led,
            snapshots,
            disks_lost,
            deaths_certified,
            confirmed,
            calls_answered,
            ..
        } = tally.counts;
        writeln!(
            out,
            "{name:38} {:>6} {:>9.0} {takeovers:>9} {witness_led:>8} {snapshots:>9} {disks_lost:>7} \
             {deaths_certified:>7} {confirmed:>9} {calls_answered:>6} {:>6}",
            tally.seeds, tally.virtual_seconds, tally.failed
        )?;
    }
    for failure in &report.failures {
        write_failure(out, failure)?;
    }
    let failed: u64 = report.scenarios.values().map(|tally| tally.failed).sum();
    let seeds: u64 = report.scenarios.values().map(|tally| tally.seeds).sum();
    writeln!(
        out,
        "{} {seeds} runs, {failed} with violations; {:.1} s with {} threads, {:.0} times real time on one core",
        if report.passed { "PASS" } else { "FAIL" },
        report.seconds,
        report.jobs,
        report.times_real_time_per_core
    )?;
    Ok(())
}

fn write_failure(out: &mut impl Write, failure: &Outcome) -> anyhow::Result<()> {
    let Outcome {
        seed,
        scenario,
        violations,
        trace,
        ..
    } = failure;
    writeln!(out, "\n{scenario}, seed {seed}:")?;
    let skip = trace.len().saturating_sub(TAIL);
    for line in trace.iter().skip(skip) {
        writeln!(out, "  {line}")?;
    }
    for violation in violations {
        let at = Duration::from_micros(violation.at_us).as_secs_f64();
        writeln!(
            out,
            "  {} at step {}, {at:.6} s: {}",
            violation.invariant, violation.step, violation.what
        )?;
    }
    writeln!(
        out,
        "  again: tandem-chaos simulate --scenario {scenario} --start {seed} --seeds 1"
    )?;
    Ok(())
}

//! The report for people.

use std::io::{self, Write};

use super::{CallFigures, Sample, TakeoverReport};
use crate::bench::millis;
use crate::report::Quantiles;

/// What people run today in this place.
const KEEPALIVED: &str = "keepalived, which remembers no call, takes 44 ms at its fastest setting";

pub(super) fn write(out: &mut impl Write, reports: &[TakeoverReport]) -> io::Result<()> {
    writeln!(
        out,
        "{:9} {:11} {:>6} {:>4}  {:>21}  {:>21}  {:>21}  {:>13}",
        "profile",
        "fault",
        "calls",
        "runs",
        "elected p50 p99 max",
        "gate p50 p99 max",
        "address p50 p99 max",
        "fault p50 max"
    )?;
    for report in reports {
        let samples = &report.samples;
        let calls = report.calls.as_ref().map_or(0, |calls| calls.established);
        let all =
            |of: fn(&Sample) -> Option<u64>| Quantiles::of(samples.iter().filter_map(of).collect());
        let fault = all(|sample| Some(sample.fault_us));
        writeln!(
            out,
            "{:9} {:11} {:>6} {:>4}  {}  {}  {}  {:>6} {:>6}",
            report.profile,
            report.fault.name(),
            calls,
            samples.len(),
            three(all(|sample| sample.elected_us)),
            three(all(|sample| Some(sample.gate_us))),
            three(all(|sample| sample.claimed_us)),
            millis(fault.p50),
            millis(fault.max),
        )?;
    }
    for report in reports {
        if let Some(calls) = &report.calls {
            write_calls(out, calls)?;
        }
        if report.unasked > 0 {
            writeln!(
                out,
                "{}: ownership moved {} times without a fault: this host is too busy for the profile",
                report.profile, report.unasked
            )?;
        }
        if let Some(failure) = &report.failure {
            writeln!(out, "FAILED {}: {failure}", report.profile)?;
        }
    }
    write_spread(out, reports)?;
    writeln!(
        out,
        "ms from the fault (its first step) to the survivor's election, open gate and claimed address; {KEEPALIVED}"
    )
}

fn write_calls(out: &mut impl Write, calls: &CallFigures) -> io::Result<()> {
    let CallFigures {
        established,
        with_media,
        files,
        load,
        memory,
    } = calls;
    let [owner, standby, restarted, kernel] = memory.bytes_per_call(*established);
    writeln!(
        out,
        "{established} calls, {with_media} of them with media ports: established in {:.1} s, {} a second, {} repeats",
        load.took.as_secs_f64(),
        (*established as f64 / load.took.as_secs_f64()) as u64,
        load.repeats,
    )?;
    writeln!(
        out,
        "  bytes a call: owner {owner}, standby {standby}, restarted node {restarted}; kernel on each {kernel}; \
         open files {} and {}",
        memory.owner[1].open_files, memory.standby[1].open_files,
    )?;
    if *with_media == files.calls {
        writeln!(
            out,
            "  the system allows a process {} open files and a call with audio needs 4, so {} calls can have media",
            files.limit, files.calls,
        )?;
    }
    Ok(())
}

/// How far the medians of one profile lie apart over the numbers of calls.
fn write_spread(out: &mut impl Write, reports: &[TakeoverReport]) -> io::Result<()> {
    let mut profiles: Vec<&str> = reports
        .iter()
        .map(|report| report.profile.as_str())
        .collect();
    profiles.dedup();
    for profile in profiles {
        let medians: Vec<u64> = reports
            .iter()
            .filter(|report| report.profile == profile && !report.samples.is_empty())
            .map(|report| {
                let gates = report.samples.iter().map(|sample| sample.gate_us);
                Quantiles::of(gates.collect()).p50
            })
            .collect();
        if let (Some(least), Some(most), 2..) =
            (medians.iter().min(), medians.iter().max(), medians.len())
        {
            let spread = millis(most - least);
            writeln!(
                out,
                "{profile}: medians of the gate lie {spread} ms apart over the numbers of calls"
            )?;
        }
    }
    Ok(())
}

fn three(Quantiles { p50, p99, max }: Quantiles) -> String {
    format!("{:>6} {:>6} {:>7}", millis(p50), millis(p99), millis(max))
}

//! The human summary: one row a run, a total, the verdict.

use std::io::{self, Write};

use super::{DrillReport, Summary};

const HEADINGS: [&str; 12] = [
    "run",
    "seed",
    "calls",
    "ringing",
    "gap p50",
    "p99",
    "max ms",
    "lost",
    "dual",
    "CDRs",
    "dup",
    "detect/takeover/address ms",
];

/// Phones that send later than this make gaps themselves.
const PACKET_TIME_MS: u64 = 20;

/// Writes the table, what was broken, and last the verdict.
pub fn write_table(out: &mut impl Write, report: &DrillReport) -> io::Result<()> {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    for (number, run) in report.runs.iter().enumerate() {
        rows.push(row(
            (number + 1).to_string(),
            run.seed.to_string(),
            &run.summary,
        ));
    }
    if report.runs.len() > 1 {
        rows.push(row("all".into(), String::new(), &report.summary));
    }
    let mut widths = [0; HEADINGS.len()];
    for cells in &rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.len().max(*width);
        }
    }
    for cells in &rows {
        let line: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect();
        writeln!(out, "{}", line.join("  "))?;
    }
    for (number, run) in report
        .runs
        .iter()
        .enumerate()
        .filter(|(_, run)| run.phones_late_ms > PACKET_TIME_MS)
    {
        let (run_number, late) = (number + 1, run.phones_late_ms);
        writeln!(
            out,
            "note: run {run_number}: phones sent up to {late} ms late; a busy machine adds to the gaps"
        )?;
    }
    for item in &report.broken {
        writeln!(out, "broken: {item}")?;
    }
    writeln!(out, "{}", report.verdict)
}

fn row(number: String, seed: String, summary: &Summary) -> [String; HEADINGS.len()] {
    let time = |time: Option<u64>| time.map_or("-".to_owned(), |ms| ms.to_string());
    let Summary {
        detection_ms,
        takeover_ms,
        address_ms,
        ..
    } = *summary;
    [
        number,
        seed,
        format!("{}/{}", summary.calls_survived, summary.calls_established),
        format!("{}/{}", summary.ringing_survived, summary.calls_ringing),
        summary.media_gap_ms.p50.to_string(),
        summary.media_gap_ms.p99.to_string(),
        summary.media_gap_ms.max.to_string(),
        summary.packets_lost.to_string(),
        summary.dual_owner_packets.to_string(),
        format!("{}/{}", summary.cdrs_written, summary.cdrs_expected),
        summary.cdrs_duplicated.to_string(),
        format!(
            "{} / {} / {}",
            time(detection_ms),
            time(takeover_ms),
            time(address_ms)
        ),
    ]
}

/// The last line.
pub(super) fn verdict(
    drill: &str,
    fabric: &str,
    summary: &Summary,
    runs: usize,
    broken: &[String],
) -> String {
    if !broken.is_empty() {
        return format!("BROKEN {drill} on {fabric}: {}", broken.join("; "));
    }
    let Summary {
        calls_survived,
        calls_established,
        ringing_survived,
        calls_ringing,
        ..
    } = summary;
    let gap = summary.media_gap_ms.p99;
    let plural = if runs == 1 { "" } else { "s" };
    format!(
        "PASS {drill} on {fabric}: {calls_survived}/{calls_established} calls and \
         {ringing_survived}/{calls_ringing} ringing ones survived, media gap p99 {gap} ms, one owner, \
         every CDR once, {runs} run{plural}"
    )
}

//! The measuring commands, run as their users run them.
//!
//! Each needs the `tandem` binary, and all but one namespaces; without them a test says so and counts for
//! nothing.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tandem_chaos::drill::default_binary;

/// Two measurements at once would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `tandem-chaos` with `--json`; `None`, and why on standard error, when it cannot run here.
fn measure(arguments: &[&str]) -> Option<(Output, Value)> {
    if let Err(error) = default_binary() {
        let _ = writeln!(std::io::stderr(), "skipped: {error:#}");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_tandem-chaos"))
        .args(arguments)
        .arg("--json")
        .arg(&report)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    if said.contains("may not create namespaces") || said.contains("is not installed") {
        let _ = writeln!(std::io::stderr(), "skipped: {said}");
        return None;
    }
    let _ = writeln!(std::io::stderr(), "{said}");
    let json = read(&report);
    Some((output, json))
}

fn read(report: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap()
}

fn number(value: &Value, pointer: &str) -> u64 {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no number at {pointer} in {value:#}"))
}

#[test]
fn takeovers_are_measured_with_calls_up() {
    let _alone = alone();
    let arguments = [
        "bench",
        "takeover",
        "--runs",
        "3",
        "--calls",
        "40",
        "--profile",
        "standard",
    ];
    let Some((output, report)) = measure(&arguments) else {
        return;
    };
    assert!(output.status.success());
    assert_eq!(number(&report, "/0/calls/established"), 40);
    let samples = report.pointer("/0/samples").unwrap().as_array().unwrap();
    assert_eq!(samples.len(), 3);
    for sample in samples {
        // The followers had heard the owner a tick before at the earliest, and then wait for an election
        // timeout: sooner would be a takeover that had begun before the fault.
        let gate = number(sample, "/gate_us");
        assert!((80_000..30_000_000).contains(&gate), "{sample}");
        assert!(number(sample, "/elected_us") <= gate, "{sample}");
        assert!(number(sample, "/claimed_us") >= gate, "{sample}");
    }
    // RTP and RTCP on both sides, on both nodes.
    for node in ["owner", "standby"] {
        let opened = |place: usize| {
            number(
                &report,
                &format!("/0/calls/memory/{node}/{place}/open_files"),
            )
        };
        assert!(opened(1) >= 4 * 40 && opened(0) < 4 * 40, "{report:#}");
    }
}

#[test]
fn commits_wait_for_the_disk() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let arguments = [
        "bench",
        "replication",
        "--seconds",
        "2",
        "--directory",
        place,
    ];
    let Some((output, report)) = measure(&arguments) else {
        return;
    };
    assert!(output.status.success());
    let commit = number(&report, "/workloads/0/commit_us/p50");
    let bare = number(&report, "/workloads/0/bare_us/p50");
    assert!(commit * 2 > bare, "{report:#}");
    let Some((_, memory)) = measure(&[arguments.as_slice(), &["--durability", "memory"]].concat())
    else {
        return;
    };
    assert_eq!(memory.pointer("/durability"), Some(&"memory".into()));
    assert!(number(&memory, "/workloads/0/records") > 0, "{memory:#}");
    // Group commit: with many in flight one sync carries many.
    let rate = |workload: usize| {
        number(
            &report,
            &format!("/workloads/{workload}/records_per_second"),
        )
    };
    assert!(rate(0) > 0 && rate(1) > rate(0), "{report:#}");
}

/// `relaxed`: that a busy test machine keeps the faster profiles' leases is not for a test to demand.
#[test]
fn nobody_takes_over_on_a_busy_machine_with_a_lossy_link() {
    let _alone = alone();
    let arguments = [
        "drill",
        "soak",
        "--fabric",
        "lan",
        "--seconds",
        "20",
        "--profile",
        "relaxed",
        "--loss-percent",
        "5",
        "--burn",
    ];
    let Some((output, report)) = measure(&arguments) else {
        return;
    };
    assert!(output.status.success());
    assert_eq!(number(&report, "/takeovers"), 0);
    assert!(number(&report, "/burners") >= 1);
    let (seen, dropped) = (
        number(&report, "/loss/seen"),
        number(&report, "/loss/dropped"),
    );
    assert!(
        seen > 1_000 && (2..=9).contains(&(dropped * 100 / seen)),
        "{report:#}"
    );
}

/// The verdict can be FAIL: half of all packets lost is more than a 16 ms lease survives.
#[test]
fn a_soak_in_which_leases_run_out_fails() {
    let _alone = alone();
    // What a failed drill keeps goes with the test.
    let kept = tempfile::tempdir().unwrap();
    let arguments = [
        "drill",
        "soak",
        "--fabric",
        "lan",
        "--seconds",
        "10",
        "--profile",
        "turbo",
        "--loss-percent",
        "50",
        "--calls",
        "1",
        "--artifacts",
        kept.path().to_str().unwrap(),
    ];
    let Some((output, report)) = measure(&arguments) else {
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert!(number(&report, "/takeovers") > 0);
    let lost: u64 = ["node-a", "node-b"]
        .map(|node| number(&report, &format!("/nodes/{node}/leases_lost")))
        .iter()
        .sum();
    assert!(lost > 0, "{report:#}");
}

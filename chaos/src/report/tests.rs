#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::{
    CallOutcome, CallPlan, Contract, DrillReport, Measurements, Quantiles, RunReport, Summary,
    write_table,
};
use crate::phone::CallReport;
use crate::phone::media::Hearing;
use crate::phone::voice::CallIndex;

fn ended(bye_sent: bool) -> CallReport {
    serde_json::from_value(serde_json::json!({
        "state": "ended", "rang": true, "established": true,
        "bye_sent": bye_sent, "bye_status": bye_sent.then_some(200), "bye_received": !bye_sent,
        "retransmissions": 0, "failure": null, "complaints": [], "complaint_count": 0,
    }))
    .unwrap()
}

fn outcome(index: u32, plan: CallPlan, gap: u64) -> CallOutcome {
    let longest_gap_ms = (plan == CallPlan::Talking).then_some(gap);
    CallOutcome {
        index: CallIndex(index),
        plan,
        speech_returned: true,
        caller: Some(ended(true)),
        callee: Some(ended(false)),
        caller_to_callee: Hearing {
            longest_gap_ms,
            lost_in_window: 3,
            ..Hearing::default()
        },
        callee_to_caller: Hearing {
            longest_gap_ms,
            ..Hearing::default()
        },
    }
}

fn measured() -> Measurements {
    Measurements {
        cdrs_expected: 3,
        cdrs_written: 3,
        detection_ms: Some(90),
        takeover_ms: Some(95),
        address_ms: Some(120),
        ..Measurements::default()
    }
}

fn run_of(calls: Vec<CallOutcome>, measured: Measurements) -> RunReport {
    let mut run = RunReport {
        seed: 1,
        summary: Summary::of(&calls, measured),
        calls_planned: 2,
        unprotected: None,
        capture_complete: true,
        phones_late_ms: 0,
        calls,
        broken: Vec::new(),
    };
    run.broken = Contract::lan().broken(&run);
    run
}

fn calls() -> Vec<CallOutcome> {
    vec![
        outcome(0, CallPlan::Talking, 110),
        outcome(1, CallPlan::Talking, 150),
        outcome(2, CallPlan::Ringing, 0),
    ]
}

fn report(runs: Vec<RunReport>) -> DrillReport {
    DrillReport::new("kill-host", "lan", &Contract::lan(), runs, Vec::new())
}

#[test]
fn quantiles_are_by_nearest_rank() {
    let hundred = Quantiles::of((1..=100).rev().collect());
    assert_eq!(
        hundred,
        Quantiles {
            p50: 50,
            p99: 99,
            max: 100
        }
    );
    assert_eq!(
        Quantiles::of(vec![7]),
        Quantiles {
            p50: 7,
            p99: 7,
            max: 7
        }
    );
    assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
}

#[test]
fn clean_runs_pass_and_the_last_line_says_so() {
    let report = report(vec![
        run_of(calls(), measured()),
        run_of(calls(), measured()),
    ]);
    assert!(report.passed(), "{:?}", report.broken);
    assert_eq!(report.summary.packets_lost, 18);
    assert_eq!(
        report.summary.media_gap_ms,
        Quantiles {
            p50: 110,
            p99: 150,
            max: 150
        }
    );
    let mut text = Vec::new();
    write_table(&mut text, &report).unwrap();
    let text = String::from_utf8(text).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("PASS kill-host on lan: 4/4 calls and 2/2 ringing"),
        "{text}"
    );
}

#[test]
fn json_has_the_promised_fields_at_its_top() {
    let json = serde_json::to_value(report(vec![run_of(calls(), measured())])).unwrap();
    for field in [
        "calls_established",
        "calls_survived",
        "calls_ringing",
        "ringing_survived",
        "packets_lost",
        "dual_owner_packets",
        "cdrs_expected",
        "cdrs_written",
        "cdrs_duplicated",
        "detection_ms",
        "takeover_ms",
        "address_ms",
    ] {
        assert!(json[field].is_u64(), "{field}: {}", json[field]);
    }
    for quantile in ["p50", "p99", "max"] {
        assert!(json["media_gap_ms"][quantile].is_u64());
    }
}

/// One spoiled run for each item; removing an item from the contract fails here.
#[test]
fn every_item_of_the_contract_can_break_it() {
    type Spoil = fn(&mut Vec<CallOutcome>, &mut Measurements);
    let spoils: [(&str, Spoil); 13] = [
        ("nobody took over", |_, measured| {
            measured.takeover_ms = None
        }),
        ("1 of 2 calls were established", |calls, _| {
            calls[0].callee = None
        }),
        ("1 of 2 calls survived", |calls, _| {
            calls[0].speech_returned = false
        }),
        ("0 of 1 ringing calls survived", |calls, _| {
            calls[2].speech_returned = false
        }),
        ("2 of 3 call detail records", |_, measured| {
            measured.cdrs_written = 2
        }),
        ("1 call detail records were duplicated", |_, measured| {
            measured.cdrs_duplicated = 1
        }),
        ("4 packets left from a node", |_, measured| {
            measured.dual_owner_packets = 4
        }),
        ("1 BYEs were not answered", |calls, _| {
            calls[1].caller.as_mut().unwrap().bye_status = Some(481);
        }),
        ("1 packets carried wrong speech", |calls, _| {
            calls[1].caller_to_callee.tally.content_mismatches = 1;
        }),
        ("2 packets belonged to no call", |calls, _| {
            calls[1].callee_to_caller.tally.foreign = 2
        }),
        ("1 violations of SIP", |calls, _| {
            calls[0].caller.as_mut().unwrap().complaint_count = 1
        }),
        ("no election", |_, measured| measured.detection_ms = None),
        ("did not verify the address", |_, measured| {
            measured.address_ms = None
        }),
    ];
    for (expected, spoil) in spoils {
        let (mut calls, mut measured) = (calls(), measured());
        spoil(&mut calls, &mut measured);
        let report = report(vec![run_of(calls, measured)]);
        assert!(
            report.broken.iter().any(|item| item.contains(expected)),
            "{expected}: {:?}",
            report.broken
        );
        assert!(
            report.verdict.starts_with("BROKEN kill-host on lan: "),
            "{}",
            report.verdict
        );
    }
}

#[test]
fn gap_is_judged_by_the_fabrics_own_statistic() {
    let mut slow = calls();
    slow[0] = outcome(0, CallPlan::Talking, 1_150);
    let run = run_of(slow, measured());
    assert!(!report(vec![run.clone()]).passed(), "200 ms on a LAN");
    let ec2 = Contract::ec2(Duration::from_millis(1_000));
    let judge =
        |run: &RunReport| DrillReport::new("kill-host", "ec2", &ec2, vec![run.clone()], Vec::new());
    assert!(judge(&run).passed());
    let mut slower = calls();
    slower[0] = outcome(0, CallPlan::Talking, 1_201);
    assert!(
        !judge(&run_of(slower, measured())).passed(),
        "every single call counts on EC2"
    );
}

#[test]
fn run_without_a_report_breaks_the_drill() {
    let failures = vec!["run 2: not protected within 30s".to_owned()];
    let report = DrillReport::new(
        "partition",
        "lan",
        &Contract::lan(),
        vec![run_of(calls(), measured())],
        failures,
    );
    assert_eq!(
        report.verdict,
        "BROKEN partition on lan: run 2: not protected within 30s"
    );
}

//! What a drill found: per call, per run, over all runs; the table for people and the verdict.

mod contract;
mod table;

use serde::{Deserialize, Serialize};

use crate::phone::CallReport;
use crate::phone::media::Hearing;
use crate::phone::voice::CallIndex;
pub use contract::Contract;
pub use table::write_table;

/// What a call was meant to do when the fault came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallPlan {
    /// Established before the fault.
    Talking,
    /// Ringing at the fault, answered after it.
    Ringing,
}

/// What became of one call, seen from both phones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CallOutcome {
    pub index: CallIndex,
    pub plan: CallPlan,
    /// Speech was heard both ways after the takeover.
    pub speech_returned: bool,
    pub caller: Option<CallReport>,
    pub callee: Option<CallReport>,
    /// As heard by the callee.
    pub caller_to_callee: Hearing,
    /// As heard by the caller.
    pub callee_to_caller: Hearing,
}

impl CallOutcome {
    /// Both phones had it established.
    pub fn established(&self) -> bool {
        self.reports()
            .is_some_and(|both| both.iter().all(|report| report.established))
    }

    /// Established, heard both ways after the fault, and ended by a BYE that one end sent, the
    /// other got, and the first saw answered.
    pub fn survived(&self) -> bool {
        self.established() && self.speech_returned && self.bye_answered()
    }

    fn bye_answered(&self) -> bool {
        self.reports().is_some_and(|[caller, callee]| {
            let ended = |from: &CallReport, to: &CallReport| {
                from.bye_status == Some(200) && to.bye_received
            };
            ended(caller, callee) || ended(callee, caller)
        })
    }

    /// BYEs sent and not answered 200.
    fn byes_unanswered(&self) -> usize {
        let sent = self
            .caller
            .iter()
            .chain(&self.callee)
            .filter(|report| report.bye_sent);
        sent.filter(|report| report.bye_status != Some(200)).count()
    }

    fn complaints(&self) -> u32 {
        self.caller
            .iter()
            .chain(&self.callee)
            .map(|report| report.complaint_count)
            .sum()
    }

    fn hearings(&self) -> [&Hearing; 2] {
        [&self.caller_to_callee, &self.callee_to_caller]
    }

    fn reports(&self) -> Option<[&CallReport; 2]> {
        Some([self.caller.as_ref()?, self.callee.as_ref()?])
    }
}

/// Median, 99th percentile and maximum, in the unit of the samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Quantiles {
    /// By the nearest-rank method; all zero without samples.
    pub fn of(mut samples: Vec<u64>) -> Quantiles {
        samples.sort_unstable();
        let rank = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            samples.get(rank - 1).copied().unwrap_or(0)
        };
        Quantiles {
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

/// The figures of one run, or of all runs together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    pub calls_established: usize,
    pub calls_survived: usize,
    pub calls_ringing: usize,
    pub ringing_survived: usize,
    /// Longest silence around the fault, over both directions of every established call.
    pub media_gap_ms: Quantiles,
    /// Lost since just before the fault, both directions.
    pub packets_lost: u64,
    /// Sent from the floating address by a node that had been replaced.
    pub dual_owner_packets: usize,
    pub cdrs_expected: usize,
    pub cdrs_written: usize,
    pub cdrs_duplicated: usize,
    /// From the fault to the survivor's election; null when it did not happen. The worst, of
    /// several runs.
    pub detection_ms: Option<u64>,
    /// From the fault to the survivor's open gate.
    pub takeover_ms: Option<u64>,
    /// From the fault to the verified floating address.
    pub address_ms: Option<u64>,
    pub packets_duplicated: u64,
    pub packets_reordered: u64,
    /// Packets with other speech or another timestamp than their sequence number calls for.
    pub packets_wrong: u64,
    /// Packets of a stream that is not the call's.
    pub packets_foreign: u64,
    pub byes_unanswered: usize,
    /// Violations of SIP that the phones noticed.
    pub complaints: u64,
}

/// What a run measured beside its calls.
#[derive(Debug, Clone, Default)]
pub struct Measurements {
    pub dual_owner_packets: usize,
    pub cdrs_expected: usize,
    pub cdrs_written: usize,
    pub cdrs_duplicated: usize,
    pub detection_ms: Option<u64>,
    pub takeover_ms: Option<u64>,
    pub address_ms: Option<u64>,
}

impl Summary {
    /// Sums up one run.
    pub fn of(calls: &[CallOutcome], measured: Measurements) -> Summary {
        let planned = |plan| calls.iter().filter(move |call| call.plan == plan);
        let hearings = || calls.iter().flat_map(CallOutcome::hearings);
        let total =
            |count: fn(&Hearing) -> u32| hearings().map(|heard| u64::from(count(heard))).sum();
        Summary {
            calls_established: planned(CallPlan::Talking)
                .filter(|call| call.established())
                .count(),
            calls_survived: planned(CallPlan::Talking)
                .filter(|call| call.survived())
                .count(),
            calls_ringing: planned(CallPlan::Ringing).count(),
            ringing_survived: planned(CallPlan::Ringing)
                .filter(|call| call.survived())
                .count(),
            media_gap_ms: Quantiles::of(gaps(calls)),
            packets_lost: total(|heard| heard.lost_in_window),
            packets_duplicated: total(|heard| heard.tally.duplicated),
            packets_reordered: total(|heard| heard.tally.reordered),
            packets_wrong: total(|heard| {
                heard.tally.content_mismatches + heard.tally.timestamp_errors
            }),
            packets_foreign: total(|heard| heard.tally.foreign),
            byes_unanswered: calls.iter().map(CallOutcome::byes_unanswered).sum(),
            complaints: calls.iter().map(|call| u64::from(call.complaints())).sum(),
            dual_owner_packets: measured.dual_owner_packets,
            cdrs_expected: measured.cdrs_expected,
            cdrs_written: measured.cdrs_written,
            cdrs_duplicated: measured.cdrs_duplicated,
            detection_ms: measured.detection_ms,
            takeover_ms: measured.takeover_ms,
            address_ms: measured.address_ms,
        }
    }

    /// All runs together: counts add up, gaps are judged over all calls, times are the worst.
    pub fn over(runs: &[RunReport]) -> Summary {
        let calls: Vec<CallOutcome> = runs.iter().flat_map(|run| run.calls.clone()).collect();
        let each = || runs.iter().map(|run| &run.summary);
        // A run in which a step never happened has no time for it; the worst is then not a time
        // either.
        let worst = |time: fn(&Summary) -> Option<u64>| {
            each()
                .map(time)
                .collect::<Option<Vec<u64>>>()
                .and_then(|times| times.into_iter().max())
        };
        let measured = Measurements {
            dual_owner_packets: each().map(|run| run.dual_owner_packets).sum(),
            cdrs_expected: each().map(|run| run.cdrs_expected).sum(),
            cdrs_written: each().map(|run| run.cdrs_written).sum(),
            cdrs_duplicated: each().map(|run| run.cdrs_duplicated).sum(),
            detection_ms: worst(|run| run.detection_ms),
            takeover_ms: worst(|run| run.takeover_ms),
            address_ms: worst(|run| run.address_ms),
        };
        Summary::of(&calls, measured)
    }
}

/// One sample for each direction of each call that was established at the fault.
fn gaps(calls: &[CallOutcome]) -> Vec<u64> {
    calls
        .iter()
        .filter(|call| call.plan == CallPlan::Talking && call.established())
        .flat_map(CallOutcome::hearings)
        .filter_map(|heard| heard.longest_gap_ms)
        .collect()
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunReport {
    pub seed: u64,
    #[serde(flatten)]
    pub summary: Summary,
    /// Calls that were to be established before the fault.
    pub calls_planned: usize,
    /// Why the pair did not become fully protected again; null where it did, or could not.
    pub unprotected: Option<String>,
    /// Whether the capture saw every packet: otherwise `dual_owner_packets` proves nothing.
    pub capture_complete: bool,
    /// How late the phones themselves sent around the fault.
    pub phones_late_ms: u64,
    pub calls: Vec<CallOutcome>,
    /// Items of the contract that did not hold.
    pub broken: Vec<String>,
}

/// All runs of a drill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrillReport {
    pub drill: String,
    pub fabric: String,
    #[serde(flatten)]
    pub summary: Summary,
    pub runs: Vec<RunReport>,
    pub broken: Vec<String>,
    /// The last line of the human summary.
    pub verdict: String,
}

impl DrillReport {
    /// Judges the runs. `failures` are runs that gave no report.
    pub fn new(
        drill: &str,
        fabric: &str,
        contract: &Contract,
        runs: Vec<RunReport>,
        failures: Vec<String>,
    ) -> DrillReport {
        let summary = Summary::over(&runs);
        let mut broken = failures;
        for (number, run) in runs.iter().enumerate() {
            broken.extend(
                run.broken
                    .iter()
                    .map(|item| format!("run {}: {item}", number + 1)),
            );
        }
        broken.extend(contract.broken_over_all(&summary));
        let verdict = table::verdict(drill, fabric, &summary, runs.len(), &broken);
        DrillReport {
            drill: drill.into(),
            fabric: fabric.into(),
            summary,
            runs,
            broken,
            verdict,
        }
    }

    /// Whether the contract held.
    pub fn passed(&self) -> bool {
        self.broken.is_empty()
    }
}

#[cfg(test)]
mod tests;

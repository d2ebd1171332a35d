//! What must hold in every run; each broken item is named.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{RunReport, Summary};

/// The promise that a drill tests.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Contract {
    /// Longest silence allowed.
    pub gap: Duration,
    /// Which silence is compared.
    pub gap_judged: GapJudged,
}

/// The statistic that a gap target is stated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GapJudged {
    /// The 99th percentile, over all calls and runs.
    Percentile99,
    /// Every single call.
    Maximum,
}

impl Contract {
    /// On a LAN the address moves with one frame: p99 of 200 ms.
    pub fn lan() -> Contract {
        Contract {
            gap: Duration::from_millis(200),
            gap_judged: GapJudged::Percentile99,
        }
    }

    /// On EC2 the API's effect delay comes before the same 200 ms, for every call.
    pub fn ec2(effect_delay: Duration) -> Contract {
        Contract {
            gap: effect_delay + Duration::from_millis(200),
            gap_judged: GapJudged::Maximum,
        }
    }

    /// Items that one run broke.
    pub fn broken(&self, run: &RunReport) -> Vec<String> {
        let Summary {
            calls_established: established,
            calls_survived: survived,
            calls_ringing: ringing,
            ringing_survived,
            cdrs_expected,
            cdrs_written,
            ..
        } = run.summary;
        let summary = &run.summary;
        let mut broken = Vec::new();
        let mut item = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        let planned = run.calls_planned;
        item(
            established == planned,
            format!("{established} of {planned} calls were established"),
        );
        item(
            survived == established,
            format!("{survived} of {established} calls survived"),
        );
        item(
            ringing_survived == ringing,
            format!("{ringing_survived} of {ringing} ringing calls survived"),
        );
        item(
            cdrs_written == cdrs_expected,
            format!("{cdrs_written} of {cdrs_expected} call detail records were written"),
        );
        let none = [
            (
                summary.cdrs_duplicated as u64,
                "call detail records were duplicated",
            ),
            (
                summary.dual_owner_packets as u64,
                "packets left from a node that had been replaced",
            ),
            (summary.byes_unanswered as u64, "BYEs were not answered"),
            (
                summary.packets_wrong,
                "packets carried wrong speech or timestamps",
            ),
            (
                summary.packets_foreign,
                "packets belonged to no call of their port",
            ),
            (summary.complaints, "violations of SIP"),
        ];
        for (count, what) in none {
            item(count == 0, format!("{count} {what}"));
        }
        item(
            run.capture_complete,
            "the capture was incomplete: one owner is not proven".into(),
        );
        item(summary.takeover_ms.is_some(), "nobody took over".into());
        item(
            summary.detection_ms.is_some(),
            "the survivor reported no election".into(),
        );
        item(
            summary.address_ms.is_some(),
            "the survivor did not verify the address".into(),
        );
        if let Some(reason) = &run.unprotected {
            item(false, format!("not protected again: {reason}"));
        }
        broken
    }

    /// Items that show only over all runs.
    pub fn broken_over_all(&self, summary: &Summary) -> Option<String> {
        let limit = self.gap.as_millis() as u64;
        let (gap, name) = match self.gap_judged {
            GapJudged::Percentile99 => (summary.media_gap_ms.p99, "p99"),
            GapJudged::Maximum => (summary.media_gap_ms.max, "max"),
        };
        (gap > limit).then(|| format!("media gap {name} {gap} ms, more than {limit} ms"))
    }
}

//! One run of a drill, from an empty sandbox to its report.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::block_in_place;

use super::pair::{Owner, Pair, Takeover};
use super::phones::PhonePair;
use super::{FabricKind, FaultKind, RunOptions};
use crate::capture::{Capture, dual_owner_packets};
use crate::clock::boottime;
use crate::fabric::{Fabric, Faults};
use crate::host::HostId;
use crate::node_process::NodeFiles;
use crate::phone::voice::CallIndex;
use crate::report::{Measurements, RunReport, Summary};

/// Three processes, an election, and on EC2 the address; generous, because a loaded machine is no
/// finding here.
const READY_WITHIN: Duration = Duration::from_secs(60);
const ESTABLISH_WITHIN: Duration = Duration::from_secs(20);
const FLOW_WITHIN: Duration = Duration::from_secs(10);
const TAKEOVER_WITHIN: Duration = Duration::from_secs(30);
/// Timer F (32 s) and some.
const HANG_UP_WITHIN: Duration = Duration::from_secs(35);
const RECORDS_WITHIN: Duration = Duration::from_secs(10);
const REJOIN_WITHIN: Duration = Duration::from_secs(30);

/// Talk before the fault, in ms: long enough to settle, and varied so that the fault meets every
/// phase of the nodes' timers.
const TALK_MS: std::ops::Range<u64> = 2_000..3_000;

/// Builds everything, injects the fault, measures. Call it inside the sandbox and a multi-threaded
/// runtime.
pub async fn run_once(options: &RunOptions) -> anyhow::Result<RunReport> {
    let fabric = build(options)?;
    let capture = fabric.capture()?;
    let files = NodeFiles {
        binary: options.tandem.clone(),
        directory: options.directory.clone(),
        profile: options.profile.clone(),
        calls: 0,
    };
    let mut pair = Pair::start(&fabric, &files)?;
    let owner = pair.await_protected(READY_WITHIN).await?;
    tracing::info!(owner = %owner.id, epoch = owner.epoch, "protected");
    let phones = PhonePair::start(&fabric, options.calls, options.ringing, options.seed)?;
    let missing = phones.place_calls(ESTABLISH_WITHIN).await?;
    let missing_flow = phones.await_flow(&phones.talking, FLOW_WITHIN).await;
    tracing::info!(?missing, silent = ?missing_flow, "calls placed");
    let talk = StdRng::seed_from_u64(options.seed).random_range(TALK_MS);
    tokio::time::sleep(Duration::from_millis(talk)).await;

    phones.open_window();
    let fault = inject(&fabric, &pair, &owner, options.fault)?;
    // Without a takeover the calls still tell what became of them.
    let takeover = pair.await_takeover(&owner, TAKEOVER_WITHIN).await;
    tracing::info!(?takeover, "after the fault");
    let silent = settle(&fabric, &phones, &owner, options.fault).await?;
    let unprotected = match options.fault.old_owner_returns() {
        true => pair.await_protected_again(REJOIN_WITHIN).await,
        false => None,
    };
    phones.end_count();
    phones.await_flow(&phones.all(), FLOW_WITHIN).await;
    phones.hang_up(HANG_UP_WITHIN).await?;
    let calls = phones.outcomes(&silent);
    let ended = calls.iter().filter(|call| call.established()).count();
    let holders = record_holders(&owner, options.fault);
    let records = pair.count_records(&holders, ended, RECORDS_WITHIN).await?;
    let (dual_owner_packets, capture_complete) = judge_capture(&pair, capture);
    let measured = Measurements {
        dual_owner_packets,
        cdrs_expected: ended,
        cdrs_written: records.written,
        cdrs_duplicated: records.duplicated,
        ..takeover.map_or_else(
            |_| Measurements::default(),
            |takeover| times(fault, &takeover),
        )
    };
    let mut report = RunReport {
        seed: options.seed,
        summary: Summary::of(&calls, measured),
        calls_planned: phones.talking.len(),
        unprotected,
        capture_complete,
        phones_late_ms: phones.worst_lateness().as_millis() as u64,
        calls,
        broken: Vec::new(),
    };
    report.broken = options.contract.broken(&report);
    Ok(report)
}

fn build(options: &RunOptions) -> anyhow::Result<Fabric> {
    let fabric = match options.fabric {
        FabricKind::Ec2 => Fabric::ec2()?,
        FabricKind::Lan => Fabric::lan()?,
    };
    if let Fabric::Ec2(ec2) = &fabric {
        ec2.set_faults(Faults {
            effect_delay: options.effect_delay,
            ..Faults::default()
        })?;
    }
    Ok(fabric)
}

/// Makes the fault happen to the owner; returns when it began.
pub fn inject(
    fabric: &Fabric,
    pair: &Pair,
    owner: &Owner,
    fault: FaultKind,
) -> anyhow::Result<Duration> {
    block_in_place(|| strike(fabric, pair, owner, fault))
        .with_context(|| format!("{} of {}", fault.name(), owner.id))
}

fn strike(
    fabric: &Fabric,
    pair: &Pair,
    owner: &Owner,
    fault: FaultKind,
) -> anyhow::Result<Duration> {
    match fault {
        FaultKind::KillHost => {
            let at = boottime();
            fabric.host(owner.id).power_cut()?;
            Ok(at)
        }
        FaultKind::KillWorker => {
            let worker = pair.node(owner.id)?.worker()?;
            let at = boottime();
            worker.kill()?;
            Ok(at)
        }
        FaultKind::Partition => {
            let at = boottime();
            fabric.isolate(owner.id)?;
            Ok(at)
        }
    }
}

/// From the takeover to the last call talking: speech returns, the ringing calls are answered, a
/// partition is healed under load. Returns the calls on which speech did not return, or did not
/// stay.
async fn settle(
    fabric: &Fabric,
    phones: &PhonePair,
    owner: &Owner,
    fault: FaultKind,
) -> anyhow::Result<BTreeSet<CallIndex>> {
    let mut silent: BTreeSet<CallIndex> = phones
        .await_flow(&phones.talking, FLOW_WITHIN)
        .await
        .into_iter()
        .collect();
    phones.close_window();
    let unanswered = phones.answer_ringing(ESTABLISH_WITHIN).await?;
    tracing::info!(?silent, ?unanswered, "after the takeover");
    silent.extend(phones.await_flow(&phones.ringing, FLOW_WITHIN).await);
    if fault == FaultKind::Partition {
        block_in_place(|| fabric.heal(owner.id))?;
        silent.extend(phones.await_flow(&phones.all(), FLOW_WITHIN).await);
    }
    Ok(silent)
}

fn judge_capture(pair: &Pair, capture: Capture) -> (usize, bool) {
    let captured = block_in_place(|| capture.finish());
    let dual = dual_owner_packets(&captured.packets, &pair.serve_times());
    for packet in dual.iter().take(10) {
        tracing::warn!(?packet, "from a node that had been replaced");
    }
    (dual.len(), captured.is_complete())
}

/// The data nodes that live at the end: each has to have every record.
fn record_holders(owner: &Owner, fault: FaultKind) -> Vec<HostId> {
    let lives = |id: &HostId| *id != owner.id || fault.old_owner_returns();
    HostId::DATA_NODES.into_iter().filter(lives).collect()
}

fn times(fault: Duration, takeover: &Takeover) -> Measurements {
    // An election can be under way when the fault comes; then detection took no time.
    let since = |at: Duration| at.saturating_sub(fault).as_millis() as u64;
    Measurements {
        detection_ms: takeover.elected.map(since),
        takeover_ms: Some(since(takeover.gate_opened)),
        address_ms: takeover.address_verified.map(since),
        ..Measurements::default()
    }
}

//! The log line of a transition. Drills and operators read these.

use tandem_failover_core::{Slot, Transition};

/// One line for each transition, in one form for all machines.
pub fn log_transition(transition: &Transition, slot: Slot) {
    // 584 years of uptime fit.
    let boottime_ns = u64::try_from(transition.at.as_nanos()).unwrap_or(u64::MAX);
    tracing::info!(
        target: "tandem::transition",
        event = transition.event.as_str(),
        slot = slot.as_str(),
        epoch = transition.epoch.0,
        boottime_ns,
        "transition"
    );
}

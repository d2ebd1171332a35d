//! How late the Raft thread runs its ticks, and how near its leases came to their end.

use std::sync::Mutex;
use std::time::Duration;

use serde::Serialize;

use crate::measure::{Latency, LatencyMeter};

/// A replica's punctuality since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Punctuality {
    /// From the instant a tick was due until it ran.
    pub tick_late: Latency,
    /// The least that was left of a lease when it was renewed, in microseconds; zero when one ran out. Absent while
    /// no lease was ever renewed.
    pub worst_lease_margin_us: Option<u64>,
}

#[derive(Debug, Default)]
struct Margin {
    /// Term and end of the lease held.
    held: Option<(u64, Duration)>,
    worst_us: Option<u64>,
}

impl Margin {
    fn note(&mut self, left: Duration) {
        let left = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
        self.worst_us = Some(self.worst_us.map_or(left, |worst| worst.min(left)));
    }
}

/// Collects it; written by the Raft thread only.
#[derive(Debug, Default)]
pub(crate) struct PunctualityMeter {
    tick_late: LatencyMeter,
    margin: Mutex<Margin>,
}

impl PunctualityMeter {
    /// The thread is awake; a tick was due at `deadline`, which may still lie ahead.
    pub(crate) fn woke(&self, deadline: Duration, now: Duration) {
        if let Some(late) = now.checked_sub(deadline) {
            self.tick_late.record(late);
        }
    }

    /// A lease was granted or renewed.
    pub(crate) fn leased(&self, term: u64, until: Duration, now: Duration) {
        let mut margin = self.margin.lock().expect("no holder of this lock panics");
        if let Some((held, end)) = margin.held
            && held == term
        {
            margin.note(end.saturating_sub(now));
        }
        margin.held = Some((term, until));
    }

    /// The lease ended, by the clock or by its term.
    pub(crate) fn lost(&self, now: Duration) {
        let mut margin = self.margin.lock().expect("no holder of this lock panics");
        if let Some((_, end)) = margin.held.take()
            && end <= now
        {
            margin.note(Duration::ZERO);
        }
    }

    pub(crate) fn status(&self) -> Punctuality {
        let margin = self.margin.lock().expect("no holder of this lock panics");
        Punctuality {
            tick_late: self.tick_late.latency(),
            worst_lease_margin_us: margin.worst_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_margin_is_what_was_left_at_a_renewal_within_a_term() {
        let meter = PunctualityMeter::default();
        let worst = || meter.status().worst_lease_margin_us;
        meter.leased(3, at(180), at(101));
        assert_eq!(worst(), None, "a first lease renews nothing");
        meter.leased(3, at(190), at(111));
        assert_eq!(worst(), Some(69_000));
        meter.leased(3, at(230), at(150));
        meter.leased(3, at(240), at(151));
        assert_eq!(worst(), Some(40_000), "the worst stays");
        meter.lost(at(200));
        assert_eq!(worst(), Some(40_000), "given up before its end");
        meter.leased(5, at(380), at(301));
        assert_eq!(worst(), Some(40_000), "another term renews nothing");
        meter.lost(at(380));
        assert_eq!(worst(), Some(0), "ran out");
    }

    #[test]
    fn only_ticks_that_were_due_count() {
        let meter = PunctualityMeter::default();
        meter.woke(at(20), at(19));
        meter.woke(at(20), at(23));
        let late = meter.status().tick_late;
        assert_eq!((late.count, late.max_us), (1, 3_000));
    }
}

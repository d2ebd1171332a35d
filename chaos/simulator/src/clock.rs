//! True time, and what a machine's own clocks make of it.

use std::time::Duration;

use tandem_sip::time::Timestamp;

/// Wall-clock time of the simulation's start, in Unix milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The wall clock of those whose clock is right: the phones.
pub(crate) fn wall(truth: Duration) -> Timestamp {
    Timestamp(EPOCH_MS + tandem_sip::time::millis(truth))
}

/// One machine's clocks against true time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineClock {
    /// CLOCK_BOOTTIME at the simulation's start.
    pub(crate) offset: Duration,
    /// Parts per million that CLOCK_BOOTTIME is fast.
    pub(crate) drift_ppm: i64,
    /// How far the wall clock is ahead.
    pub(crate) wall_ahead: Duration,
}

impl MachineClock {
    /// CLOCK_BOOTTIME at a true time.
    pub(crate) fn boot(self, truth: Duration) -> Duration {
        let drift = truth.as_nanos() as i64 / 1_000_000 * self.drift_ppm;
        let nanos = self.offset.as_nanos() as i64 + truth.as_nanos() as i64 + drift;
        Duration::from_nanos(nanos as u64)
    }

    /// The first true time at which CLOCK_BOOTTIME shows at least `boot`.
    pub(crate) fn truth(self, boot: Duration) -> Duration {
        let elapsed = boot.saturating_sub(self.offset);
        elapsed.mul_f64(1.0 / (1.0 + self.drift_ppm as f64 / 1e6)) + Duration::from_micros(2)
    }

    /// The wall clock at a true time.
    pub(crate) fn wall(self, truth: Duration) -> Timestamp {
        wall(truth + self.wall_ahead)
    }
}

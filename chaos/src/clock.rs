//! The one clock of a drill: time since boot, also while suspended, the same in every namespace and
//! process.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME. The nodes stamp their transitions with the same clock.
#[must_use]
pub fn boottime() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// CLOCK_REALTIME: only to translate kernel packet timestamps into boot time.
pub(crate) fn realtime() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> Duration {
    Duration::from(clock_gettime(clock).expect("Linux has had this clock since 2.6.39"))
}

//! The clock of both cores.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME: unlike the monotonic clock it runs on while the host is suspended, so a paused owner
/// wakes up past its lease.
pub fn boottime() -> Duration {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every supported kernel has CLOCK_BOOTTIME");
    Duration::from(now)
}

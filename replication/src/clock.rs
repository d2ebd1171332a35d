//! The one clock of replication: CLOCK_BOOTTIME, which goes on while a machine sleeps and which both
//! halves of a lease (the Raft thread and the packet path) read.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since boot.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("CLOCK_BOOTTIME exists on every Linux since 2.6.39");
    Duration::from(time)
}

//! The gate: whether this node may send from the floating address right now.

use nix::time::{ClockId, clock_gettime};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const CLOSED: u64 = 0;

/// Time since boot, suspension included (CLOCK_BOOTTIME): a lease must not outlive a pause of the whole machine.
pub fn boottime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("Linux has had CLOCK_BOOTTIME since 2.6.39, and the argument is a constant")
        .into()
}

/// Open until a moment of CLOCK_BOOTTIME. Nobody has to close it: a process that was stopped past the lease finds it
/// closed when it goes on.
///
/// Every emission path asks [`Gate::is_open`] right before each send.
#[derive(Debug)]
pub struct Gate {
    expiry_ns: AtomicU64,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate {
            expiry_ns: AtomicU64::new(CLOSED),
        }
    }

    /// Opens the gate, or moves its expiry, to this many nanoseconds of CLOCK_BOOTTIME.
    pub fn open_until(&self, boottime_ns: u64) {
        self.expiry_ns.store(boottime_ns, Ordering::Release);
    }

    pub fn close(&self) {
        self.expiry_ns.store(CLOSED, Ordering::Release);
    }

    pub fn is_open(&self) -> bool {
        self.is_open_at(boottime())
    }

    /// The moment of CLOCK_BOOTTIME at which it closes by itself; zero when closed.
    pub fn expiry_ns(&self) -> u64 {
        self.expiry_ns.load(Ordering::Acquire)
    }

    fn is_open_at(&self, now: Duration) -> bool {
        now.as_nanos() < u128::from(self.expiry_ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_by_itself_at_the_expiry() {
        let gate = Gate::new();
        assert!(!gate.is_open());
        gate.open_until(1_000);
        assert!(gate.is_open_at(Duration::from_nanos(999)));
        assert!(!gate.is_open_at(Duration::from_nanos(1_000)));
        assert!(
            !gate.is_open(),
            "the machine has been up for more than a microsecond"
        );
    }

    #[test]
    fn closing_overrides_the_expiry() {
        let gate = Gate::new();
        gate.open_until(u64::MAX);
        assert!(gate.is_open());
        gate.close();
        assert!(!gate.is_open());
    }
}

//! Wall-clock time as the SIP core sees it.
//!
//! Deadlines live in call records, and a record is read by whichever node serves next. A monotonic clock means
//! nothing on the other machine, so the core counts Unix milliseconds and leaves clock reading to the shell.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment in Unix milliseconds. Arithmetic saturates: a clock that jumps never panics the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub const ZERO: Timestamp = Timestamp(0);
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// The form that goes into records.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero when `earlier` lies in the future.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Time left until `later`; zero when it has passed.
    pub fn until(self, later: Timestamp) -> Duration {
        later.since(self)
    }
}

impl From<u64> for Timestamp {
    fn from(millis: u64) -> Timestamp {
        Timestamp(millis)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(millis(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(millis(duration)))
    }
}

/// Whole milliseconds of a duration, saturating. The unit of every interval kept in a record.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Timestamp::MAX + Duration::from_millis(1), Timestamp::MAX);
        assert_eq!(Timestamp(5) - Duration::from_millis(9), Timestamp::ZERO);
        assert_eq!(Timestamp(5) + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp(9).since(Timestamp(4)), Duration::from_millis(5));
        assert_eq!(Timestamp(4).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(4).until(Timestamp(9)), Duration::from_millis(5));
    }
}

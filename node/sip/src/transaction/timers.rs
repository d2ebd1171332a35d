//! The timer table: RFC 3261 table 4 with the changes of RFC 6026 section 7.
//!
//! | timer | value | meaning |
//! |---|---|---|
//! | A | T1, doubling | INVITE request retransmission, unreliable transports |
//! | B | 64*T1 | INVITE transaction timeout |
//! | D | > 32 s, 0 if reliable | wait for response retransmissions (INVITE client, Completed) |
//! | E | T1, doubling to T2 | non-INVITE request retransmission, unreliable transports |
//! | F | 64*T1 | non-INVITE transaction timeout |
//! | G | T1, doubling to T2 | INVITE response retransmission, unreliable transports |
//! | H | 64*T1 | wait for the ACK |
//! | I | T4, 0 if reliable | wait for ACK retransmissions |
//! | J | 64*T1, 0 if reliable | wait for request retransmissions (non-INVITE server) |
//! | K | T4, 0 if reliable | wait for response retransmissions (non-INVITE client) |
//! | L | 64*T1 | wait for INVITE retransmissions after a 2xx (RFC 6026) |
//! | M | 64*T1 | wait for 2xx retransmissions (RFC 6026) |

use std::time::Duration;

use crate::time::{Timestamp, millis};

/// RFC 3261 section 17.1.1.2: timer D is "at least 32 seconds for unreliable transports".
const TIMER_D_MINIMUM: Duration = Duration::from_secs(32);

/// The three base values everything else derives from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerConfig {
    /// Round-trip estimate.
    pub t1: Duration,
    /// Longest retransmission interval of non-INVITE requests and INVITE responses.
    pub t2: Duration,
    /// Longest time a message stays in the network.
    pub t4: Duration,
}

impl Default for TimerConfig {
    fn default() -> TimerConfig {
        TimerConfig {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

impl TimerConfig {
    /// 64*T1: timers B, F, H, J, L and M.
    pub fn give_up(&self) -> Duration {
        self.t1.saturating_mul(64)
    }

    pub(super) fn timer_d(&self, reliable: bool) -> Duration {
        if reliable {
            Duration::ZERO
        } else {
            TIMER_D_MINIMUM.max(self.give_up())
        }
    }

    /// Timers I and K.
    pub(super) fn linger(&self, reliable: bool) -> Duration {
        if reliable { Duration::ZERO } else { self.t4 }
    }

    pub(super) fn timer_j(&self, reliable: bool) -> Duration {
        if reliable {
            Duration::ZERO
        } else {
            self.give_up()
        }
    }
}

/// A retransmission schedule: timers A, E and G. Absent on reliable transports.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Retransmission {
    /// Unix milliseconds.
    #[prost(uint64, tag = "1")]
    at: u64,
    /// Milliseconds from the last transmission to `at`.
    #[prost(uint64, tag = "2")]
    interval: u64,
}

impl Retransmission {
    /// First retransmission one T1 after `now`; none on a reliable transport.
    pub(super) fn start(
        now: Timestamp,
        timers: &TimerConfig,
        reliable: bool,
    ) -> Option<Retransmission> {
        (!reliable).then(|| Retransmission::after(now, timers.t1))
    }

    /// One `interval` after a transmission at `now`.
    pub(super) fn after(now: Timestamp, interval: Duration) -> Retransmission {
        // An interval of zero would fire for ever at one instant.
        let interval = interval.max(Duration::from_millis(1));
        Retransmission {
            at: (now + interval).as_millis(),
            interval: millis(interval),
        }
    }

    pub(super) fn at(&self) -> Timestamp {
        Timestamp(self.at)
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.at() <= now
    }

    /// The schedule after a transmission at `now`: the interval doubles, up to `limit`.
    pub(super) fn next(&self, now: Timestamp, limit: Duration) -> Retransmission {
        let doubled = Duration::from_millis(self.interval.saturating_mul(2));
        Retransmission::after(now, doubled.min(limit))
    }
}

/// The earlier of two deadlines, where absent means never.
pub(super) fn earliest(one: Option<Timestamp>, two: Option<Timestamp>) -> Option<Timestamp> {
    match (one, two) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (some, None) | (None, some) => some,
    }
}

//! Raft's logical clock over real time.

use std::time::Duration;

/// Late ticks run at once at most; the rest are skipped. Skipping is safe, a follower only waits longer.
/// Half an election timeout: one pause alone never makes a follower stand for election before it has
/// read what arrived meanwhile.
const MAX_CATCH_UP_TICKS: u32 = 5;

#[derive(Debug)]
pub(crate) struct Clock {
    tick: Duration,
    next: Duration,
}

/// Ticks to run now, and ticks that fell out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueTicks {
    pub(crate) run: u32,
    pub(crate) skipped: u64,
}

impl Clock {
    /// `phase` is the injected random offset, so that two machines started together do not tick together.
    pub(crate) fn new(tick: Duration, now: Duration, phase: Duration) -> Clock {
        Clock {
            tick,
            next: now.saturating_add(tick).saturating_add(phase),
        }
    }

    pub(crate) fn next(&self) -> Duration {
        self.next
    }

    pub(crate) fn due(&mut self, now: Duration) -> DueTicks {
        let Some(late) = now.checked_sub(self.next) else {
            return DueTicks { run: 0, skipped: 0 };
        };
        let tick_nanos = self.tick.as_nanos().max(1);
        let due = u64::try_from(late.as_nanos() / tick_nanos)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let run = u32::try_from(due)
            .unwrap_or(u32::MAX)
            .min(MAX_CATCH_UP_TICKS);
        let into_tick = u64::try_from(late.as_nanos() % tick_nanos).unwrap_or(0);
        self.next = now + self.tick - Duration::from_nanos(into_tick);
        DueTicks {
            run,
            skipped: due - u64::from(run),
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
    fn keeps_its_phase_and_bounds_the_catch_up() {
        let mut clock = Clock::new(at(10), at(100), at(3));
        assert_eq!(clock.due(at(112)), DueTicks { run: 0, skipped: 0 });
        assert_eq!(clock.due(at(113)), DueTicks { run: 1, skipped: 0 });
        assert_eq!(clock.due(at(147)), DueTicks { run: 3, skipped: 0 });
        assert_eq!(clock.next(), at(153));
        assert_eq!(
            clock.due(at(1155)),
            DueTicks {
                run: 5,
                skipped: 96
            }
        );
        assert_eq!(clock.next(), at(1163));
    }
}

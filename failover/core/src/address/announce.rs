//! When to tell the neighbours: several times at once against loss, then at growing distances for those
//! that were away, then no more. A heal starts it again.

use std::time::Duration;

/// Copies and distance from the start of each announcement.
const SCHEDULE: [(u8, Duration); 5] = [
    (5, Duration::ZERO),
    (1, Duration::from_secs(1)),
    (1, Duration::from_secs(2)),
    (1, Duration::from_secs(4)),
    (1, Duration::from_secs(8)),
];

#[derive(Debug, Default)]
pub(super) struct Announcements {
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    started: Duration,
    next: usize,
}

impl Announcements {
    pub(super) fn start(&mut self, now: Duration) {
        self.running = Some(Running {
            started: now,
            next: 0,
        });
    }

    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let running = self.running?;
        let (_, distance) = SCHEDULE.get(running.next)?;
        Some(running.started + *distance)
    }

    /// The copies to send now. After a late call the steps that were missed are not made up for.
    pub(super) fn due(&mut self, now: Duration) -> Option<u8> {
        let running = self.running.as_mut()?;
        let mut copies = None;
        while let Some((step, distance)) = SCHEDULE.get(running.next) {
            if running.started + *distance > now {
                break;
            }
            copies = copies.max(Some(*step));
            running.next += 1;
        }
        copies
    }
}

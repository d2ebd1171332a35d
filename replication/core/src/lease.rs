//! The right to serve.
//!
//! A voter that answers a heartbeat promises not to vote for anybody else for one election timeout.
//! Once a quorum has answered, nobody else can be elected before `send time + lease`, because the lease
//! is at least a tick shorter than the shortest election timeout: the tick covers the voters' coarse
//! clocks and the drift between machines.
//!
//! ```text
//!            confirmed by a quorum               expired, deposed, paused
//!   none ------------------------------> held ----------------------------> none
//!                                         | ^ |
//!                                         | +-+ confirmed again: later expiry
//!                                         v transfer started
//!                                  barred for this term
//! ```
//! A transfer bars the term because the vote it asks for overrides the voters' promises.

use std::time::Duration;

use crate::LeaseStatus;

/// Length of an encoded [`Probe`].
const PROBE_BYTES: usize = 16;

/// What a leader attaches to a heartbeat: the answer proves leadership at `sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) term: u64,
    pub(crate) sent: Duration,
}

impl Probe {
    pub(crate) fn encode(self) -> Vec<u8> {
        // 64 bits of nanoseconds last 584 years; a saturated value would only shorten the lease.
        let nanos = u64::try_from(self.sent.as_nanos()).unwrap_or(0);
        [self.term.to_be_bytes(), nanos.to_be_bytes()].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Probe> {
        let bytes: &[u8; PROBE_BYTES] = bytes.try_into().ok()?;
        let (term, nanos) = bytes.split_first_chunk::<8>()?;
        let nanos: &[u8; 8] = nanos.try_into().ok()?;
        Some(Probe {
            term: u64::from_be_bytes(*term),
            sent: Duration::from_nanos(u64::from_be_bytes(*nanos)),
        })
    }
}

#[derive(Debug)]
pub(crate) struct Lease {
    length: Duration,
    held: Option<LeaseStatus>,
    barred: u64,
}

impl Lease {
    pub(crate) fn new(length: Duration) -> Lease {
        Lease {
            length,
            held: None,
            barred: 0,
        }
    }

    pub(crate) fn held(&self) -> Option<LeaseStatus> {
        self.held
    }

    /// Whether a transfer was started in this term.
    pub(crate) fn is_barred(&self, term: u64) -> bool {
        self.barred >= term
    }

    /// No lease in this term any more; returns the term of the one that was held.
    pub(crate) fn bar(&mut self, term: u64) -> Option<u64> {
        self.barred = self.barred.max(term);
        self.release()
    }

    /// A quorum has answered the probe. Returns the lease if it is new or longer.
    pub(crate) fn confirm(&mut self, probe: Probe, now: Duration) -> Option<LeaseStatus> {
        let until = probe.sent.saturating_add(self.length);
        let longer = self
            .held
            .is_none_or(|held| held.term != probe.term || held.until < until);
        if self.is_barred(probe.term) || until <= now || !longer {
            return None;
        }
        self.held = Some(LeaseStatus {
            term: probe.term,
            until,
        });
        self.held
    }

    /// Gives the lease up; returns its term if one was held.
    pub(crate) fn release(&mut self) -> Option<u64> {
        self.held.take().map(|held| held.term)
    }

    /// Returns the lease's term if it has just run out.
    pub(crate) fn expire(&mut self, now: Duration) -> Option<u64> {
        self.held
            .filter(|held| held.until <= now)
            .and_then(|_| self.release())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LENGTH: Duration = Duration::from_millis(80);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn counts_from_the_send_time() {
        let mut lease = Lease::new(LENGTH);
        let granted = lease
            .confirm(
                Probe {
                    term: 3,
                    sent: at(100),
                },
                at(130),
            )
            .unwrap();
        assert_eq!(
            granted,
            LeaseStatus {
                term: 3,
                until: at(180)
            }
        );
        assert_eq!(
            lease.confirm(
                Probe {
                    term: 3,
                    sent: at(90)
                },
                at(131)
            ),
            None,
            "older answer"
        );
        assert_eq!(lease.expire(at(179)), None);
        assert_eq!(lease.expire(at(180)), Some(3));
        assert_eq!(lease.expire(at(181)), None, "lost once");
        assert_eq!(
            lease.confirm(
                Probe {
                    term: 3,
                    sent: at(101)
                },
                at(181)
            ),
            None,
            "answer too late"
        );
    }

    #[test]
    fn a_barred_term_gets_no_lease_again_but_the_next_does() {
        let mut lease = Lease::new(LENGTH);
        lease
            .confirm(
                Probe {
                    term: 3,
                    sent: at(100),
                },
                at(101),
            )
            .unwrap();
        assert_eq!(lease.bar(3), Some(3));
        assert_eq!(
            lease.confirm(
                Probe {
                    term: 3,
                    sent: at(110)
                },
                at(111)
            ),
            None
        );
        assert!(
            lease
                .confirm(
                    Probe {
                        term: 4,
                        sent: at(120)
                    },
                    at(121)
                )
                .is_some()
        );
    }

    #[test]
    fn probes_survive_the_round_trip_and_garbage_is_refused() {
        let probe = Probe {
            term: 7,
            sent: Duration::new(12, 345),
        };
        assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        assert_eq!(Probe::decode(&probe.encode()[1..]), None);
        assert_eq!(Probe::decode(&[]), None);
    }
}

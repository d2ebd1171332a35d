//! A message repeated until it is answered, as RFC 3261 prescribes over UDP.

use std::net::SocketAddr;
use std::time::Duration;

/// RFC 3261 table 4: round trip estimate.
pub(super) const T1: Duration = Duration::from_millis(500);
/// RFC 3261 table 4: longest interval of everything but INVITE requests.
const T2: Duration = Duration::from_secs(4);
/// Timers B, F and H: when to give up.
const GIVE_UP: Duration = T1.saturating_mul(64);

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    SendAgain(Vec<u8>, SocketAddr),
    GiveUp,
}

/// A message under way.
#[derive(Debug)]
pub(super) struct Retransmission {
    bytes: Vec<u8>,
    to: SocketAddr,
    interval: Duration,
    ceiling: Duration,
    next: Duration,
    gives_up: Duration,
}

impl Retransmission {
    /// An INVITE request: timer A doubles without a ceiling, timer B ends it (section 17.1.1.2).
    pub(super) fn invite(bytes: Vec<u8>, to: SocketAddr, now: Duration) -> Retransmission {
        Retransmission::new(bytes, to, Duration::MAX, now)
    }

    /// Another request (timers E and F, section 17.1.2.2), or a final response to INVITE until its
    /// ACK (timers G and H, section 17.2.1; for 2xx section 13.3.1.4): the intervals are the same.
    pub(super) fn capped(bytes: Vec<u8>, to: SocketAddr, now: Duration) -> Retransmission {
        Retransmission::new(bytes, to, T2, now)
    }

    fn new(bytes: Vec<u8>, to: SocketAddr, ceiling: Duration, now: Duration) -> Retransmission {
        Retransmission {
            bytes,
            to,
            interval: T1,
            ceiling,
            next: now + T1,
            gives_up: now + GIVE_UP,
        }
    }

    /// When [`Retransmission::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Duration {
        self.next.min(self.gives_up)
    }

    /// What is due at `now`.
    pub(super) fn handle_timeout(&mut self, now: Duration) -> Due {
        if now >= self.gives_up {
            return Due::GiveUp;
        }
        if now < self.next {
            return Due::Nothing;
        }
        self.interval = (self.interval * 2).min(self.ceiling);
        self.next = now + self.interval;
        Due::SendAgain(self.bytes.clone(), self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::{Due, Retransmission, T1};
    use std::time::Duration;

    fn instants(mut message: Retransmission) -> Vec<u64> {
        let mut instants = Vec::new();
        loop {
            let now = message.poll_timeout();
            match message.handle_timeout(now) {
                Due::SendAgain(..) => instants.push(now.as_millis() as u64),
                Due::GiveUp => return instants,
                Due::Nothing => panic!("poll_timeout named {now:?}, but nothing was due"),
            }
        }
    }

    #[test]
    fn intervals_follow_table_4() {
        let to = "192.0.2.1:5060".parse().expect("a literal address");
        let invite = Retransmission::invite(vec![1], to, Duration::ZERO);
        assert_eq!(instants(invite), [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
        let bye = Retransmission::capped(vec![1], to, Duration::ZERO);
        assert_eq!(
            instants(bye),
            [
                500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500
            ]
        );
        let mut early = Retransmission::capped(vec![1], to, Duration::ZERO);
        assert_eq!(early.handle_timeout(T1 / 2), Due::Nothing);
    }
}

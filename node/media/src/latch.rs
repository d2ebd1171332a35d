//! Source latching (RFC 7362) that locks.
//!
//! ```text
//!            valid media from the signalled address
//!   Open ───────────────────────────────────────────▶ Locked
//!    │                                                 ▲  │
//!    │ valid media from                                │  │ signalling names another address
//!    │ another source     from the signalled address,  │  ▼
//!    └──────▶ Provisional ─────────────────────────────┘ Open
//!                          or SETTLE with no word from it
//! ```
//!
//! RFC 7362 section 4.1 lets the first source win and section 5 warns of it: whoever guesses the port first gets the
//! media. So a source that signalling did not name is only provisional for [`SETTLE`]: its peer is served at once,
//! yet the signalled address can still take the latch back. After the lock nothing but signalling moves it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// How long the signalled address can reclaim the latch from a source that came first.
pub const SETTLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Provisional { source: SocketAddr, since: Duration },
    Locked { source: SocketAddr },
}

/// How the source of a packet stands to the latch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    Signalled,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Admitted,
    /// Admitted, and this packet locked the latch.
    Locked,
    Foreign,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Latch {
    signalled: Option<SocketAddr>,
    state: State,
}

impl Latch {
    pub(crate) fn new(signalled: Option<SocketAddr>, latched: Option<SocketAddr>) -> Latch {
        let signalled = signalled.filter(|address| usable(*address));
        let state = match latched.filter(|address| usable(*address)) {
            Some(source) => State::Locked { source },
            None => State::Open,
        };
        Latch { signalled, state }
    }

    /// A valid media packet, which may move the latch.
    pub(crate) fn admit(&mut self, source: SocketAddr, now: Duration) -> Admission {
        if !usable(source) {
            return Admission::Foreign;
        }
        let (state, admission) = match (self.state, self.origin(source)) {
            (State::Open, Origin::Signalled) => (State::Locked { source }, Admission::Locked),
            (State::Open, Origin::Other) => (
                State::Provisional { source, since: now },
                Admission::Admitted,
            ),
            (State::Provisional { .. }, Origin::Signalled) => {
                (State::Locked { source }, Admission::Locked)
            }
            (
                State::Provisional {
                    source: first,
                    since,
                },
                Origin::Other,
            ) => {
                if source != first {
                    return Admission::Foreign;
                }
                if now.saturating_sub(since) < SETTLE {
                    return Admission::Admitted;
                }
                (State::Locked { source }, Admission::Locked)
            }
            (State::Locked { source: owner }, Origin::Signalled | Origin::Other) => {
                if source != owner {
                    return Admission::Foreign;
                }
                return Admission::Admitted;
            }
        };
        self.state = state;
        admission
    }

    /// Whether a packet that must not move the latch may pass.
    pub(crate) fn knows(&self, source: SocketAddr) -> bool {
        match self.state {
            State::Open => self.signalled == Some(source),
            State::Provisional { source: first, .. } => {
                first == source || self.signalled == Some(source)
            }
            State::Locked { source: owner } => owner == source,
        }
    }

    /// Symmetric sending (RFC 4961): to where the peer's packets come from, before that to where it asked.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        self.source().or(self.signalled)
    }

    /// The source that holds the latch, provisionally or for good.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        match self.state {
            State::Open => None,
            State::Provisional { source, .. } | State::Locked { source } => Some(source),
        }
    }

    pub(crate) fn locked(&self) -> Option<SocketAddr> {
        match self.state {
            State::Open | State::Provisional { .. } => None,
            State::Locked { source } => Some(source),
        }
    }

    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.source().map(|source| source.ip())
    }

    fn origin(&self, source: SocketAddr) -> Origin {
        if self.signalled == Some(source) {
            Origin::Signalled
        } else {
            Origin::Other
        }
    }
}

/// Whether a datagram may be sent there. `0.0.0.0` is how RFC 2543 put a call on hold, and neither a group nor
/// everybody on the link is a peer.
fn usable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNALLED: &str = "192.0.2.1:4000";
    const FIRST: &str = "198.51.100.1:5000";
    const SECOND: &str = "203.0.113.1:6000";

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a literal address")
    }

    fn open() -> Latch {
        Latch::new(Some(address(SIGNALLED)), None)
    }

    fn provisional() -> Latch {
        let mut latch = open();
        latch.admit(address(FIRST), Duration::ZERO);
        latch
    }

    fn locked() -> Latch {
        Latch::new(Some(address(SIGNALLED)), Some(address(FIRST)))
    }

    /// Every state against every source, before and after the settling time.
    #[test]
    fn transition_table() {
        use Admission::{Admitted, Foreign, Locked};
        let early = SETTLE / 2;
        let table: [(&str, Latch, &str, Duration, Admission, &str, bool); 12] = [
            ("open", open(), SIGNALLED, early, Locked, SIGNALLED, true),
            ("open", open(), FIRST, early, Admitted, FIRST, false),
            (
                "prov",
                provisional(),
                SIGNALLED,
                early,
                Locked,
                SIGNALLED,
                true,
            ),
            ("prov", provisional(), FIRST, early, Admitted, FIRST, false),
            ("prov", provisional(), SECOND, early, Foreign, FIRST, false),
            (
                "prov",
                provisional(),
                SIGNALLED,
                SETTLE,
                Locked,
                SIGNALLED,
                true,
            ),
            ("prov", provisional(), FIRST, SETTLE, Locked, FIRST, true),
            ("prov", provisional(), SECOND, SETTLE, Foreign, FIRST, false),
            ("locked", locked(), SIGNALLED, early, Foreign, FIRST, true),
            ("locked", locked(), FIRST, early, Admitted, FIRST, true),
            ("locked", locked(), SECOND, early, Foreign, FIRST, true),
            ("locked", locked(), FIRST, SETTLE, Admitted, FIRST, true),
        ];
        for (name, mut latch, source, now, admission, destination, is_locked) in table {
            let case = format!("{name}, packet from {source} at {now:?}");
            assert_eq!(latch.admit(address(source), now), admission, "{case}");
            assert_eq!(latch.destination(), Some(address(destination)), "{case}");
            assert_eq!(latch.locked().is_some(), is_locked, "{case}");
        }
    }

    #[test]
    fn without_a_signalled_address_the_first_source_holds() {
        let mut latch = Latch::new(None, None);
        assert_eq!(latch.destination(), None);
        assert_eq!(
            latch.admit(address(FIRST), Duration::ZERO),
            Admission::Admitted
        );
        assert_eq!(latch.admit(address(SECOND), SETTLE), Admission::Foreign);
        assert_eq!(latch.admit(address(FIRST), SETTLE), Admission::Locked);
    }

    #[test]
    fn knowing_a_source_never_moves_the_latch() {
        assert!(open().knows(address(SIGNALLED)));
        assert!(!open().knows(address(FIRST)));
        assert!(provisional().knows(address(SIGNALLED)));
        assert!(provisional().knows(address(FIRST)));
        assert!(!provisional().knows(address(SECOND)));
        assert!(locked().knows(address(FIRST)));
        assert!(!locked().knows(address(SIGNALLED)));
    }

    #[test]
    fn unusable_addresses_are_neither_signalled_nor_latched() {
        for bad in [
            "0.0.0.0:4000",
            "192.0.2.1:0",
            "224.0.0.1:4000",
            "255.255.255.255:4000",
            "[::]:4000",
            "[ff02::1]:4000",
        ] {
            let mut latch = Latch::new(Some(address(bad)), Some(address(bad)));
            assert_eq!(latch.destination(), None, "{bad}");
            assert_eq!(
                latch.admit(address(bad), Duration::ZERO),
                Admission::Foreign,
                "{bad}"
            );
        }
    }
}

//! What the operator decides: realms, target groups, routes, timers and bounds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::flow::RealmId;
use crate::sdp::SdpLimits;
use crate::transaction::TimerConfig;

#[derive(Clone, Debug)]
pub struct SipConfig {
    pub realms: Vec<Realm>,
    pub groups: Vec<TargetGroup>,
    pub routes: Vec<Route>,
    /// Transaction timers (RFC 3261 section 17).
    pub timers: TimerConfig,
    /// Timers of whole calls.
    pub call_timers: CallTimers,
    pub limits: Limits,
    /// Value of Server and User-Agent; empty leaves the headers out.
    pub user_agent: String,
}

/// A side of the border.
#[derive(Clone, Debug)]
pub struct Realm {
    pub id: RealmId,
    pub name: String,
    /// Where the socket is bound.
    pub bound: SocketAddr,
    /// What peers are told: it stands in Via, Contact and SDP. On EC2 this is the Elastic IP.
    pub advertised: SocketAddr,
}

impl Realm {
    pub fn media_address(&self) -> IpAddr {
        self.advertised.ip()
    }
}

/// Next hops that serve the same purpose, tried by RFC 2782 priority and weight.
#[derive(Clone, Debug)]
pub struct TargetGroup {
    pub name: String,
    pub realm: RealmId,
    pub targets: Vec<Target>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    /// Lower is tried first.
    pub priority: u16,
    pub weight: u16,
}

#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub from: RealmId,
    /// Index into [`SipConfig::groups`].
    pub group: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTimers {
    /// A target that sends nothing at all for this long is given up and the next one is tried.
    pub target_silent: Duration,
    /// From the caller's INVITE to the answer.
    pub ring: Duration,
    /// From the answer to the end.
    pub maximum: Duration,
}

impl Default for CallTimers {
    fn default() -> CallTimers {
        CallTimers {
            target_silent: Duration::from_secs(6),
            ring: Duration::from_secs(180),
            maximum: Duration::from_secs(12 * 3600),
        }
    }
}

/// Bounds on what peers can make us hold. Each refusal at a bound is counted in [`crate::counters::Counters`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Over it a new INVITE gets 503.
    pub calls: usize,
    /// A request that could push the encoded record over it gets 513.
    pub record_bytes: usize,
    /// A larger request gets 513, a larger response is dropped.
    pub message_bytes: usize,
    /// A larger offer gets 413; a larger answer fails the exchange.
    pub sdp_bytes: usize,
    /// Media lines of one description; over it 488.
    pub streams: usize,
    /// Targets tried for one call; the rest of the list is cut.
    pub targets: usize,
    /// Transactions open at once in one call; over it 503.
    pub transactions: usize,
    /// Answers of further forks that are acknowledged and hung up per leg; over it they are dropped.
    pub forks: usize,
}

impl Limits {
    pub fn sdp(&self) -> SdpLimits {
        SdpLimits {
            bytes: self.sdp_bytes,
            streams: self.streams,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            calls: 20_000,
            record_bytes: 128 * 1024,
            message_bytes: 16 * 1024,
            sdp_bytes: 8 * 1024,
            streams: 8,
            targets: 8,
            transactions: 16,
            forks: 4,
        }
    }
}

impl SipConfig {
    pub fn realm(&self, id: RealmId) -> Option<&Realm> {
        self.realms.iter().find(|realm| realm.id == id)
    }

    /// The group that serves calls arriving from a realm; the first matching route decides.
    pub fn group_for(&self, from: RealmId) -> Option<&TargetGroup> {
        let route = self.routes.iter().find(|route| route.from == from)?;
        self.groups.get(route.group)
    }
}

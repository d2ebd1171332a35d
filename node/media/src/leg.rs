//! One leg of a stream: what it takes from its peer and where it sends to.

use crate::{
    counters::{DropCounters, DropReason, Traffic},
    demux::{self, Packet},
    latch::{Admission, Latch},
    plan::{LegPlan, StreamKind},
    port::LocalPort,
    reception::Reception,
};
use std::{net::SocketAddr, time::Duration};

/// The two ports of a leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Component {
    Media,
    Rtcp,
}

/// What an admitted packet carries, whichever port it came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    Media,
    Rtcp,
}

/// Counters of one leg since it was planned.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct LegStatistics {
    /// Taken from the peer, media and RTCP.
    pub received: Traffic,
    /// Meant for the peer; the gate may still have held it back.
    pub sent: Traffic,
    /// Came to this leg's ports and went nowhere.
    pub drops: DropCounters,
    /// Media of the peer; empty for a raw stream.
    pub reception: Reception,
    /// The last packet taken from the peer.
    pub last_seen: Option<Duration>,
    /// The source that holds the latch.
    pub source: Option<SocketAddr>,
}

#[derive(Debug)]
pub(crate) struct Leg {
    plan: LegPlan,
    rtp: Latch,
    rtcp: Latch,
    /// A lock that signalling has not heard of.
    unannounced: bool,
    received: Traffic,
    sent: Traffic,
    drops: DropCounters,
    reception: Reception,
    last_seen: Option<Duration>,
}

impl Leg {
    pub(crate) fn new(plan: LegPlan) -> Leg {
        Leg {
            rtp: Latch::new(plan.remote_rtp, plan.latched),
            rtcp: Latch::new(plan.rtcp_address(), None),
            plan,
            unannounced: false,
            received: Traffic::default(),
            sent: Traffic::default(),
            drops: DropCounters::default(),
            reception: Reception::default(),
            last_seen: None,
        }
    }

    /// Takes a new plan over. A latch learnt here outlives a plan that says nothing new about the peer.
    pub(crate) fn replan(&mut self, plan: LegPlan) {
        let moved = plan.remote_rtp != self.plan.remote_rtp;
        let latch_news = plan.latched != self.plan.latched;
        if plan.latched.is_some() && plan.latched == self.rtp.locked() {
            self.unannounced = false;
        }
        if moved || latch_news && plan.latched != self.rtp.locked() {
            // A latched source that came along unchanged with a new address belongs to the old one.
            let latched = plan.latched.filter(|_| latch_news);
            self.rtp = Latch::new(plan.remote_rtp, latched);
            self.unannounced = false;
        }
        if moved || plan.rtcp_address() != self.plan.rtcp_address() {
            self.rtcp = Latch::new(plan.rtcp_address(), None);
        }
        self.plan = plan;
    }

    /// Decides whether a datagram from this leg's peer is taken, and what it is.
    pub(crate) fn admit(
        &mut self,
        component: Component,
        kind: StreamKind,
        source: SocketAddr,
        packet: &[u8],
        now: Duration,
    ) -> Result<Payload, DropReason> {
        let payload = match kind {
            StreamKind::Raw => self.admit_raw(component, source, packet, now)?,
            StreamKind::Rtp { clock_rate } => match (demux::classify(packet), component) {
                (Packet::Rtp(header), Component::Media) => {
                    self.admit_media(source, now)?;
                    self.reception.record(header, clock_rate, now);
                    Payload::Media
                }
                (Packet::Rtcp, component) => {
                    self.admit_rtcp(component, source, now)?;
                    Payload::Rtcp
                }
                (Packet::Rtp(_), Component::Rtcp) => return Err(DropReason::WrongPort),
                (Packet::Stun, _) => return Err(DropReason::Stun),
                (Packet::Dtls, _) => return Err(DropReason::Dtls),
                (Packet::Unknown, _) => return Err(DropReason::Unknown),
                (Packet::Malformed, _) => return Err(DropReason::Malformed),
            },
        };
        self.received.add(packet.len());
        self.last_seen = Some(now);
        Ok(payload)
    }

    /// The port of ours and the peer's address for a packet that came from the other leg.
    pub(crate) fn route(&self, payload: Payload) -> Result<(LocalPort, SocketAddr), DropReason> {
        let (port, latch) = match payload {
            Payload::Media if !self.plan.send => return Err(DropReason::NotSending),
            Payload::Media => (self.plan.port, &self.rtp),
            // RFC 5761 section 5.1.1: RTCP to a multiplexing peer goes the way of its media.
            Payload::Rtcp if self.plan.muxes() => (self.plan.port, &self.rtp),
            Payload::Rtcp => (self.plan.port.rtcp(), &self.rtcp),
        };
        let to = latch.destination().ok_or(DropReason::NoDestination)?;
        Ok((port, to))
    }

    pub(crate) fn count_sent(&mut self, bytes: usize) {
        self.sent.add(bytes);
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }

    /// A lock that signalling has yet to hear of.
    pub(crate) fn unannounced(&self) -> Option<SocketAddr> {
        self.rtp.locked().filter(|_| self.unannounced)
    }

    pub(crate) fn announced(&mut self) {
        self.unannounced = false;
    }

    pub(crate) fn last_seen(&self) -> Option<Duration> {
        self.last_seen
    }

    pub(crate) fn statistics(&self) -> LegStatistics {
        LegStatistics {
            received: self.received,
            sent: self.sent,
            drops: self.drops,
            reception: self.reception.clone(),
            last_seen: self.last_seen,
            source: self.rtp.source(),
        }
    }

    fn admit_raw(
        &mut self,
        component: Component,
        source: SocketAddr,
        packet: &[u8],
        now: Duration,
    ) -> Result<Payload, DropReason> {
        match component {
            Component::Rtcp => Err(DropReason::WrongPort),
            // An empty datagram proves nothing about its sender.
            Component::Media if packet.is_empty() => Err(DropReason::Malformed),
            Component::Media => {
                self.admit_media(source, now)?;
                Ok(Payload::Media)
            }
        }
    }

    fn admit_media(&mut self, source: SocketAddr, now: Duration) -> Result<(), DropReason> {
        if !self.plan.receive {
            return Err(DropReason::NotReceiving);
        }
        match self.rtp.admit(source, now) {
            Admission::Admitted => {}
            Admission::Locked => self.unannounced = true,
            Admission::Foreign => return Err(DropReason::Foreign),
        }
        Ok(())
    }

    /// RTCP passes on hold too (RFC 3264 section 5.1: "RTCP is still sent"), and it never opens a path by itself:
    /// on the media port it follows the media's latch, on its own port it must come from the host that holds the
    /// media's latch or from the signalled address.
    fn admit_rtcp(
        &mut self,
        component: Component,
        source: SocketAddr,
        now: Duration,
    ) -> Result<(), DropReason> {
        let admitted = match component {
            Component::Media => self.rtp.knows(source),
            Component::Rtcp => {
                let trusted = match self.rtp.ip() {
                    Some(ip) => source.ip() == ip || self.rtcp.knows(source),
                    None => self.plan.rtcp_address() == Some(source),
                };
                trusted && self.rtcp.admit(source, now) != Admission::Foreign
            }
        };
        admitted.then_some(()).ok_or(DropReason::Foreign)
    }
}

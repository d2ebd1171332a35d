//! All sessions, found by port.

use crate::{
    counters::{DropCounters, DropReason, Traffic},
    leg::{Component, Leg, LegStatistics},
    plan::{PlanError, SessionKey, Side, StreamKind, StreamPlan},
    port::LocalPort,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

/// Events that wait to be fetched. At the bound the event waits with its leg and is offered again at the leg's next
/// packet; [`Totals::events_deferred`] counts.
pub const MAX_PENDING_EVENTS: usize = 1_024;

/// What to do with a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send it unchanged, from this port of ours.
    Forward {
        from: LocalPort,
        to: SocketAddr,
    },
    Drop(DropReason),
}

/// Something that signalling wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The latch of a leg has locked on this media source.
    Latched {
        key: SessionKey,
        stream: u16,
        leg: Side,
        source: SocketAddr,
    },
}

/// Counters over all sessions, past ones included.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Totals {
    pub forwarded: Traffic,
    pub drops: DropCounters,
    /// Latches that locked on a packet.
    pub latched: u64,
    pub events_deferred: u64,
}

/// The counters of one session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionStatistics {
    pub streams: Vec<StreamStatistics>,
    /// The last packet taken from any peer of the session; `None` before the first.
    pub last_activity: Option<Duration>,
}

/// The counters of one stream, caller side first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamStatistics {
    pub index: u16,
    pub legs: [LegStatistics; 2],
}

#[derive(Debug)]
struct Stream {
    key: SessionKey,
    index: u16,
    kind: StreamKind,
    ports: [LocalPort; 4],
    legs: [Leg; 2],
}

/// Where packets to a port belong.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: usize,
    side: Side,
    component: Component,
}

/// Every media session of one relay.
///
/// Streams live in numbered slots, so that a packet costs one look into the port table; slots of ended streams are
/// used again. The number of streams is bounded by the ports.
#[derive(Debug, Default)]
pub struct Sessions {
    ports: HashMap<LocalPort, Place>,
    slots: Vec<Option<Stream>>,
    vacant: Vec<usize>,
    sessions: BTreeMap<SessionKey, Vec<usize>>,
    events: VecDeque<Event>,
    totals: Totals,
}

impl Sessions {
    pub fn new() -> Sessions {
        Sessions {
            // Reserved at once: a packet must not cause an allocation.
            events: VecDeque::with_capacity(MAX_PENDING_EVENTS),
            ..Sessions::default()
        }
    }

    /// Makes this the state of a session. Streams that it had before keep what they have learnt; streams that are not
    /// in `streams` end. Nothing changes when the plan is refused.
    pub fn set(&mut self, key: SessionKey, streams: Vec<StreamPlan>) -> Result<(), PlanError> {
        StreamPlan::check(&streams)?;
        self.check_ports(key, &streams)?;
        if streams.is_empty() {
            self.remove(key);
            return Ok(());
        }
        let mut before = self.take_out(key);
        let slots = streams
            .into_iter()
            .map(|plan| {
                let known = before
                    .iter()
                    .position(|stream| stream.index == plan.index)
                    .map(|place| before.swap_remove(place));
                self.put_in(Stream::planned(key, plan, known))
            })
            .collect();
        self.sessions.insert(key, slots);
        Ok(())
    }

    /// Ends a session; unknown keys are fine.
    pub fn remove(&mut self, key: SessionKey) {
        self.take_out(key);
    }

    /// Judges one datagram that came to `local`. Allocates nothing.
    pub fn handle_packet(
        &mut self,
        local: LocalPort,
        source: SocketAddr,
        packet: &[u8],
        now: Duration,
    ) -> Verdict {
        match self.forward(local, source, packet, now) {
            Ok((from, to)) => {
                self.totals.forwarded.add(packet.len());
                Verdict::Forward { from, to }
            }
            Err(reason) => {
                self.totals.drops.count(reason);
                Verdict::Drop(reason)
            }
        }
    }

    /// The oldest event not yet fetched.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The counters of a session; `None` when there is none of that key.
    pub fn statistics(&self, key: SessionKey) -> Option<SessionStatistics> {
        let streams = self
            .streams_of(key)?
            .map(|stream| StreamStatistics {
                index: stream.index,
                legs: stream.legs.each_ref().map(Leg::statistics),
            })
            .collect();
        Some(SessionStatistics {
            streams,
            last_activity: self.last_activity(key),
        })
    }

    /// When a packet was last taken from any peer of the session; `None` before the first.
    pub fn last_activity(&self, key: SessionKey) -> Option<Duration> {
        self.streams_of(key)?
            .flat_map(|stream| &stream.legs)
            .filter_map(Leg::last_seen)
            .max()
    }

    fn streams_of(&self, key: SessionKey) -> Option<impl Iterator<Item = &Stream>> {
        let slots = self.sessions.get(&key)?;
        Some(
            slots
                .iter()
                .filter_map(|slot| self.slots.get(*slot)?.as_ref()),
        )
    }

    fn forward(
        &mut self,
        local: LocalPort,
        source: SocketAddr,
        packet: &[u8],
        now: Duration,
    ) -> Result<(LocalPort, SocketAddr), DropReason> {
        let place = *self.ports.get(&local).ok_or(DropReason::UnknownPort)?;
        let stream = self
            .slots
            .get_mut(place.slot)
            .and_then(Option::as_mut)
            .ok_or(DropReason::UnknownPort)?;
        let (key, index, kind) = (stream.key, stream.index, stream.kind);
        let (from, to) = stream.towards(place.side);
        let admitted = from.admit(place.component, kind, source, packet, now);
        if let Some(source) = from.unannounced() {
            if self.events.len() < MAX_PENDING_EVENTS {
                self.totals.latched += 1;
                self.events.push_back(Event::Latched {
                    key,
                    stream: index,
                    leg: place.side,
                    source,
                });
                from.announced();
            } else {
                self.totals.events_deferred += 1;
            }
        }
        let route = admitted.and_then(|payload| to.route(payload));
        match route {
            Ok(_) => to.count_sent(packet.len()),
            Err(reason) => from.count_drop(reason),
        }
        route
    }

    /// Every port must be free or this session's own.
    fn check_ports(&self, key: SessionKey, streams: &[StreamPlan]) -> Result<(), PlanError> {
        for port in streams.iter().flat_map(|stream| stream.ports()) {
            let holder = self.ports.get(&port).and_then(|place| {
                let stream = self.slots.get(place.slot)?.as_ref()?;
                Some(stream.key)
            });
            if holder.is_some_and(|holder| holder != key) {
                return Err(PlanError::PortTaken(port));
            }
        }
        Ok(())
    }

    fn take_out(&mut self, key: SessionKey) -> Vec<Stream> {
        let mut streams = Vec::new();
        for slot in self.sessions.remove(&key).unwrap_or_default() {
            if let Some(stream) = self.slots.get_mut(slot).and_then(Option::take) {
                for port in stream.ports {
                    self.ports.remove(&port);
                }
                self.vacant.push(slot);
                streams.push(stream);
            }
        }
        streams
    }

    fn put_in(&mut self, stream: Stream) -> usize {
        let slot = self.vacant.pop().unwrap_or(self.slots.len());
        let [caller, caller_rtcp, callee, callee_rtcp] = stream.ports;
        for (port, side, component) in [
            (caller, Side::Caller, Component::Media),
            (caller_rtcp, Side::Caller, Component::Rtcp),
            (callee, Side::Callee, Component::Media),
            (callee_rtcp, Side::Callee, Component::Rtcp),
        ] {
            let place = Place {
                slot,
                side,
                component,
            };
            self.ports.insert(port, place);
        }
        match self.slots.get_mut(slot) {
            Some(vacant) => *vacant = Some(stream),
            None => self.slots.push(Some(stream)),
        }
        slot
    }
}

impl Stream {
    /// The stream as planned, with what `before` had learnt.
    fn planned(key: SessionKey, plan: StreamPlan, before: Option<Stream>) -> Stream {
        let ports = plan.ports();
        let [caller, callee] = plan.legs;
        let legs = match before {
            Some(before) => {
                let [mut old_caller, mut old_callee] = before.legs;
                old_caller.replan(caller);
                old_callee.replan(callee);
                [old_caller, old_callee]
            }
            None => [Leg::new(caller), Leg::new(callee)],
        };
        Stream {
            key,
            index: plan.index,
            kind: plan.kind,
            ports,
            legs,
        }
    }

    /// The leg that `side` names and the one across.
    fn towards(&mut self, side: Side) -> (&mut Leg, &mut Leg) {
        let [caller, callee] = &mut self.legs;
        match side {
            Side::Caller => (caller, callee),
            Side::Callee => (callee, caller),
        }
    }
}

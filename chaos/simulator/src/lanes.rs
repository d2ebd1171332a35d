//! Calls: a lane is one caller inside, one callee outside and a route between them, with one call after another.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use tandem_sip::{
    config::{CallTimers, Limits, Realm, Route, SipConfig, Target, TargetGroup},
    flow::RealmId,
    message::Message,
    phone::{Action, Phone, step},
    time::Timestamp,
    transaction::TimerConfig,
};

use crate::clock::ms;

/// Timers of both sides, a fifth of the standard's, so that a run need not last minutes.
const TIMERS: TimerConfig = TimerConfig {
    t1: ms(100),
    t2: ms(400),
    t4: ms(500),
};

/// Former phones of a lane that still answer for their calls; older ones have had all of 64*T1 to finish.
const FORMER: usize = 4;

/// How a call is meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    CallerHangsUp,
    CalleeHangsUp,
    Busy,
    Cancelled,
}

/// A call as its phones know it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) script: Script,
    /// The caller heard 180: the pair has shown that it knows the call.
    pub(crate) ringing: bool,
    /// The caller heard 200.
    pub(crate) answered: bool,
    /// Who hung up heard 200 for its BYE.
    pub(crate) bye_answered: bool,
    /// Who hung up has sent its BYE.
    pub(crate) bye_sent: bool,
}

#[derive(Debug)]
struct Lane {
    inside: SocketAddr,
    outside: SocketAddr,
    /// Caller, then callee; the newest last.
    phones: VecDeque<[Phone; 2]>,
    next_call: Duration,
    number: u32,
}

/// A message on its way from a phone.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Bytes,
}

#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    /// No new calls from then on.
    until: Duration,
    pub(crate) calls: BTreeMap<String, Call>,
}

fn address(host: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((host, port))
}

const FLOATING: [u8; 4] = [10, 0, 0, 100];

fn bound_inside(lane: usize) -> SocketAddr {
    address(FLOATING, 5060 + lane as u16)
}

fn bound_outside() -> SocketAddr {
    address(FLOATING, 5090)
}

/// The configuration of both nodes: one realm inside for each lane, one outside for all.
pub(crate) fn sip_config(lanes: usize) -> SipConfig {
    let realm = |number: usize, name: String, bound| Realm {
        id: RealmId(number as u16),
        name,
        bound,
        advertised: bound,
    };
    let inside = (0..lanes).map(|lane| realm(lane, format!("pbx-{lane}"), bound_inside(lane)));
    let outside = realm(lanes, "trunk".to_owned(), bound_outside());
    SipConfig {
        realms: inside.chain([outside]).collect(),
        groups: (0..lanes)
            .map(|lane| TargetGroup {
                name: format!("carrier-{lane}"),
                realm: RealmId(lanes as u16),
                targets: vec![Target {
                    address: callee_address(lane),
                    priority: 1,
                    weight: 1,
                }],
            })
            .collect(),
        routes: (0..lanes)
            .map(|lane| Route {
                from: RealmId(lane as u16),
                group: lane,
            })
            .collect(),
        timers: TIMERS,
        call_timers: CallTimers {
            target_silent: ms(3000),
            ring: ms(8000),
            maximum: ms(3_600_000),
        },
        limits: Limits::default(),
        user_agent: "tandem".to_owned(),
    }
}

/// Media ports of each realm of [`sip_config`].
pub(crate) fn media_ports(lanes: usize) -> Vec<RangeInclusive<u16>> {
    vec![20_000..=20_999; lanes + 1]
}

fn caller_address(lane: usize) -> SocketAddr {
    address([10, 0, 1, lane as u8 + 1], 5060)
}

fn callee_address(lane: usize) -> SocketAddr {
    address([198, 51, 100, lane as u8 + 1], 5060)
}

impl Lanes {
    pub(crate) fn new(count: usize, rng: &mut StdRng) -> Lanes {
        let lanes = (0..count).map(|lane| Lane {
            inside: caller_address(lane),
            outside: callee_address(lane),
            phones: VecDeque::new(),
            next_call: ms(150 + rng.random_range(0..200)),
            number: 0,
        });
        Lanes {
            lanes: lanes.collect(),
            until: Duration::MAX,
            calls: BTreeMap::new(),
        }
    }

    /// Lets the calls that are up end by their scripts; no new ones.
    pub(crate) fn stop(&mut self, now: Duration) {
        self.until = now;
    }

    /// Whether no phone has anything left to do.
    pub(crate) fn idle(&self) -> bool {
        self.lanes.iter().all(Lane::idle)
    }

    /// When a phone wants to act.
    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        let phones = self
            .lanes
            .iter()
            .flat_map(|lane| lane.phones.iter().flatten());
        phones.filter_map(Phone::poll_timeout).min()
    }

    /// When the next call begins, in true time.
    pub(crate) fn next_call(&self) -> Option<Duration> {
        let starts = self.lanes.iter().filter(|lane| lane.idle());
        let next = starts.map(|lane| lane.next_call).min();
        next.filter(|next| *next < self.until)
    }

    /// Begins the calls that are due.
    pub(crate) fn begin_calls(&mut self, now: Duration, wall: Timestamp, rng: &mut StdRng) {
        if now >= self.until {
            return;
        }
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if lane.idle() && lane.next_call <= now {
                let (call_id, call) = lane.begin(number, wall, rng);
                lane.next_call = now + ms(rng.random_range(20..500));
                self.calls.insert(call_id, call);
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, wall: Timestamp) {
        for phone in self.phones_mut() {
            if phone.poll_timeout().is_some_and(|due| due <= wall) {
                phone.handle_timeout(wall);
            }
        }
        self.learn();
    }

    /// A message for a phone. What belongs to a call that nobody here remembers is dropped, as a phone that was
    /// switched off would.
    pub(crate) fn receive(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &Bytes,
        wall: Timestamp,
    ) {
        let message = Message::parse(bytes.clone()).expect("the border sends well-formed messages");
        let call_id = String::from_utf8_lossy(message.call_id()).into_owned();
        let Some(lane) = self
            .lanes
            .iter_mut()
            .find(|lane| lane.inside == to || lane.outside == to)
        else {
            return;
        };
        let side = usize::from(lane.outside == to);
        let mut phones = lane.phones.iter_mut().rev().map(|pair| &mut pair[side]);
        let known = phones.find(|phone| phone.call_id == call_id);
        let new_call = message.is_request() && message.to_tag().is_none();
        let phone = match known {
            Some(phone) => Some(phone),
            None if new_call => lane
                .phones
                .back_mut()
                .map(|pair| &mut pair[side])
                .filter(|phone| phone.heard.is_empty()),
            None => None,
        };
        if let Some(phone) = phone {
            phone.receive(from, bytes, wall);
        }
        self.learn();
    }

    /// Takes what the phones have sent.
    pub(crate) fn outgoing(&mut self) -> Vec<Outgoing> {
        let mut out = Vec::new();
        for phone in self.phones_mut() {
            let from = phone.address;
            out.extend(
                phone
                    .outbox
                    .drain(..)
                    .map(|(to, bytes)| Outgoing { from, to, bytes }),
            );
        }
        out
    }

    fn phones_mut(&mut self) -> impl Iterator<Item = &mut Phone> {
        self.lanes
            .iter_mut()
            .flat_map(|lane| lane.phones.iter_mut().flatten())
    }

    /// Updates what is known of the newest calls.
    fn learn(&mut self) {
        for [caller, callee] in self.lanes.iter().flat_map(|lane| lane.phones.iter()) {
            let Some(call) = self.calls.get_mut(&caller.call_id) else {
                continue;
            };
            call.ringing |= caller.heard("180 INVITE") > 0;
            call.answered |= caller.heard("200 INVITE") > 0;
            let who = match call.script {
                Script::CallerHangsUp => caller,
                Script::CalleeHangsUp => callee,
                Script::Busy | Script::Cancelled => continue,
            };
            // `ended` is also set by the other side's BYE; that one was heard.
            call.bye_sent |= who.ended && who.heard("BYE") == 0 && call.answered;
            call.bye_answered |= who.heard("200 BYE") > 0;
        }
    }
}

impl Lane {
    fn idle(&self) -> bool {
        self.phones.back().is_none_or(|pair| {
            pair.iter()
                .all(|phone| phone.poll_timeout().is_none() && !phone.is_calling() && !phone.up)
        })
    }

    fn begin(&mut self, lane: usize, wall: Timestamp, rng: &mut StdRng) -> (String, Call) {
        self.number += 1;
        let number = self.number;
        let script = match rng.random_range(0..10) {
            0..=3 => Script::CallerHangsUp,
            4..=7 => Script::CalleeHangsUp,
            8 => Script::Busy,
            _ => Script::Cancelled,
        };
        let name = |side: &str| format!("{side}-{lane}-{number}");
        let mut caller =
            Phone::new(&name("caller"), self.inside, bound_inside(lane)).plan(wall, Action::Call);
        let mut callee = Phone::new(&name("callee"), self.outside, bound_outside());
        let ring = rng.random_range(20..1200);
        let talk = rng.random_range(100..2000);
        let last = if script == Script::Busy { 486 } else { 200 };
        callee.answers = vec![step(rng.random_range(1..20), 180), step(ring, last)];
        match script {
            Script::CallerHangsUp => caller = caller.when_up(talk, Action::HangUp),
            Script::CalleeHangsUp => callee = callee.when_up(talk, Action::HangUp),
            Script::Busy => {}
            // An answer may cross the CANCEL.
            Script::Cancelled => {
                let cancel = wall + ms(ring / 2 + 10);
                caller = caller.plan(cancel, Action::Cancel);
                caller = caller.when_up(talk, Action::HangUp);
            }
        }
        for phone in [&mut caller, &mut callee] {
            phone.timers = TIMERS;
        }
        let call_id = caller.call_id.clone();
        self.phones.push_back([caller, callee]);
        while self.phones.len() > FORMER {
            self.phones.pop_front();
        }
        let call = Call {
            script,
            ringing: false,
            answered: false,
            bye_answered: false,
            bye_sent: false,
        };
        (call_id, call)
    }
}

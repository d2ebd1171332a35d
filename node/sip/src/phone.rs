//! A scripted phone with one call, for tests and the simulator: it repeats what is not answered, repeats finals until
//! ACK, and follows its script. It speaks through our own message layer and checks nothing of it: a message that a
//! correct border would not send makes it panic.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::message::{Builder, Message, Method, Name};
use crate::time::Timestamp;
use crate::transaction::TimerConfig;

/// What a phone does of its own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Call,
    Cancel,
    HangUp,
    /// re-INVITE with this description.
    Change(String),
    Info,
}

/// One response to an INVITE, so long after it came.
#[derive(Clone, Debug)]
pub struct Step {
    pub after: Duration,
    pub status: u16,
    pub body: Option<String>,
    /// Another To tag: a fork.
    pub fork: Option<&'static str>,
}

pub fn step(millis: u64, status: u16) -> Step {
    Step {
        after: Duration::from_millis(millis),
        status,
        body: None,
        fork: None,
    }
}

#[derive(Clone, Debug)]
struct Repeat {
    to: SocketAddr,
    bytes: Bytes,
    at: Timestamp,
    interval: Duration,
    give_up: Timestamp,
}

#[derive(Debug)]
pub struct Phone {
    pub address: SocketAddr,
    pub name: String,
    pub timers: TimerConfig,
    pub outbox: VecDeque<(SocketAddr, Bytes)>,
    /// Requests by method and responses by status and method, repeats left out.
    pub heard: Vec<String>,
    pub messages: Vec<Message>,
    pub description: Option<String>,
    /// Where calls go.
    pub proxy: SocketAddr,
    pub dialled: String,
    /// Extra header lines of the INVITE.
    pub extra: Vec<(&'static str, String)>,
    /// What an INVITE gets, in order of attempts.
    pub answers: Vec<Step>,
    /// What a re-INVITE gets.
    pub change_status: u16,
    /// Actions so long after the start, and so long after the call is up.
    pub planned: Vec<(Timestamp, Action)>,
    pub when_up: Vec<(Duration, Action)>,
    /// Record-Route values put into responses that make a dialog.
    pub record_routes: Vec<String>,
    pub call_id: String,
    pub local_tag: String,
    pub remote_tag: String,
    pub remote_target: String,
    pub routes: Vec<String>,
    pub sequence: u32,
    /// Dialog confirmed, not hung up.
    pub up: bool,
    pub ended: bool,
    incoming: Option<Message>,
    branch: u32,
    invite_branch: String,
    unanswered: BTreeMap<(String, String), Repeat>,
    unacknowledged: Option<Repeat>,
    last_responses: BTreeMap<(Bytes, String), Bytes>,
    acks: BTreeMap<(u32, Bytes), Bytes>,
    scheduled: Vec<(Timestamp, Step)>,
    cancelled: bool,
    got_provisional: bool,
}

impl Phone {
    pub fn new(name: &str, address: SocketAddr, proxy: SocketAddr) -> Phone {
        Phone {
            address,
            name: name.to_owned(),
            timers: TimerConfig::default(),
            outbox: VecDeque::new(),
            heard: Vec::new(),
            messages: Vec::new(),
            description: Some(format!(
                "v=0\r\no={name} 1 1 IN IP4 {0}\r\ns=-\r\nc=IN IP4 {0}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n",
                address.ip()
            )),
            proxy,
            dialled: "+4930123".into(),
            extra: Vec::new(),
            answers: vec![step(100, 180), step(2000, 200)],
            change_status: 200,
            planned: Vec::new(),
            when_up: Vec::new(),
            record_routes: Vec::new(),
            call_id: format!("call-of-{name}"),
            local_tag: format!("tag-of-{name}"),
            remote_tag: String::new(),
            remote_target: String::new(),
            routes: Vec::new(),
            sequence: 0,
            up: false,
            ended: false,
            incoming: None,
            branch: 0,
            invite_branch: String::new(),
            unanswered: BTreeMap::new(),
            unacknowledged: None,
            last_responses: BTreeMap::new(),
            acks: BTreeMap::new(),
            scheduled: Vec::new(),
            cancelled: false,
            got_provisional: false,
        }
    }

    pub fn plan(mut self, at: Timestamp, action: Action) -> Phone {
        self.planned.push((at, action));
        self
    }

    pub fn when_up(mut self, after_millis: u64, action: Action) -> Phone {
        self.when_up
            .push((Duration::from_millis(after_millis), action));
        self
    }

    pub fn answers(mut self, answers: Vec<Step>) -> Phone {
        self.answers = answers;
        self
    }

    pub fn heard(&self, what: &str) -> usize {
        self.heard.iter().filter(|heard| *heard == what).count()
    }

    /// Whether it knows that its call is being worked on, and waits for the end of that.
    pub fn is_calling(&self) -> bool {
        self.got_provisional && !self.up && !self.ended
    }

    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let planned = self.planned.iter().map(|(at, _)| *at);
        let scheduled = self.scheduled.iter().map(|(at, _)| *at);
        let repeats = self
            .unanswered
            .values()
            .chain(&self.unacknowledged)
            .map(|repeat| repeat.at);
        planned.chain(scheduled).chain(repeats).min()
    }

    pub fn handle_timeout(&mut self, now: Timestamp) {
        let due: Vec<Action> = self
            .planned
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, action)| action)
            .collect();
        for action in due {
            self.act(action, now);
        }
        let due: Vec<Step> = self
            .scheduled
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, step)| step)
            .collect();
        for step in due {
            self.answer_invite(&step, now);
        }
        let longest = self.timers.t2;
        for repeat in self.unanswered.values_mut().chain(&mut self.unacknowledged) {
            if repeat.at <= now {
                self.outbox.push_back((repeat.to, repeat.bytes.clone()));
                repeat.interval = (repeat.interval * 2).min(longest);
                repeat.at = now + repeat.interval;
            }
        }
        self.unanswered.retain(|_, repeat| repeat.give_up > now);
        if self
            .unacknowledged
            .as_ref()
            .is_some_and(|repeat| repeat.give_up <= now)
        {
            self.unacknowledged = None;
            // RFC 3261 section 13.3.1.4: "the UAS ... SHOULD send a BYE".
            self.act(Action::HangUp, now);
        }
    }

    fn act(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::Call => {
                let body = self.description.clone();
                self.invite_branch = self.request(Method::Invite, body, now);
            }
            Action::Cancel if self.up || self.ended => {}
            // RFC 3261 section 9.1: not before a provisional response.
            Action::Cancel if !self.got_provisional => self.cancelled = true,
            Action::Cancel => {
                self.cancelled = true;
                self.request(Method::Cancel, None, now);
            }
            Action::HangUp if self.up => {
                self.up = false;
                self.ended = true;
                self.request(Method::Bye, None, now);
            }
            Action::Change(body) if self.up => {
                self.description = Some(body.clone());
                self.request(Method::Invite, Some(body), now);
            }
            Action::Info if self.up => {
                self.request(Method::Info, Some("Signal=5\r\n".into()), now);
            }
            Action::HangUp | Action::Change(_) | Action::Info => {}
        }
    }

    fn builder(&mut self, method: Method<'_>, branch: &str, sequence: u32) -> Builder {
        let uri = if self.remote_target.is_empty() {
            format!("sip:{}@{}", self.dialled, self.proxy)
        } else {
            self.remote_target.clone()
        };
        let tag = if self.remote_tag.is_empty() {
            String::new()
        } else {
            format!(";tag={}", self.remote_tag)
        };
        let mut builder = Builder::request(method, uri)
            .header(
                Name::Via,
                format!("SIP/2.0/UDP {};branch={branch};rport", self.address),
            )
            .header(Name::MaxForwards, "70")
            .header(
                Name::From,
                format!(
                    "\"{0}\" <sip:{0}@{1}>;tag={2}",
                    self.name, self.address, self.local_tag
                ),
            )
            .header(
                Name::To,
                format!("<sip:{}@{}>{tag}", self.dialled, self.proxy),
            )
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format!("{sequence} {method}"))
            .header(
                Name::Contact,
                format!("<sip:{}@{}>", self.name, self.address),
            );
        for route in &self.routes {
            builder = builder.header(Name::Route, route);
        }
        builder
    }

    fn request(&mut self, method: Method<'_>, body: Option<String>, now: Timestamp) -> String {
        let branch = if method == Method::Cancel {
            self.invite_branch.clone()
        } else {
            self.branch += 1;
            self.sequence += 1;
            format!("z9hG4bK-{}-{}", self.name, self.branch)
        };
        let mut builder = self.builder(method, &branch, self.sequence);
        if method == Method::Invite {
            for (name, value) in self.extra.clone() {
                builder = builder.header(Name::parse(name), value);
            }
        }
        let content = if method == Method::Info {
            "application/dtmf-relay"
        } else {
            "application/sdp"
        };
        if let Some(body) = body {
            builder = builder.body(content, body);
        }
        let bytes = builder.build().unwrap();
        let to = self.destination();
        self.outbox.push_back((to, bytes.clone()));
        let repeat = Repeat {
            to,
            bytes,
            at: now + self.timers.t1,
            interval: self.timers.t1,
            give_up: now + self.timers.give_up(),
        };
        self.unanswered
            .insert((branch.clone(), method.text().to_owned()), repeat);
        branch
    }

    /// Our border gives addresses, so the Contact or first route is taken as one.
    fn destination(&self) -> SocketAddr {
        self.proxy
    }

    pub fn receive(&mut self, from: SocketAddr, bytes: &Bytes, now: Timestamp) {
        let message = Message::parse(bytes.clone()).expect("a phone gets well-formed messages");
        if message.is_request() {
            self.receive_request(from, message, now);
        } else {
            self.receive_response(message, now);
        }
    }

    fn note(&mut self, what: String, message: &Message) {
        self.heard.push(what);
        self.messages.push(message.clone());
    }

    fn receive_request(&mut self, from: SocketAddr, message: Message, now: Timestamp) {
        let method = message.method().text().to_owned();
        let branch = Bytes::copy_from_slice(message.top_via().branch().unwrap());
        let key = (branch, method.clone());
        if let Some(last) = self.last_responses.get(&key) {
            self.outbox.push_back((from, last.clone()));
            return;
        }
        if message.method() == Method::Ack {
            return self.receive_ack(message, now);
        }
        if message.method() == Method::Invite
            && self
                .incoming
                .as_ref()
                .is_some_and(|known| known.bytes() == message.bytes())
        {
            return;
        }
        self.note(method, &message);
        match message.method() {
            Method::Invite if message.to_tag().is_none() => {
                self.incoming = Some(message.clone());
                self.cancelled = false;
                self.unacknowledged = None;
                self.call_id = String::from_utf8(message.call_id().to_vec()).unwrap();
                self.remote_tag = String::from_utf8(message.from_tag().unwrap().to_vec()).unwrap();
                self.remote_target =
                    String::from_utf8(message.contact_uri().unwrap().to_vec()).unwrap();
                self.sequence = 100;
                let steps = self.answers.clone();
                self.scheduled = steps
                    .into_iter()
                    .map(|step| (now + step.after, step))
                    .collect();
            }
            Method::Invite => {
                self.incoming = Some(message);
                self.answer_invite(&step(0, self.change_status), now);
            }
            Method::Cancel => {
                self.respond(&message, from, 200, None);
                if self.scheduled.iter().any(|(_, step)| step.status >= 200) {
                    self.scheduled.clear();
                    self.answer_invite(&step(0, 487), now);
                    self.ended = true;
                }
            }
            Method::Bye => {
                self.up = false;
                self.ended = true;
                self.unacknowledged = None;
                self.respond(&message, from, 200, None);
            }
            _ => self.respond(&message, from, 200, None),
        }
    }

    fn receive_ack(&mut self, message: Message, now: Timestamp) {
        if self.unacknowledged.take().is_some() {
            self.note("ACK".into(), &message);
            if self.up {
                self.schedule_when_up(now);
            }
        }
    }

    fn schedule_when_up(&mut self, now: Timestamp) {
        for (after, action) in std::mem::take(&mut self.when_up) {
            self.planned.push((now + after, action));
        }
    }

    fn answer_invite(&mut self, step: &Step, now: Timestamp) {
        let Some(invite) = self.incoming.clone() else {
            return;
        };
        let tag = step
            .fork
            .map_or_else(|| self.local_tag.clone(), str::to_owned);
        let mut builder = Builder::response_to(&invite, step.status, "Whatever", Some(&tag));
        if (101..300).contains(&step.status) {
            builder = builder.header(
                Name::Contact,
                format!("<sip:{}@{}>", self.name, self.address),
            );
            for route in &self.record_routes {
                builder = builder.header(Name::RecordRoute, route);
            }
        }
        let success = (200..300).contains(&step.status);
        let body = step
            .body
            .clone()
            .or_else(|| self.description.clone().filter(|_| success));
        if let Some(body) = body {
            builder = builder.body("application/sdp", body);
        }
        let bytes = builder.build().unwrap();
        let to = self.proxy;
        self.outbox.push_back((to, bytes.clone()));
        let branch = Bytes::copy_from_slice(invite.top_via().branch().unwrap());
        if step.status < 200 {
            self.last_responses.insert((branch, "INVITE".into()), bytes);
            return;
        }
        self.up = success || invite.to_tag().is_some();
        self.last_responses
            .insert((branch, "INVITE".into()), bytes.clone());
        self.unacknowledged = Some(Repeat {
            to,
            bytes,
            at: now + self.timers.t1,
            interval: self.timers.t1,
            give_up: now + self.timers.give_up(),
        });
    }

    fn respond(&mut self, request: &Message, to: SocketAddr, status: u16, body: Option<&str>) {
        let mut builder = Builder::response_to(request, status, "Whatever", Some(&self.local_tag));
        if let Some(body) = body {
            builder = builder.body("application/sdp", body);
        }
        let bytes = builder.build().unwrap();
        let branch = Bytes::copy_from_slice(request.top_via().branch().unwrap());
        self.last_responses
            .insert((branch, request.method().text().to_owned()), bytes.clone());
        self.outbox.push_back((to, bytes));
    }

    fn receive_response(&mut self, message: Message, now: Timestamp) {
        let status = message.status().unwrap();
        let (sequence, method) = message.cseq();
        let branch = String::from_utf8(message.top_via().branch().unwrap().to_vec()).unwrap();
        let tag = Bytes::copy_from_slice(message.to_tag().unwrap_or_default());
        let repeated = self
            .acks
            .get(&(sequence, tag.clone()))
            .filter(|_| status >= 200);
        if let (true, Some(ack)) = (method == Method::Invite, repeated) {
            self.outbox.push_back((self.proxy, ack.clone()));
            return;
        }
        let key = (branch.clone(), method.text().to_owned());
        if status < 200 {
            if method == Method::Invite {
                self.unanswered.remove(&key);
                self.got_provisional = true;
                if std::mem::take(&mut self.cancelled) && !self.up {
                    self.act(Action::Cancel, now);
                }
            }
            if status > 100 {
                self.note(format!("{status} {method}"), &message);
            }
            return;
        }
        let known = self.unanswered.remove(&key).is_some() || method == Method::Invite;
        if !known {
            return;
        }
        self.note(format!("{status} {method}"), &message);
        if method == Method::Invite {
            self.receive_final(&message, branch, tag, now);
        }
    }

    fn receive_final(&mut self, message: &Message, branch: String, tag: Bytes, now: Timestamp) {
        let (sequence, _) = message.cseq();
        let success = (200..300).contains(&message.status().unwrap());
        let first = self.remote_tag.is_empty();
        if first {
            self.remote_tag = String::from_utf8(tag.to_vec()).unwrap();
        }
        let late = success && first && self.description.is_none();
        if success && first {
            self.remote_target =
                String::from_utf8(message.contact_uri().unwrap().to_vec()).unwrap();
        }
        let branch = if success {
            format!("{branch}-ack-{sequence}")
        } else {
            branch
        };
        let mut builder = self.builder(Method::Ack, &branch, sequence);
        if late {
            let answer = format!(
                "v=0\r\no=late 1 1 IN IP4 {0}\r\ns=-\r\nc=IN IP4 {0}\r\nt=0 0\r\nm=audio 4444 RTP/AVP 0\r\n",
                self.address.ip()
            );
            builder = builder.body("application/sdp", answer);
        }
        let ack = builder.build().unwrap();
        self.acks.insert((sequence, tag), ack.clone());
        self.outbox.push_back((self.proxy, ack));
        if success && first {
            self.up = true;
            self.schedule_when_up(now);
        } else if first {
            self.ended = true;
        }
    }
}

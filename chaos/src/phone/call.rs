//! One call at one phone: a pure machine; [`super::Phone`] executes its commands.
//!
//! ```text
//!  caller:  Calling ──1xx──► Ringing ──2xx / ACK──► Established ──BYE──► Ending ──answer──► Ended
//!  callee:  Ringing ──answer()──► Answered ──ACK──► Established ──BYE──► Ending ──answer──► Ended
//!  both:    any state before Ended ──BYE received──► Ended; final error, time-out or CANCEL ──► Failed
//! ```
//! After RFC 3261 sections 13, 15 and 17, UDP only. What the peer does wrong inside a dialog is kept as a
//! complaint: a border that forgets a sequence number or a tag over a takeover must not pass unnoticed.

mod callee;
mod caller;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rsip::{Header, Method, Request, Response};

use super::dialog::Dialog;
use super::message::{self, Identity};
use super::retransmission::{Due, Retransmission};
use super::sdp;
use super::voice::CallIndex;

/// Complaints kept of one call; further ones only add to the count.
const KEPT_COMPLAINTS: usize = 4;

/// Where the call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// INVITE sent, nothing heard.
    Calling,
    /// 180 heard, or sent.
    Ringing,
    /// 200 sent, no ACK yet.
    Answered,
    Established,
    /// BYE sent, no answer yet.
    Ending,
    Ended,
    Failed,
}

/// What a phone tells about a call.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct CallReport {
    pub state: CallState,
    /// Whether the call was ever ringing at this phone.
    pub rang: bool,
    /// Whether it was ever established.
    pub established: bool,
    pub bye_sent: bool,
    /// Status of the answer to this phone's BYE.
    pub bye_status: Option<u16>,
    pub bye_received: bool,
    /// Messages sent more than once.
    pub retransmissions: u32,
    /// Why it is `Failed`.
    pub failure: Option<String>,
    /// Protocol violations of the peer: the first few, and how many there were.
    pub complaints: Vec<String>,
    pub complaint_count: u32,
}

impl CallReport {
    fn new(state: CallState) -> CallReport {
        CallReport {
            state,
            rang: false,
            established: false,
            bye_sent: false,
            bye_status: None,
            bye_received: false,
            retransmissions: 0,
            failure: None,
            complaints: Vec::new(),
            complaint_count: 0,
        }
    }
}

/// What the shell is to do, in order.
#[derive(Debug)]
pub(super) enum Command {
    Send { bytes: Vec<u8>, to: SocketAddr },
    Talk { remote: SocketAddr },
    Hush,
}

/// What a new call needs to know of its phone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) index: CallIndex,
    /// The phone's SIP address.
    pub(super) here: SocketAddr,
    /// The call's RTP address.
    pub(super) media: SocketAddr,
    /// Next hop of requests that name no literal address.
    pub(super) proxy: SocketAddr,
}

/// One call at one phone.
#[derive(Debug)]
pub(super) struct Call {
    line: Line,
    random: StdRng,
    dialog: Dialog,
    report: CallReport,
    invite: Invite,
    /// Branch of the INVITE sent, or of the one received.
    invite_branch: String,
    invite_cseq: u32,
    bye: Option<Retransmission>,
    bye_branch: String,
    commands: VecDeque<Command>,
}

/// The INVITE transaction from this phone's side.
#[derive(Debug)]
enum Invite {
    /// Sent, with the ACK of its 2xx once there is one.
    Client {
        request: Option<Retransmission>,
        ack: Option<(Vec<u8>, SocketAddr)>,
    },
    /// Received: the request, the last answer, and whether that is repeated until an ACK comes.
    Server {
        request: Box<Request>,
        source: SocketAddr,
        last: Vec<u8>,
        until_ack: Option<Retransmission>,
        answer_at: Option<Duration>,
    },
}

impl Call {
    pub(super) fn call_id(&self) -> &str {
        &self.dialog.call_id
    }

    pub(super) fn report(&self) -> &CallReport {
        &self.report
    }

    pub(super) fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Ends an established call with BYE; does nothing in any other state.
    pub(super) fn hang_up(&mut self, now: Duration) {
        if self.report.state != CallState::Established {
            return;
        }
        let cseq = self.dialog.next_cseq();
        self.bye_branch = branch(&mut self.random);
        let (bytes, to) =
            self.dialog
                .request(Method::Bye, cseq, &self.bye_branch, Vec::new(), Vec::new());
        self.send(bytes.clone(), to);
        self.commands.push_back(Command::Hush);
        self.bye = Some(Retransmission::capped(bytes, to, now));
        self.report.bye_sent = true;
        self.report.state = CallState::Ending;
    }

    /// A request of this call; also the INVITE and its CANCEL again.
    pub(super) fn handle_request(
        &mut self,
        request: &Request,
        identity: &Identity,
        source: SocketAddr,
        now: Duration,
    ) {
        match request.method {
            Method::Invite if identity.to_tag.is_none() => {
                self.handle_invite_again(identity, request, source)
            }
            Method::Cancel => self.handle_cancel(identity, request, source, now),
            Method::Ack => self.handle_ack(identity),
            _ => self.handle_in_dialog(request, identity, source),
        }
    }

    /// A response to a request of this call.
    pub(super) fn handle_response(
        &mut self,
        response: &Response,
        identity: &Identity,
        now: Duration,
    ) {
        let status = response.status_code.code();
        match identity.method {
            Method::Invite => self.handle_invite_response(response, identity, status, now),
            Method::Bye => self.handle_bye_response(identity, status),
            _ => self.complain(format!("a {status} to a request never sent")),
        }
    }

    fn handle_bye_response(&mut self, identity: &Identity, status: u16) {
        let ours =
            self.bye.is_some() && identity.branch.as_deref() == Some(self.bye_branch.as_str());
        if !ours || status < 200 {
            return;
        }
        self.bye = None;
        self.report.bye_status = Some(status);
        if self.report.state == CallState::Ending {
            self.report.state = CallState::Ended;
        }
    }

    /// RFC 3261 section 12.2.2.
    fn handle_in_dialog(&mut self, request: &Request, identity: &Identity, source: SocketAddr) {
        let method = request.method;
        if !self.dialog.matches(identity) {
            self.complain(format!("{method} with tags of another dialog"));
            return self.respond(request, source, 481, Vec::new());
        }
        if self
            .dialog
            .remote_cseq
            .is_some_and(|highest| identity.cseq < highest)
        {
            self.complain(format!(
                "{method} with CSeq {} after a higher one",
                identity.cseq
            ));
            return self.respond(request, source, 500, Vec::new());
        }
        self.dialog.remote_cseq = Some(identity.cseq);
        match method {
            Method::Bye => {
                self.respond(request, source, 200, Vec::new());
                self.commands.push_back(Command::Hush);
                self.report.bye_received = true;
                if self.report.state != CallState::Ending {
                    self.report.state = CallState::Ended;
                }
            }
            Method::Invite | Method::Update => {
                if let Some(remote) = sdp::audio_address(&request.body) {
                    self.commands.push_back(Command::Talk { remote });
                }
                let body = sdp::describe(self.line.media, self.line.index.0);
                self.respond(request, source, 200, body);
            }
            Method::Options => self.respond(request, source, 200, Vec::new()),
            _ => self.respond(request, source, 501, Vec::new()),
        }
    }

    /// When [`Call::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let (invite, answer_at) = match &self.invite {
            Invite::Client { request, .. } => (request, None),
            Invite::Server {
                until_ack,
                answer_at,
                ..
            } => (until_ack, *answer_at),
        };
        let retransmissions = [invite, &self.bye];
        retransmissions
            .into_iter()
            .flatten()
            .map(Retransmission::poll_timeout)
            .chain(answer_at)
            .min()
    }

    /// Does what is due at `now`.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        let answer_now = match &mut self.invite {
            Invite::Client { .. } => false,
            Invite::Server { answer_at, .. } => answer_at.take_if(|at| *at <= now).is_some(),
        };
        if answer_now {
            self.answer(now);
        }
        let invite = match &mut self.invite {
            Invite::Client { request, .. } => request,
            Invite::Server { until_ack, .. } => until_ack,
        };
        match invite
            .as_mut()
            .map_or(Due::Nothing, |invite| invite.handle_timeout(now))
        {
            Due::Nothing => {}
            Due::SendAgain(bytes, to) => self.send_again(bytes, to),
            Due::GiveUp => {
                *invite = None;
                self.fail(match self.report.state {
                    CallState::Calling => "INVITE was never answered".into(),
                    CallState::Answered => "200 was never acknowledged".into(),
                    state => format!("final response was never acknowledged ({state:?})"),
                });
            }
        }
        match self
            .bye
            .as_mut()
            .map_or(Due::Nothing, |bye| bye.handle_timeout(now))
        {
            Due::Nothing => {}
            Due::SendAgain(bytes, to) => self.send_again(bytes, to),
            Due::GiveUp => {
                self.bye = None;
                self.fail("BYE was never answered".into());
            }
        }
    }

    fn respond(&mut self, request: &Request, source: SocketAddr, status: u16, body: Vec<u8>) {
        let extra: Vec<Header> = match body.is_empty() {
            true => Vec::new(),
            false => vec![self.dialog.contact()],
        };
        let tag = self.dialog.local_tag.clone();
        let bytes = message::response(request, source, status, &tag, extra, body);
        self.send(bytes, source);
    }

    fn send(&mut self, bytes: Vec<u8>, to: SocketAddr) {
        self.commands.push_back(Command::Send { bytes, to });
    }

    fn send_again(&mut self, bytes: Vec<u8>, to: SocketAddr) {
        self.report.retransmissions += 1;
        self.send(bytes, to);
    }

    fn fail(&mut self, reason: String) {
        self.commands.push_back(Command::Hush);
        self.report.state = CallState::Failed;
        self.report.failure.get_or_insert(reason);
    }

    fn complain(&mut self, complaint: String) {
        self.report.complaint_count += 1;
        if self.report.complaints.len() < KEPT_COMPLAINTS {
            self.report.complaints.push(complaint);
        }
    }
}

/// An unguessable token (RFC 3261 section 19.3 wants 32 bits of randomness in tags).
fn token(random: &mut StdRng) -> String {
    format!("{:016x}", random.random::<u64>())
}

/// RFC 3261 section 8.1.1.7: the magic cookie marks a branch as unique.
fn branch(random: &mut StdRng) -> String {
    format!("z9hG4bK{}", token(random))
}

#[cfg(test)]
mod tests;

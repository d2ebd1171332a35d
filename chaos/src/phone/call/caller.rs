//! The caller's half of INVITE (RFC 3261 sections 13.2 and 17.1.1).

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rsip::prelude::{HasHeaders, HeadersExt, UntypedHeader};
use rsip::{Method, Response, Uri};

use super::super::dialog::Dialog;
use super::super::message::{self, Identity};
use super::super::retransmission::Retransmission;
use super::super::sdp;
use super::super::voice::Party;
use super::{Call, CallReport, CallState, Command, Invite, Line, branch, token};

impl Call {
    /// Calls the callee of `line.index` through `line.proxy`.
    pub(in super::super) fn dial(line: Line, mut random: StdRng, now: Duration) -> Call {
        let caller = line.index.number(Party::Caller);
        let callee = line.index.number(Party::Callee);
        let local_tag = token(&mut random);
        let dialog = Dialog {
            call_id: format!("{}@{}", token(&mut random), line.here.ip()),
            local: format!("<sip:{caller}@{}>;tag={local_tag}", line.here),
            local_tag,
            remote: format!("<sip:{callee}@{}>", line.proxy),
            remote_tag: None,
            local_cseq: 1,
            remote_cseq: None,
            routes: Vec::new(),
            target: uri(&callee, line),
            fallback: line.proxy,
            here: line.here,
            user: caller,
        };
        let invite_branch = branch(&mut random);
        let body = sdp::describe(line.media, line.index.0);
        let (bytes, to) = dialog.request(
            Method::Invite,
            1,
            &invite_branch,
            vec![dialog.contact()],
            body,
        );
        Call {
            line,
            random,
            dialog,
            report: CallReport::new(CallState::Calling),
            invite: Invite::Client {
                request: Some(Retransmission::invite(bytes.clone(), to, now)),
                ack: None,
            },
            invite_branch,
            invite_cseq: 1,
            bye: None,
            bye_branch: String::new(),
            commands: VecDeque::from([Command::Send { bytes, to }]),
        }
    }

    pub(super) fn handle_invite_response(
        &mut self,
        response: &Response,
        identity: &Identity,
        status: u16,
        now: Duration,
    ) {
        let ours = identity.branch.as_deref() == Some(self.invite_branch.as_str())
            && identity.cseq == self.invite_cseq
            && identity.from_tag.as_deref() == Some(self.dialog.local_tag.as_str());
        let Invite::Client { request, ack } = &mut self.invite else {
            return self.complain(format!("a {status} to an INVITE never sent"));
        };
        if !ours {
            return self.complain(format!("a {status} that fits no INVITE sent"));
        }
        // Timer A and B stop with the first response (section 17.1.1.2); the callee may ring for
        // long.
        *request = None;
        match (status, ack.clone()) {
            (..200, _) => {
                if status > 100 && self.report.state == CallState::Calling {
                    self.report.state = CallState::Ringing;
                    self.report.rang = true;
                }
            }
            (200..300, Some((bytes, to))) => {
                if identity.to_tag != self.dialog.remote_tag {
                    self.complain("a second 200 with another tag".into());
                }
                self.send_again(bytes, to);
            }
            (200..300, None) => self.accept(response, identity, now),
            (300.., _) => self.refused(response, status),
        }
    }

    /// The first 2xx: the dialog is confirmed, the ACK is kept for repetitions of it.
    fn accept(&mut self, response: &Response, identity: &Identity, now: Duration) {
        if matches!(self.report.state, CallState::Failed) {
            return;
        }
        if let Ok(to) = response.to_header() {
            self.dialog.remote = to.value().to_owned();
        }
        self.dialog.remote_tag.clone_from(&identity.to_tag);
        // Section 12.1.2: the route set is Record-Route in reverse order.
        self.dialog.routes = message::record_routes(response.headers());
        self.dialog.routes.reverse();
        match message::contact(response) {
            Some(target) => self.dialog.target = target,
            None => self.complain("a 200 without a Contact that can be read".into()),
        }
        let ack_branch = branch(&mut self.random);
        let (bytes, to) = self.dialog.request(
            Method::Ack,
            self.invite_cseq,
            &ack_branch,
            Vec::new(),
            Vec::new(),
        );
        self.send(bytes.clone(), to);
        self.invite = Invite::Client {
            request: None,
            ack: Some((bytes, to)),
        };
        self.report.state = CallState::Established;
        self.report.established = true;
        match sdp::audio_address(&response.body) {
            Some(remote) => self.commands.push_back(Command::Talk { remote }),
            None => {
                self.complain("a 200 without an audio address".into());
                self.hang_up(now);
            }
        }
    }

    /// A final error: acknowledged within the transaction (section 17.1.1.3), each time it comes.
    fn refused(&mut self, response: &Response, status: u16) {
        let answered = response.to_header().map(|to| to.value().to_owned());
        let early = std::mem::replace(&mut self.dialog.remote, answered.unwrap_or_default());
        let (bytes, to) = self.dialog.request(
            Method::Ack,
            self.invite_cseq,
            &self.invite_branch,
            Vec::new(),
            Vec::new(),
        );
        self.dialog.remote = early;
        self.send(bytes, to);
        self.fail(format!("INVITE was answered {status}"));
    }
}

fn uri(user: &str, line: Line) -> Uri {
    Uri {
        scheme: Some(rsip::Scheme::Sip),
        auth: Some((user, Option::<String>::None).into()),
        host_with_port: line.proxy.into(),
        ..Uri::default()
    }
}

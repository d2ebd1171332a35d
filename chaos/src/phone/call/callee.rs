//! The callee's half of INVITE (RFC 3261 sections 13.3 and 17.2.1).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rsip::Request;
use rsip::prelude::{HasHeaders, HeadersExt, UntypedHeader};

use super::super::dialog::Dialog;
use super::super::message::{self, Identity};
use super::super::retransmission::Retransmission;
use super::super::sdp;
use super::super::voice::Party;
use super::{Call, CallReport, CallState, Command, Invite, Line, token};

impl Call {
    /// Rings for `request`; answers at `answer_at`, or only when told. None when the request cannot
    /// start a dialog.
    pub(in super::super) fn ring(
        line: Line,
        mut random: StdRng,
        request: Request,
        identity: &Identity,
        source: SocketAddr,
        answer_at: Option<Duration>,
    ) -> Option<Call> {
        let local_tag = token(&mut random);
        let target = message::contact(&request)?;
        let dialog = Dialog {
            call_id: identity.call_id.clone(),
            local: format!("{};tag={local_tag}", request.to_header().ok()?.value()),
            local_tag,
            remote: request.from_header().ok()?.value().to_owned(),
            remote_tag: Some(identity.from_tag.clone()?),
            local_cseq: 0,
            remote_cseq: Some(identity.cseq),
            routes: message::record_routes(request.headers()),
            target,
            fallback: source,
            here: line.here,
            user: line.index.number(Party::Callee),
        };
        let contact = vec![dialog.contact()];
        let ringing = message::response(
            &request,
            source,
            180,
            &dialog.local_tag,
            contact,
            Vec::new(),
        );
        let report = CallReport {
            rang: true,
            ..CallReport::new(CallState::Ringing)
        };
        Some(Call {
            line,
            random,
            dialog,
            report,
            invite_branch: identity.branch.clone()?,
            invite_cseq: identity.cseq,
            invite: Invite::Server {
                request: Box::new(request),
                source,
                last: ringing.clone(),
                until_ack: None,
                answer_at,
            },
            bye: None,
            bye_branch: String::new(),
            commands: VecDeque::from([Command::Send {
                bytes: ringing,
                to: source,
            }]),
        })
    }

    /// Picks up: 200 with the answer, repeated until its ACK. Does nothing unless the call rings
    /// here.
    pub(in super::super) fn answer(&mut self, now: Duration) {
        let ringing = self.report.state == CallState::Ringing;
        let contact = self.dialog.contact();
        let Invite::Server {
            request,
            source,
            last,
            until_ack,
            answer_at,
        } = &mut self.invite
        else {
            return;
        };
        if !ringing {
            return;
        }
        let (to, body) = (*source, sdp::describe(self.line.media, self.line.index.0));
        let bytes = message::response(
            request,
            to,
            200,
            &self.dialog.local_tag,
            vec![contact],
            body,
        );
        last.clone_from(&bytes);
        *until_ack = Some(Retransmission::capped(bytes.clone(), to, now));
        *answer_at = None;
        let remote = sdp::audio_address(&request.body);
        self.report.state = CallState::Answered;
        self.send(bytes, to);
        match remote {
            Some(remote) => self.commands.push_back(Command::Talk { remote }),
            None => self.complain("an INVITE without an audio address".into()),
        }
    }

    /// The INVITE came again: so does the last answer (section 17.2.1).
    pub(super) fn handle_invite_again(
        &mut self,
        identity: &Identity,
        request: &Request,
        source: SocketAddr,
    ) {
        let same = identity.cseq == self.invite_cseq
            && identity.branch.as_deref() == Some(self.invite_branch.as_str());
        match &self.invite {
            Invite::Server { last, .. } if same => {
                let last = last.clone();
                self.send_again(last, source);
            }
            Invite::Server { .. } | Invite::Client { .. } => {
                // A border that lost the transaction and starts another would ring the phone twice.
                self.complain("a second INVITE for the same call".into());
                self.respond(request, source, 482, Vec::new());
            }
        }
    }

    pub(super) fn handle_ack(&mut self, identity: &Identity) {
        let Invite::Server { until_ack, .. } = &mut self.invite else {
            return self.complain("an ACK to a caller".into());
        };
        if identity.cseq != self.invite_cseq {
            return;
        }
        *until_ack = None;
        if self.report.state == CallState::Answered {
            self.report.state = CallState::Established;
            self.report.established = true;
        }
    }

    /// Section 9.2: 200 to the CANCEL, and 487 to the INVITE if that is not answered yet.
    pub(super) fn handle_cancel(
        &mut self,
        identity: &Identity,
        cancel: &Request,
        source: SocketAddr,
        now: Duration,
    ) {
        let ours = identity.branch.as_deref() == Some(self.invite_branch.as_str());
        let ringing = self.report.state == CallState::Ringing;
        let Invite::Server {
            request,
            source: to,
            last,
            until_ack,
            answer_at,
        } = &mut self.invite
        else {
            return self.respond(cancel, source, 481, Vec::new());
        };
        if !ours {
            return self.respond(cancel, source, 481, Vec::new());
        }
        let tag = &self.dialog.local_tag;
        let terminated = message::response(request, *to, 487, tag, Vec::new(), Vec::new());
        let to = *to;
        if ringing {
            last.clone_from(&terminated);
            *until_ack = Some(Retransmission::capped(terminated.clone(), to, now));
            *answer_at = None;
        }
        self.respond(cancel, source, 200, Vec::new());
        if ringing {
            self.send(terminated, to);
            self.fail("cancelled by the caller".into());
        }
    }
}

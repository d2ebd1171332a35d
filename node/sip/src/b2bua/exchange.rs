//! An INVITE between the legs: responses back, the ACK forth, and repetition on both sides.

use bytes::Bytes;

use super::attempts::{hang_up_fork, leave_abandoned, send_wanted_cancel};
use super::finish::{end, hang_up};
use super::media::{self, Answered, MediaError};
use super::outgoing::{
    Heading, answer, built, received_request, request, respond, response as respond_with,
};
use super::phase::{self, Event};
use super::{Context, Shows, setup};
use crate::cdr::EndCause;
use crate::flow::{Flow, FlowRecord};
use crate::message::{Message, Method};
use crate::record::{CALLER, CallRecord, ExchangeState, LegState, Phase, is_due};
use crate::time::millis;

/// RFC 3261 gives 64*T1 to an ACK (section 13.3.1.4) and to the final response after CANCEL (section 9.1).
pub(super) const PATIENCE: u32 = 64;

/// A response to an INVITE of ours.
pub(super) fn response(
    record: &mut CallRecord,
    id: u32,
    leg: usize,
    response: &Message,
    context: &mut Context<'_>,
) {
    let status = response.status().unwrap_or_default();
    if let Some(leg) = record.legs.get_mut(leg) {
        leg.silent_deadline = None;
    }
    if status < 200 {
        send_wanted_cancel(record, leg, context);
    }
    let current = record
        .exchanges
        .iter()
        .position(|exchange| exchange.client == id);
    let Some(index) = current else {
        return stale(record, leg, response, context);
    };
    match status {
        0..=100 => {}
        101..=199 => provisional(record, index, response, context),
        200..=299 => accepted(record, index, response, context),
        300.. => {
            context.effects.changed = true;
            refused(
                record,
                index,
                status,
                Some(response),
                EndCause::Refused,
                context,
            );
        }
    }
}

/// An INVITE of ours that ended without a final response.
pub(super) fn unanswered(
    record: &mut CallRecord,
    id: u32,
    leg: usize,
    status: u16,
    context: &mut Context<'_>,
) {
    context.effects.changed = true;
    match record
        .exchanges
        .iter()
        .position(|exchange| exchange.client == id)
    {
        Some(index) => refused(record, index, status, None, EndCause::Unreachable, context),
        None => leave_abandoned(record, leg),
    }
}

/// A response for an attempt that was given up, or to an exchange that is over.
fn stale(record: &mut CallRecord, leg: usize, response: &Message, context: &mut Context<'_>) {
    match response.status().unwrap_or_default() {
        0..=199 => {}
        200..=299 => {
            leave_abandoned(record, leg);
            hang_up_fork(record, leg, response, context);
        }
        300.. => {
            context.effects.changed = true;
            leave_abandoned(record, leg);
        }
    }
}

fn provisional(
    record: &mut CallRecord,
    index: usize,
    response: &Message,
    context: &mut Context<'_>,
) {
    let Some(exchange) = record.exchanges.get(index) else {
        return;
    };
    if exchange.state() != ExchangeState::Pending {
        return;
    }
    let (server, status) = (exchange.server, response.status().unwrap_or_default());
    // An early answer (RFC 3261 section 13.2.1). With a late offer there is nothing it could answer, and a
    // description that cannot be used is left out: the final response decides.
    let body = if exchange.late_offer {
        None
    } else {
        pass_answer(record, index, response, context).ok().flatten()
    };
    if record.phase() == Phase::Calling {
        record.shown = true;
        record.facts.ringing.get_or_insert(context.now.0);
    }
    let builder = respond_with(
        record,
        server,
        status,
        response.reason().unwrap_or_default(),
        Some(response),
        context,
    );
    let builder = builder.map(|builder| match body {
        Some(body) => builder.body("application/sdp", body),
        None => builder,
    });
    respond(record, server, builder, context);
}

/// Anchors the answer in a response to an exchange's offer.
fn pass_answer(
    record: &mut CallRecord,
    index: usize,
    response: &Message,
    context: &mut Context<'_>,
) -> Result<Option<Bytes>, MediaError> {
    let Some(body) = media::description(response) else {
        return Ok(None);
    };
    let Some(exchange) = record.exchanges.get(index) else {
        return Err(MediaError::Leg);
    };
    let legs = Answered {
        answerer: exchange.to_leg as usize,
        offerer: exchange.from_leg as usize,
    };
    let offer =
        received_request(record, exchange.server).and_then(|request| media::description(&request));
    media::relay_answer(record, legs, &body, offer.as_deref(), context).map(Some)
}

/// Anchors the offer in a response to an INVITE that had none.
fn pass_late_offer(
    record: &mut CallRecord,
    index: usize,
    response: &Message,
    context: &mut Context<'_>,
) -> Result<Option<Bytes>, MediaError> {
    let Some(body) = media::description(response) else {
        return Ok(None);
    };
    let Some(exchange) = record.exchanges.get(index) else {
        return Err(MediaError::Leg);
    };
    let (from, to) = (exchange.to_leg as usize, exchange.from_leg as usize);
    let anchored = media::relay_offer(record, to, &body, context)?;
    media::take_first_offer(record, from, &body, context)?;
    Ok(Some(anchored))
}

fn accepted(record: &mut CallRecord, index: usize, response: &Message, context: &mut Context<'_>) {
    let Some(exchange) = record.exchanges.get(index) else {
        return;
    };
    let leg = exchange.to_leg as usize;
    match exchange.state() {
        ExchangeState::Pending => accept(record, index, response, context),
        ExchangeState::Accepted | ExchangeState::Confirmed | ExchangeState::Failed => {
            let tag = response.to_tag().unwrap_or_default();
            let same = record
                .legs
                .get(leg)
                .is_some_and(|leg| leg.remote_tag == tag);
            if !same {
                return hang_up_fork(record, leg, response, context);
            }
            // RFC 3261 section 13.2.2.4: "the ACK MUST be passed to the client transport every time a
            // retransmission of the 2xx final response ... arrives". With a late offer it waits for the caller's.
            let Some(exchange) = record.exchanges.get(index) else {
                return;
            };
            if let (false, Some(flow)) = (exchange.ack.is_empty(), &exchange.ack_flow) {
                context
                    .effects
                    .send(exchange.ack.clone(), Flow::from(flow), Shows::Known);
            }
        }
    }
}

/// The first 2xx of an exchange.
fn accept(record: &mut CallRecord, index: usize, response: &Message, context: &mut Context<'_>) {
    let Some((server, to, late)) = record
        .exchanges
        .get(index)
        .map(|e| (e.server, e.to_leg as usize, e.late_offer))
    else {
        return;
    };
    let first = record.phase() == Phase::Calling;
    if let Some(leg) = record.legs.get_mut(to) {
        leg.cancel_wanted = false;
        leg.cancel_deadline = None;
        if first {
            leg.learn_from_response(response);
            leg.set_state(LegState::Confirmed);
        } else {
            leg.learn_target(response);
        }
    }
    let body = if late {
        pass_late_offer(record, index, response, context)
    } else {
        pass_answer(record, index, response, context)
    };
    let Ok(body) = body else {
        return refuse_answer(record, index, context);
    };
    let status = response.status().unwrap_or(200);
    let builder = respond_with(
        record,
        server,
        status,
        response.reason().unwrap_or_default(),
        Some(response),
        context,
    );
    let builder = builder.map(|builder| match body {
        Some(body) => builder.body("application/sdp", body),
        None => builder,
    });
    let Some(bytes) = respond(record, server, builder, context) else {
        return refuse_answer(record, index, context);
    };
    let t1 = context.config.timers.t1;
    if let Some(exchange) = record.exchanges.get_mut(index) {
        exchange.accepted = bytes;
        exchange.retransmit_at = Some((context.now + t1).0);
        exchange.retransmit_interval = millis(t1);
        exchange.acknowledge_deadline = Some((context.now + t1 * PATIENCE).0);
        exchange.set_state(ExchangeState::Accepted);
    }
    if first {
        answered(record, context);
    }
    if !late {
        acknowledge(record, index, None, context);
    }
}

fn answered(record: &mut CallRecord, context: &mut Context<'_>) {
    if let Some(phase) = phase::next(record.phase(), Event::Answer) {
        record.set_phase(phase);
    }
    if let Some(caller) = record.legs.get_mut(CALLER) {
        caller.set_state(LegState::Confirmed);
    }
    record.targets_left.clear();
    record.ring_deadline = None;
    record.facts.answer = Some(context.now.0);
    record.maximum_deadline = Some((context.now + context.config.call_timers.maximum).0);
    context.counters.calls_answered += 1;
}

/// The answer cannot be relayed: the asking side is refused, the answering side is hung up, and the call is over.
fn refuse_answer(record: &mut CallRecord, index: usize, context: &mut Context<'_>) {
    let Some(exchange) = record.exchanges.get_mut(index) else {
        return;
    };
    exchange.set_state(ExchangeState::Failed);
    let server = exchange.server;
    acknowledge(record, index, None, context);
    answer(record, server, 502, "Bad Gateway", context);
    end(record, EndCause::UnusableAnswer, 502, context);
    for leg in 0..record.legs.len() {
        hang_up(record, leg, context);
    }
}

/// Sends the ACK of an exchange's 2xx (RFC 3261 section 13.2.2.4) and keeps it for repeated ones.
pub(super) fn acknowledge(
    record: &mut CallRecord,
    index: usize,
    body: Option<Bytes>,
    context: &mut Context<'_>,
) {
    let Some(exchange) = record.exchanges.get(index) else {
        return;
    };
    let (sequence, to) = (exchange.client_sequence, exchange.to_leg as usize);
    let Some(leg) = record.legs.get(to) else {
        return;
    };
    let Some(flow) = leg.next_hop() else { return };
    let builder = request(leg, &Heading::new(Method::Ack, sequence), context);
    let builder = builder.map(|builder| match body {
        Some(body) => builder.body("application/sdp", body),
        None => builder,
    });
    let Some(bytes) = built(builder, context) else {
        return;
    };
    context.effects.send(bytes.clone(), flow, Shows::New);
    if let Some(exchange) = record.exchanges.get_mut(index) {
        exchange.ack = bytes;
        exchange.ack_flow = Some(FlowRecord::from(flow));
    }
}

/// The ACK of a 2xx of ours.
pub(super) fn receive_acknowledgement(
    record: &mut CallRecord,
    leg: usize,
    ack: &Message,
    context: &mut Context<'_>,
) {
    let sequence = ack.cseq().0;
    let Some(index) = record.exchanges.iter().position(|exchange| {
        exchange.from_leg as usize == leg && exchange.server_sequence == sequence
    }) else {
        context.counters.acknowledgements_stray += 1;
        return;
    };
    let Some(exchange) = record.exchanges.get_mut(index) else {
        return;
    };
    if exchange.state() != ExchangeState::Accepted {
        return;
    }
    confirm(exchange);
    context.effects.changed = true;
    let unacknowledged = exchange.ack.is_empty();
    if unacknowledged && record.phase() != Phase::Ended {
        // RFC 3261 section 13.2.1: the answer to the offer of the 2xx is in the ACK. One that cannot be relayed is
        // left out: the callee then knows that the handshake is over, and hangs up or re-INVITEs.
        let legs = record.exchanges.get(index).map(|exchange| Answered {
            answerer: exchange.from_leg as usize,
            offerer: exchange.to_leg as usize,
        });
        let body = media::description(ack)
            .zip(legs)
            .and_then(|(body, legs)| media::relay_answer(record, legs, &body, None, context).ok());
        acknowledge(record, index, body, context);
    }
    if leg == CALLER
        && let Some(phase) = phase::next(record.phase(), Event::Acknowledge)
    {
        record.set_phase(phase);
    }
    if record.legs.get(leg).is_some_and(|leg| leg.bye_wanted) {
        hang_up(record, leg, context);
    }
}

pub(super) fn confirm(exchange: &mut crate::record::ExchangeRecord) {
    exchange.set_state(ExchangeState::Confirmed);
    exchange.accepted = Bytes::new();
    exchange.retransmit_at = None;
    exchange.acknowledge_deadline = None;
}

/// A final response other than 2xx, or none at all.
pub(super) fn refused(
    record: &mut CallRecord,
    index: usize,
    status: u16,
    response: Option<&Message>,
    cause: EndCause,
    context: &mut Context<'_>,
) {
    let Some(exchange) = record.exchanges.get(index) else {
        return;
    };
    if exchange.state() != ExchangeState::Pending {
        return;
    }
    let (server, leg) = (exchange.server, exchange.to_leg as usize);
    let before = exchange.streams_before as usize;
    if record.phase() == Phase::Calling {
        if let Some(leg) = record.legs.get_mut(leg) {
            leg.set_state(LegState::Gone);
        }
        if !record.shown && hunts(status) && setup::attempt_next(record, context).is_ok() {
            return;
        }
        let code = refuse_caller(record, index, server, status, response, context);
        return end(record, cause, code, context);
    }
    media::truncate(record, before, context);
    if let Some(leg) = record.legs.get_mut(leg) {
        leg.cancel_wanted = false;
        leg.cancel_deadline = None;
    }
    refuse_caller(record, index, server, status, response, context);
    // RFC 3261 section 12.2.1.2: 481 and 408 mean that the dialog is gone.
    if matches!(status, 408 | 481) {
        end(record, EndCause::PartyLost, 0, context);
        for leg in 0..record.legs.len() {
            hang_up(record, leg, context);
        }
    }
}

fn refuse_caller(
    record: &mut CallRecord,
    index: usize,
    server: u32,
    status: u16,
    response: Option<&Message>,
    context: &mut Context<'_>,
) -> u16 {
    let (code, reason) = mapped(status, response);
    let builder = respond_with(record, server, code, &reason, response, context);
    respond(record, server, builder, context);
    if let Some(exchange) = record.exchanges.get_mut(index) {
        exchange.set_state(ExchangeState::Failed);
    }
    code
}

/// Whether another target may do better. See the module above.
fn hunts(status: u16) -> bool {
    matches!(status, 408 | 430 | 500..=599) && !matches!(status, 501 | 505 | 513)
}

/// What the asking side gets to see. Redirection names places behind us, so it is not passed; 503 would speak for us
/// as a whole (RFC 3261 section 16.7 item 6).
fn mapped(status: u16, response: Option<&Message>) -> (u16, Bytes) {
    match status {
        300..=399 => (480, Bytes::from_static(b"Temporarily Unavailable")),
        503 => (500, Bytes::from_static(b"Server Internal Error")),
        _ => {
            let fallback = if status == 408 {
                b"Request Timeout".as_slice()
            } else {
                b"Failure"
            };
            let reason = response.and_then(Message::reason).unwrap_or(fallback);
            (status, Bytes::copy_from_slice(reason))
        }
    }
}

/// RFC 3261 section 13.3.1.4: the interval starts at T1 and doubles until it reaches T2.
pub(super) fn repeat_accepted(record: &mut CallRecord, context: &mut Context<'_>) {
    let t2 = millis(context.config.timers.t2);
    let mut repeats = Vec::new();
    for exchange in &mut record.exchanges {
        if is_due(exchange.retransmit_at, context.now) {
            exchange.retransmit_interval = exchange
                .retransmit_interval
                .saturating_mul(2)
                .clamp(1, t2.max(1));
            exchange.retransmit_at =
                Some(context.now.0.saturating_add(exchange.retransmit_interval));
            repeats.push((exchange.server, exchange.accepted.clone()));
        }
    }
    for (server, bytes) in repeats {
        if let Some(transaction) = record.transaction(server) {
            context
                .effects
                .send(bytes, transaction.machine.flow(), Shows::Known);
        }
    }
}

/// RFC 3261 section 13.3.1.4: without an ACK within 64*T1 the session is terminated.
pub(super) fn not_acknowledged(record: &mut CallRecord, context: &mut Context<'_>) {
    for exchange in &mut record.exchanges {
        if is_due(exchange.acknowledge_deadline, context.now) {
            confirm(exchange);
        }
    }
    context.effects.changed = true;
    end(record, EndCause::NotAcknowledged, 0, context);
    for leg in 0..record.legs.len() {
        hang_up(record, leg, context);
    }
}

//! How calls end: hanging up, giving up, and the call detail record.

use super::Context;
use super::attempts::{abandon, cancel};
use super::exchange::{acknowledge, confirm};
use super::media;
use super::outgoing::{Heading, answer, built, request, start_client};
use super::phase::{self, Event};
use crate::cdr::{CdrRecord, EndCause};
use crate::message::Method;
use crate::record::{CALLER, CallRecord, ExchangeState, LegState, Role};

/// Ends the call, once: pending INVITEs get their final response, attempts are given up, media goes, and the call
/// detail record is made. `code` is the final response to a caller who has none yet. Dialogs are left to
/// [`hang_up`].
pub(super) fn end(record: &mut CallRecord, cause: EndCause, code: u16, context: &mut Context<'_>) {
    let Some(phase) = phase::next(record.phase(), Event::End) else {
        return;
    };
    let answered = record.facts.answer.is_some();
    let code = if answered { 200 } else { code };
    refuse_pending(record, if answered { 487 } else { code }, context);
    for leg in 1..record.legs.len() {
        if record
            .legs
            .get(leg)
            .is_some_and(|leg| leg.state() == LegState::Early)
        {
            abandon(record, leg, context);
        }
    }
    record.set_phase(phase);
    record.facts.end = Some(context.now.0);
    record.ring_deadline = None;
    record.maximum_deadline = None;
    record.targets_left.clear();
    context.effects.cdr = Some(detail(record, cause, code, context));
    record.cdr_written = true;
    media::release(record, context);
    context.effects.changed = true;
    context.counters.calls_ended += 1;
}

/// RFC 3261 section 15.1.2: pending requests are answered with 487 when their dialog ends.
fn refuse_pending(record: &mut CallRecord, code: u16, context: &mut Context<'_>) {
    let mut pending = Vec::new();
    for exchange in &mut record.exchanges {
        if exchange.state() == ExchangeState::Pending {
            exchange.set_state(ExchangeState::Failed);
            exchange.client = 0;
            pending.push((exchange.server, exchange.to_leg as usize));
        }
    }
    for (server, asked) in pending {
        answer(record, server, code, reason_of(code), context);
        // A BYE ends the other side's INVITE as well; CANCEL bounds the wait for its final response.
        if record
            .legs
            .get(asked)
            .is_some_and(|leg| leg.state() == LegState::Confirmed)
        {
            cancel(record, asked, context);
        }
    }
}

fn reason_of(code: u16) -> &'static str {
    match code {
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        487 => "Request Terminated",
        _ => "Failure",
    }
}

fn detail(record: &CallRecord, cause: EndCause, code: u16, context: &Context<'_>) -> CdrRecord {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let realm = |leg: usize| {
        context
            .config
            .realm(record.realm_of(leg))
            .map_or_else(String::new, |realm| realm.name.clone())
    };
    let call_id = |leg: usize| {
        record
            .legs
            .get(leg)
            .map_or_else(String::new, |leg| text(&leg.call_id))
    };
    let callee = record.callee();
    let facts = &record.facts;
    let end = facts.end.unwrap_or(context.now.0);
    CdrRecord {
        epoch: 0,
        sequence: 0,
        call: record.key,
        caller_call_id: call_id(CALLER),
        callee_call_id: call_id(callee),
        from: text(&facts.from),
        to: text(&facts.to),
        from_realm: realm(CALLER),
        to_realm: realm(callee),
        target: record
            .legs
            .get(callee)
            .and_then(|leg| leg.peer_flow())
            .map_or_else(String::new, |flow| flow.remote.to_string()),
        start: facts.start,
        ringing: facts.ringing,
        answer: facts.answer,
        end,
        duration_millis: facts.answer.map_or(0, |answer| end.saturating_sub(answer)),
        status: cause.status(facts.answer.is_some()).into(),
        code: u32::from(code),
        ended_by: cause.ended_by().into(),
        reason: cause.text().to_owned(),
    }
}

/// Hangs a confirmed leg up. RFC 3261 section 15: the callee's side of a dialog "MUST NOT send a BYE on a confirmed
/// dialog until it has received an ACK for its 2xx response or until the server transaction times out".
pub(super) fn hang_up(record: &mut CallRecord, index: usize, context: &mut Context<'_>) {
    if record
        .legs
        .get(index)
        .is_none_or(|leg| leg.state() != LegState::Confirmed)
    {
        return;
    }
    let unacknowledged = record.exchanges.iter().any(|exchange| {
        exchange.from_leg as usize == index && exchange.state() == ExchangeState::Accepted
    });
    if let Some(leg) = record.legs.get_mut(index).filter(|_| unacknowledged) {
        leg.bye_wanted = true;
        return;
    }
    // A late offer's 2xx whose answer never came still needs its ACK before the BYE.
    let owed = record.exchanges.iter().position(|exchange| {
        exchange.to_leg as usize == index
            && exchange.ack.is_empty()
            && matches!(
                exchange.state(),
                ExchangeState::Accepted | ExchangeState::Confirmed
            )
    });
    if let Some(owed) = owed {
        acknowledge(record, owed, None, context);
    }
    let Some(leg) = record.legs.get_mut(index) else {
        return;
    };
    leg.bye_wanted = false;
    leg.local_sequence += 1;
    leg.set_state(LegState::Gone);
    let leg = leg.clone();
    let Some(flow) = leg.next_hop() else { return };
    let bye = request(
        &leg,
        &Heading::new(Method::Bye, leg.local_sequence),
        context,
    );
    if let Some(bye) = built(bye, context) {
        start_client(record, index, Role::Alone, bye, flow, context);
    }
}

/// The peer hung its leg up: its own INVITEs are over with it, acknowledged or not.
pub(super) fn leave(record: &mut CallRecord, index: usize) {
    for exchange in &mut record.exchanges {
        if exchange.from_leg as usize == index && exchange.state() == ExchangeState::Accepted {
            confirm(exchange);
        }
    }
    if let Some(leg) = record.legs.get_mut(index) {
        leg.bye_wanted = false;
        leg.set_state(LegState::Gone);
    }
}

pub(super) fn no_answer(record: &mut CallRecord, context: &mut Context<'_>) {
    end(record, EndCause::RingTimeout, 480, context);
}

pub(super) fn too_long(record: &mut CallRecord, context: &mut Context<'_>) {
    end(record, EndCause::MaximumDuration, 200, context);
    for leg in 0..record.legs.len() {
        hang_up(record, leg, context);
    }
}

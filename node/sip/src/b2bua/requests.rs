//! Requests that belong to a call: repeats, CANCEL, ACK, and everything inside its dialogs (RFC 3261 section 12.2.2).

use super::attempts::cancel;
use super::exchange::receive_acknowledgement;
use super::finish::{end, hang_up, leave};
use super::outgoing::{Refusal, answer, refuse, start_client, start_server};
use super::{ALLOW, Context, advance, is_supported, media, relay, setup};
use crate::cdr::EndCause;
use crate::flow::Flow;
use crate::message::{Message, Method, Name};
use crate::record::{CALLER, CallRecord, ExchangeRecord, ExchangeState, LegState, Phase, Role};
use crate::transaction::{Input as Stimulus, ServerKey};

pub(super) fn receive(
    record: &mut CallRecord,
    message: &Message,
    source: Flow,
    context: &mut Context<'_>,
) {
    let key = Some(ServerKey::of(message));
    let known = record
        .transactions
        .iter()
        .find(|transaction| transaction.machine.server_key() == key);
    if let Some(id) = known.map(|transaction| transaction.id) {
        let outcome = advance(record, id, Stimulus::Received(message), context);
        // An ACK that carries the branch of its INVITE although that got a 2xx: wrong, and seen in the wild.
        let misplaced = outcome.delivered && message.method() == Method::Ack;
        if !misplaced {
            return;
        }
    }
    if message.method() == Method::Cancel {
        return receive_cancel(record, message, source, context);
    }
    match find_leg(record, message) {
        Some(leg) => receive_in_dialog(record, leg, message, source, context),
        None if message.method() == Method::Ack => context.counters.acknowledgements_stray += 1,
        None => unknown_dialog(message, source, context),
    }
}

/// RFC 3261 section 12.2.2: Call-ID and both tags name the dialog.
fn find_leg(record: &CallRecord, message: &Message) -> Option<usize> {
    let local = message.to_tag()?;
    let remote = message.from_tag().unwrap_or_default();
    record.legs.iter().position(|leg| {
        leg.call_id == message.call_id() && leg.local_tag == local && leg.remote_tag == remote
    })
}

fn unknown_dialog(message: &Message, source: Flow, context: &mut Context<'_>) {
    context.counters.rejected_unknown_dialog += 1;
    refuse(
        message,
        source,
        Refusal::new(481, "Call/Transaction Does Not Exist"),
        context,
    );
}

/// RFC 3261 section 9.2: CANCEL is answered 200 in any case, and has no effect after a final response.
fn receive_cancel(
    record: &mut CallRecord,
    message: &Message,
    source: Flow,
    context: &mut Context<'_>,
) {
    let key = Some(ServerKey::of_cancelled(message));
    let Some((invite, leg)) = record
        .transactions
        .iter()
        .find(|transaction| transaction.machine.server_key() == key)
        .map(|transaction| (transaction.id, transaction.leg as usize))
    else {
        return unknown_dialog(message, source, context);
    };
    let id = start_server(record, leg, Role::Alone, message, source);
    answer(record, id, 200, "OK", context);
    let pending = record
        .exchanges
        .iter()
        .find(|exchange| exchange.server == invite && exchange.state() == ExchangeState::Pending)
        .map(|exchange| exchange.to_leg as usize);
    let Some(asked) = pending else { return };
    if record.phase() == Phase::Calling {
        end(record, EndCause::CallerCancelled, 487, context);
    } else if record
        .legs
        .get(asked)
        .is_some_and(|leg| leg.cancel_deadline.is_none())
    {
        // A re-INVITE: the other side decides, and its final response comes back.
        cancel(record, asked, context);
    }
}

fn receive_in_dialog(
    record: &mut CallRecord,
    leg: usize,
    message: &Message,
    source: Flow,
    context: &mut Context<'_>,
) {
    let method = message.method();
    if method == Method::Ack {
        return receive_acknowledgement(record, leg, message, context);
    }
    let sequence = message.cseq().0;
    let last = record.legs.get(leg).and_then(|leg| leg.remote_sequence);
    if last.is_some_and(|last| sequence < last) {
        // "MUST be rejected with a 500 (Server Internal Error) response" (RFC 3261 section 12.2.2).
        context.counters.rejected_out_of_order += 1;
        return refuse(
            message,
            source,
            Refusal::new(500, "Server Internal Error"),
            context,
        );
    }
    if method == Method::Bye {
        note_sequence(record, leg, sequence);
        return receive_bye(record, leg, message, source, context);
    }
    if record.phase() == Phase::Ended {
        return unknown_dialog(message, source, context);
    }
    if !is_supported(method) {
        context.counters.rejected_method += 1;
        let refusal = match method {
            Method::Other(_) => Refusal::new(501, "Not Implemented"),
            _ => Refusal::new(405, "Method Not Allowed"),
        };
        return refuse(message, source, refusal.with(Name::Allow, ALLOW), context);
    }
    if method == Method::Options {
        return setup::capabilities(message, source, context);
    }
    if let Err(refusal) = setup::inspect(message, context) {
        return refuse(message, source, refusal, context);
    }
    if let Err(refusal) = check_room(record, message, context) {
        return refuse(message, source, refusal, context);
    }
    note_sequence(record, leg, sequence);
    let other = if leg == CALLER {
        record.callee()
    } else {
        CALLER
    };
    if method == Method::Invite {
        receive_invite(record, [leg, other], message, source, context);
    } else {
        relay::receive(record, leg, other, message, source, context);
    }
}

fn note_sequence(record: &mut CallRecord, leg: usize, sequence: u32) {
    if let Some(leg) = record.legs.get_mut(leg) {
        leg.remote_sequence = Some(sequence);
    }
}

/// Bounds on what one call holds. The message may be kept three times: as received, as sent on, and as answered.
fn check_room(
    record: &CallRecord,
    message: &Message,
    context: &mut Context<'_>,
) -> Result<(), Refusal> {
    let limits = &context.config.limits;
    if record.transactions.len() + 2 > limits.transactions {
        context.counters.rejected_transactions_limit += 1;
        return Err(Refusal::new(503, "Service Unavailable").with(Name::RetryAfter, "5"));
    }
    let size =
        prost::Message::encoded_len(record).saturating_add(message.bytes().len().saturating_mul(3));
    if size > limits.record_bytes {
        context.counters.rejected_too_large += 1;
        return Err(Refusal::new(513, "Message Too Large"));
    }
    Ok(())
}

fn receive_bye(
    record: &mut CallRecord,
    leg: usize,
    message: &Message,
    source: Flow,
    context: &mut Context<'_>,
) {
    let id = start_server(record, leg, Role::Alone, message, source);
    leave(record, leg);
    let cause = if leg == CALLER {
        EndCause::CallerHungUp
    } else {
        EndCause::CalleeHungUp
    };
    end(record, cause, 487, context);
    answer(record, id, 200, "OK", context);
    for other in (0..record.legs.len()).filter(|other| *other != leg) {
        hang_up(record, other, context);
    }
}

/// A re-INVITE, from the first leg given to the second.
fn receive_invite(
    record: &mut CallRecord,
    [from, to]: [usize; 2],
    message: &Message,
    source: Flow,
    context: &mut Context<'_>,
) {
    let server = start_server(record, from, Role::Exchange, message, source);
    if let Some((status, reason)) = busy(record, from) {
        context.counters.rejected_glare += 1;
        let builder =
            super::outgoing::response(record, server, status, reason.as_bytes(), None, context);
        // RFC 3261 section 14.2: 500 to an overlapping INVITE carries a Retry-After of 0 to 10 seconds.
        let seconds = rand::Rng::random_range(context.rng, 0..=10u8).to_string();
        let builder = builder.map(|builder| {
            if status == 500 {
                builder.header(Name::RetryAfter, seconds)
            } else {
                builder
            }
        });
        super::outgoing::respond(record, server, builder, context);
        return;
    }
    answer(record, server, 100, "Trying", context);
    if let Err(refusal) = pass_invite(record, [from, to], server, message, context) {
        answer(record, server, refusal.status, refusal.reason, context);
    }
    context.effects.changed = true;
}

/// RFC 3261 section 14.2. One INVITE is under way at a time, in either direction.
fn busy(record: &CallRecord, from: usize) -> Option<(u16, &'static str)> {
    let open = record.exchanges.iter().find(|exchange| {
        matches!(
            exchange.state(),
            ExchangeState::Pending | ExchangeState::Accepted
        )
    })?;
    if open.from_leg as usize == from && open.state() == ExchangeState::Pending {
        Some((500, "Server Internal Error"))
    } else {
        Some((491, "Request Pending"))
    }
}

fn pass_invite(
    record: &mut CallRecord,
    [from, to]: [usize; 2],
    server: u32,
    message: &Message,
    context: &mut Context<'_>,
) -> Result<(), Refusal> {
    if media::has_foreign_body(message) {
        context.counters.rejected_body += 1;
        return Err(Refusal::new(415, "Unsupported Media Type"));
    }
    if record
        .legs
        .get(to)
        .is_none_or(|leg| leg.state() != LegState::Confirmed)
    {
        return Err(Refusal::new(491, "Request Pending"));
    }
    let streams_before = record.streams.len();
    let body = match media::description(message) {
        Some(body) => match media::relay_offer(record, to, &body, context) {
            Ok(body) => Some(body),
            Err(error) => {
                media::truncate(record, streams_before, context);
                return Err(error.refusal(context));
            }
        },
        None => None,
    };
    if let Some(leg) = record.legs.get_mut(from) {
        leg.learn_target(message);
    }
    let Some(leg) = record.legs.get_mut(to) else {
        return Err(Refusal::new(500, "Server Internal Error"));
    };
    leg.local_sequence += 1;
    let (client_sequence, flow) = (leg.local_sequence, leg.next_hop());
    let late_offer = body.is_none();
    let client = setup::invite_bytes(record, to, message, body, context)
        .zip(flow)
        .and_then(|(bytes, flow)| start_client(record, to, Role::Exchange, bytes, flow, context));
    let Some(client) = client else {
        media::truncate(record, streams_before, context);
        return Err(Refusal::new(500, "Server Internal Error"));
    };
    record.exchanges.push(ExchangeRecord {
        server,
        client,
        from_leg: from as u32,
        to_leg: to as u32,
        state: ExchangeState::Pending.into(),
        late_offer,
        server_sequence: message.cseq().0,
        client_sequence,
        streams_before: streams_before as u32,
        ..ExchangeRecord::default()
    });
    context.counters.forwarded_in_dialog += 1;
    Ok(())
}

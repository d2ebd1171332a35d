//! INFO and MESSAGE inside a call travel end to end; each side has its own transaction.

use super::outgoing::{
    Heading, MAX_FORWARDS, Refusal, answer, built, host_text, refuse, request, respond,
    response as respond_with, start_client, start_server,
};
use super::{ALLOW, Context, headers};
use crate::flow::Flow;
use crate::message::{Message, Name};
use crate::record::{CallRecord, LegState, Role};

/// Passes a request on, or answers for a peer whose Allow list leaves the method out: a trunk that takes only the
/// basic methods never sees it.
pub(super) fn receive(
    record: &mut CallRecord,
    from: usize,
    to: usize,
    received: &Message,
    source: Flow,
    context: &mut Context<'_>,
) {
    let Some(leg) = record
        .legs
        .get_mut(to)
        .filter(|leg| leg.state() == LegState::Confirmed)
    else {
        context.counters.rejected_unknown_dialog += 1;
        return refuse(
            received,
            source,
            Refusal::new(481, "Call/Transaction Does Not Exist"),
            context,
        );
    };
    if !leg.allows(received.method().text()) {
        context.counters.rejected_method += 1;
        return refuse(
            received,
            source,
            Refusal::new(405, "Method Not Allowed").with(Name::Allow, ALLOW),
            context,
        );
    }
    leg.local_sequence += 1;
    let leg = leg.clone();
    let Some(flow) = leg.next_hop() else { return };
    let server = start_server(record, from, Role::Relay, received, source);
    let heading = Heading {
        max_forwards: received
            .max_forwards()
            .unwrap_or(MAX_FORWARDS)
            .saturating_sub(1),
        ..Heading::new(received.method(), leg.local_sequence)
    };
    let host = context
        .config
        .realm(leg.realm_id())
        .map(|realm| host_text(realm.advertised.ip()));
    let builder = request(&leg, &heading, context)
        .zip(host)
        .map(|(builder, host)| headers::pass(builder, received, &host).copy_body(received));
    let client = built(builder, context)
        .and_then(|bytes| start_client(record, to, Role::Relay, bytes, flow, context));
    let Some(client) = client else {
        return answer(record, server, 500, "Server Internal Error", context);
    };
    context.counters.forwarded_in_dialog += 1;
    for (id, partner) in [(server, client), (client, server)] {
        if let Some(transaction) = record.transaction_mut(id) {
            transaction.partner = partner;
        }
    }
}

/// A response to a request passed on. Provisional ones end here: a non-INVITE client waits without them.
pub(super) fn response(
    record: &mut CallRecord,
    id: u32,
    response: &Message,
    context: &mut Context<'_>,
) {
    let status = response.status().unwrap_or_default();
    let Some(server) = record
        .transaction(id)
        .map(|transaction| transaction.partner)
    else {
        return;
    };
    if status < 200 {
        return;
    }
    let reason = response.reason().unwrap_or_default();
    let builder = respond_with(record, server, status, reason, Some(response), context)
        .map(|builder| builder.copy_body(response));
    respond(record, server, builder, context);
}

pub(super) fn unanswered(record: &mut CallRecord, id: u32, status: u16, context: &mut Context<'_>) {
    let Some(server) = record
        .transaction(id)
        .map(|transaction| transaction.partner)
    else {
        return;
    };
    let reason = if status == 408 {
        "Request Timeout"
    } else {
        "Service Unavailable"
    };
    answer(record, server, status, reason, context);
}

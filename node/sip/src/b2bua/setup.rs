//! A new call: judging its INVITE (RFC 3261 section 8.2) and hunting through its targets.

use std::hash::Hasher;
use std::net::SocketAddr;

use bytes::Bytes;

use super::outgoing::{
    Fnv, Heading, MAX_FORWARDS, Refusal, answer, built, contact, host_text, long_token,
    received_request, request, start_client, start_server, token, unsupported_extensions,
};
use super::{ALLOW, Context, headers, media};
use crate::config::TargetGroup;
use crate::dialog::with_uri;
use crate::flow::{Flow, FlowRecord, Transport};
use crate::message::{Message, Method, Name, Uri};
use crate::record::{
    CALLER, CallKey, CallRecord, ExchangeRecord, ExchangeState, Facts, LegRecord, LegState, Phase,
    RECORD_VERSION, Role,
};
use crate::routing;

/// What RFC 3261 section 8.2 asks of any request that may start something. Also judges loops (section 16.3 item 4):
/// a branch of ours for the same destination means that the request has been here.
pub(crate) fn inspect(request: &Message, context: &mut Context<'_>) -> Result<(), Refusal> {
    if let Some(extensions) = unsupported_extensions(request) {
        context.counters.rejected_extension += 1;
        return Err(Refusal::new(420, "Bad Extension").with(Name::Unsupported, extensions));
    }
    if request.max_forwards() == Some(0) {
        context.counters.rejected_too_many_hops += 1;
        return Err(Refusal::new(483, "Too Many Hops"));
    }
    let mark = loop_mark(request.request_uri().unwrap_or_default());
    let is_ours = |value: &[u8]| {
        crate::message::Via::parse(value)
            .and_then(|via| {
                via.branch()
                    .map(|branch| context.identity.made(branch, mark))
            })
            .unwrap_or(false)
    };
    if request.values(Name::Via).any(is_ours) {
        context.counters.rejected_loop += 1;
        return Err(Refusal::new(482, "Loop Detected"));
    }
    Ok(())
}

/// The same for every URI that leads to the same destination: its user, as the host is replaced on the way.
fn loop_mark(uri: &[u8]) -> u32 {
    let mut hash = Fnv::default();
    let number = |rest: &[u8]| {
        rest.split(|byte| *byte == b';')
            .next()
            .unwrap_or(rest)
            .to_vec()
    };
    match Uri::parse(uri) {
        Some(Uri::Sip(sip)) => hash.write(sip.user.unwrap_or_default()),
        Some(Uri::Other { rest, .. }) => hash.write(&number(rest)),
        None => hash.write(uri),
    }
    hash.finish() as u32
}

/// Makes the record of a call and its first attempt. On refusal everything taken is given back.
pub(crate) fn create(
    key: CallKey,
    invite: &Message,
    source: Flow,
    context: &mut Context<'_>,
) -> Result<CallRecord, Refusal> {
    inspect(invite, context)?;
    let uri = invite.request_uri().unwrap_or_default();
    if headers::target_uri(uri, "target.invalid").is_none() {
        context.counters.rejected_uri += 1;
        return Err(Refusal::new(416, "Unsupported URI Scheme"));
    }
    if media::has_foreign_body(invite) {
        context.counters.rejected_body += 1;
        return Err(
            Refusal::new(415, "Unsupported Media Type").with(Name::Accept, "application/sdp")
        );
    }
    let config = context.config;
    let Some(group) = config.group_for(source.realm) else {
        context.counters.rejected_no_route += 1;
        return Err(Refusal::new(404, "Not Found"));
    };
    let mut record = open(key, invite, source, context);
    draw_targets(&mut record, group, context);
    let first = record
        .transactions
        .first()
        .map_or(0, |transaction| transaction.id);
    if let Err(refusal) = attempt_next(&mut record, context) {
        media::release(&mut record, context);
        context.effects = super::Effects::default();
        return Err(refusal);
    }
    answer(&mut record, first, 100, "Trying", context);
    context.effects.changed = true;
    context.counters.calls_started += 1;
    Ok(record)
}

fn open(key: CallKey, invite: &Message, source: Flow, context: &mut Context<'_>) -> CallRecord {
    let mut caller = LegRecord {
        realm: u32::from(source.realm.0),
        state: LegState::Early.into(),
        call_id: Bytes::copy_from_slice(invite.call_id()),
        local_tag: token(context.rng),
        sdp_session: sdp_session(context),
        ..LegRecord::default()
    };
    caller.learn_from_request(invite, source);
    let mut record = CallRecord {
        version: RECORD_VERSION,
        key: key.0,
        phase: Phase::Calling.into(),
        legs: vec![caller],
        ring_deadline: Some((context.now + context.config.call_timers.ring).0),
        facts: Facts {
            start: context.now.0,
            from: Bytes::copy_from_slice(invite.from().uri),
            to: Bytes::copy_from_slice(invite.request_uri().unwrap_or_default()),
            ..Facts::default()
        },
        ..CallRecord::default()
    };
    let server = start_server(&mut record, CALLER, Role::Exchange, invite, source);
    record.exchanges.push(ExchangeRecord {
        server,
        from_leg: CALLER as u32,
        state: ExchangeState::Pending.into(),
        late_offer: media::description(invite).is_none(),
        server_sequence: invite.cseq().0,
        ..ExchangeRecord::default()
    });
    record
}

/// `o=` session ids are to be unique for us (RFC 8866 section 5.2); 32 random bits suit every reader.
fn sdp_session(context: &mut Context<'_>) -> u64 {
    u64::from(rand::Rng::random::<u32>(context.rng))
}

fn draw_targets(record: &mut CallRecord, group: &TargetGroup, context: &mut Context<'_>) {
    let limit = context.config.limits.targets;
    context.counters.targets_cut += group.targets.len().saturating_sub(limit) as u64;
    record.targets_left = routing::order(&group.targets, limit, context.rng)
        .into_iter()
        .map(|remote| {
            FlowRecord::from(Flow {
                realm: group.realm,
                transport: Transport::Udp,
                remote,
            })
        })
        .collect();
}

/// Sends the caller's INVITE to the next target left. An error says why there is none.
pub(super) fn attempt_next(
    record: &mut CallRecord,
    context: &mut Context<'_>,
) -> Result<(), Refusal> {
    while !record.targets_left.is_empty() {
        let target = Flow::from(record.targets_left.remove(0));
        if attempt(record, target, context)? {
            return Ok(());
        }
        context.counters.targets_skipped += 1;
    }
    Err(Refusal::new(480, "Temporarily Unavailable"))
}

/// False when this target cannot be tried; an error when no target could.
fn attempt(
    record: &mut CallRecord,
    target: Flow,
    context: &mut Context<'_>,
) -> Result<bool, Refusal> {
    let Some(server) = record.exchanges.first().map(|exchange| exchange.server) else {
        return Ok(false);
    };
    let Some(invite) = received_request(record, server) else {
        return Ok(false);
    };
    // Each attempt keeps its INVITE until its transaction ends.
    let size =
        prost::Message::encoded_len(record).saturating_add(invite.bytes().len().saturating_mul(2));
    if size > context.config.limits.record_bytes {
        return Ok(false);
    }
    let Some(leg) = callee_leg(&invite, target, context) else {
        return Ok(false);
    };
    let index = record.legs.len();
    record.legs.push(leg);
    record.callee = index as u32;
    media::forget_callee(record);

    let body = media::description(&invite);
    let anchored = match &body {
        Some(body) => {
            let anchored = media::relay_offer(record, index, body, context).and_then(|anchored| {
                media::take_first_offer(record, CALLER, body, context).map(|()| anchored)
            });
            Some(anchored.map_err(|error| error.refusal(context))?)
        }
        None => None,
    };
    let Some(bytes) = invite_bytes(record, index, &invite, anchored, context) else {
        return Ok(false);
    };
    let Some(client) = start_client(record, index, Role::Exchange, bytes, target, context) else {
        return Ok(false);
    };
    if let Some(exchange) = record.exchanges.first_mut() {
        exchange.client = client;
        exchange.to_leg = index as u32;
        exchange.client_sequence = 1;
    }
    Ok(true)
}

fn callee_leg(invite: &Message, target: Flow, context: &mut Context<'_>) -> Option<LegRecord> {
    let realm = context.config.realm(target.realm)?;
    let ours = host_text(realm.advertised.ip());
    let theirs = target_text(target.remote);
    let from = invite.from();
    let to = invite.to();
    Some(LegRecord {
        realm: u32::from(target.realm.0),
        state: LegState::Early.into(),
        call_id: long_token(context.rng),
        local_tag: token(context.rng),
        local_address: with_uri(&from, &headers::own_uri(from.uri, &ours)?),
        remote_address: with_uri(&to, &headers::own_uri(to.uri, &theirs)?),
        local_sequence: 1,
        remote_target: Bytes::from(headers::target_uri(invite.request_uri()?, &theirs)?),
        flow: Some(FlowRecord::from(target)),
        sdp_session: sdp_session(context),
        silent_deadline: Some((context.now + context.config.call_timers.target_silent).0),
        ..LegRecord::default()
    })
}

fn target_text(target: SocketAddr) -> String {
    format!("{}:{}", host_text(target.ip()), target.port())
}

/// The INVITE for a leg, the first one or a later one, made of the one that came in on the other side.
pub(super) fn invite_bytes(
    record: &CallRecord,
    leg: usize,
    received: &Message,
    body: Option<Bytes>,
    context: &mut Context<'_>,
) -> Option<Bytes> {
    let leg = record.legs.get(leg)?;
    let realm = context.config.realm(leg.realm_id())?;
    let heading = Heading {
        max_forwards: received
            .max_forwards()
            .unwrap_or(MAX_FORWARDS)
            .saturating_sub(1),
        loop_mark: loop_mark(received.request_uri().unwrap_or_default()),
        ..Heading::new(Method::Invite, leg.local_sequence)
    };
    let builder = request(leg, &heading, context).map(|builder| {
        let builder = headers::pass(builder, received, &host_text(realm.advertised.ip()));
        let builder = builder.header(Name::Accept, "application/sdp");
        match body {
            Some(body) => builder.body("application/sdp", body),
            None => builder,
        }
    });
    built(builder, context)
}

/// The answer to OPTIONS: what we are, not what stands behind us (RFC 3261 section 11.2).
pub(crate) fn capabilities(request: &Message, source: Flow, context: &mut Context<'_>) {
    let Some(realm) = context.config.realm(source.realm) else {
        return;
    };
    let tag = context.identity.stateless_tag(request);
    let builder = crate::message::Builder::response_to(request, 200, "OK", Some(&tag))
        .header(Name::Contact, contact(realm))
        .header(Name::Allow, ALLOW)
        .header(Name::Accept, "application/sdp");
    let builder = super::outgoing::with_agent(builder, Name::Server, context.config);
    let Some(bytes) = built(Some(builder), context) else {
        return;
    };
    let remote = request.top_via().response_destination(source.remote);
    context
        .effects
        .send(bytes, Flow { remote, ..source }, super::Shows::Known);
}

//! Building what leaves: requests of our own on a leg, and responses on the side that asked.

use std::fmt::Write as _;
use std::hash::Hasher;
use std::net::IpAddr;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use super::{ALLOW, Context, Shows, dispatch, headers};
use crate::config::{Realm, SipConfig};
use crate::flow::Flow;
use crate::message::{BuildError, Builder, Message, Method, Name};
use crate::record::{CallRecord, CallTransaction, LegRecord, Role};
use crate::transaction::{Input as Stimulus, TransactionRecord};

/// RFC 3261 section 8.1.1.6.
pub(super) const MAX_FORWARDS: u8 = 70;

const MAGIC_COOKIE: &str = "z9hG4bK";

/// Marks branches as ours, so that a request that comes back is known (RFC 3261 section 16.6 item 8). It follows from
/// the advertised addresses: both nodes of a pair have the same, before and after a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u32);

impl Identity {
    pub(crate) fn of(config: &SipConfig) -> Identity {
        let mut hash = Fnv::default();
        for realm in &config.realms {
            hash.write(realm.advertised.to_string().as_bytes());
        }
        Identity(hash.finish() as u32)
    }

    /// Branch of a request. `loop_mark` tells a loop from a spiral: it is the same only for the same destination.
    fn branch(self, loop_mark: u32, rng: &mut StdRng) -> String {
        format!(
            "{MAGIC_COOKIE}{:08x}{loop_mark:08x}{:016x}",
            self.0,
            rng.random::<u64>()
        )
    }

    /// Whether a branch was made here for a request with this mark.
    pub(super) fn made(self, branch: &[u8], loop_mark: u32) -> bool {
        branch.starts_with(format!("{MAGIC_COOKIE}{:08x}{loop_mark:08x}", self.0).as_bytes())
    }

    /// The same tag for each copy of a request that is refused without state (RFC 3261 section 8.2.7).
    pub(crate) fn stateless_tag(self, request: &Message) -> String {
        let mut hash = Fnv::default();
        hash.write_u32(self.0);
        hash.write(request.top_via().branch().unwrap_or_default());
        hash.write(request.call_id());
        hash.write(request.from_tag().unwrap_or_default());
        format!("{:016x}", hash.finish())
    }
}

/// FNV-1a: stable across builds and machines, which the standard hasher does not promise.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A refusal that leaves no state behind, and which counter remembers it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: u16,
    pub reason: &'static str,
    pub header: Option<(Name<'static>, String)>,
}

impl Refusal {
    pub(crate) fn new(status: u16, reason: &'static str) -> Refusal {
        Refusal {
            status,
            reason,
            header: None,
        }
    }

    pub(crate) fn with(self, name: Name<'static>, value: impl Into<String>) -> Refusal {
        Refusal {
            header: Some((name, value.into())),
            ..self
        }
    }
}

/// The response of a stateless user agent server (RFC 3261 section 8.2.7).
pub(crate) fn refuse_statelessly(
    request: &Message,
    refusal: Refusal,
    identity: Identity,
    config: &SipConfig,
) -> Result<Bytes, BuildError> {
    let tag = identity.stateless_tag(request);
    let mut builder = Builder::response_to(request, refusal.status, refusal.reason, Some(&tag));
    if let Some((name, value)) = refusal.header {
        builder = builder.header(name, value);
    }
    with_agent(builder, Name::Server, config).build()
}

pub(super) fn with_agent(builder: Builder, name: Name<'static>, config: &SipConfig) -> Builder {
    if config.user_agent.is_empty() {
        builder
    } else {
        builder.header(name, &config.user_agent)
    }
}

/// A host as it stands in a URI.
pub(super) fn host_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

pub(super) fn contact(realm: &Realm) -> String {
    format!("<sip:{}>", realm.advertised)
}

/// A fresh tag, Call-ID or the like: 64 random bits, which nobody outside can guess or relate.
pub(super) fn token(rng: &mut StdRng) -> Bytes {
    Bytes::from(format!("{:016x}", rng.random::<u64>()))
}

pub(super) fn long_token(rng: &mut StdRng) -> Bytes {
    Bytes::from(format!("{:032x}", rng.random::<u128>()))
}

/// What a request on a leg needs beside the leg.
#[derive(Debug)]
pub(super) struct Heading<'a> {
    pub method: Method<'a>,
    pub sequence: u32,
    pub max_forwards: u8,
    pub loop_mark: u32,
}

impl<'a> Heading<'a> {
    pub(super) fn new(method: Method<'a>, sequence: u32) -> Heading<'a> {
        Heading {
            method,
            sequence,
            max_forwards: MAX_FORWARDS,
            loop_mark: 0,
        }
    }
}

/// A request inside the leg's dialog, or the one that asks for it (RFC 3261 sections 8.1.1 and 12.2.1.1).
pub(super) fn request(
    leg: &LegRecord,
    heading: &Heading<'_>,
    context: &mut Context<'_>,
) -> Option<Builder> {
    let realm = context.config.realm(leg.realm_id())?;
    let addressing = leg.addressing();
    let branch = context.identity.branch(heading.loop_mark, context.rng);
    let mut to = leg.remote_address.to_vec();
    if !leg.remote_tag.is_empty() {
        to.extend_from_slice(b";tag=");
        to.extend_from_slice(&leg.remote_tag);
    }
    let from = [leg.local_address.as_ref(), b";tag=", leg.local_tag.as_ref()].concat();
    let mut builder = Builder::request(heading.method, &addressing.uri)
        .header(
            Name::Via,
            format!("SIP/2.0/UDP {};branch={branch};rport", realm.advertised),
        )
        .header(Name::MaxForwards, heading.max_forwards.to_string())
        .header(Name::From, from)
        .header(Name::To, to)
        .header(Name::CallId, &leg.call_id)
        .header(
            Name::CSeq,
            format!("{} {}", heading.sequence, heading.method),
        );
    for route in &addressing.routes {
        builder = builder.header(Name::Route, route);
    }
    if heading.method == Method::Invite {
        builder = builder
            .header(Name::Contact, contact(realm))
            .header(Name::Allow, ALLOW);
    }
    Some(with_agent(builder, Name::UserAgent, context.config))
}

/// Counts and swallows what cannot be built: the peer's values were refused by the builder, and the timers decide.
pub(super) fn built(builder: Option<Builder>, context: &mut Context<'_>) -> Option<Bytes> {
    let bytes = builder.and_then(|builder| builder.build().ok());
    if bytes.is_none() {
        context.counters.sends_failed += 1;
    }
    bytes
}

/// Opens a client transaction and sends its request.
pub(super) fn start_client(
    record: &mut CallRecord,
    leg: usize,
    role: Role,
    bytes: Bytes,
    flow: Flow,
    context: &mut Context<'_>,
) -> Option<u32> {
    let request = match Message::parse(bytes) {
        Ok(request) => request,
        Err(_) => {
            context.counters.sends_failed += 1;
            return None;
        }
    };
    let mut outputs = Vec::new();
    let machine = TransactionRecord::client(
        &request,
        flow,
        context.now,
        &context.config.timers,
        &mut outputs,
    );
    let id = add(record, leg, role, machine);
    dispatch(outputs, flow, context);
    Some(id)
}

/// Opens a server transaction for a request that arrived on a leg.
pub(super) fn start_server(
    record: &mut CallRecord,
    leg: usize,
    role: Role,
    request: &Message,
    source: Flow,
) -> u32 {
    let remote = request.top_via().response_destination(source.remote);
    add(
        record,
        leg,
        role,
        TransactionRecord::server(request, Flow { remote, ..source }),
    )
}

fn add(record: &mut CallRecord, leg: usize, role: Role, machine: TransactionRecord) -> u32 {
    record.last_id += 1;
    let id = record.last_id;
    record.transactions.push(CallTransaction {
        id,
        leg: leg as u32,
        role: role.into(),
        partner: 0,
        machine,
    });
    id
}

/// The request a server transaction holds.
pub(super) fn received_request(record: &CallRecord, id: u32) -> Option<Message> {
    Message::parse(record.transaction(id)?.machine.request().clone()).ok()
}

/// A response of ours on a leg: its dialog's tag, our Contact, and what the other side's response may tell.
pub(super) fn response(
    record: &CallRecord,
    transaction: u32,
    status: u16,
    reason: &[u8],
    from: Option<&Message>,
    context: &Context<'_>,
) -> Option<Builder> {
    let leg = record
        .legs
        .get(record.transaction(transaction)?.leg as usize)?;
    let realm = context.config.realm(leg.realm_id())?;
    let request = received_request(record, transaction)?;
    let tag = std::str::from_utf8(&leg.local_tag).ok();
    let mut builder = Builder::response_to(&request, status, reason, tag);
    if status > 100 && status < 300 && request.method() == Method::Invite {
        // RFC 3261 section 12.1.1.
        builder = builder
            .copy(&request, Name::RecordRoute)
            .header(Name::Contact, contact(realm))
            .header(Name::Allow, ALLOW);
    }
    if let Some(from) = from {
        builder = headers::pass(builder, from, &host_text(realm.advertised.ip()));
    }
    Some(with_agent(builder, Name::Server, context.config))
}

/// Sends a response of ours through its server transaction.
pub(super) fn respond(
    record: &mut CallRecord,
    transaction: u32,
    builder: Option<Builder>,
    context: &mut Context<'_>,
) -> Option<Bytes> {
    let bytes = built(builder, context)?;
    super::advance(record, transaction, Stimulus::Send(&bytes), context);
    Some(bytes)
}

/// Sends a plain response through a server transaction.
pub(super) fn answer(
    record: &mut CallRecord,
    transaction: u32,
    status: u16,
    reason: &str,
    context: &mut Context<'_>,
) {
    let builder = response(
        record,
        transaction,
        status,
        reason.as_bytes(),
        None,
        context,
    );
    respond(record, transaction, builder, context);
}

/// Refuses a request inside a call without opening a transaction for it.
pub(super) fn refuse(request: &Message, source: Flow, refusal: Refusal, context: &mut Context<'_>) {
    match refuse_statelessly(request, refusal, context.identity, context.config) {
        Ok(bytes) => {
            let remote = request.top_via().response_destination(source.remote);
            context
                .effects
                .send(bytes, Flow { remote, ..source }, Shows::Known);
        }
        Err(_) => context.counters.sends_failed += 1,
    }
}

/// `Require: a, b` of which we support none (RFC 3261 section 8.2.2.3).
pub(super) fn unsupported_extensions(request: &Message) -> Option<String> {
    let mut list = String::new();
    for value in request
        .values(Name::Require)
        .chain(request.values(Name::ProxyRequire))
    {
        if !list.is_empty() {
            list.push_str(", ");
        }
        let _ = write!(list, "{}", String::from_utf8_lossy(value));
    }
    (!list.is_empty()).then_some(list)
}

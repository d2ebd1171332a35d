//! Offer and answer (RFC 3264) passing through, with every stream anchored at ports of ours.

use std::hash::Hasher;
use std::net::SocketAddr;

use bytes::Bytes;

use super::Context;
use super::outgoing::{Fnv, Refusal};
use crate::command::{MediaLeg, MediaPort, MediaStream};
use crate::flow::RealmId;
use crate::message::Message;
use crate::record::{AddressRecord, CALLEE, CALLER, CallRecord, StreamRecord};
use crate::sdp::{Anchor, Description, SdpError, Stream};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MediaError {
    #[error(transparent)]
    Description(#[from] SdpError),
    #[error("no media port left in realm {}", .0.0)]
    PortsExhausted(RealmId),
    #[error("answer has {answer} media lines, offer has {offer}")]
    LinesDiffer { offer: usize, answer: usize },
    #[error("no such leg")]
    Leg,
}

impl MediaError {
    /// How an offer that fails so is refused.
    pub(super) fn refusal(self, context: &mut Context<'_>) -> Refusal {
        match self {
            MediaError::Description(SdpError::TooLarge(_)) => {
                context.counters.rejected_too_large += 1;
                Refusal::new(413, "Request Entity Too Large")
            }
            MediaError::PortsExhausted(_) => {
                context.counters.rejected_ports_exhausted += 1;
                Refusal::new(503, "Service Unavailable")
            }
            MediaError::Description(
                SdpError::TooManyStreams(_)
                | SdpError::Line(_)
                | SdpError::Version
                | SdpError::MediaLine,
            )
            | MediaError::LinesDiffer { .. }
            | MediaError::Leg => {
                context.counters.rejected_body += 1;
                Refusal::new(488, "Not Acceptable Here")
            }
        }
    }
}

/// The description a message carries, if any.
pub(super) fn description(message: &Message) -> Option<Bytes> {
    let content_type = message.content_type()?;
    let media_type = content_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or(content_type);
    let is_sdp = media_type
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/sdp");
    Some(message.body()).filter(|body| is_sdp && !body.is_empty())
}

/// A body that is there and no session description: it cannot be anchored.
pub(super) fn has_foreign_body(message: &Message) -> bool {
    !message.body().is_empty() && description(message).is_none()
}

/// Passes an offer from one leg to another: streams get ports, the description names them.
pub(super) fn relay_offer(
    record: &mut CallRecord,
    to_leg: usize,
    body: &[u8],
    context: &mut Context<'_>,
) -> Result<Bytes, MediaError> {
    let description = Description::parse(body, context.config.limits.sdp())?;
    let realms = [
        record.realm_of(CALLER),
        record.realm_of(record.callee().max(to_leg)),
    ];
    for (index, offered) in description.streams().enumerate() {
        if index == record.streams.len() {
            record.streams.push(StreamRecord {
                active: offered.is_active(),
                ..StreamRecord::default()
            });
        }
        let Some(stream) = record
            .streams
            .get_mut(index)
            .filter(|_| offered.is_active())
        else {
            continue;
        };
        for (side, realm) in [CALLER, CALLEE].into_iter().zip(realms) {
            let leg = stream.leg_mut(side);
            if leg.port == 0 {
                let port = context
                    .ports
                    .allocate(realm)
                    .ok_or(MediaError::PortsExhausted(realm))?;
                leg.port = u32::from(port.rtp);
            }
        }
    }
    render(record, to_leg, &description, context)
}

/// Takes the addresses of an offer at once, so that early media finds its way: for the first offer of a call, which
/// has nothing to fall back to.
pub(super) fn take_first_offer(
    record: &mut CallRecord,
    from_leg: usize,
    body: &[u8],
    context: &mut Context<'_>,
) -> Result<(), MediaError> {
    let description = Description::parse(body, context.config.limits.sdp())?;
    take(
        record,
        CallRecord::side(from_leg),
        &description,
        |stream, _| stream.mux,
    );
    context.effects.media_changed = true;
    Ok(())
}

/// Passes an answer back, and puts what was agreed into the record. `offer` is the body it answers, unless that was
/// taken before.
pub(super) fn relay_answer(
    record: &mut CallRecord,
    legs: Answered,
    body: &[u8],
    offer: Option<&[u8]>,
    context: &mut Context<'_>,
) -> Result<Bytes, MediaError> {
    let limits = context.config.limits.sdp();
    let answer = Description::parse(body, limits)?;
    let answered: Vec<Stream> = answer.streams().copied().collect();
    let offered = match offer {
        Some(offer) => {
            let offer = Description::parse(offer, limits)?;
            let muxed = |stream: &Stream, index: usize| {
                stream.mux && answered.get(index).is_some_and(|answer| answer.mux)
            };
            take(record, CallRecord::side(legs.offerer), &offer, muxed);
            offer.streams().len()
        }
        None => record.streams.len(),
    };
    // RFC 3264 section 6: "the answer MUST contain exactly the same number of "m=" lines as the offer".
    if answered.len() != offered {
        return Err(MediaError::LinesDiffer {
            offer: offered,
            answer: answered.len(),
        });
    }
    take(
        record,
        CallRecord::side(legs.answerer),
        &answer,
        |stream, _| stream.mux,
    );
    for (stream, answer) in record.streams.iter_mut().zip(&answered) {
        stream.active = answer.is_active() && stream.caller.port != 0;
    }
    context.effects.media_changed = true;
    render(record, legs.offerer, &answer, context)
}

/// Who answered whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub answerer: usize,
    pub offerer: usize,
}

fn take(
    record: &mut CallRecord,
    side: usize,
    description: &Description<'_>,
    muxed: impl Fn(&Stream, usize) -> bool,
) {
    for (index, stream) in description.streams().enumerate() {
        let Some(leg) = record
            .streams
            .get_mut(index)
            .map(|record| record.leg_mut(side))
        else {
            return;
        };
        let place = stream
            .address
            .filter(|_| stream.is_active() && !stream.is_null_address());
        let rtp = place.map(|address| SocketAddr::new(address, stream.port));
        let rtcp = place.map(|address| {
            let above = stream.rtcp_port.unwrap_or(stream.port.saturating_add(1));
            if muxed(stream, index) {
                SocketAddr::new(address, stream.port)
            } else {
                SocketAddr::new(stream.rtcp_address.unwrap_or(address), above)
            }
        });
        let rtp = rtp.map(AddressRecord::from);
        if leg.remote_rtp != rtp {
            // The peer moved: its packets will come from elsewhere.
            leg.latched = None;
        }
        leg.remote_rtp = rtp;
        leg.remote_rtcp = rtcp.map(AddressRecord::from);
        leg.send = stream.is_active() && !stream.is_null_address() && stream.direction.receives();
        leg.receive = stream.is_active() && stream.direction.sends();
    }
}

/// The description as `to_leg` sees it. The version rises only when something else changed (RFC 3264 section 8).
fn render(
    record: &mut CallRecord,
    to_leg: usize,
    description: &Description<'_>,
    context: &Context<'_>,
) -> Result<Bytes, MediaError> {
    let side = CallRecord::side(to_leg);
    let ports: Vec<Option<u16>> = record
        .streams
        .iter()
        .map(|stream| {
            u16::try_from(stream.leg(side).port)
                .ok()
                .filter(|port| *port != 0)
        })
        .collect();
    let leg = record.legs.get_mut(to_leg).ok_or(MediaError::Leg)?;
    let realm = context
        .config
        .realm(leg.realm_id())
        .ok_or(MediaError::Leg)?;
    let mut anchor = Anchor {
        address: realm.media_address(),
        session: leg.sdp_session,
        version: 0,
        ports: &ports,
    };
    let mut fingerprint = Fnv::default();
    fingerprint.write(&description.anchor(&anchor));
    if leg.sdp_fingerprint != fingerprint.finish() {
        leg.sdp_fingerprint = fingerprint.finish();
        leg.sdp_version += 1;
    }
    anchor.version = leg.sdp_version;
    Ok(description.anchor(&anchor))
}

/// A new attempt begins: nothing the last target said holds.
pub(super) fn forget_callee(record: &mut CallRecord) {
    for stream in &mut record.streams {
        let port = stream.callee.port;
        stream.callee = crate::record::StreamLegRecord {
            port,
            ..Default::default()
        };
    }
}

/// Takes back the streams an offer added that came to nothing.
pub(super) fn truncate(record: &mut CallRecord, length: usize, context: &mut Context<'_>) {
    while record.streams.len() > length {
        if let Some(stream) = record.streams.pop() {
            release_stream(record, &stream, context);
        }
    }
}

/// Gives every port back and takes the plan down.
pub(super) fn release(record: &mut CallRecord, context: &mut Context<'_>) {
    context.effects.media_changed |= !record.streams.is_empty();
    truncate(record, 0, context);
}

fn release_stream(record: &CallRecord, stream: &StreamRecord, context: &mut Context<'_>) {
    for port in ports_of(record, stream) {
        context.ports.release(port);
    }
}

fn ports_of(record: &CallRecord, stream: &StreamRecord) -> impl Iterator<Item = MediaPort> {
    let realms = [record.realm_of(CALLER), record.realm_of(record.callee())];
    [stream.caller.port, stream.callee.port]
        .into_iter()
        .zip(realms)
        .filter_map(|(port, realm)| {
            let rtp = u16::try_from(port).ok().filter(|port| *port != 0)?;
            Some(MediaPort { realm, rtp })
        })
}

/// Every port the record holds.
pub(crate) fn ports(record: &CallRecord) -> impl Iterator<Item = MediaPort> {
    record
        .streams
        .iter()
        .flat_map(|stream| ports_of(record, stream))
}

/// The media plan of a record.
pub(crate) fn plan(record: &CallRecord) -> Vec<MediaStream> {
    let leg = |stream: &StreamRecord, side: usize, realm: RealmId| {
        let leg = stream.leg(side);
        let rtp = u16::try_from(leg.port).ok().filter(|port| *port != 0)?;
        Some(MediaLeg {
            port: MediaPort { realm, rtp },
            remote_rtp: leg.remote_rtp.map(SocketAddr::from),
            remote_rtcp: leg.remote_rtcp.map(SocketAddr::from),
            latched: leg.latched.map(SocketAddr::from),
            send: leg.send,
            receive: leg.receive,
        })
    };
    let streams = record
        .streams
        .iter()
        .enumerate()
        .filter(|(_, stream)| stream.active);
    streams
        .filter_map(|(index, stream)| {
            let caller = leg(stream, CALLER, record.realm_of(CALLER))?;
            let callee = leg(stream, CALLEE, record.realm_of(record.callee()))?;
            Some(MediaStream {
                index: index as u32,
                legs: [caller, callee],
            })
        })
        .collect()
}

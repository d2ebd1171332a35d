//! Requests an INVITE client transaction makes from its own INVITE: the ACK to a non-2xx final response and the
//! CANCEL.

use bytes::Bytes;

use crate::message::{Builder, Message, Method, Name};

const MAX_FORWARDS: &str = "70";

/// RFC 3261 section 17.1.1.3: Call-ID, From, Request-URI, the top Via, the Route headers and the CSeq number are
/// the request's; To is the response's.
pub(super) fn ack(request: &Bytes, response: &Message) -> Option<Bytes> {
    let request = Message::parse(request.clone()).ok()?;
    build(&request, response, Method::Ack)
}

/// RFC 3261 section 9.1: as the ACK, but To is the request's too: "The following ... Request-URI, Call-ID, To, the
/// numeric part of CSeq, and From header fields in the CANCEL request MUST be identical to those in the request
/// being cancelled".
pub(super) fn cancel(request: &Bytes) -> Option<Bytes> {
    let request = Message::parse(request.clone()).ok()?;
    build(&request, &request, Method::Cancel)
}

fn build(request: &Message, to: &Message, method: Method<'static>) -> Option<Bytes> {
    let (sequence, _) = request.cseq();
    Builder::request(method, request.request_uri()?)
        .header(Name::Via, request.values(Name::Via).next()?)
        .header(Name::MaxForwards, MAX_FORWARDS)
        .copy(request, Name::Route)
        .copy(request, Name::From)
        .copy(to, Name::To)
        .copy(request, Name::CallId)
        .header(Name::CSeq, format!("{sequence} {method}"))
        .build()
        .ok()
}

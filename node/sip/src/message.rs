//! SIP messages as they came: the bytes and an index into them.
//!
//! Parsing copies nothing (a message with folded headers costs one copy of its header block) and changes nothing:
//! unknown methods, headers, URI schemes and binary bodies travel as they are. What every message must have is
//! checked once, so accessors do not fail. Everything that two parsers could read differently is refused.
//!
//! ```text
//! bytes -> head (lines -> fields, one reading of Content-Length) -> validate (start line, mandatory headers)
//!       -> Message, or ParseError: answer it / drop it
//! ```

mod address;
mod builder;
mod error;
pub mod framing;
mod head;
mod lexis;
mod method;
mod name;
mod parameters;
pub mod uri;
mod validate;
mod via;

#[cfg(test)]
mod tests;

pub use address::NameAddr;
pub use builder::{BuildError, Builder};
pub use error::{Answer, Defect, DropReason, ParseError};
pub use head::MAX_HEADERS;
pub use method::Method;
pub use name::{Known, Name};
pub use parameters::Parameters;
pub use uri::{Host, SipUri, Uri};
pub use validate::{MAX_REQUEST_URI_BYTES, MAX_VIAS};
pub use via::{MAGIC_COOKIE, Via};

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use head::Head;
use lexis::{Span, split_list, token};
use validate::{Essentials, Start};

/// Larger messages are dropped unread: no datagram can be larger, and streams get the same bound.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLine<'a> {
    Request { method: Method<'a>, uri: &'a [u8] },
    Response { status: u16, reason: &'a [u8] },
}

/// A valid SIP message. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Bytes,
    index: Arc<Index>,
}

#[derive(Debug)]
struct Index {
    head: Head,
    start: Start,
    essentials: Essentials,
}

impl Message {
    /// Parses one datagram. Line ends before the start line are skipped (RFC 3261 section 7.5). Bytes behind the
    /// body that Content-Length announces are cut off; a shorter body is an error; without Content-Length the body
    /// ends with the datagram (RFC 3261 section 18.3).
    pub fn parse(bytes: Bytes) -> Result<Message, ParseError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(ParseError::Drop(DropReason::TooLarge));
        }
        let bytes = skip_line_ends(bytes);
        if bytes.is_empty() {
            return Err(ParseError::Drop(DropReason::KeepAlive));
        }
        let head = Head::scan(&bytes).map_err(ParseError::Drop)?;
        let available = bytes.len() - head.end;
        let length = match head.content_length() {
            Ok(length) => length.unwrap_or(available),
            Err(defect) => return Err(refuse(defect, head)),
        };
        if length > available {
            return Err(refuse(head.defect.unwrap_or(Defect::BodyTooShort), head));
        }
        let end = head.end + length;
        Message::finish(bytes.slice(..end), head)
    }

    /// `bytes` hold exactly the header block and the body.
    fn finish(bytes: Bytes, head: Head) -> Result<Message, ParseError> {
        validate::reject_foreign(&head).map_err(ParseError::Drop)?;
        let checked = validate::start_line(&head)
            .and_then(|start| Ok((start, validate::essentials(&head, &start)?)));
        match checked {
            Ok((start, essentials)) => Ok(Message {
                bytes,
                index: Arc::new(Index {
                    head,
                    start,
                    essentials,
                }),
            }),
            Err(defect) => Err(refuse(defect, head)),
        }
    }

    /// The request as received from `source`: the top Via gets `received` and `rport` (RFC 3261 section 18.2.1,
    /// RFC 3581 section 4), so that responses built from it find their way. A response comes back unchanged. The error is
    /// `DropReason::TooLarge`: the parameters did not fit any more.
    pub fn received_from(&self, source: SocketAddr) -> Result<Message, ParseError> {
        let span = self.index.essentials.top_via;
        let annotated = match self.index.start {
            Start::Request { .. } => self.top_via().annotated(span.of(self.text()), source),
            Start::Response { .. } => None,
        };
        let Some(via) = annotated else {
            return Ok(self.clone());
        };
        let text = self.text();
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + via.len());
        bytes.extend_from_slice(text.get(..span.start()).unwrap_or_default());
        bytes.extend_from_slice(&via);
        bytes.extend_from_slice(text.get(span.end()..).unwrap_or_default());
        bytes.extend_from_slice(&self.body());
        Message::parse(bytes.freeze())
    }

    /// The message exactly as received, without what stood before and behind it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn start_line(&self) -> StartLine<'_> {
        match self.index.start {
            Start::Request { method, uri } => StartLine::Request {
                method: self.method_at(method),
                uri: uri.of(self.text()),
            },
            Start::Response { status, reason } => StartLine::Response {
                status,
                reason: reason.of(self.text()),
            },
        }
    }

    pub fn is_request(&self) -> bool {
        self.status().is_none()
    }

    pub fn status(&self) -> Option<u16> {
        match self.index.start {
            Start::Request { .. } => None,
            Start::Response { status, .. } => Some(status),
        }
    }

    pub fn reason(&self) -> Option<&[u8]> {
        match self.index.start {
            Start::Request { .. } => None,
            Start::Response { reason, .. } => Some(reason.of(self.text())),
        }
    }

    /// Of the request, or of the CSeq for a response; both agree in a request.
    pub fn method(&self) -> Method<'_> {
        self.method_at(self.index.essentials.cseq_method)
    }

    pub fn request_uri(&self) -> Option<&[u8]> {
        match self.index.start {
            Start::Request { uri, .. } => Some(uri.of(self.text())),
            Start::Response { .. } => None,
        }
    }

    /// The first header line of that name: trimmed, folds replaced by blanks.
    pub fn header(&self, name: Name<'_>) -> Option<&[u8]> {
        let field = self.index.head.all(name).next()?;
        Some(field.value.of(self.text()))
    }

    /// Every header line of that name.
    pub fn headers<'a>(&'a self, name: Name<'a>) -> impl Iterator<Item = &'a [u8]> {
        self.index
            .head
            .all(name)
            .map(|field| field.value.of(self.text()))
    }

    /// Every value of that name, comma lists split. Only for headers whose grammar is a list: a Date or an
    /// Authorization holds commas that separate nothing.
    pub fn values<'a>(&'a self, name: Name<'a>) -> impl Iterator<Item = &'a [u8]> {
        self.headers(name)
            .flat_map(|value| split_list(value, b',').map(move |part| part.of(value)))
    }

    /// Every header line in order of appearance.
    pub fn all_headers(&self) -> impl Iterator<Item = (Name<'_>, &[u8])> {
        let head = &self.index.head;
        head.fields
            .iter()
            .map(move |field| (head.name(field), head.value(field)))
    }

    pub fn cseq(&self) -> (u32, Method<'_>) {
        (self.index.essentials.cseq, self.method())
    }

    pub fn call_id(&self) -> &[u8] {
        self.index.essentials.call_id.of(self.text())
    }

    pub fn from(&self) -> NameAddr<'_> {
        self.address_at(self.index.essentials.from)
    }

    pub fn to(&self) -> NameAddr<'_> {
        self.address_at(self.index.essentials.to)
    }

    pub fn from_tag(&self) -> Option<&[u8]> {
        self.from().tag()
    }

    pub fn to_tag(&self) -> Option<&[u8]> {
        self.to().tag()
    }

    pub fn top_via(&self) -> Via<'_> {
        let value = self.index.essentials.top_via.of(self.text());
        Via::parse(value).expect("validated when the message was parsed")
    }

    /// The first Contact address; `None` without one and for `Contact: *`.
    pub fn contact(&self) -> Option<NameAddr<'_>> {
        self.addresses(Name::Contact).next()
    }

    pub fn contact_uri(&self) -> Option<&[u8]> {
        self.contact().map(|contact| contact.uri)
    }

    pub fn record_routes(&self) -> impl Iterator<Item = NameAddr<'_>> {
        self.addresses(Name::RecordRoute)
    }

    pub fn routes(&self) -> impl Iterator<Item = NameAddr<'_>> {
        self.addresses(Name::Route)
    }

    pub fn max_forwards(&self) -> Option<u8> {
        self.index.essentials.max_forwards
    }

    pub fn content_type(&self) -> Option<&[u8]> {
        self.header(Name::ContentType)
    }

    pub fn body(&self) -> Bytes {
        self.bytes
            .slice(self.index.head.end.min(self.bytes.len())..)
    }

    /// Every value of a header that lists addresses; unreadable ones are passed over.
    pub fn addresses<'a>(&'a self, name: Name<'a>) -> impl Iterator<Item = NameAddr<'a>> {
        self.values(name).filter_map(NameAddr::parse)
    }

    fn text(&self) -> &[u8] {
        &self.index.head.text
    }

    fn address_at(&self, span: Span) -> NameAddr<'_> {
        NameAddr::parse(span.of(self.text())).expect("validated when the message was parsed")
    }

    fn method_at(&self, span: Span) -> Method<'_> {
        Method::parse(token(span.of(self.text())).unwrap_or_default())
    }
}

/// RFC 3261 section 18.3 and 8.2: a malformed request is answered, a malformed response discarded. An ACK has no
/// response, and without Via there is nowhere to send one.
fn refuse(defect: Defect, head: Head) -> ParseError {
    if let Err(reason) = validate::reject_foreign(&head) {
        return ParseError::Drop(reason);
    }
    if validate::is_response(&head) {
        return ParseError::Drop(DropReason::Response(defect));
    }
    if validate::is_ack(&head) {
        return ParseError::Drop(DropReason::Ack(defect));
    }
    if head.all(Name::Via).next().is_none() {
        return ParseError::Drop(DropReason::NoVia(defect));
    }
    // The version decides first: nothing behind an unknown version means what it seems to.
    let defect = match validate::start_line(&head) {
        Err(Defect::Version) => Defect::Version,
        Ok(_) | Err(_) => defect,
    };
    ParseError::Answer(Box::new(Answer::new(defect, head)))
}

fn skip_line_ends(mut bytes: Bytes) -> Bytes {
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    bytes
}

//! What RFC 3261 demands of every message, checked once. Accessors rely on it.

use super::address::NameAddr;
use super::error::{Defect, DropReason};
use super::head::Head;
use super::lexis::{Span, number, split_list, split_once, token, trim};
use super::method::Method;
use super::name::Name;
use super::uri::Uri;
use super::via::Via;

/// A longer Request-URI is refused with 414.
pub const MAX_REQUEST_URI_BYTES: usize = 8 * 1024;

/// More Via values than this are refused with 400: a message cannot have passed more hops than Max-Forwards
/// usually grants, and each value costs work.
pub const MAX_VIAS: usize = 128;

/// RFC 3261 section 8.1.1.5: "The sequence number value MUST be expressible as a 32-bit unsigned integer and MUST
/// be less than 2**31."
const MAX_CSEQ: u64 = (1 << 31) - 1;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    Request { method: Span, uri: Span },
    Response { status: u16, reason: Span },
}

/// Where the validated essentials stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Essentials {
    pub(crate) top_via: Span,
    pub(crate) from: Span,
    pub(crate) to: Span,
    pub(crate) call_id: Span,
    pub(crate) cseq: u32,
    pub(crate) cseq_method: Span,
    pub(crate) max_forwards: Option<u8>,
}

/// Whether the start line belongs to a response. Decides who is told about a defect.
pub(crate) fn is_response(head: &Head) -> bool {
    let line = head.start_line.of(&head.text);
    line.get(..4)
        .is_some_and(|front| front.eq_ignore_ascii_case(b"SIP/"))
}

/// Text that ends in no SIP version was never meant as SIP.
pub(crate) fn reject_foreign(head: &Head) -> Result<(), DropReason> {
    let line = trim(head.start_line.of(&head.text));
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let ours = is_response(head)
        || last
            .get(..4)
            .is_some_and(|text| text.eq_ignore_ascii_case(b"SIP/"));
    if ours {
        Ok(())
    } else {
        Err(DropReason::NotSip)
    }
}

pub(crate) fn is_ack(head: &Head) -> bool {
    head.start_line.of(&head.text).starts_with(b"ACK ")
}

pub(crate) fn start_line(head: &Head) -> Result<Start, Defect> {
    if is_response(head) {
        status_line(head)
    } else {
        request_line(head)
    }
}

/// `Method SP Request-URI SP SIP-Version`: exactly one space each (RFC 3261 section 7.1).
fn request_line(head: &Head) -> Result<Start, Defect> {
    let line = head.start_line.of(&head.text);
    let first = line
        .iter()
        .position(|byte| *byte == b' ')
        .ok_or(Defect::RequestLine)?;
    let last = line
        .iter()
        .rposition(|byte| *byte == b' ')
        .ok_or(Defect::RequestLine)?;
    let method = Span::new(0, first);
    token(method.of(line)).ok_or(Defect::RequestLine)?;
    let version = line.get(last + 1..).ok_or(Defect::RequestLine)?;
    let number = version
        .get(..4)
        .filter(|front| front.eq_ignore_ascii_case(b"SIP/"));
    number.ok_or(Defect::RequestLine)?;
    if version.get(4..) != Some(b"2.0") {
        return Err(Defect::Version);
    }
    let uri = Span::new(first + 1, last.max(first + 1));
    if uri.of(line).len() > MAX_REQUEST_URI_BYTES {
        return Err(Defect::RequestUriTooLong);
    }
    // RFC 3261 section 19.1.1, table 1: headers are not allowed in a Request-URI.
    match Uri::parse(uri.of(line)) {
        None => Err(Defect::RequestUri),
        Some(Uri::Sip(sip)) if sip.headers.is_some() => Err(Defect::RequestUri),
        Some(Uri::Sip(_) | Uri::Other { .. }) => Ok(Start::Request { method, uri }),
    }
}

/// `SIP-Version SP 3DIGIT SP Reason-Phrase` (RFC 3261 section 7.2).
fn status_line(head: &Head) -> Result<Start, Defect> {
    let line = head.start_line.of(&head.text);
    let (version, rest) = split_once(line, b' ').ok_or(Defect::StatusLine)?;
    if version.get(4..) != Some(b"2.0") {
        return Err(Defect::Version);
    }
    // The space before an empty reason phrase is often left out.
    let (code, reason) = split_once(rest, b' ').unwrap_or((rest, &[]));
    let status = number(code, 699).filter(|status| code.len() == 3 && *status >= 100);
    let status = status
        .and_then(|status| u16::try_from(status).ok())
        .ok_or(Defect::StatusLine)?;
    let reason = Span::new(line.len() - reason.len(), line.len());
    Ok(Start::Response { status, reason })
}

pub(crate) fn essentials(head: &Head, start: &Start) -> Result<Essentials, Defect> {
    if let Some(defect) = head.defect {
        return Err(defect);
    }
    let from = single(head, Name::From)?;
    let to = single(head, Name::To)?;
    let call_id = single(head, Name::CallId)?;
    let (cseq, cseq_method) = cseq(head, single(head, Name::CSeq)?, start)?;
    let top_via = vias(head)?;
    NameAddr::parse(from.of(&head.text)).ok_or(Defect::From)?;
    NameAddr::parse(to.of(&head.text)).ok_or(Defect::To)?;
    let call_id_text = call_id.of(&head.text);
    if call_id_text.is_empty() || call_id_text.iter().any(u8::is_ascii_whitespace) {
        return Err(Defect::CallId);
    }
    let max_forwards = max_forwards(head)?;
    contacts(head)?;
    routes(head)?;
    dates(head)?;
    Ok(Essentials {
        top_via,
        from,
        to,
        call_id,
        cseq,
        cseq_method,
        max_forwards,
    })
}

/// RFC 3261 section 8.1.1: these stand in every message, and once.
fn single(head: &Head, name: Name<'static>) -> Result<Span, Defect> {
    let mut fields = head.all(name);
    match (fields.next(), fields.next()) {
        (Some(field), None) => Ok(field.value),
        (None, _) | (Some(_), Some(_)) => Err(Defect::Mandatory),
    }
}

fn cseq(head: &Head, value: Span, start: &Start) -> Result<(u32, Span), Defect> {
    let text = value.of(&head.text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let sequence = number(text.get(..digits).unwrap_or_default(), MAX_CSEQ);
    let sequence = sequence
        .and_then(|value| u32::try_from(value).ok())
        .ok_or(Defect::CSeq)?;
    let method = Span::new(value.start() + digits, value.end()).trimmed(&head.text);
    let separated = method.start() > value.start() + digits;
    let name = token(method.of(&head.text))
        .filter(|_| separated)
        .ok_or(Defect::CSeq)?;
    match start {
        Start::Request {
            method: requested, ..
        } if requested.of(&head.text) != name.as_bytes() => Err(Defect::CSeqMethod),
        Start::Request { .. } | Start::Response { .. } => Ok((sequence, method)),
    }
}

/// Every value is checked, because responses carry them all back.
fn vias(head: &Head) -> Result<Span, Defect> {
    let mut top = None;
    let mut count = 0_usize;
    for field in head.all(Name::Via) {
        let value = head.value(field);
        if value.is_empty() {
            return Err(Defect::Via);
        }
        for part in split_list(value, b',') {
            count += 1;
            if count > MAX_VIAS {
                return Err(Defect::TooManyVias);
            }
            Via::parse(part.of(value)).ok_or(Defect::Via)?;
            let offset = field.value.start();
            top.get_or_insert(Span::new(offset + part.start(), offset + part.end()));
        }
    }
    top.ok_or(Defect::Mandatory)
}

fn max_forwards(head: &Head) -> Result<Option<u8>, Defect> {
    // RFC 2543 had no Max-Forwards: its absence is no error (RFC 4475 section 3.4.1).
    if head.all(Name::MaxForwards).next().is_none() {
        return Ok(None);
    }
    let value = single(head, Name::MaxForwards)?;
    let hops = number(value.of(&head.text), u64::from(u8::MAX)).ok_or(Defect::MaxForwards)?;
    Ok(u8::try_from(hops).ok())
}

/// Contact is a list of addresses, or `*` alone in a REGISTER (RFC 3261 section 20.10).
fn contacts(head: &Head) -> Result<(), Defect> {
    let register = Method::Register.text().as_bytes();
    let starred = head.start_line.of(&head.text).starts_with(register);
    if starred
        && head
            .all(Name::Contact)
            .all(|field| head.value(field) == b"*")
    {
        return Ok(());
    }
    if addresses(head, Name::Contact) {
        Ok(())
    } else {
        Err(Defect::Contact)
    }
}

fn routes(head: &Head) -> Result<(), Defect> {
    let sound = addresses(head, Name::Route) && addresses(head, Name::RecordRoute);
    if sound { Ok(()) } else { Err(Defect::Route) }
}

fn addresses(head: &Head, name: Name<'static>) -> bool {
    head.all(name).all(|field| {
        let value = head.value(field);
        !value.is_empty()
            && split_list(value, b',').all(|part| NameAddr::parse(part.of(value)).is_some())
    })
}

/// RFC 3261 section 20.17: "Note that SIP restricts the time zone in SIP-date to "GMT"".
fn dates(head: &Head) -> Result<(), Defect> {
    let sound = head
        .all(Name::Date)
        .all(|field| head.value(field).ends_with(b" GMT"));
    if sound { Ok(()) } else { Err(Defect::Date) }
}

//! SIP as the phones write and read it, by rsip: an implementation that shares nothing with the
//! border's own.

use std::net::SocketAddr;

use rsip::headers::ToTypedHeader;
use rsip::prelude::{HeadersExt, UntypedHeader};
use rsip::{
    Header, Headers, Host, Method, Request, Response, SipMessage, StatusCode, Uri, Version,
};

/// Port of a SIP URI over UDP that names none (RFC 3261 section 19.1.2).
const DEFAULT_PORT: u16 = 5060;

/// What decides which call and which transaction a message belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) call_id: String,
    pub(super) cseq: u32,
    pub(super) method: Method,
    pub(super) from_tag: Option<String>,
    pub(super) to_tag: Option<String>,
    /// Branch of the top Via.
    pub(super) branch: Option<String>,
}

/// Reads one datagram and the identity every message must have.
pub(super) fn parse(datagram: &[u8]) -> Result<(SipMessage, Identity), rsip::Error> {
    let message = SipMessage::try_from(datagram)?;
    let identity = identify(&message)?;
    Ok((message, identity))
}

fn identify(message: &SipMessage) -> Result<Identity, rsip::Error> {
    let cseq = message.cseq_header()?.typed()?;
    Ok(Identity {
        call_id: message.call_id_header()?.value().to_owned(),
        cseq: cseq.seq,
        method: cseq.method,
        from_tag: message
            .from_header()?
            .tag()?
            .map(|tag| tag.value().to_owned()),
        to_tag: message
            .to_header()?
            .tag()?
            .map(|tag| tag.value().to_owned()),
        branch: message
            .via_header()?
            .typed()?
            .branch()
            .map(|branch| branch.value().to_owned()),
    })
}

/// Serialises a request; the caller lists every header but Max-Forwards and those of the body.
pub(super) fn request(
    method: Method,
    uri: Uri,
    mut headers: Vec<Header>,
    body: Vec<u8>,
) -> Vec<u8> {
    headers.push(rsip::headers::MaxForwards::from(70).into());
    describe_body(&mut headers, &body);
    Request {
        method,
        uri,
        version: Version::V2,
        headers: headers.into(),
        body,
    }
    .into()
}

/// Answers `request`, which came from `source`, copying what RFC 3261 section 8.2.6.2 says.
/// `to_tag` is added where the request had none.
pub(super) fn response(
    request: &Request,
    source: SocketAddr,
    status: u16,
    to_tag: &str,
    mut extra: Vec<Header>,
    body: Vec<u8>,
) -> Vec<u8> {
    let mut headers = Vec::new();
    let mut top = true;
    for header in request.headers.iter() {
        match header {
            Header::Via(via) if top => {
                top = false;
                headers.push(stamp(via, source).into());
            }
            Header::To(to) if status > 100 && !to.value().contains("tag=") => {
                headers.push(rsip::headers::To::new(format!("{};tag={to_tag}", to.value())).into());
            }
            Header::Via(_)
            | Header::To(_)
            | Header::From(_)
            | Header::CallId(_)
            | Header::CSeq(_) => {
                headers.push(header.clone());
            }
            // RFC 3261 section 12.1.1: the UAS MUST copy all Record-Route header field values.
            Header::RecordRoute(_) if (101..300).contains(&status) => headers.push(header.clone()),
            _ => {}
        }
    }
    headers.append(&mut extra);
    describe_body(&mut headers, &body);
    let status_code = StatusCode::from(status);
    Response {
        status_code,
        version: Version::V2,
        headers: headers.into(),
        body,
    }
    .into()
}

/// RFC 3581 section 4: the server fills in `rport`, and then MUST add `received`.
fn stamp(via: &rsip::headers::Via, source: SocketAddr) -> rsip::headers::Via {
    let value = via.value();
    let stamped: Vec<String> = value
        .split(';')
        .map(|part| match part.trim().eq_ignore_ascii_case("rport") {
            true => format!("received={};rport={}", source.ip(), source.port()),
            false => part.to_owned(),
        })
        .collect();
    rsip::headers::Via::new(stamped.join(";"))
}

fn describe_body(headers: &mut Vec<Header>, body: &[u8]) {
    if !body.is_empty() {
        headers.push(rsip::headers::ContentType::new("application/sdp").into());
    }
    headers.push(rsip::headers::ContentLength::from(body.len() as u32).into());
}

/// All Record-Route values in order. rsip keeps a comma list as one value, so it is split here.
pub(super) fn record_routes(headers: &Headers) -> Vec<String> {
    headers
        .iter()
        .filter_map(|header| match header {
            Header::RecordRoute(routes) => Some(routes.value()),
            _ => None,
        })
        .flat_map(|routes| {
            routes
                .split_inclusive('>')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .map(|route| route.trim_start_matches([',', ' ']).to_owned())
        .filter(|route| route.starts_with('<'))
        .collect()
}

/// The URI inside a Route value.
pub(super) fn route_uri(route: &str) -> Option<Uri> {
    let inside = route.trim().strip_prefix('<')?.split('>').next()?;
    Uri::try_from(inside).ok()
}

/// URI of the Contact.
pub(super) fn contact(message: &impl HeadersExt) -> Option<Uri> {
    message
        .contact_header()
        .ok()?
        .typed()
        .ok()
        .map(|contact| contact.uri)
}

/// Transport address of a URI whose host is a literal: the drills have no name service.
pub(super) fn address(uri: &Uri) -> Option<SocketAddr> {
    let port = uri
        .host_with_port
        .port
        .as_ref()
        .map_or(DEFAULT_PORT, |port| *port.value());
    match &uri.host_with_port.host {
        Host::IpAddr(ip) => Some(SocketAddr::new(*ip, port)),
        Host::Domain(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{parse, record_routes, response, route_uri};
    use rsip::{SipMessage, prelude::HasHeaders};

    const INVITE: &str = "INVITE sip:49302000007@192.0.2.9:5060 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKtop\r\n\
        Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKlow\r\n\
        Record-Route: <sip:192.0.2.1;lr>, <sip:192.0.2.2:5070;lr=on>\r\n\
        Record-Route: <sip:192.0.2.3;lr>\r\n\
        From: <sip:a@192.0.2.2>;tag=f\r\nTo: <sip:b@192.0.2.9>\r\n\
        Call-ID: x@y\r\nCSeq: 7 INVITE\r\nContact: <sip:a@192.0.2.2:5066>\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn answers_copy_the_way_back() {
        let (message, identity) = parse(INVITE.as_bytes()).unwrap();
        assert_eq!(
            (identity.cseq, identity.branch.as_deref()),
            (7, Some("z9hG4bKtop"))
        );
        let SipMessage::Request(invite) = message else {
            panic!("an INVITE is a request")
        };
        let source = "192.0.2.1:5099".parse().unwrap();
        let ringing = response(&invite, source, 180, "t", Vec::new(), Vec::new());
        let (answer, identity) = parse(&ringing).unwrap();
        assert_eq!(identity.to_tag.as_deref(), Some("t"));
        let text = answer.to_string();
        assert!(
            text.contains("received=192.0.2.1;rport=5099;branch=z9hG4bKtop"),
            "{text}"
        );
        assert!(text.contains("z9hG4bKlow"), "{text}");
        assert_eq!(record_routes(answer.headers()).len(), 3);
    }

    #[test]
    fn route_sets_are_split_and_resolved() {
        let (message, _) = parse(INVITE.as_bytes()).unwrap();
        let routes = record_routes(message.headers());
        assert_eq!(routes[1], "<sip:192.0.2.2:5070;lr=on>");
        let next = super::address(&route_uri(&routes[1]).unwrap());
        assert_eq!(next, "192.0.2.2:5070".parse().ok());
        assert_eq!(
            super::address(&route_uri(&routes[2]).unwrap()),
            "192.0.2.3:5060".parse().ok()
        );
    }

    #[test]
    fn garbage_is_an_error() {
        for garbage in [
            &b"\r\n\r\n"[..],
            b"\xff\x00\x80",
            b"INVITE",
            b"SIP/2.0 200 OK\r\n\r\n",
        ] {
            assert!(parse(garbage).is_err());
        }
    }
}

//! A second opinion: on plain messages our reading and rsip's must be the same, and each must read what the other
//! writes. The generator stays within what rsip 0.4.0 reads right (no dots in user parts, no IPv6 references, no
//! folding, no compact names, no comma lists).

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use rsip::prelude::{HeadersExt, ToTypedHeader, UntypedHeader};
use tandem_sip::message::{Builder, Message, Method, Name, Uri};

#[derive(Clone, Debug)]
struct Plain {
    method: &'static str,
    status: Option<u16>,
    user: String,
    host: String,
    port: Option<u16>,
    branch: String,
    tag: String,
    to_tag: Option<String>,
    call_id: String,
    sequence: u32,
    hops: u8,
    display: Option<String>,
    extra: Vec<(String, String)>,
    body: String,
}

fn plain() -> impl Strategy<Value = Plain> {
    let method = prop::sample::select(vec![
        "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "MESSAGE",
    ]);
    let host = prop_oneof!["[a-z]{1,8}\\.example\\.com", "192\\.0\\.2\\.[1-9]"];
    (
        (
            method,
            proptest::option::of(100_u16..700),
            "[a-z0-9]{1,12}",
            host,
            proptest::option::of(1024_u16..),
        ),
        (
            "z9hG4bK[a-zA-Z0-9]{1,20}",
            "[a-z0-9]{1,10}",
            proptest::option::of("[a-z0-9]{1,10}"),
        ),
        (
            "[a-zA-Z0-9]{1,20}@[a-z]{1,8}",
            0_u32..(1 << 31),
            any::<u8>(),
        ),
        proptest::option::of("[A-Z][a-z]{0,8}"),
        proptest::collection::vec(
            ("X-[A-Z][a-z]{1,8}", "[a-z0-9]([a-z0-9 /.]{0,30}[a-z0-9])?"),
            0..5,
        ),
        "[ -~]{0,100}",
    )
        .prop_map(|(request, tags, dialog, display, extra, body)| {
            let (method, status, user, host, port) = request;
            let (branch, tag, to_tag) = tags;
            let (call_id, sequence, hops) = dialog;
            Plain {
                method,
                status,
                user,
                host,
                port,
                branch,
                tag,
                to_tag,
                call_id,
                sequence,
                hops,
                display,
                extra,
                body,
            }
        })
}

impl Plain {
    fn authority(&self) -> String {
        self.port
            .map_or(self.host.clone(), |port| format!("{}:{port}", self.host))
    }

    fn build(&self) -> Bytes {
        let authority = self.authority();
        let uri = format!("sip:{}@{authority}", self.user);
        let display = self
            .display
            .as_ref()
            .map(|name| format!("\"{name}\" "))
            .unwrap_or_default();
        let to_tag = self
            .to_tag
            .as_ref()
            .map(|tag| format!(";tag={tag}"))
            .unwrap_or_default();
        let start = match self.status {
            None => Builder::request(Method::parse(self.method), &uri),
            Some(status) => Builder::response(status, "OK"),
        };
        let mut builder = start
            .header(
                Name::Via,
                format!("SIP/2.0/UDP {authority};branch={}", self.branch),
            )
            .header(Name::MaxForwards, self.hops.to_string())
            .header(Name::From, format!("{display}<{uri}>;tag={}", self.tag))
            .header(Name::To, format!("<{uri}>{to_tag}"))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format!("{} {}", self.sequence, self.method))
            .header(Name::Contact, format!("<{uri}>"));
        for (name, value) in &self.extra {
            builder = builder.header(Name::Other(name), value);
        }
        builder.body("text/plain", &self.body).build().unwrap()
    }
}

/// What both parsers say of a message, in one form.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    status: Option<u16>,
    method: String,
    request: Option<(String, String, Option<u16>)>,
    via: (String, Option<u16>, String),
    from: (Option<String>, String, Option<String>),
    to_tag: Option<String>,
    call_id: String,
    sequence: u32,
    hops: u32,
    other: Vec<(String, String)>,
    body: Vec<u8>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn ours(bytes: &Bytes) -> Reading {
    let message = Message::parse(bytes.clone()).unwrap();
    let request = message.request_uri().map(|uri| {
        let uri = Uri::parse(uri).unwrap();
        let sip = uri.sip().unwrap();
        (text(sip.user.unwrap()), sip.host.to_string(), sip.port)
    });
    let via = message.top_via();
    let from = message.from();
    let other = message
        .all_headers()
        .filter_map(|(name, value)| match name {
            Name::Other(name) => Some((name.to_owned(), text(value))),
            Name::Known(_) => None,
        });
    Reading {
        status: message.status(),
        method: message.method().to_string(),
        request,
        via: (via.host.to_string(), via.port, text(via.branch().unwrap())),
        from: (from.display.map(text), text(from.uri), from.tag().map(text)),
        to_tag: message.to_tag().map(text),
        call_id: text(message.call_id()),
        sequence: message.cseq().0,
        hops: u32::from(message.max_forwards().unwrap()),
        other: other.collect(),
        body: message.body().to_vec(),
    }
}

fn theirs(bytes: &Bytes) -> Reading {
    let message = rsip::SipMessage::try_from(bytes.clone()).unwrap();
    let port = |uri: &rsip::Uri| uri.port().map(|port| *port.value());
    let (status, request) = match &message {
        rsip::SipMessage::Request(request) => {
            let uri = request.uri();
            let parts = (
                uri.user().unwrap().to_owned(),
                uri.host().to_string(),
                port(uri),
            );
            (None, Some(parts))
        }
        rsip::SipMessage::Response(response) => (Some(response.status_code().code()), None),
    };
    let via = message.via_header().unwrap().typed().unwrap();
    let from = message.from_header().unwrap().typed().unwrap();
    let to = message.to_header().unwrap().typed().unwrap();
    let cseq = message.cseq_header().unwrap().typed().unwrap();
    let headers = rsip::message::HasHeaders::headers(&message);
    let other = headers.iter().filter_map(|header| match header {
        rsip::Header::Other(name, value) => Some((name.clone(), value.clone())),
        _ => None,
    });
    Reading {
        status,
        method: cseq.method.to_string(),
        request,
        via: (
            via.uri.host().to_string(),
            port(&via.uri),
            via.branch().unwrap().value().to_owned(),
        ),
        from: (
            from.display_name.clone(),
            from.uri.to_string(),
            from.tag().map(|tag| tag.value().to_owned()),
        ),
        to_tag: to.tag().map(|tag| tag.value().to_owned()),
        call_id: message.call_id_header().unwrap().value().to_owned(),
        sequence: cseq.seq,
        hops: message.max_forwards_header().unwrap().num().unwrap(),
        other: other.collect(),
        body: message.body().clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn both_read_the_same(plain in plain()) {
        let bytes = plain.build();
        prop_assert_eq!(ours(&bytes), theirs(&bytes));
    }

    #[test]
    fn what_rsip_writes_reads_the_same(plain in plain()) {
        let bytes = plain.build();
        let rewritten: Vec<u8> = rsip::SipMessage::try_from(bytes.clone()).unwrap().into();
        prop_assert_eq!(ours(&Bytes::from(rewritten)), ours(&bytes));
    }
}

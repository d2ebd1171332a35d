//! RFC 4475: every torture message against the verdict the RFC asks for.
//!
//! The messages are the RFC's own archive, byte for byte.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bytes::Bytes;
use tandem_sip::message::framing::{Frame, Framer};
use tandem_sip::message::{
    Defect, DropReason, Host, Message, Method, Name, NameAddr, ParseError, Uri,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Valid,
    Answer(u16, Defect),
    Dropped(Defect),
}

use Verdict::{Answer, Dropped, Valid};

/// RFC 4475 section 3.1.1.
const VALID: &[(&str, Verdict)] = &[
    ("wsinv", Valid),
    ("intmeth", Valid),
    ("esc01", Valid),
    ("escnull", Valid),
    ("esc02", Valid),
    ("lwsdisp", Valid),
    ("longreq", Valid),
    ("dblreq", Valid),
    ("semiuri", Valid),
    ("transports", Valid),
    ("mpart01", Valid),
    ("unreason", Valid),
    ("noreason", Valid),
];

/// RFC 4475 section 3.1.2. Where the RFC lets an element be liberal, this one is strict.
const INVALID: &[(&str, Verdict)] = &[
    ("badinv01", Answer(400, Defect::Via)),
    ("clerr", Answer(400, Defect::BodyTooShort)),
    ("ncl", Answer(400, Defect::ContentLength)),
    ("scalar02", Answer(400, Defect::CSeq)),
    ("scalarlg", Dropped(Defect::CSeq)),
    ("quotbal", Answer(400, Defect::To)),
    ("ltgtruri", Answer(400, Defect::RequestUri)),
    ("lwsruri", Answer(400, Defect::RequestUri)),
    ("lwsstart", Answer(400, Defect::RequestUri)),
    ("trws", Answer(400, Defect::RequestLine)),
    ("escruri", Answer(400, Defect::RequestUri)),
    ("baddate", Answer(400, Defect::Date)),
    ("regbadct", Answer(400, Defect::Contact)),
    ("badaspec", Answer(400, Defect::To)),
    ("baddn", Answer(400, Defect::NoEmptyLine)),
    ("badvers", Answer(505, Defect::Version)),
    ("mismatch01", Answer(400, Defect::CSeqMethod)),
    ("mismatch02", Answer(400, Defect::CSeqMethod)),
    ("bigcode", Dropped(Defect::StatusLine)),
];

/// RFC 4475 sections 3.2 to 3.4: what the message layer must refuse, and what it must leave to those above.
const APPLICATION: &[(&str, Verdict)] = &[
    ("badbranch", Valid),
    ("insuf", Answer(400, Defect::Mandatory)),
    ("unkscm", Valid),
    ("novelsc", Valid),
    ("unksm2", Valid),
    ("bext01", Valid),
    ("invut", Valid),
    ("regaut01", Valid),
    ("multi01", Answer(400, Defect::Mandatory)),
    ("mcl01", Answer(400, Defect::ContentLengthConflict)),
    ("bcast", Valid),
    ("zeromf", Valid),
    ("cparam01", Valid),
    ("cparam02", Valid),
    ("regescrt", Valid),
    ("sdp01", Valid),
    ("inv2543", Valid),
];

fn load(name: &str) -> Bytes {
    let file = format!("tests/rfc4475/{name}.dat");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    Bytes::from(std::fs::read(path).unwrap())
}

fn message(name: &str) -> Message {
    Message::parse(load(name)).unwrap()
}

fn verdict(bytes: Bytes) -> Verdict {
    match Message::parse(bytes) {
        Ok(_) => Valid,
        Err(ParseError::Answer(answer)) => Answer(answer.status(), answer.defect()),
        Err(ParseError::Drop(DropReason::Response(defect))) => Dropped(defect),
        Err(ParseError::Drop(reason)) => panic!("{reason}"),
    }
}

fn score(table: &[(&str, Verdict)]) -> usize {
    let wrong: Vec<_> = table
        .iter()
        .map(|(name, expected)| (*name, *expected, verdict(load(name))))
        .filter(|(_, expected, found)| expected != found)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    table.len()
}

#[test]
fn all_49_verdicts_are_right() {
    assert_eq!(
        (score(VALID), score(INVALID), score(APPLICATION)),
        (13, 19, 17)
    );
}

#[test]
fn valid_messages_keep_every_byte() {
    let valid = VALID
        .iter()
        .chain(APPLICATION)
        .filter(|(_, verdict)| *verdict == Valid);
    for (name, _) in valid {
        let original = load(name);
        let message = Message::parse(original.clone()).unwrap();
        assert!(original.starts_with(message.bytes()), "{name}");
        let again = Message::parse(message.bytes().clone()).unwrap();
        assert_eq!(again.bytes(), message.bytes(), "{name}");
    }
}

/// The archive's file also lacks the empty line; the display name alone must be refused too (section 3.1.2.15).
#[test]
fn an_unquoted_comma_in_a_display_name_is_refused() {
    let mut text = load("baddn").to_vec();
    text.extend_from_slice(b"\r\n");
    assert_eq!(verdict(Bytes::from(text)), Answer(400, Defect::From));
}

/// Section 3.1.1.1.
#[test]
fn wsinv_is_read_through_all_its_white_space() {
    let message = message("wsinv");
    assert_eq!(message.to_tag(), Some(&b"1918181833n"[..]));
    assert_eq!(message.from_tag(), Some(&b"98asjd8"[..]));
    assert_eq!(
        message.from().display,
        Some(&b"\"J Rosenberg \\\\\\\"\""[..])
    );
    assert_eq!(message.max_forwards(), Some(68));
    assert_eq!(message.cseq(), (9, Method::Invite));
    assert_eq!(message.body().len(), 150);
    let branches: Vec<_> = message
        .values(Name::Via)
        .map(|value| {
            tandem_sip::message::Via::parse(value)
                .unwrap()
                .branch()
                .unwrap()
        })
        .collect();
    assert_eq!(
        branches,
        [&b"390skdjuw"[..], b"z9hG4bK9ikj8", b"z9hG4bK30239"]
    );
    assert!(!message.top_via().has_cookie());
    let contact = message.contact().unwrap();
    assert_eq!(contact.display, Some(&b"\"Quoted string \\\"\\\"\""[..]));
    assert_eq!(contact.parameters.value("q"), Some(&b"0.33"[..]));
    assert_eq!(message.header(Name::Subject), Some(&b""[..]));
    let folded = message.header(Name::Other("newfangledheader")).unwrap();
    assert!(
        folded.starts_with(b"newfangled value") && folded.ends_with(b"continued newfangled value")
    );
    assert_eq!(
        message.header(Name::Other("UnknownHeaderWithUnusualValue")),
        Some(&b";;,,;;,;"[..])
    );
}

/// Section 3.1.1.2.
#[test]
fn intmeth_keeps_its_unusual_characters() {
    let message = message("intmeth");
    assert_eq!(
        message.method(),
        Method::Other("!interesting-Method0123456789_*+`.%indeed'~")
    );
    let uri = Uri::parse(message.request_uri().unwrap()).unwrap();
    let uri = uri.sip().unwrap();
    assert_eq!(
        uri.user,
        Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..])
    );
    assert_eq!(
        uri.password,
        Some(&b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"[..])
    );
    assert_eq!(uri.host, Host::Name("example.com"));
    assert_eq!(
        message.to().display,
        Some(&b"\"BEL:\\\x07 NUL:\\\0 DEL:\\\x7f\""[..])
    );
    assert_eq!(message.max_forwards(), Some(255));
}

/// Sections 3.1.1.3 to 3.1.1.5: escapes are never decoded, so neither names nor methods appear from them.
#[test]
fn escapes_stay_escaped() {
    let request = message("esc01");
    let uri = Uri::parse(request.request_uri().unwrap()).unwrap();
    assert_eq!(
        uri.sip().unwrap().user,
        Some(&b"sips%3Auser%40example.com"[..])
    );
    assert_eq!(uri.sip().unwrap().host, Host::Name("example.net"));
    assert_eq!(message("escnull").values(Name::Contact).count(), 2);
    let register = message("esc02");
    assert_eq!(register.method(), Method::Other("RE%47IST%45R"));
    assert_eq!(register.values(Name::Contact).count(), 2);
}

/// Sections 3.1.1.6 and 3.1.1.7.
#[test]
fn long_and_tight_values_are_read() {
    assert_eq!(message("lwsdisp").from().display, Some(&b"caller"[..]));
    let long = message("longreq");
    assert_eq!(long.values(Name::Via).count(), 34);
    assert_eq!(long.cseq(), (3_882_340, Method::Invite));
    assert_eq!(
        long.to().parsed_uri().unwrap().sip().unwrap().port,
        Some(6000)
    );
}

/// Section 3.1.1.8: over UDP the second request is no part of the first; over a stream both are read.
#[test]
fn dblreq_is_one_datagram_or_two_messages() {
    assert_eq!(message("dblreq").method(), Method::Register);
    assert!(message("dblreq").body().is_empty());
    let mut framer = Framer::new();
    framer.push(&load("dblreq"));
    let mut methods = Vec::new();
    // The second body is longer than it says; what follows it is no message.
    while let Ok(Some(frame)) = framer.next_frame() {
        if let Frame::Message(message) = frame {
            methods.push(message.method().to_string());
        }
    }
    assert_eq!(methods, ["REGISTER", "INVITE"]);
}

/// Sections 3.1.1.9 to 3.1.1.13.
#[test]
fn the_other_valid_messages_are_read_right() {
    let semicolon = message("semiuri");
    let uri = Uri::parse(semicolon.request_uri().unwrap()).unwrap();
    assert_eq!(
        uri.sip().unwrap().user,
        Some(&b"user;par=u%40example.net"[..])
    );
    assert_eq!(semicolon.values(Name::Accept).count(), 6);
    let transports: Vec<_> = message("transports")
        .values(Name::Via)
        .map(|value| {
            tandem_sip::message::Via::parse(value)
                .unwrap()
                .transport
                .to_owned()
        })
        .collect();
    assert_eq!(transports, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);
    let multipart = message("mpart01");
    assert_eq!(multipart.body().len(), 553);
    assert!(load("mpart01").ends_with(&multipart.body()));
    assert_eq!(message("unreason").status(), Some(200));
    assert!(
        message("unreason")
            .reason()
            .unwrap()
            .starts_with(b"= 2**3 * 5**2 ")
    );
    assert_eq!(
        (message("noreason").status(), message("noreason").reason()),
        (Some(100), Some(&b""[..]))
    );
}

/// Sections 3.2 to 3.4: the difference that matters survives for the layers above.
#[test]
fn application_messages_show_what_they_hold() {
    assert!(!message("badbranch").top_via().has_cookie());
    assert_eq!(message("zeromf").max_forwards(), Some(0));
    assert_eq!(message("inv2543").max_forwards(), None);
    let bare = message("cparam01");
    assert!(bare.contact().unwrap().parameters.has("unknownparam"));
    let bracketed = message("cparam02");
    assert!(!bracketed.contact().unwrap().parameters.has("unknownparam"));
    let opaque = message("unkscm");
    let scheme = Uri::parse(opaque.request_uri().unwrap()).unwrap();
    assert!(matches!(
        scheme,
        Uri::Other {
            scheme: "nobodyKnowsThisScheme",
            ..
        }
    ));
    let routed = message("regescrt");
    let contact: NameAddr<'_> = routed.contact().unwrap();
    assert_eq!(
        contact.parsed_uri().unwrap().sip().unwrap().headers,
        Some(&b"Route=%3Csip:sip.example.com%3E"[..])
    );
}

/// RFC 3261 section 8.2.6: whatever can be answered is answered with a response that itself parses, or at least
/// carries back what came.
#[test]
fn refusals_carry_the_request_back() {
    let source = "198.51.100.1:5060".parse().unwrap();
    for name in [
        "clerr",
        "ncl",
        "mismatch01",
        "lwsruri",
        "mcl01",
        "trws",
        "regbadct",
    ] {
        let ParseError::Answer(answer) = Message::parse(load(name)).unwrap_err() else {
            panic!("{name} is answered")
        };
        let response = Message::parse(answer.response(source, "totag")).unwrap();
        assert_eq!(response.status(), Some(400), "{name}");
        assert!(response.to_tag().is_some(), "{name}");
        assert_eq!(response.top_via().received(), Some(source.ip()), "{name}");
    }
    let ParseError::Answer(answer) = Message::parse(load("insuf")).unwrap_err() else {
        panic!("insuf is answered")
    };
    let response = answer.response(source, "totag");
    assert!(
        response
            .starts_with(b"SIP/2.0 400 Missing or Repeated Header\r\nVia: SIP/2.0/UDP 192.0.2.95;")
    );
}

//! Rules of the message layer that no single file below owns.
//!
//! Each safeguard (control characters, bare line ends, conflicting lengths, the cut behind the body, forged
//! `received`, header injection) was once taken out to see a test here or beside it fail.

#![allow(clippy::unwrap_used)]

use super::*;

/// A request whose header block is `lines` after the mandatory ones.
fn request(lines: &str, body: &str) -> Bytes {
    Bytes::from(format!(
        "MESSAGE sip:bob@[2001:db8::5]:5070 SIP/2.0\r\nVia: SIP/2.0/UDP host.example;branch=z9hG4bK1\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: x\r\n\
         CSeq: 7 MESSAGE\r\n{lines}\r\n{body}"
    ))
}

fn defect(bytes: Bytes) -> Defect {
    match Message::parse(bytes).unwrap_err() {
        ParseError::Answer(answer) => answer.defect(),
        ParseError::Drop(reason) => panic!("dropped: {reason}"),
    }
}

fn dropped(bytes: Bytes) -> DropReason {
    match Message::parse(bytes).unwrap_err() {
        ParseError::Answer(answer) => panic!("answered: {}", answer.defect()),
        ParseError::Drop(reason) => reason,
    }
}

fn edited(from: &str, to: &str) -> Bytes {
    let text = String::from_utf8(request("", "").to_vec()).unwrap();
    assert!(text.contains(from));
    Bytes::from(text.replace(from, to))
}

#[test]
fn section_18_3_decides_where_a_datagram_ends() {
    let body = |bytes| Message::parse(bytes).unwrap().body();
    assert_eq!(&body(request("", "all of it"))[..], b"all of it");
    assert_eq!(
        &body(request("Content-Length: 3\r\n", "abcdef"))[..],
        b"abc"
    );
    assert_eq!(&body(request("l : 003\r\n", "abc"))[..], b"abc");
    assert_eq!(
        defect(request("Content-Length: 4\r\n", "abc")),
        Defect::BodyTooShort
    );
    let message = Message::parse(request("Content-Length: 0\r\n", "INVITE sip:x SIP/2.0")).unwrap();
    assert!(message.bytes().ends_with(b"\r\n\r\n"));
}

#[test]
fn ambiguous_lengths_are_refused() {
    for value in [
        "",
        "+3",
        "-1",
        "3,3",
        "3 3",
        "0x3",
        "3;a",
        "99999999999999999999",
        "\"3\"",
    ] {
        let header = format!("Content-Length: {value}\r\n");
        assert_eq!(
            defect(request(&header, "abc")),
            Defect::ContentLength,
            "{value:?}"
        );
    }
    let twice = "Content-Length: 3\r\nX: y\r\nL: 2\r\n";
    assert_eq!(defect(request(twice, "abc")), Defect::ContentLengthConflict);
    assert!(Message::parse(request("Content-Length: 3\r\nl: 3\r\n", "abc")).is_ok());
}

#[test]
fn line_ends_and_controls_cannot_hide_anything() {
    for (lines, reason) in [
        ("X: a\nContent-Length: 0\r\n", DropReason::BareLineEnd),
        ("X: a\rContent-Length: 0\r\n", DropReason::BareLineEnd),
        ("X: a\r\r\n", DropReason::BareLineEnd),
        ("X: a\0b\r\n", DropReason::ControlCharacter),
        ("X: \"a\x01b\"\r\n", DropReason::ControlCharacter),
        ("X\x01: a\r\n", DropReason::ControlCharacter),
    ] {
        assert_eq!(dropped(request(lines, "")), reason, "{lines:?}");
    }
    assert_eq!(
        dropped(edited(" SIP/2.0\r\nVia", "\r\n SIP/2.0\r\nVia")),
        DropReason::FoldedStartLine
    );
    assert_eq!(
        dropped(edited("bob@[", "bob\0@[")),
        DropReason::ControlCharacter
    );
    for lines in [
        "Content-Length\r\n",
        "Content Length: 0\r\n",
        ": a\r\n",
        "X\r\n : y\r\n",
    ] {
        assert_eq!(defect(request(lines, "")), Defect::HeaderLine, "{lines:?}");
    }
}

#[test]
fn mandatory_headers_stand_once() {
    for line in [
        "From: <sip:alice@example.com>;tag=1\r\n",
        "Call-ID: x\r\n",
        "CSeq: 7 MESSAGE\r\n",
    ] {
        assert_eq!(defect(edited(line, "")), Defect::Mandatory, "{line}");
        assert_eq!(
            defect(edited(line, &line.repeat(2))),
            Defect::Mandatory,
            "{line}"
        );
    }
    let via = "Via: SIP/2.0/UDP host.example;branch=z9hG4bK1\r\n";
    assert_eq!(
        dropped(edited(via, "")),
        DropReason::NoVia(Defect::Mandatory)
    );
    assert_eq!(defect(edited("Call-ID: x", "Call-ID: ")), Defect::CallId);
    assert_eq!(defect(edited("Call-ID: x", "Call-ID: x y")), Defect::CallId);
    for cseq in [
        "2147483648 MESSAGE",
        "7MESSAGE",
        "7",
        "MESSAGE",
        "-7 MESSAGE",
        "7 MESSAGE x",
    ] {
        assert_eq!(defect(edited("7 MESSAGE", cseq)), Defect::CSeq, "{cseq}");
    }
    assert_eq!(defect(edited("7 MESSAGE", "7 message")), Defect::CSeqMethod);
    assert_eq!(
        defect(request("Max-Forwards: 256\r\n", "")),
        Defect::MaxForwards
    );
}

#[test]
fn nobody_answers_acks_responses_and_foreign_text() {
    let ack = edited("Call-ID: x\r\n", "");
    let ack = Bytes::from(
        String::from_utf8(ack.to_vec())
            .unwrap()
            .replace("MESSAGE", "ACK"),
    );
    assert_eq!(dropped(ack), DropReason::Ack(Defect::Mandatory));
    let response = edited(
        "MESSAGE sip:bob@[2001:db8::5]:5070 SIP/2.0",
        "SIP/2.0 200 OK",
    );
    assert!(Message::parse(response.clone()).is_ok());
    let short = String::from_utf8(response.to_vec())
        .unwrap()
        .replace("Call-ID: x\r\n", "");
    assert_eq!(
        dropped(Bytes::from(short)),
        DropReason::Response(Defect::Mandatory)
    );
    for text in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "hello\r\n\r\n"] {
        assert_eq!(
            dropped(Bytes::from_static(text.as_bytes())),
            DropReason::NotSip,
            "{text}"
        );
    }
    assert_eq!(
        dropped(Bytes::from_static(b"\r\n\r\n")),
        DropReason::KeepAlive
    );
    assert_eq!(dropped(Bytes::new()), DropReason::KeepAlive);
    assert_eq!(
        dropped(Bytes::from_static(b"\0\0\0\0")),
        DropReason::NoStartLine
    );
}

#[test]
fn every_bound_holds() {
    let lines = |count: usize| "X: y\r\n".repeat(count);
    assert!(Message::parse(request(&lines(MAX_HEADERS - 5), "")).is_ok());
    assert_eq!(
        defect(request(&lines(MAX_HEADERS - 4), "")),
        Defect::TooManyHeaders
    );
    let vias = |count: usize| {
        format!(
            "Via: SIP/2.0/UDP a{}\r\n",
            ",SIP/2.0/UDP a".repeat(count - 2)
        )
    };
    assert!(Message::parse(request(&vias(MAX_VIAS), "")).is_ok());
    assert_eq!(
        defect(request(&vias(MAX_VIAS + 1), "")),
        Defect::TooManyVias
    );
    let long = format!("bob{}@[", "b".repeat(MAX_REQUEST_URI_BYTES));
    let ParseError::Answer(answer) = Message::parse(edited("bob@[", &long)).unwrap_err() else {
        panic!("a long Request-URI is answered")
    };
    assert_eq!(answer.status(), 414);
    let large = request("", &"x".repeat(MAX_MESSAGE_BYTES));
    assert_eq!(dropped(large), DropReason::TooLarge);
}

#[test]
fn unknown_things_pass_unchanged() {
    let body = [0_u8, 13, 10, 255, 0];
    let mut text = request("x-Unknown:  \u{fc} \t\r\nContent-Length: 5\r\n", "").to_vec();
    text.extend_from_slice(&body);
    let message = Message::parse(Bytes::from(text.clone())).unwrap();
    assert_eq!(message.bytes(), &text);
    assert_eq!(
        message.header(Name::Other("X-UNKNOWN")),
        Some("\u{fc}".as_bytes())
    );
    assert_eq!(&message.body()[..], body);
    let names: Vec<_> = message.all_headers().map(|(name, _)| name.text()).collect();
    assert_eq!(
        names,
        [
            "Via",
            "From",
            "To",
            "Call-ID",
            "CSeq",
            "x-Unknown",
            "Content-Length"
        ]
    );
}

#[test]
fn leading_line_ends_are_skipped_and_folds_read_as_blanks() {
    let mut text = b"\r\n\r\n".to_vec();
    text.extend_from_slice(&request(
        "Contact:\r\n <sip:a@b>\r\n\t;q=1\r\nX: y\r\n",
        "body",
    ));
    let message = Message::parse(Bytes::from(text.clone())).unwrap();
    assert_eq!(message.bytes()[..], text[4..]);
    assert_eq!(
        message.contact().unwrap().parameters.value("q"),
        Some(&b"1"[..])
    );
    assert!(!message.header(Name::Contact).unwrap().contains(&b'\n'));
    assert_eq!(&message.body()[..], b"body");
}

#[test]
fn received_from_marks_the_top_via_only() {
    let source: SocketAddr = "192.0.2.7:1234".parse().unwrap();
    let via = "Via: SIP/2.0/UDP host.example;branch=z9hG4bK1";
    let two = format!("{via};rport, SIP/2.0/UDP below.example;branch=z9hG4bK0");
    let message = Message::parse(edited(via, &two)).unwrap();
    let marked = message.received_from(source).unwrap();
    assert_eq!(marked.top_via().received(), Some(source.ip()));
    assert_eq!(marked.top_via().rport(), Some(Some(1234)));
    let below = marked.values(Name::Via).nth(1).unwrap();
    assert_eq!(below, b"SIP/2.0/UDP below.example;branch=z9hG4bK0");
    assert_eq!(marked.top_via().response_destination(source), source);
    // Marking twice changes nothing.
    assert_eq!(
        marked.received_from(source).unwrap().bytes(),
        marked.bytes()
    );
}

#[test]
fn the_answer_to_a_refused_request_keeps_the_hops_below_the_top() {
    let via = "Via: SIP/2.0/UDP host.example;branch=z9hG4bK1";
    let two = format!("{via}, SIP/2.0/UDP below.example;branch=z9hG4bK0");
    let text = String::from_utf8(edited(via, &two).to_vec())
        .unwrap()
        .replace("7 MESSAGE", "7 BYE");
    let ParseError::Answer(answer) = Message::parse(Bytes::from(text)).unwrap_err() else {
        panic!("a method mismatch is answered")
    };
    let source: SocketAddr = "192.0.2.7:1234".parse().unwrap();
    let response = Message::parse(answer.response(source, "tag")).unwrap();
    let vias: Vec<_> = response
        .values(Name::Via)
        .map(String::from_utf8_lossy)
        .collect();
    assert_eq!(
        vias,
        [
            "SIP/2.0/UDP host.example;branch=z9hG4bK1;received=192.0.2.7",
            "SIP/2.0/UDP below.example;branch=z9hG4bK0"
        ]
    );
    assert_eq!(answer.destination(source).to_string(), "192.0.2.7:5060");
}

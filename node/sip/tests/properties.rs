//! Nothing from the network panics the message layer, and nothing it reads is changed.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;
use tandem_sip::message::framing::{Frame, Framer};
use tandem_sip::message::{
    Builder, MAX_HEADERS, Message, Name, NameAddr, Parameters, ParseError, Uri, Via,
};
use tandem_sip::transaction::{ClientKey, ServerKey};

fn torture() -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rfc4475");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert_eq!(paths.len(), 49);
    paths
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Calls everything a message offers.
fn exercise(message: &Message) {
    let _ = (
        message.start_line(),
        message.method(),
        message.reason(),
        message.max_forwards(),
    );
    let _ = (
        message.cseq(),
        message.call_id(),
        message.from_tag(),
        message.to_tag(),
    );
    let _ = (
        message.contact_uri(),
        message.content_type(),
        message.body(),
    );
    let _ = message.record_routes().chain(message.routes()).count();
    for (name, value) in message.all_headers() {
        assert!(!value.contains(&b'\r') && !value.contains(&b'\n'));
        assert!(message.headers(name).any(|line| line == value));
        let _ = (
            message.values(name).count(),
            message.addresses(name).count(),
        );
    }
    let via = message.top_via();
    let _ = (via.branch(), via.rport(), via.received(), via.has_cookie());
    let _ = (
        ClientKey::of(message),
        ServerKey::of(message),
        ServerKey::of_cancelled(message),
    );
}

/// Parses, and checks what must hold whatever the bytes are.
fn check(bytes: &[u8]) {
    let source: SocketAddr = "[2001:db8::7]:5060".parse().unwrap();
    let input = Bytes::copy_from_slice(bytes);
    match Message::parse(input.clone()) {
        Ok(message) => {
            exercise(&message);
            // Round trip: the message is a part of the input, and reads the same on its own.
            let start = bytes
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .count();
            assert!(bytes[start..].starts_with(message.bytes()));
            let again = Message::parse(message.bytes().clone()).unwrap();
            assert_eq!(again.bytes(), message.bytes());
            assert_eq!(again.all_headers().count(), message.all_headers().count());
            assert!(message.all_headers().count() <= MAX_HEADERS);
            if message.is_request() {
                let marked = message.received_from(source).unwrap();
                assert_eq!(marked.body(), message.body());
                assert_eq!(ServerKey::of(&marked), ServerKey::of(&message));
                let response = Builder::response_to(&marked, 200, "OK", Some("t"))
                    .build()
                    .unwrap();
                let response = Message::parse(response).unwrap();
                assert_eq!(response.call_id(), message.call_id());
                assert_eq!(ClientKey::of(&response), ClientKey::of(&message));
            }
            check_copy(&message);
        }
        Err(ParseError::Answer(answer)) => {
            let response = answer.response(source, "t");
            assert!(response.ends_with(b"Content-Length: 0\r\n\r\n"));
            let _ = answer.destination(source);
        }
        Err(ParseError::Drop(_)) => {}
    }
    let mut framer = Framer::new();
    framer.push(bytes);
    while let Ok(Some(frame)) = framer.next_frame() {
        if let Frame::Message(message) = frame {
            exercise(&message);
        }
    }
}

/// What a border element does: take every header over, write the rest itself.
fn check_copy(message: &Message) {
    let builder = match (message.request_uri(), message.status()) {
        (Some(uri), _) => Builder::request(message.method(), uri),
        (None, status) => Builder::response(status.unwrap(), message.reason().unwrap()),
    };
    let copy = builder
        .copy_except(message, &[Name::ContentType])
        .copy_body(message)
        .build();
    let Ok(copy) = copy else { return };
    let copy = Message::parse(copy).unwrap();
    assert_eq!(copy.body(), message.body());
    assert_eq!(copy.from(), message.from());
    let vias = |message: &Message| {
        message
            .values(Name::Via)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    assert_eq!(vias(&copy), vias(message));
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let telling = prop::sample::select(vec![
        b"\r\n".to_vec(),
        b"\r\n ".to_vec(),
        b"\n".to_vec(),
        b"\r".to_vec(),
        b"\0".to_vec(),
        b"\"".to_vec(),
        b"<".to_vec(),
        b">".to_vec(),
        b";".to_vec(),
        b",".to_vec(),
        b":".to_vec(),
        b"@".to_vec(),
        b"\\".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"\r\nContent-Length: 1".to_vec(),
        b"\r\nl:".to_vec(),
        b"[".to_vec(),
        b"4294967296".to_vec(),
        b"\xff".to_vec(),
        b";rport;received=x".to_vec(),
    ]);
    prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<prop::sample::Index>(), telling).prop_map(|(at, text)| Mutation::Insert(at, text)),
        (any::<prop::sample::Index>(), 1_usize..30)
            .prop_map(|(at, count)| Mutation::Remove(at, count)),
        (any::<prop::sample::Index>(), 1_usize..80)
            .prop_map(|(at, count)| Mutation::Repeat(at, count)),
        any::<prop::sample::Index>().prop_map(Mutation::Cut),
    ]
}

fn mutate(text: &mut Vec<u8>, mutation: &Mutation) {
    let at = |index: &prop::sample::Index, text: &[u8]| index.index(text.len() + 1);
    match mutation {
        Mutation::Replace(index, byte) => {
            let at = at(index, text);
            if let Some(place) = text.get_mut(at) {
                *place = *byte;
            }
        }
        Mutation::Insert(index, more) => {
            let at = at(index, text);
            text.splice(at..at, more.iter().copied());
        }
        Mutation::Remove(index, count) => {
            let at = at(index, text);
            text.drain(at..(at + count).min(text.len()));
        }
        Mutation::Repeat(index, count) => {
            let at = at(index, text);
            let part = text[at..(at + count).min(text.len())].to_vec();
            text.splice(at..at, part);
        }
        Mutation::Cut(index) => text.truncate(at(index, text)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }

    #[test]
    fn mutated_torture_messages_never_panic(
        which in 0_usize..49,
        mutations in proptest::collection::vec(mutation(), 1..6),
    ) {
        let mut text = torture().swap_remove(which);
        for mutation in &mutations {
            mutate(&mut text, mutation);
        }
        check(&text);
    }

    #[test]
    fn value_parsers_never_panic(text in "[ -~\\r\\n\\t\\x00]{0,60}") {
        let bytes = text.as_bytes();
        let _ = NameAddr::parse(bytes).map(|address| (address.tag().is_some(), address.parsed_uri()));
        let _ = (Uri::parse(bytes), Via::parse(bytes));
        if let Some(parameters) = Parameters::parse(bytes) {
            prop_assert!(parameters.iter().all(|(name, value)| !name.is_empty() && value != Some(b"")));
        }
    }

    #[test]
    fn the_stream_cut_is_the_datagram_cut(which in 0_usize..49, size in 1_usize..200) {
        let text = torture().swap_remove(which);
        let mut framer = Framer::new();
        let mut first = None;
        for chunk in text.chunks(size) {
            framer.push(chunk);
            if let Ok(Some(Frame::Message(message))) = framer.next_frame() {
                first.get_or_insert(message);
            }
        }
        if let Some(streamed) = first {
            let whole = Message::parse(Bytes::from(text)).unwrap();
            prop_assert_eq!(streamed.bytes(), whole.bytes());
        }
    }
}

#[test]
fn unmutated_torture_messages_pass_the_same_checks() {
    for text in torture() {
        check(&text);
    }
}

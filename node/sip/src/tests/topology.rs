//! Nothing of one side shows on the other, and each side's path is honoured.

use super::calls::{ALICE, BOB, alice, bob, finish, pair};
use crate::message::{Message, Name};
use crate::phone::{Action, step};
use crate::testing::{OUTSIDE_ADVERTISED, World, address};

fn texts(world: &World, to: &str) -> Vec<String> {
    let sent = world
        .sent
        .iter()
        .filter(|(destination, _)| *destination == address(to));
    sent.map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap())
        .collect()
}

fn talkative() -> World {
    let mut alice = alice()
        .when_up(500, Action::Info)
        .when_up(1000, Action::Change(super::media::held("10.0.0.5")))
        .when_up(3000, Action::HangUp);
    alice.extra = vec![
        (
            "Record-Route",
            "<sip:10.0.0.6;lr>, <sip:inner.example;lr>".into(),
        ),
        (
            "P-Asserted-Identity",
            "\"Alice\" <sip:+49301@10.0.0.5:5060>".into(),
        ),
        (
            "Diversion",
            "<sip:boss@pbx.internal>;reason=no-answer".into(),
        ),
        ("History-Info", "<sip:boss@pbx.internal>;index=1".into()),
        ("X-Account", "4711".into()),
        ("Subject", "hello".into()),
        ("User-to-User", "beef;encoding=hex".into()),
        ("Secret", "10.0.0.5".into()),
    ];
    let mut bob = bob().answers(vec![step(100, 183), step(1000, 200)]);
    bob.record_routes = vec![
        "<sip:198.51.100.30;lr>".into(),
        "<sip:198.51.100.31;lr>".into(),
    ];
    pair(alice, bob)
}

#[test]
fn neither_side_sees_the_other() {
    let mut world = talkative();
    finish(&mut world);
    let inside = [
        "10.0.0.",
        "tag-of-alice",
        "call-of-alice",
        "inner.example",
        "pbx.internal",
        "bK-alice",
        "o=alice",
    ];
    for text in texts(&world, BOB)
        .iter()
        .chain(&texts(&world, "198.51.100.31:5060"))
    {
        for secret in inside {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    let leg = world.cdrs[0].callee_call_id.clone();
    let outside = [
        "198.51.100.",
        "203.0.113.",
        "tag-of-bob",
        leg.as_str(),
        "o=bob",
    ];
    let to_alice = texts(&world, ALICE);
    assert!(to_alice.len() > 5);
    for text in to_alice {
        for secret in outside {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn what_may_travel_travels() {
    let mut world = talkative();
    finish(&mut world);
    let invite = &world.phones[1].messages[0];
    let value = |name| {
        invite
            .header(name)
            .map(|value| String::from_utf8(value.to_vec()).unwrap())
    };
    assert_eq!(
        value(Name::PAssertedIdentity).unwrap(),
        "\"Alice\" <sip:+49301@203.0.113.100>"
    );
    assert_eq!(
        value(Name::Diversion).unwrap(),
        "<sip:boss@203.0.113.100>;reason=no-answer"
    );
    assert_eq!(value(Name::Other("X-Account")).unwrap(), "4711");
    assert_eq!(value(Name::Subject).unwrap(), "hello");
    assert_eq!(
        value(Name::Other("User-to-User")).unwrap(),
        "beef;encoding=hex"
    );
    assert_eq!(value(Name::Other("Secret")), None);
    assert_eq!(
        invite.request_uri(),
        Some(format!("sip:+4930123@{BOB}").as_bytes())
    );
    let from = invite.from();
    assert_eq!(
        (from.display, from.uri),
        (
            Some(b"\"alice\"".as_slice()),
            b"sip:alice@203.0.113.100".as_slice()
        )
    );
    assert_eq!(
        value(Name::Contact).unwrap(),
        format!("<sip:{OUTSIDE_ADVERTISED}>")
    );
    assert_eq!(invite.top_via().port, Some(5070));
}

/// Bob's Record-Route is reversed into our Route (RFC 3261 section 12.1.2), and the first of them is the next hop;
/// the caller gets back its own.
#[test]
fn route_sets_are_honoured() {
    let mut world = talkative();
    finish(&mut world);
    let hop = texts(&world, "198.51.100.31:5060");
    let ack = hop.iter().find(|text| text.starts_with("ACK ")).unwrap();
    assert!(
        ack.starts_with(&format!("ACK sip:bob@{BOB} SIP/2.0\r\n")),
        "{ack}"
    );
    let message = Message::parse(ack.clone().into()).unwrap();
    let routes: Vec<&[u8]> = message.values(Name::Route).collect();
    assert_eq!(
        routes,
        [
            b"<sip:198.51.100.31;lr>".as_slice(),
            b"<sip:198.51.100.30;lr>".as_slice()
        ]
    );

    let ringing = texts(&world, ALICE)
        .into_iter()
        .find(|text| text.starts_with("SIP/2.0 183"))
        .unwrap();
    let message = Message::parse(ringing.into()).unwrap();
    let routes: Vec<&[u8]> = message.values(Name::RecordRoute).collect();
    assert_eq!(
        routes,
        [
            b"<sip:10.0.0.6;lr>".as_slice(),
            b"<sip:inner.example;lr>".as_slice()
        ]
    );
}

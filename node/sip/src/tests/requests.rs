//! Requests one at a time: what is refused, and how (RFC 3261 sections 8.2, 9.2, 12.2.2, 14.2, 16.3).

use std::time::Duration;

use bytes::Bytes;

use super::calls::{ALICE, BOB, START, alice, bob, finish, pair};
use crate::message::{Message, Name};
use crate::phone::{Action, step};
use crate::testing::{INSIDE_BOUND, World, address, config, target};

/// A request from Alice's address; `lines` come behind the mandatory headers.
fn request(method: &str, uri: &str, to_tag: &str, sequence: u32, lines: &str) -> Bytes {
    let tag = if to_tag.is_empty() {
        String::new()
    } else {
        format!(";tag={to_tag}")
    };
    let hops = if lines.contains("Max-Forwards") {
        ""
    } else {
        "Max-Forwards: 70\r\n"
    };
    Bytes::from(format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {ALICE};branch=z9hG4bK-{method}-{sequence};rport\r\n{hops}\
         From: <sip:alice@{ALICE}>;tag=tag-of-alice\r\nTo: <sip:x@{INSIDE_BOUND}>{tag}\r\nCall-ID: call-of-alice\r\n\
         CSeq: {sequence} {method}\r\nContact: <sip:alice@{ALICE}>\r\n{lines}Content-Length: 0\r\n\r\n"
    ))
}

fn send(world: &mut World, bytes: Bytes) -> Vec<Message> {
    let before = world.sent.len();
    world.post(address(ALICE), address(INSIDE_BOUND), bytes);
    world.run_for(Duration::from_millis(20));
    let answers = world.sent[before..]
        .iter()
        .filter(|(to, _)| *to == address(ALICE));
    answers
        .map(|(_, bytes)| Message::parse(bytes.clone()).unwrap())
        .collect()
}

fn status_of(world: &mut World, bytes: Bytes) -> u16 {
    let answers = send(world, bytes);
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers[0].status().unwrap()
}

fn idle() -> World {
    World::new(config(vec![target(BOB, 1)]), vec![])
}

/// An established call, and the tag we gave Alice.
fn established() -> (World, String) {
    let mut world = pair(alice().when_up(60_000, Action::HangUp), bob());
    world.run_for(Duration::from_secs(5));
    let tag = world.phones[0].remote_tag.clone();
    (world, tag)
}

const URI: &str = "sip:+4930123@10.0.0.100:5060";

#[test]
fn options_is_answered_here() {
    let mut world = idle();
    let answers = send(&mut world, request("OPTIONS", "sip:10.0.0.100", "", 1, ""));
    assert_eq!(answers[0].status(), Some(200));
    assert_eq!(
        answers[0].header(Name::Allow),
        Some(b"INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, MESSAGE".as_slice())
    );
    assert_eq!(
        answers[0].header(Name::Accept),
        Some(b"application/sdp".as_slice())
    );
    assert_eq!(world.sip.calls(), 0);
}

#[test]
fn requests_outside_a_dialog_are_refused_by_method() {
    for (method, status) in [
        ("REGISTER", 405),
        ("SUBSCRIBE", 405),
        ("MESSAGE", 405),
        ("BYE", 481),
        ("CANCEL", 481),
        ("FOO", 501),
    ] {
        let mut world = idle();
        let answers = send(&mut world, request(method, URI, "", 1, ""));
        assert_eq!(answers[0].status(), Some(status), "{method}");
        assert_eq!(answers[0].header(Name::Allow).is_some(), status != 481);
    }
}

#[test]
fn an_unknown_dialog_is_481_and_its_ack_is_dropped() {
    for method in ["INVITE", "BYE", "INFO", "OPTIONS"] {
        assert_eq!(
            status_of(&mut idle(), request(method, URI, "nobody", 1, "")),
            481,
            "{method}"
        );
    }
    let mut world = idle();
    assert!(send(&mut world, request("ACK", URI, "nobody", 1, "")).is_empty());
    assert_eq!(world.sip.counters().acknowledgements_stray, 1);
}

#[test]
fn an_invite_is_judged_before_it_starts_a_call() {
    for (uri, lines, status) in [
        (URI, "Require: 100rel\r\n", 420),
        (URI, "Max-Forwards: 0\r\n", 483),
        ("sips:a@10.0.0.100", "", 416),
        ("im:a@10.0.0.100", "", 416),
    ] {
        let mut world = idle();
        assert_eq!(
            status_of(&mut world, request("INVITE", uri, "", 1, lines)),
            status,
            "{uri} {lines}"
        );
        world.assert_clean();
    }
    let mut world = idle();
    world.sip = crate::core::Sip::new(
        crate::config::SipConfig {
            routes: vec![],
            ..world.config.clone()
        },
        1,
    );
    world.sip.activate(1);
    assert_eq!(
        status_of(&mut world, request("INVITE", URI, "", 1, "")),
        404
    );
}

#[test]
fn unsupported_extensions_are_named() {
    let answers = send(
        &mut idle(),
        request("INVITE", URI, "", 1, "Require: 100rel, foo\r\n"),
    );
    assert_eq!(
        answers[0].header(Name::Unsupported),
        Some(b"100rel, foo".as_slice())
    );
}

#[test]
fn reliable_provisional_responses_are_not_offered() {
    let mut alice = alice().when_up(100, Action::HangUp);
    alice.extra.push(("Supported", "100rel, timer".into()));
    let mut world = pair(alice, bob());
    finish(&mut world);
    assert_eq!(world.phones[1].messages[0].header(Name::Supported), None);
}

#[test]
fn a_request_that_comes_back_is_a_loop_unless_its_destination_changed() {
    let mut world = pair(alice(), bob().answers(vec![]));
    world.run_for(Duration::from_millis(1100));
    let ours = world.phones[1].messages[0].bytes().clone();
    let ours = String::from_utf8(ours.to_vec()).unwrap();
    // Bob is a proxy that sends it back to where calls come in.
    let via = format!("Via: SIP/2.0/UDP {ALICE};branch=z9hG4bK-proxy\r\nVia: ");
    let back = ours.replacen("Via: ", &via, 1);
    let answers = send(&mut world, Bytes::from(back.clone()));
    assert_eq!(answers[0].status(), Some(482));
    assert_eq!(world.sip.counters().rejected_loop, 1);

    let spiral = back
        .replace("INVITE sip:+4930123@", "INVITE sip:+4930999@")
        .replace("bK-proxy", "bK-other");
    let answers = send(&mut world, Bytes::from(spiral));
    assert_eq!(answers[0].status(), Some(100));
}

#[test]
fn a_second_copy_over_another_path_is_refused() {
    let mut world = pair(alice(), bob());
    world.run_for(Duration::from_millis(1100));
    let copy = request("INVITE", URI, "", 1, "");
    assert_eq!(status_of(&mut world, copy), 482);
    assert_eq!(world.sip.counters().rejected_merged, 1);
}

#[test]
fn hops_are_counted_down() {
    let mut world = pair(alice().when_up(100, Action::HangUp), bob());
    finish(&mut world);
    assert_eq!(world.phones[1].messages[0].max_forwards(), Some(69));
}

#[test]
fn calls_over_the_limit_are_refused() {
    let mut settings = config(vec![target(BOB, 1)]);
    settings.limits.calls = 0;
    let mut world = World::new(settings, vec![]);
    let answers = send(&mut world, request("INVITE", URI, "", 1, ""));
    assert_eq!(answers[0].status(), Some(503));
    assert!(answers[0].header(Name::RetryAfter).is_some());
    assert_eq!(world.sip.counters().rejected_calls_limit, 1);
}

/// The call that is up goes on to its end.
#[test]
fn a_closed_border_refuses_new_calls_only() {
    let mut world = pair(alice().when_up(5000, Action::HangUp), bob());
    world.run_for(Duration::from_secs(4));
    world.sip.close_to_new_calls(true);
    let other = request("INVITE", "sip:+4930999@10.0.0.100:5060", "", 7, "");
    let other = String::from_utf8(other.to_vec())
        .unwrap()
        .replace("Call-ID: ", "Call-ID: other-");
    let answers = send(&mut world, other.into());
    assert_eq!(answers[0].status(), Some(503));
    assert_eq!(world.sip.counters().rejected_closed, 1);
    finish(&mut world);
    world.sip.close_to_new_calls(false);
    assert_eq!(world.sip.counters().calls_ended, 1);
}

#[test]
fn a_message_over_the_limit_is_refused() {
    let lines = format!("X-Long: {}\r\n", "x".repeat(17_000));
    assert_eq!(
        status_of(&mut idle(), request("INVITE", URI, "", 1, &lines)),
        513
    );
}

#[test]
fn garbage_is_dropped_and_a_broken_request_gets_400() {
    let mut world = idle();
    assert!(send(&mut world, Bytes::from_static(b"\x00\x01garbage")).is_empty());
    assert!(send(&mut world, Bytes::from_static(b"\r\n\r\n")).is_empty());
    let broken = request("INVITE", URI, "", 1, "").to_vec();
    let broken = String::from_utf8(broken)
        .unwrap()
        .replace("CSeq: 1 INVITE", "CSeq: 1 BYE");
    assert_eq!(status_of(&mut world, Bytes::from(broken)), 400);
    assert_eq!(world.sip.counters().dropped_malformed, 1);
    assert_eq!(world.sip.counters().keep_alives, 1);
    assert_eq!(world.sip.counters().answered_malformed, 1);
}

#[test]
fn inside_a_dialog_what_is_not_allowed_is_refused() {
    let (mut world, tag) = established();
    for (method, status) in [
        ("PRACK", 405),
        ("UPDATE", 405),
        ("REFER", 405),
        ("FOO", 501),
        ("OPTIONS", 200),
    ] {
        assert_eq!(
            status_of(&mut world, request(method, URI, &tag, 50, "")),
            status,
            "{method}"
        );
    }
    assert_eq!(
        status_of(
            &mut world,
            request("INVITE", URI, &tag, 51, "Require: 100rel\r\n")
        ),
        420
    );
    finish(&mut world);
}

#[test]
fn a_lower_sequence_number_is_out_of_order() {
    let (mut world, tag) = established();
    assert_eq!(
        status_of(&mut world, request("INFO", URI, &tag, 0, "")),
        500
    );
    assert_eq!(world.sip.counters().rejected_out_of_order, 1);
    finish(&mut world);
}

#[test]
fn a_peer_that_does_not_allow_info_never_sees_it() {
    let mut world = pair(
        alice()
            .when_up(500, Action::Info)
            .when_up(2000, Action::HangUp),
        bob(),
    );
    world.run_for(Duration::from_millis(1900));
    // Bob's 200 comes from a trunk of the Voice Connector's kind.
    let invite = world.phones[1].messages[0].clone();
    let answer = crate::message::Builder::response_to(&invite, 200, "OK", Some("tag-of-bob"))
        .header(Name::Contact, format!("<sip:bob@{BOB}>"))
        .header(Name::Allow, "INVITE, ACK, CANCEL, OPTIONS, BYE")
        .body(
            "application/sdp",
            world.phones[1].description.clone().unwrap(),
        )
        .build()
        .unwrap();
    world.phones[1].answers.clear();
    world.post(
        address(BOB),
        address(crate::testing::OUTSIDE_ADVERTISED),
        answer,
    );
    finish(&mut world);
    assert_eq!(world.phones[0].heard("405 INFO"), 1);
    assert_eq!(world.phones[1].heard("INFO"), 0);
}

/// Both sides re-INVITE at once: each is told to wait (RFC 3261 section 14.2).
#[test]
fn crossing_changes_are_refused() {
    let change = |ip| Action::Change(super::media::described(ip, 4000));
    let alice = alice()
        .when_up(3000, change("10.0.0.5"))
        .when_up(9000, Action::HangUp);
    let mut world = pair(alice, bob().when_up(3000, change("198.51.100.20")));
    finish(&mut world);
    let refused = world
        .phones
        .iter()
        .map(|phone| phone.heard("491 INVITE"))
        .sum::<usize>();
    assert!(
        refused >= 1,
        "{:?} {:?}",
        world.phones[0].heard,
        world.phones[1].heard
    );
}

#[test]
fn a_change_during_a_change_is_refused_with_a_time_to_wait() {
    let (mut world, tag) = established();
    // Bob does not answer this one: a re-INVITE he has seen before is a repeat to him.
    world.phones[1].address = address("192.0.2.99:9");
    let first = send(&mut world, request("INVITE", URI, &tag, 60, ""));
    assert_eq!(first[0].status(), Some(100));
    let second = send(&mut world, request("INVITE", URI, &tag, 61, ""));
    assert_eq!(second[0].status(), Some(500));
    assert!(second[0].header(Name::RetryAfter).is_some());
    // Nobody answers for 32 seconds: the dialog is gone (RFC 3261 section 12.2.1.2).
    let cdr = finish(&mut world);
    assert_eq!(cdr.reason, "party lost");
}

#[test]
fn a_failed_change_leaves_the_call_alone() {
    let (mut world, tag) = established();
    let key = world.sip.records().next().unwrap().0;
    let streams = world.sip.record(key).unwrap().streams.clone();
    let foreign = request("INVITE", URI, &tag, 1, "Content-Type: text/plain\r\n");
    let foreign = String::from_utf8(foreign.to_vec())
        .unwrap()
        .replace("Length: 0\r\n\r\n", "Length: 2\r\n\r\nhi");
    let answers = send(&mut world, Bytes::from(foreign));
    assert_eq!(answers.last().unwrap().status(), Some(415));
    assert_eq!(world.sip.record(key).unwrap().streams, streams);
    assert_eq!(finish(&mut world).reason, "caller hung up");
}

#[test]
fn a_bye_before_the_answer_ends_the_call() {
    let mut world = pair(
        alice(),
        bob().answers(vec![step(100, 180), step(60_000, 200)]),
    );
    world.run_for(Duration::from_millis(1500));
    let tag = world.phones[0].messages[0].to_tag().unwrap().to_vec();
    let bye = request("BYE", URI, std::str::from_utf8(&tag).unwrap(), 2, "");
    let answers = send(&mut world, bye);
    let statuses: Vec<u16> = answers.iter().filter_map(Message::status).collect();
    assert_eq!(statuses, [487, 200]);
    let cdr = finish(&mut world);
    assert_eq!((cdr.code, cdr.reason.as_str()), (487, "caller hung up"));
    assert_eq!(world.phones[1].heard("CANCEL"), 1);
}

#[test]
fn responses_follow_rport() {
    let mut world = idle();
    let seen = "10.0.0.77:40404";
    world.post(
        address(seen),
        address(INSIDE_BOUND),
        request("OPTIONS", URI, "", 1, ""),
    );
    world.run_for(Duration::from_millis(20));
    let (to, bytes) = &world.sent[0];
    assert_eq!(*to, address(seen));
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(
        text.contains("received=10.0.0.77") && text.contains("rport=40404"),
        "{text}"
    );
}

#[test]
fn a_repeated_invite_gets_the_last_response_again() {
    let mut world = pair(alice(), bob());
    world.run_for(Duration::from_millis(1500));
    assert!(START < world.now);
    let invite = world.phones[1].messages[0].clone();
    assert_eq!(invite.method().text(), "INVITE");
    let repeats = world.sip.counters().retransmissions_sent;
    let own = crate::transaction::ServerKey::of(&invite);
    let ringing = world.sip.records().next().unwrap().1.transactions[0]
        .machine
        .request()
        .clone();
    assert_ne!(
        own,
        crate::transaction::ServerKey::of(&Message::parse(ringing.clone()).unwrap())
    );
    let answers = send(&mut world, ringing);
    assert_eq!(answers[0].status(), Some(180));
    assert_eq!(world.sip.counters().retransmissions_sent, repeats + 1);
}

/// A re-INVITE of Alice's that has reached a Bob who only rings; and what Bob could send next.
fn ringing_change() -> (World, String, impl Fn(u16) -> Bytes) {
    let (mut world, tag) = established();
    let bob = std::mem::replace(&mut world.phones[1].address, address("192.0.2.99:9"));
    send(&mut world, request("INVITE", URI, &tag, 1, ""));
    let asked = world
        .sent
        .iter()
        .rev()
        .find(|(to, bytes)| *to == bob && bytes.starts_with(b"INVITE "));
    let asked = Message::parse(asked.unwrap().1.clone()).unwrap();
    let answer = move |status| {
        crate::message::Builder::response_to(&asked, status, "Whatever", Some("tag-of-bob"))
            .build()
            .unwrap()
    };
    world.post(
        bob,
        address(crate::testing::OUTSIDE_ADVERTISED),
        answer(180),
    );
    world.run_for(Duration::from_millis(50));
    (world, tag, answer)
}

/// CANCEL of a re-INVITE goes to the side that is asked; the call goes on as it was.
#[test]
fn a_change_can_be_cancelled() {
    let (mut world, tag, answer) = ringing_change();
    let bob = address(BOB);
    let cancel = String::from_utf8(request("CANCEL", URI, "", 1, "").to_vec()).unwrap();
    let to_tag = format!(">;tag={tag}\r\nCall-ID");
    let cancel = cancel
        .replace("bK-CANCEL-1", "bK-INVITE-1")
        .replace(">\r\nCall-ID", &to_tag);
    assert_eq!(status_of(&mut world, Bytes::from(cancel)), 200);
    assert!(
        world
            .sent
            .iter()
            .any(|(to, bytes)| *to == bob && bytes.starts_with(b"CANCEL "))
    );
    world.post(
        bob,
        address(crate::testing::OUTSIDE_ADVERTISED),
        answer(487),
    );
    let before = world.sent.len();
    world.run_for(Duration::from_millis(50));
    let refused = world.sent[before..]
        .iter()
        .any(|(to, bytes)| *to == address(ALICE) && bytes.starts_with(b"SIP/2.0 487 "));
    assert!(refused);
    world.phones[1].address = bob;
    assert_eq!(finish(&mut world).reason, "caller hung up");
}

/// The call ends while a change rings at a peer that is never heard of again: nothing waits for ever.
#[test]
fn a_change_that_rings_does_not_outlive_the_call() {
    let (mut world, _, _) = ringing_change();
    let cdr = finish(&mut world);
    assert_eq!(cdr.reason, "caller hung up");
    assert!(
        world
            .sent
            .iter()
            .any(|(to, bytes)| *to == address(ALICE) && bytes.starts_with(b"SIP/2.0 487 "))
    );
}

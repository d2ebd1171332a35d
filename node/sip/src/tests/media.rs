//! Offer and answer through the border: every stream is anchored, in every kind of exchange.

use std::net::SocketAddr;
use std::time::Duration;

use super::calls::{alice, bob, finish, pair};
use crate::command::{Command, MediaEvent};
use crate::message::Message;
use crate::phone::{Action, Phone, Step, step};
use crate::record::CallKey;
use crate::testing::{World, address};

pub(super) fn described(ip: &str, port: u16) -> String {
    format!(
        "v=0\r\no=x 1 2 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
    )
}

pub(super) fn held(ip: &str) -> String {
    format!("{}a=sendonly\r\n", described(ip, 4000))
}

fn body(message: &Message) -> String {
    String::from_utf8(message.body().to_vec()).unwrap()
}

fn heard<'a>(phone: &'a Phone, what: &str) -> &'a Message {
    let index = phone.heard.iter().position(|heard| heard == what).unwrap();
    &phone.messages[index]
}

fn line<'a>(body: &'a str, start: &str) -> &'a str {
    body.lines().find(|line| line.starts_with(start)).unwrap()
}

#[test]
fn both_sides_send_media_to_us() {
    let mut world = pair(alice().when_up(1000, Action::HangUp), bob());
    world.run_for(Duration::from_secs(3));
    let plan = world.media.values().next().unwrap().clone();
    let [caller, callee] = plan[0].legs;
    assert_eq!(caller.remote_rtp, Some(address("10.0.0.5:4000")));
    assert_eq!(caller.remote_rtcp, Some(address("10.0.0.5:4001")));
    assert_eq!(callee.remote_rtp, Some(address("198.51.100.20:4000")));
    assert!(caller.send && caller.receive && callee.send && callee.receive);

    let offer = body(heard(&world.phones[1], "INVITE"));
    assert_eq!(
        line(&offer, "m="),
        format!("m=audio {} RTP/AVP 0", callee.port.rtp)
    );
    assert_eq!(line(&offer, "c="), "c=IN IP4 203.0.113.100");
    let answer = body(heard(&world.phones[0], "200 INVITE"));
    assert_eq!(
        line(&answer, "m="),
        format!("m=audio {} RTP/AVP 0", caller.port.rtp)
    );
    assert_eq!(line(&answer, "c="), "c=IN IP4 10.0.0.100");
    finish(&mut world);
}

#[test]
fn early_media_is_anchored_before_the_answer() {
    let progress = Step {
        body: Some(described("198.51.100.20", 4000)),
        ..step(100, 183)
    };
    let mut bob = bob().answers(vec![progress, step(3000, 200)]);
    bob.description = Some(described("198.51.100.20", 4000));
    let mut world = pair(alice().when_up(1000, Action::HangUp), bob);
    world.run_for(Duration::from_millis(2000));
    let plan = world.media.values().next().unwrap().clone();
    assert_eq!(
        plan[0].legs[1].remote_rtp,
        Some(address("198.51.100.20:4000"))
    );
    let early = body(heard(&world.phones[0], "183 INVITE"));
    assert_eq!(line(&early, "c="), "c=IN IP4 10.0.0.100");
    finish(&mut world);
    // The answer repeats what the early description said, so our version stays (RFC 3264 section 8).
    let answer = body(heard(&world.phones[0], "200 INVITE"));
    assert_eq!(origin(&answer), origin(&early));
    assert_eq!(line(&answer, "m="), line(&early, "m="));
}

#[test]
fn a_late_offer_is_answered_in_the_ack() {
    let mut alice = alice().when_up(1000, Action::HangUp);
    alice.description = None;
    let mut world = pair(alice, bob());
    world.run_for(Duration::from_millis(3000));
    let plan = world.media.values().next().unwrap().clone();
    assert_eq!(plan[0].legs[0].remote_rtp, Some(address("10.0.0.5:4444")));
    assert_eq!(
        plan[0].legs[1].remote_rtp,
        Some(address("198.51.100.20:4000"))
    );
    let [alice, bob] = world.phones.as_slice() else {
        panic!()
    };
    assert!(heard(bob, "INVITE").body().is_empty());
    let offer = body(heard(alice, "200 INVITE"));
    assert_eq!(
        line(&offer, "m="),
        format!("m=audio {} RTP/AVP 0", plan[0].legs[0].port.rtp)
    );
    let answer = body(heard(bob, "ACK"));
    assert_eq!(
        line(&answer, "m="),
        format!("m=audio {} RTP/AVP 0", plan[0].legs[1].port.rtp)
    );
    assert_eq!(line(&answer, "c="), "c=IN IP4 203.0.113.100");
    assert_eq!(finish(&mut world).code, 200);
}

#[test]
fn hold_and_resume_keep_the_session_and_raise_its_version() {
    let alice = alice()
        .when_up(1000, Action::Change(held("10.0.0.5")))
        .when_up(3000, Action::Change(described("10.0.0.5", 4010)))
        .when_up(6000, Action::HangUp);
    let mut world = pair(alice, bob());
    world.run_for(Duration::from_millis(4500));
    let [on_hold, _] = world.media.values().next().unwrap()[0].legs;
    assert!(
        !on_hold.send && on_hold.receive,
        "sendonly: nothing is wanted back"
    );
    world.run_for(Duration::from_millis(2500));
    let [resumed, _] = world.media.values().next().unwrap()[0].legs;
    assert_eq!(resumed.remote_rtp, Some(address("10.0.0.5:4010")));
    assert!(resumed.send);
    assert_eq!(resumed.port, on_hold.port);
    finish(&mut world);

    let bob = &world.phones[1];
    let offers: Vec<String> = bob
        .messages
        .iter()
        .filter(|m| m.method().text() == "INVITE")
        .map(body)
        .collect();
    assert_eq!(offers.len(), 3);
    assert!(offers[1].contains("a=sendonly\r\n"));
    let origins: Vec<(u64, u64)> = offers.iter().map(|offer| origin(offer)).collect();
    assert!(origins.iter().all(|(session, _)| *session == origins[0].0));
    // Bob cannot tell Alice's new port: to him the resumed session is a change of direction only.
    assert_eq!(
        origins
            .iter()
            .map(|(_, version)| *version)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let alice = &world.phones[0];
    assert_eq!(alice.heard("200 INVITE"), 3);
}

fn origin(body: &str) -> (u64, u64) {
    let mut fields = line(body, "o=")
        .split(' ')
        .skip(1)
        .map(|field| field.parse().unwrap_or(0));
    (fields.next().unwrap(), fields.next().unwrap())
}

#[test]
fn every_stream_has_its_own_ports_and_rejected_ones_have_none() {
    let mut alice = alice().when_up(1000, Action::HangUp);
    let three = "v=0\r\no=a 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n\
        m=audio 4000 RTP/AVP 0\r\nm=video 0 RTP/AVP 31\r\nm=video 4002 RTP/AVP 31\r\n";
    alice.description = Some(three.into());
    let mut bob = bob();
    let answer = "v=0\r\no=b 1 1 IN IP4 198.51.100.20\r\ns=-\r\nc=IN IP4 198.51.100.20\r\nt=0 0\r\n\
        m=audio 5000 RTP/AVP 0\r\nm=video 0 RTP/AVP 31\r\nm=video 0 RTP/AVP 31\r\n";
    bob.description = Some(answer.into());
    let mut world = pair(alice, bob);
    world.run_for(Duration::from_millis(3000));
    let offer = body(heard(&world.phones[1], "INVITE"));
    let ports: Vec<u16> = offer
        .lines()
        .filter(|line| line.starts_with("m="))
        .map(|line| line.split(' ').nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(ports[0] != 0 && ports[1] == 0 && ports[2] != 0 && ports[0] != ports[2]);
    let plan = world.media.values().next().unwrap();
    assert_eq!(
        plan.iter().map(|stream| stream.index).collect::<Vec<_>>(),
        [0]
    );
    assert_eq!(world.pool.taken.len(), 4);
    finish(&mut world);
}

#[test]
fn no_port_no_call() {
    let mut world = pair(alice(), bob());
    world.pool.size = 0;
    world.run();
    assert_eq!(world.phones[0].heard, ["503 INVITE"]);
    assert!(world.phones[1].heard.is_empty() && world.cdrs.is_empty());
    assert_eq!(world.sip.counters().rejected_ports_exhausted, 1);
    world.assert_clean();
}

#[test]
fn an_answer_with_other_media_lines_ends_the_call() {
    let mut bob = bob();
    bob.description = Some(format!(
        "{}m=video 5 RTP/AVP 31\r\n",
        described("198.51.100.20", 4000)
    ));
    let mut world = pair(alice(), bob);
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard("502 INVITE"), 1);
    assert_eq!(world.phones[1].heard, ["INVITE", "ACK", "BYE"]);
    assert_eq!((cdr.code, cdr.reason.as_str()), (502, "unusable answer"));
}

#[test]
fn offers_that_cannot_be_relayed_are_refused() {
    for (offer, status) in [
        ("no description".to_owned(), "488 INVITE"),
        (
            format!("{}{}", described("10.0.0.5", 1), "a=x\r\n".repeat(2000)),
            "413 INVITE",
        ),
        (
            format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(9)),
            "488 INVITE",
        ),
    ] {
        let mut alice = alice();
        alice.description = Some(offer);
        let mut world = pair(alice, bob());
        world.run();
        world.assert_clean();
        assert_eq!(world.phones[0].heard, [status]);
    }
}

/// Reports a latched source, and lets the log commit it.
fn latch(world: &mut World, leg: usize, source: SocketAddr) -> CallKey {
    let key = *world.media.keys().next().unwrap();
    world.sip.handle_media(
        MediaEvent::Latched {
            key,
            stream: 0,
            leg,
            source,
        },
        world.now,
    );
    while let Some(command) = world.sip.next_command() {
        if let Command::Replicate {
            key,
            record: Some(bytes),
            sequence,
        } = command
        {
            world.log.insert(key, bytes);
            world.sip.handle_committed(sequence);
        }
    }
    key
}

fn latched(world: &World, leg: usize) -> Option<SocketAddr> {
    world.media.values().next().unwrap()[0].legs[leg].latched
}

#[test]
fn a_latched_source_is_part_of_the_call() {
    let mut world = pair(alice().when_up(20_000, Action::HangUp), bob());
    world.run_for(Duration::from_millis(5000));
    let source = address("192.0.2.77:6000");
    latch(&mut world, 0, source);
    world.take_over();
    assert_eq!(latched(&world, 0), Some(source));
    assert_eq!(latched(&world, 1), None);
    finish(&mut world);
}

/// Hold keeps the lock, another address for media opens it again.
#[test]
fn a_lock_lasts_until_the_peer_moves() {
    let alice = alice()
        .when_up(5000, Action::Change(held("10.0.0.5")))
        .when_up(10_000, Action::Change(described("10.0.0.5", 4010)))
        .when_up(20_000, Action::HangUp);
    let mut world = pair(alice, bob());
    world.run_for(Duration::from_millis(5000));
    let source = address("192.0.2.77:6000");
    latch(&mut world, 0, source);
    latch(&mut world, 1, source);
    world.run_for(Duration::from_millis(5000));
    assert_eq!(latched(&world, 0), Some(source));
    world.run_for(Duration::from_millis(5000));
    assert_eq!(
        (latched(&world, 0), latched(&world, 1)),
        (None, Some(source))
    );
    finish(&mut world);
}

/// Packets of a target that was given up do not lock the next one out.
#[test]
fn the_next_target_starts_unlocked() {
    let mut world = super::calls::hunting(
        alice(),
        bob().answers(vec![]),
        super::calls::carol().when_up(1000, Action::HangUp),
    );
    world.run_for(Duration::from_millis(3000));
    latch(&mut world, 1, address("198.51.100.20:4000"));
    world.run_for(Duration::from_millis(4000));
    assert_eq!(world.phones[2].heard("INVITE"), 1);
    assert_eq!(latched(&world, 1), None);
    finish(&mut world);
}

/// A change that would have added a stream is refused: its ports go back.
#[test]
fn a_refused_change_takes_its_streams_along() {
    let more = format!("{}m=video 5000 RTP/AVP 31\r\n", described("10.0.0.5", 4000));
    let alice = alice()
        .when_up(1000, Action::Change(more))
        .when_up(5000, Action::HangUp);
    let mut bob = bob();
    bob.change_status = 488;
    let mut world = pair(alice, bob);
    world.run_for(Duration::from_millis(6000));
    assert_eq!(world.phones[0].heard("488 INVITE"), 1);
    assert_eq!(world.pool.taken.len(), 2);
    assert_eq!(finish(&mut world).reason, "caller hung up");
}

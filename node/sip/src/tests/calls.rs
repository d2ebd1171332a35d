//! Calls as RFC 3261 and RFC 3665 describe them, without any failure of ours.

use std::time::Duration;

use crate::cdr::{CdrRecord, CdrStatus, EndedBy};
use crate::phone::{Action, Phone, Step, step};
use crate::record::Phase;
use crate::testing::{INSIDE_BOUND, OUTSIDE_ADVERTISED, World, address, config, target};
use crate::time::Timestamp;

pub(super) const START: Timestamp = Timestamp(1_700_000_000_000);
pub(super) const ALICE: &str = "10.0.0.5:5060";
pub(super) const BOB: &str = "198.51.100.20:5060";
pub(super) const CAROL: &str = "198.51.100.21:5060";

pub(super) fn alice() -> Phone {
    Phone::new("alice", address(ALICE), address(INSIDE_BOUND)).plan(START, Action::Call)
}

pub(super) fn bob() -> Phone {
    Phone::new("bob", address(BOB), address(OUTSIDE_ADVERTISED))
}

pub(super) fn carol() -> Phone {
    Phone::new("carol", address(CAROL), address(OUTSIDE_ADVERTISED))
}

/// Alice inside, Bob outside.
pub(super) fn pair(alice: Phone, bob: Phone) -> World {
    World::new(config(vec![target(BOB, 1)]), vec![alice, bob])
}

/// Alice inside, Bob and then Carol as targets.
pub(super) fn hunting(alice: Phone, bob: Phone, carol: Phone) -> World {
    World::new(
        config(vec![target(BOB, 1), target(CAROL, 2)]),
        vec![alice, bob, carol],
    )
}

pub(super) fn forked(millis: u64, status: u16, tag: &'static str) -> Step {
    Step {
        fork: Some(tag),
        ..step(millis, status)
    }
}

/// Runs to the end, with exactly one call detail record.
pub(super) fn finish(world: &mut World) -> CdrRecord {
    world.run();
    world.assert_clean();
    assert_eq!(world.cdrs.len(), 1, "{:#?}", world.cdrs);
    world.cdrs[0].clone()
}

#[test]
fn a_call_from_ringing_to_bye() {
    let mut world = pair(alice().when_up(10_000, Action::HangUp), bob());
    world.run_for(Duration::from_secs(5));
    let (_, record) = world.sip.records().next().unwrap();
    assert_eq!(record.phase(), Phase::Established);

    let cdr = finish(&mut world);
    let [alice, bob] = world.phones.as_slice() else {
        panic!()
    };
    assert_eq!(alice.heard, ["180 INVITE", "200 INVITE", "200 BYE"]);
    assert_eq!(bob.heard, ["INVITE", "ACK", "BYE"]);
    assert_eq!(
        (cdr.status(), cdr.ended_by(), cdr.code),
        (CdrStatus::Completed, EndedBy::Caller, 200)
    );
    assert_eq!((cdr.epoch, cdr.sequence), (1, 1));
    // Latency is 5 ms a hop: the INVITE reaches us at +5, ringing at +115, the answer at +2015.
    assert_eq!(cdr.start, START.0 + 5);
    assert_eq!(cdr.ringing, Some(START.0 + 115));
    assert_eq!(cdr.answer, Some(START.0 + 2015));
    assert_eq!(cdr.duration_millis, cdr.end - START.0 - 2015);
    assert_eq!(
        (cdr.from_realm.as_str(), cdr.to_realm.as_str()),
        ("pbx", "trunk")
    );
    assert_eq!(cdr.target, BOB);
    assert_eq!(cdr.to, format!("sip:+4930123@{INSIDE_BOUND}"));
    assert_eq!(cdr.caller_call_id, "call-of-alice");
}

#[test]
fn the_callee_hangs_up() {
    let mut world = pair(alice(), bob().when_up(3000, Action::HangUp));
    let cdr = finish(&mut world);
    assert_eq!(
        (cdr.status(), cdr.ended_by()),
        (CdrStatus::Completed, EndedBy::Callee)
    );
    assert_eq!(world.phones[0].heard("BYE"), 1);
    assert_eq!(world.phones[1].heard("200 BYE"), 1);
}

#[test]
fn byes_that_cross_are_both_answered() {
    let mut world = pair(
        alice().when_up(3000, Action::HangUp),
        bob().when_up(3000, Action::HangUp),
    );
    let cdr = finish(&mut world);
    assert_eq!(cdr.status(), CdrStatus::Completed);
    assert_eq!(world.phones[0].heard("200 BYE"), 1);
    assert_eq!(world.phones[1].heard("200 BYE"), 1);
}

#[test]
fn the_callee_is_busy() {
    let mut world = pair(alice(), bob().answers(vec![step(100, 486)]));
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard, ["486 INVITE"]);
    assert_eq!(world.phones[1].heard, ["INVITE", "ACK"]);
    assert_eq!(
        (cdr.status(), cdr.ended_by(), cdr.code),
        (CdrStatus::Failed, EndedBy::Callee, 486)
    );
    assert_eq!(cdr.answer, None);
}

#[test]
fn the_caller_cancels() {
    let alice = alice().plan(START + Duration::from_secs(1), Action::Cancel);
    let mut world = pair(alice, bob());
    let cdr = finish(&mut world);
    assert_eq!(
        world.phones[0].heard,
        ["180 INVITE", "200 CANCEL", "487 INVITE"]
    );
    assert_eq!(world.phones[1].heard, ["INVITE", "CANCEL", "ACK"]);
    assert_eq!(
        (cdr.status(), cdr.ended_by(), cdr.code),
        (CdrStatus::Cancelled, EndedBy::Caller, 487)
    );
}

/// The CANCEL passes the 200 on the way to us: what the callee accepted is acknowledged and hung up.
#[test]
fn cancel_races_with_the_answer() {
    let alice = alice().plan(START + Duration::from_millis(2007), Action::Cancel);
    let mut world = pair(alice, bob());
    let cdr = finish(&mut world);
    // Bob's 200 left at +2010 and meets our CANCEL, which left at +2012.
    assert_eq!(
        world.phones[0].heard("487 INVITE"),
        1,
        "{:?}",
        world.phones[0].heard
    );
    assert_eq!(world.phones[1].heard("ACK"), 1);
    assert_eq!(world.phones[1].heard("BYE"), 1);
    assert_eq!(cdr.status(), CdrStatus::Cancelled);
}

/// The answer was passed on before the CANCEL came: CANCEL has no effect (RFC 3261 section 9.2).
#[test]
fn cancel_after_the_answer_changes_nothing() {
    let alice = alice()
        .plan(START + Duration::from_millis(2017), Action::Cancel)
        .when_up(1000, Action::HangUp);
    let mut world = pair(alice, bob());
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard("200 CANCEL"), 1);
    assert_eq!(world.phones[0].heard("200 INVITE"), 1);
    assert_eq!(cdr.status(), CdrStatus::Completed);
}

#[test]
fn cancel_waits_for_a_provisional_response() {
    let alice = alice().plan(START + Duration::from_millis(100), Action::Cancel);
    let mut world = pair(
        alice,
        bob().answers(vec![step(1000, 180), step(60_000, 200)]),
    );
    let cdr = finish(&mut world);
    assert_eq!(world.phones[1].heard, ["INVITE", "CANCEL", "ACK"]);
    assert_eq!(cdr.status(), CdrStatus::Cancelled);
}

#[test]
fn nobody_answers() {
    let mut world = pair(alice(), bob().answers(vec![step(100, 180)]));
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard, ["180 INVITE", "480 INVITE"]);
    assert_eq!(world.phones[1].heard, ["INVITE", "CANCEL"]);
    assert_eq!(
        (cdr.status(), cdr.ended_by(), cdr.code),
        (CdrStatus::NoAnswer, EndedBy::Border, 480)
    );
    assert_eq!(cdr.end - cdr.start, 180_000);
}

#[test]
fn a_call_has_a_longest_duration() {
    let mut world = pair(alice(), bob());
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard("BYE"), 1);
    assert_eq!(world.phones[1].heard("BYE"), 1);
    assert_eq!(
        (cdr.duration_millis, cdr.ended_by()),
        (12 * 3600 * 1000, EndedBy::Border)
    );
}

#[test]
fn the_next_target_is_tried_after_503() {
    let mut world = hunting(
        alice(),
        bob().answers(vec![step(10, 503)]),
        carol().when_up(500, Action::HangUp),
    );
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard, ["180 INVITE", "200 INVITE", "BYE"]);
    assert_eq!(world.phones[1].heard, ["INVITE", "ACK"]);
    assert_eq!(
        (cdr.target.as_str(), cdr.status()),
        (CAROL, CdrStatus::Completed)
    );
}

#[test]
fn the_next_target_is_tried_when_one_is_silent() {
    let mut world = hunting(
        alice(),
        bob().answers(vec![]),
        carol().when_up(500, Action::HangUp),
    );
    let cdr = finish(&mut world);
    assert_eq!(cdr.target, CAROL);
    assert_eq!(cdr.answer.unwrap() - cdr.start, 6000 + 2010);
}

/// A target given up for silence answers late: it is acknowledged and hung up, and the other call goes on.
#[test]
fn a_late_answer_of_an_abandoned_target_is_hung_up() {
    let mut world = hunting(
        alice(),
        bob().answers(vec![step(7000, 200)]),
        carol().when_up(20_000, Action::HangUp),
    );
    let cdr = finish(&mut world);
    assert_eq!(world.phones[1].heard("ACK"), 1);
    assert_eq!(world.phones[1].heard("BYE"), 1);
    assert_eq!(
        (cdr.target.as_str(), cdr.status()),
        (CAROL, CdrStatus::Completed)
    );
}

#[test]
fn no_further_target_after_ringing_was_shown() {
    let mut world = hunting(
        alice(),
        bob().answers(vec![step(10, 180), step(500, 500)]),
        carol(),
    );
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard, ["180 INVITE", "500 INVITE"]);
    assert!(world.phones[2].heard.is_empty());
    assert_eq!(cdr.code, 500);
}

#[test]
fn a_decline_is_final() {
    let mut world = hunting(alice(), bob().answers(vec![step(10, 603)]), carol());
    assert_eq!(finish(&mut world).code, 603);
    assert!(world.phones[2].heard.is_empty());
}

#[test]
fn all_targets_are_unreachable() {
    let mut world = hunting(
        alice(),
        bob().answers(vec![step(10, 503)]),
        carol().answers(vec![]),
    );
    let cdr = finish(&mut world);
    assert_eq!(world.phones[0].heard, ["408 INVITE"]);
    assert_eq!(
        (cdr.status(), cdr.code, cdr.reason.as_str()),
        (CdrStatus::Failed, 408, "unreachable")
    );
}

#[test]
fn a_second_fork_is_acknowledged_and_hung_up() {
    let bob = bob().answers(vec![
        step(100, 180),
        step(2000, 200),
        forked(2500, 200, "fork-two"),
    ]);
    let mut world = pair(alice().when_up(40_000, Action::HangUp), bob);
    finish(&mut world);
    assert_eq!(world.phones[0].heard("200 INVITE"), 1);
    let bye = world.phones[1]
        .messages
        .iter()
        .find(|message| message.method().text() == "BYE")
        .unwrap();
    assert_eq!(bye.to_tag(), Some(b"fork-two".as_slice()));
    assert_eq!(world.sip.counters().forks_hung_up, 1);
}

/// The callee hangs up while the caller's ACK is missing: the caller's BYE waits for it (RFC 3261 section 15).
#[test]
fn a_bye_toward_the_caller_waits_for_its_ack() {
    let mut world = pair(alice(), bob().when_up(1, Action::HangUp));
    world.run_for(Duration::from_millis(1000));
    let place = std::mem::replace(&mut world.phones[0].address, address("10.0.0.66:9"));
    world.run_for(Duration::from_millis(3000));
    assert_eq!(world.phones[1].heard("200 BYE"), 1);
    assert!(
        !world
            .sent
            .iter()
            .any(|(to, bytes)| *to == place && bytes.starts_with(b"BYE "))
    );
    world.phones[0].address = place;
    let cdr = finish(&mut world);
    assert_eq!(
        (cdr.status(), cdr.ended_by()),
        (CdrStatus::Completed, EndedBy::Callee)
    );
    assert_eq!(world.phones[0].heard, ["180 INVITE", "200 INVITE", "BYE"]);
}

/// A late offer whose answer never comes: the callee still gets its ACK before the BYE.
#[test]
fn a_late_offer_nobody_answers_is_acknowledged_before_the_bye() {
    let mut alice = alice();
    alice.description = None;
    let mut world = pair(alice, bob());
    world.run_for(Duration::from_millis(1000));
    world.phones[0].address = address("10.0.0.66:9");
    assert_eq!(finish(&mut world).reason, "answer not acknowledged");
    let to_bob = world.sent.iter().filter(|(to, _)| *to == address(BOB));
    let methods: Vec<&[u8]> = to_bob
        .map(|(_, bytes)| bytes.split(|byte| *byte == b' ').next().unwrap())
        .collect();
    assert_eq!(methods, [b"INVITE".as_slice(), b"ACK", b"BYE"]);
}

#[test]
fn info_passes_through_and_back() {
    let alice = alice()
        .when_up(500, Action::Info)
        .when_up(2000, Action::HangUp);
    let mut world = pair(alice, bob());
    finish(&mut world);
    assert_eq!(world.phones[0].heard("200 INFO"), 1);
    let info = world.phones[1]
        .messages
        .iter()
        .find(|message| message.method().text() == "INFO")
        .unwrap();
    assert_eq!(info.body().as_ref(), b"Signal=5\r\n");
    assert_eq!(
        info.content_type(),
        Some(b"application/dtmf-relay".as_slice())
    );
}

/// RFC 3261 section 13.3.1.4: the 2xx is repeated from T1, doubling up to T2, for 64*T1; then the call is hung up.
#[test]
fn an_answer_nobody_acknowledges_ends_the_call() {
    let mut world = pair(alice(), bob());
    world.run_for(Duration::from_millis(1000));
    // Alice's host is gone.
    world.phones[0].address = address("10.0.0.66:9");
    let cdr = finish(&mut world);
    assert_eq!(
        (cdr.status(), cdr.reason.as_str()),
        (CdrStatus::Completed, "answer not acknowledged")
    );
    assert_eq!(cdr.duration_millis, 32_000);
    assert_eq!(world.phones[1].heard, ["INVITE", "ACK", "BYE"]);
    let answers = world.sent.iter().filter(|(to, bytes)| {
        let message = crate::message::Message::parse(bytes.clone()).unwrap();
        *to == address(ALICE) && message.status() == Some(200)
    });
    // At 0, 0.5, 1.5, 3.5, and every 4 seconds after that.
    assert_eq!(answers.count(), 4 + 7);
}

/// Our ACK is lost: each repeated 2xx of the callee gets it again, and the caller hears of the answer once.
#[test]
fn a_repeated_answer_is_acknowledged_again() {
    let mut world = pair(alice().when_up(40_000, Action::HangUp), bob());
    world.run_for(Duration::from_millis(2012));
    let before = world.sent.len();
    let answer = world.phones[1].messages.first().map(|invite| {
        crate::message::Builder::response_to(invite, 200, "OK", Some("tag-of-bob"))
            .header(crate::message::Name::Contact, format!("<sip:bob@{BOB}>"))
            .build()
            .unwrap()
    });
    for _ in 0..3 {
        let bytes = answer.clone().unwrap();
        world.post(address(BOB), address(OUTSIDE_ADVERTISED), bytes);
        world.run_for(Duration::from_millis(20));
    }
    let acks = world.sent[before..]
        .iter()
        .filter(|(_, bytes)| bytes.starts_with(b"ACK "));
    // One for the answer itself, which was on its way, and one for each repeat.
    assert_eq!(acks.count(), 4);
    finish(&mut world);
    assert_eq!(world.phones[0].heard("200 INVITE"), 1);
}

#[test]
fn both_realms_may_be_ipv6() {
    let mut settings = config(vec![target("[2001:db8:2::20]:5060", 1)]);
    settings.realms[0].advertised = address("[fd00::100]:5060");
    settings.realms[1].advertised = address("[2001:db8::100]:5070");
    let alice = Phone::new(
        "alice",
        address("[fd00::5]:5060"),
        address("[fd00::100]:5060"),
    )
    .plan(START, Action::Call)
    .when_up(1000, Action::HangUp);
    let bob = Phone::new(
        "bob",
        address("[2001:db8:2::20]:5060"),
        address("[2001:db8::100]:5070"),
    );
    let mut world = World::new(settings, vec![alice, bob]);
    world.run_for(Duration::from_millis(2500));
    let plan = world.media.values().next().unwrap()[0].clone();
    assert_eq!(
        plan.legs[1].remote_rtp,
        Some(address("[2001:db8:2::20]:4000"))
    );
    let cdr = finish(&mut world);
    assert_eq!(cdr.status(), CdrStatus::Completed);
    let invite = String::from_utf8(world.phones[1].messages[0].bytes().to_vec()).unwrap();
    assert!(
        invite.starts_with("INVITE sip:+4930123@[2001:db8:2::20]:5060 SIP/2.0\r\n"),
        "{invite}"
    );
    assert!(
        invite.contains("c=IN IP6 2001:db8::100\r\n") && !invite.contains("fd00"),
        "{invite}"
    );
}

/// What a standby keeps of a call that is up is its dialogs and its media, not the messages that set it up.
#[test]
fn the_log_forgets_the_transactions_of_a_call_that_is_up() {
    let mut world = pair(alice(), bob());
    world.run_for(Duration::from_secs(5));
    let logged = |world: &World| {
        let bytes = world.log.values().next().unwrap();
        let record = crate::record::CallRecord::from_bytes(bytes).unwrap();
        (record.transactions.len(), bytes.len())
    };
    let (during, size) = logged(&world);
    assert!(during > 0);
    world.run_for(Duration::from_secs(60));
    let (after, smaller) = logged(&world);
    assert_eq!(after, 0);
    assert!(smaller * 2 < size, "{smaller} of {size} bytes");
}

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rsip::SipMessage;

use super::{Call, CallReport, CallState, Command, Line};
use crate::phone::message;
use crate::phone::voice::CallIndex;

const CALLER: &str = "192.0.2.1:5060";
const CALLEE: &str = "192.0.2.2:5060";
const FLIGHT: Duration = Duration::from_millis(15);

/// Longer than every timer of a call that loses most of its messages.
const SIMULATED: Duration = Duration::from_secs(300);

fn line(here: &str, media: &str) -> Line {
    Line {
        index: CallIndex(7),
        here: here.parse().unwrap(),
        media: media.parse().unwrap(),
        proxy: CALLEE.parse().unwrap(),
    }
}

/// Two phones and the network between them.
struct World {
    random: StdRng,
    loss: f64,
    duplication: f64,
    now: Duration,
    answer_after: Option<Duration>,
    hang_up_after: Duration,
    caller_hangs_up: bool,
    caller: Call,
    callee: Option<Call>,
    flights: Vec<(Duration, SocketAddr, Vec<u8>)>,
    talks: [Option<SocketAddr>; 2],
}

impl World {
    fn new(seed: u64, loss: f64) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let caller = Call::dial(
            line(CALLER, "192.0.2.1:4000"),
            StdRng::seed_from_u64(seed),
            Duration::ZERO,
        );
        World {
            loss,
            duplication: loss / 2.0,
            now: Duration::ZERO,
            answer_after: Some(Duration::from_secs(2)),
            hang_up_after: Duration::from_secs(40),
            caller_hangs_up: random.random(),
            random,
            caller,
            callee: None,
            flights: Vec::new(),
            talks: [None; 2],
        }
    }

    /// Runs until nothing is left to happen.
    fn run(&mut self) {
        loop {
            self.execute();
            let arrival = self.flights.iter().map(|(at, ..)| *at).min();
            let callee = self.callee.as_ref();
            let hang_up =
                [CallState::Established; 2] == self.states() && self.now < self.hang_up_after;
            let next = [
                arrival,
                self.caller.poll_timeout(),
                callee.and_then(Call::poll_timeout),
            ]
            .into_iter()
            .flatten()
            .chain(hang_up.then_some(self.hang_up_after))
            .min();
            match next {
                Some(at) if at < SIMULATED => self.now = self.now.max(at),
                Some(_) | None => return,
            }
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(place) = self.flights.iter().position(|(at, ..)| *at <= now) {
            let (_, to, bytes) = self.flights.remove(place);
            self.deliver(to, &bytes);
        }
        self.caller.handle_timeout(now);
        if let Some(callee) = self.callee.as_mut() {
            callee.handle_timeout(now);
            if now >= self.hang_up_after {
                match self.caller_hangs_up {
                    true => self.caller.hang_up(now),
                    false => callee.hang_up(now),
                }
            }
        }
    }

    fn deliver(&mut self, to: SocketAddr, bytes: &[u8]) {
        let (message, identity) = message::parse(bytes).unwrap();
        let from_caller = to == CALLEE.parse().unwrap();
        let source = if from_caller { CALLER } else { CALLEE }.parse().unwrap();
        let call = if from_caller {
            self.callee.as_mut()
        } else {
            Some(&mut self.caller)
        };
        match (message, call) {
            (SipMessage::Request(request), Some(call)) => {
                call.handle_request(&request, &identity, source, self.now);
            }
            (SipMessage::Response(response), Some(call)) => {
                call.handle_response(&response, &identity, self.now);
            }
            (SipMessage::Request(request), None) => {
                let answer_at = self.answer_after.map(|after| self.now + after);
                let random = StdRng::seed_from_u64(99);
                let line = line(CALLEE, "192.0.2.2:4000");
                self.callee = Call::ring(line, random, request, &identity, source, answer_at);
            }
            (SipMessage::Response(_), None) => panic!("a response before there is a callee"),
        }
    }

    fn execute(&mut self) {
        for (party, call) in [Some(&mut self.caller), self.callee.as_mut()]
            .into_iter()
            .enumerate()
        {
            let Some(call) = call else { continue };
            while let Some(command) = call.next_command() {
                match command {
                    Command::Send { bytes, to } => {
                        let copies = 1 + usize::from(self.random.random_bool(self.duplication));
                        for _ in 0..copies {
                            if !self.random.random_bool(self.loss) {
                                self.flights.push((self.now + FLIGHT, to, bytes.clone()));
                            }
                        }
                    }
                    Command::Talk { remote } => self.talks[party] = Some(remote),
                    Command::Hush => self.talks[party] = None,
                }
            }
        }
    }

    fn states(&self) -> [CallState; 2] {
        let callee = self
            .callee
            .as_ref()
            .map_or(CallState::Calling, |callee| callee.report().state);
        [self.caller.report().state, callee]
    }

    fn reports(&self) -> [CallReport; 2] {
        [
            self.caller.report().clone(),
            self.callee.as_ref().unwrap().report().clone(),
        ]
    }
}

#[test]
fn clean_call_needs_no_retransmission() {
    let mut world = World::new(1, 0.0);
    world.hang_up_after = SIMULATED;
    world.run();
    assert_eq!(world.states(), [CallState::Established; 2]);
    assert_eq!(world.talks[0], "192.0.2.2:4000".parse().ok());
    assert_eq!(world.talks[1], "192.0.2.1:4000".parse().ok());
    world.caller.hang_up(world.now);
    world.run();
    let [caller, callee] = world.reports();
    assert_eq!(world.states(), [CallState::Ended; 2]);
    assert_eq!(world.talks, [None, None]);
    assert!(caller.rang && caller.established && caller.bye_sent && callee.bye_received);
    assert_eq!(caller.bye_status, Some(200));
    assert_eq!((caller.retransmissions, callee.retransmissions), (0, 0));
}

#[test]
fn calls_survive_a_third_of_all_messages_lost() {
    for seed in 0..300 {
        let mut world = World::new(seed, 0.33);
        world.run();
        let [caller, callee] = world.reports();
        let context = format!("seed {seed}: {caller:?} {callee:?}");
        assert!(caller.established && callee.established, "{context}");
        let ends = if world.caller_hangs_up {
            [&caller, &callee]
        } else {
            [&callee, &caller]
        };
        assert_eq!(
            (ends[0].bye_status, ends[1].bye_received),
            (Some(200), true),
            "{context}"
        );
        assert_eq!(world.states(), [CallState::Ended; 2], "{context}");
        assert_eq!(
            (caller.complaint_count, callee.complaint_count),
            (0, 0),
            "{context}"
        );
    }
}

#[test]
fn held_call_rings_until_it_is_answered() {
    let mut world = World::new(3, 0.0);
    world.answer_after = None;
    world.run();
    assert_eq!(
        world.states(),
        [CallState::Ringing; 2],
        "nothing is left to happen, and it rings"
    );
    let now = world.now;
    world.callee.as_mut().unwrap().answer(now);
    world.run();
    let [caller, _] = world.reports();
    assert!(caller.rang && caller.established);
}

#[test]
fn silence_ends_every_wait() {
    let mut world = World::new(4, 1.0);
    world.run();
    assert_eq!(world.caller.report().state, CallState::Failed);
    assert_eq!(
        world.caller.report().failure.as_deref(),
        Some("INVITE was never answered")
    );
    assert_eq!(world.now, Duration::from_secs(32), "timer B");

    let mut world = World::new(5, 0.0);
    world.answer_after = None;
    world.run();
    world.loss = 1.0;
    let now = world.now;
    world.callee.as_mut().unwrap().answer(now);
    world.run();
    assert_eq!(world.states(), [CallState::Ringing, CallState::Failed]);
}

#[test]
fn forgotten_sequence_numbers_and_tags_are_complained_about() {
    let mut world = World::new(6, 0.0);
    world.hang_up_after = SIMULATED;
    world.run();
    let callee = world.callee.as_mut().unwrap();
    callee.dialog.remote_cseq = Some(50);
    let now = world.now;
    world.caller.hang_up(now);
    world.run();
    let [caller, callee] = world.reports();
    assert_eq!(caller.bye_status, Some(500));
    assert_eq!(callee.complaints, ["BYE with CSeq 2 after a higher one"]);

    let mut world = World::new(7, 0.0);
    world.hang_up_after = SIMULATED;
    world.run();
    world.callee.as_mut().unwrap().dialog.local_tag = "another".into();
    let now = world.now;
    world.caller.hang_up(now);
    world.run();
    let [caller, callee] = world.reports();
    assert_eq!((caller.bye_status, callee.complaint_count), (Some(481), 1));
}

#[test]
fn cancelled_call_fails_with_487() {
    let mut world = World::new(8, 0.0);
    world.answer_after = None;
    world.run();
    // The phones never give up on a callee themselves; the border may, when it does for its own
    // reasons.
    let caller = &world.caller;
    let cancel = caller
        .dialog
        .request(
            rsip::Method::Cancel,
            1,
            &caller.invite_branch,
            vec![],
            vec![],
        )
        .0;
    world.deliver(CALLEE.parse().unwrap(), &cancel);
    // The 200 to the CANCEL reaches a caller that did not send it: that is complained about, not
    // obeyed.
    world.run();
    assert_eq!(world.states(), [CallState::Failed; 2]);
    assert_eq!(
        world.reports()[0].failure.as_deref(),
        Some("INVITE was answered 487")
    );
    assert_eq!(
        world.reports()[1].retransmissions,
        0,
        "the 487 was acknowledged at once"
    );
}

//! What a takeover does to running transactions.

use prost::Message as _;

use super::*;

#[test]
fn retransmissions_start_over_and_deadlines_stay() {
    let timers = TimerConfig::default();
    for kind in [Kind::InviteClient, Kind::NonInviteClient] {
        let mut record = start(kind, Transport::Udp);
        let mut out = Vec::new();
        // Five retransmissions stretch the interval; then the owner is gone for two seconds.
        let mut now = START;
        for _ in 0..5 {
            now = record.poll_timeout().unwrap();
            record.step(Input::Timeout, now, &timers, &mut out);
        }
        let taken_over = now + std::time::Duration::from_secs(2);
        let mut record = TransactionRecord::decode(record.encode_to_vec().as_slice()).unwrap();
        record.rearm(taken_over, &timers);
        assert_eq!(record.poll_timeout(), Some(taken_over + timers.t1));
        out.clear();
        record.step(Input::Timeout, START + timers.give_up(), &timers, &mut out);
        assert_eq!(
            out,
            [Output::TimedOut, Output::Terminated],
            "the deadline did not move"
        );
    }
}

#[test]
fn reliable_transports_stay_without_retransmission() {
    let timers = TimerConfig::default();
    let mut record = start(Kind::InviteClient, Transport::Tcp);
    record.rearm(START, &timers);
    assert_eq!(record.poll_timeout(), Some(START + timers.give_up()));
}

#[test]
fn a_server_answers_retransmissions_after_the_takeover() {
    let timers = TimerConfig::default();
    let mut record = start(Kind::InviteServer, Transport::Udp);
    let invite = Message::parse(record.request().clone()).unwrap();
    let ringing = response(&invite, 180);
    let mut out = Vec::new();
    record.step(Input::Send(&ringing), START, &timers, &mut out);
    let mut record = TransactionRecord::decode(record.encode_to_vec().as_slice()).unwrap();
    record.rearm(START, &timers);
    out.clear();
    record.step(Input::Received(&invite), START, &timers, &mut out);
    assert_eq!(
        out,
        [Output::Send {
            bytes: ringing,
            retransmission: true
        }]
    );
    assert_eq!(record.server_key(), Some(ServerKey::of(&invite)));
    assert_eq!(record.flow(), flow(Transport::Udp));
}

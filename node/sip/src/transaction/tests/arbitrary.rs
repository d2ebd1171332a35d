//! Whatever happens in whatever order: no panic, and an end in bounded time.

use proptest::prelude::*;
use prost::Message as _;

use super::*;

#[derive(Clone, Debug)]
enum Happening {
    Response(u16),
    Request,
    Ack,
    Send(u16),
    Garbage(Vec<u8>),
    Wait(u64),
    Broken,
    Takeover,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (100_u16..700).prop_map(Happening::Response),
        Just(Happening::Request),
        Just(Happening::Ack),
        (100_u16..700).prop_map(Happening::Send),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Happening::Garbage),
        (0_u64..40_000).prop_map(Happening::Wait),
        Just(Happening::Broken),
        Just(Happening::Takeover),
    ]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::InviteClient),
        Just(Kind::NonInviteClient),
        Just(Kind::InviteServer),
        Just(Kind::NonInviteServer),
    ]
}

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

fn apply(
    record: &mut TransactionRecord,
    happening: &Happening,
    now: &mut Timestamp,
) -> Vec<Output> {
    let timers = TimerConfig::default();
    let original = Message::parse(record.request().clone()).unwrap();
    let mut out = Vec::new();
    match happening {
        Happening::Response(status) => {
            let response = Message::parse(response(&original, *status)).unwrap();
            record.step(Input::Received(&response), *now, &timers, &mut out);
        }
        Happening::Request => record.step(Input::Received(&original), *now, &timers, &mut out),
        Happening::Ack => record.step(Input::Received(&request("ACK")), *now, &timers, &mut out),
        Happening::Send(status) => {
            record.step(
                Input::Send(&response(&original, *status)),
                *now,
                &timers,
                &mut out,
            );
        }
        Happening::Garbage(bytes) => {
            record.step(
                Input::Send(&Bytes::from(bytes.clone())),
                *now,
                &timers,
                &mut out,
            );
        }
        Happening::Wait(millis) => {
            now.0 += millis;
            record.step(Input::Timeout, *now, &timers, &mut out);
        }
        Happening::Broken => record.step(Input::TransportError, *now, &timers, &mut out),
        Happening::Takeover => {
            *record = TransactionRecord::decode(record.encode_to_vec().as_slice()).unwrap();
            record.rearm(*now, &timers);
        }
    }
    out
}

proptest! {
    #[test]
    fn every_sequence_ends(
        kind in kinds(),
        transport in transports(),
        happenings in proptest::collection::vec(happening(), 0..30),
    ) {
        let mut record = start(kind, transport);
        let mut now = START;
        let mut ends = 0;
        for happening in &happenings {
            let dead = record.is_terminated();
            let out = apply(&mut record, happening, &mut now);
            prop_assert!(!dead || out.is_empty(), "a terminated transaction is silent");
            let ended = out.contains(&Output::Terminated);
            prop_assert!(!ended || out.last() == Some(&Output::Terminated));
            prop_assert_eq!(ended, record.is_terminated() && !dead);
            ends += u32::from(ended);
        }
        // The transaction user always comes to an end; from there on only timers run.
        for closing in [Happening::Response(408), Happening::Send(408)] {
            ends += u32::from(apply(&mut record, &closing, &mut now).contains(&Output::Terminated));
        }
        let limit = now + TimerConfig::default().give_up();
        let mut steps = 0;
        while let Some(deadline) = record.poll_timeout() {
            now = now.max(deadline);
            let out = apply(&mut record, &Happening::Wait(0), &mut now);
            ends += u32::from(out.contains(&Output::Terminated));
            steps += 1;
            prop_assert!(now <= limit && steps < 20, "still {} after {steps}", record.state_name());
        }
        prop_assert!(record.is_terminated());
        prop_assert_eq!(ends, 1);
    }

    #[test]
    fn a_deadline_met_moves_on(kind in kinds(), happenings in proptest::collection::vec(happening(), 0..10)) {
        let mut record = start(kind, Transport::Udp);
        let mut now = START;
        for happening in &happenings {
            apply(&mut record, happening, &mut now);
        }
        if let Some(deadline) = record.poll_timeout() {
            now = now.max(deadline);
            apply(&mut record, &Happening::Wait(0), &mut now);
            prop_assert!(record.poll_timeout().is_none_or(|next| next > now), "a timer that fires for ever");
        }
    }

    #[test]
    fn damaged_records_do_no_harm(
        kind in kinds(),
        position in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = start(kind, Transport::Udp).encode_to_vec();
        let position = position.index(bytes.len());
        bytes[position] = value;
        if let Ok(mut record) = TransactionRecord::decode(bytes.as_slice()) {
            let mut out = Vec::new();
            record.rearm(START, &TimerConfig::default());
            record.step(Input::Timeout, START, &TimerConfig::default(), &mut out);
            record.step(Input::Send(&response(&request("INVITE"), 200)), START, &TimerConfig::default(), &mut out);
            let _ = (record.flow(), record.cancel(), record.poll_timeout());
        }
    }
}

//! Every transition of the four diagrams: path to the state, input, outputs, next state.

use super::*;

/// An input in short form; `At` lets that many milliseconds pass since the start and fires the timer.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Client: a response arrives. Server: the transaction user sends one.
    Status(u16),
    Again,
    Ack,
    At(u64),
    Broken,
}

use Kind::{InviteClient, InviteServer, NonInviteClient, NonInviteServer};
use Step::{Ack, Again, At, Broken, Status};

/// One letter an output: `s` send, `r` retransmit, `d` deliver, `t` timed out, `f` failed, `x` terminated.
fn letters(out: &[Output]) -> String {
    out.iter()
        .map(|output| match output {
            Output::Send {
                retransmission: false,
                ..
            } => 's',
            Output::Send {
                retransmission: true,
                ..
            } => 'r',
            Output::Deliver => 'd',
            Output::TimedOut => 't',
            Output::Failed => 'f',
            Output::Terminated => 'x',
        })
        .collect()
}

fn apply(record: &mut TransactionRecord, step: Step, now: &mut Timestamp) -> Vec<Output> {
    let timers = TimerConfig::default();
    let original = Message::parse(record.request().clone()).unwrap();
    let client = record.client_key().is_some();
    let mut out = Vec::new();
    match step {
        Status(status) if client => {
            let response = Message::parse(response(&original, status)).unwrap();
            record.step(Input::Received(&response), *now, &timers, &mut out);
        }
        Status(status) => record.step(
            Input::Send(&response(&original, status)),
            *now,
            &timers,
            &mut out,
        ),
        Again => record.step(Input::Received(&original), *now, &timers, &mut out),
        Ack => record.step(Input::Received(&request("ACK")), *now, &timers, &mut out),
        At(millis) => {
            *now = Timestamp(START.0 + millis);
            record.step(Input::Timeout, *now, &timers, &mut out);
        }
        Broken => record.step(Input::TransportError, *now, &timers, &mut out),
    }
    out
}

type Row = (&'static [Step], Step, &'static str, &'static str);

fn check(kind: Kind, transport: Transport, rows: &[Row]) {
    for (path, step, outputs, state) in rows {
        let mut record = start(kind, transport);
        let mut now = START;
        for earlier in *path {
            apply(&mut record, *earlier, &mut now);
        }
        let before = record.state_name();
        let out = apply(&mut record, *step, &mut now);
        let row = format!("{kind:?} {transport:?} {path:?} ({before}) {step:?}");
        assert_eq!(
            (letters(&out).as_str(), record.state_name()),
            (*outputs, *state),
            "{row}"
        );
        assert_eq!(record.is_terminated(), *state == "terminated", "{row}");
    }
}

#[test]
fn invite_client_over_udp() {
    check(
        InviteClient,
        Transport::Udp,
        &[
            (&[], At(499), "", "calling"),
            (&[], At(500), "r", "calling"),
            (&[At(500)], At(1499), "", "calling"),
            (&[At(500)], At(1500), "r", "calling"),
            (&[], At(32_000), "tx", "terminated"),
            (&[], Broken, "fx", "terminated"),
            (&[], Again, "", "calling"),
            (&[], Status(180), "d", "proceeding"),
            (&[], Status(200), "d", "accepted"),
            (&[], Status(486), "ds", "completed"),
            (&[Status(100)], Status(183), "d", "proceeding"),
            (&[Status(100)], At(60_000), "", "proceeding"),
            (&[Status(100)], Broken, "", "proceeding"),
            (&[Status(100)], Status(200), "d", "accepted"),
            (&[Status(100)], Status(302), "ds", "completed"),
            (&[Status(486)], Status(486), "r", "completed"),
            (&[Status(486)], Status(180), "", "completed"),
            (&[Status(486)], Status(200), "", "completed"),
            (&[Status(486)], Broken, "fx", "terminated"),
            (&[Status(486)], At(31_999), "", "completed"),
            (&[Status(486)], At(32_000), "x", "terminated"),
            (&[Status(200)], Status(200), "d", "accepted"),
            (&[Status(200)], Status(180), "", "accepted"),
            (&[Status(200)], Status(486), "", "accepted"),
            (&[Status(200)], Broken, "", "accepted"),
            (&[Status(200)], At(31_999), "", "accepted"),
            (&[Status(200)], At(32_000), "x", "terminated"),
            (&[Broken], Status(200), "", "terminated"),
        ],
    );
}

#[test]
fn invite_client_over_tcp() {
    check(
        InviteClient,
        Transport::Tcp,
        &[
            (&[], At(500), "", "calling"),
            (&[], At(32_000), "tx", "terminated"),
            (&[], Status(486), "dsx", "terminated"),
            (&[Status(200)], At(31_999), "", "accepted"),
        ],
    );
}

#[test]
fn non_invite_client_over_udp() {
    check(
        NonInviteClient,
        Transport::Udp,
        &[
            (&[], At(500), "r", "trying"),
            (&[At(500)], At(1500), "r", "trying"),
            // 500, 1000, 2000, 4000, then 4000 again: T2 is the cap.
            (
                &[At(500), At(1500), At(3500), At(7500)],
                At(11_499),
                "",
                "trying",
            ),
            (
                &[At(500), At(1500), At(3500), At(7500)],
                At(11_500),
                "r",
                "trying",
            ),
            (&[], At(32_000), "tx", "terminated"),
            (&[], Broken, "fx", "terminated"),
            (&[], Status(100), "d", "proceeding"),
            (&[], Status(200), "d", "completed"),
            (&[], Status(404), "d", "completed"),
            (&[Status(100)], Status(183), "d", "proceeding"),
            (&[Status(100)], At(500), "r", "proceeding"),
            (&[Status(100), At(500)], At(4499), "", "proceeding"),
            (&[Status(100), At(500)], At(4500), "r", "proceeding"),
            (&[Status(100)], At(32_000), "tx", "terminated"),
            (&[Status(100)], Broken, "fx", "terminated"),
            (&[Status(100)], Status(500), "d", "completed"),
            (&[Status(200)], Status(100), "", "completed"),
            (&[Status(200)], Status(200), "", "completed"),
            (&[Status(200)], Status(500), "", "completed"),
            (&[Status(200)], Broken, "", "completed"),
            (&[Status(200)], At(4999), "", "completed"),
            (&[Status(200)], At(5000), "x", "terminated"),
        ],
    );
}

#[test]
fn non_invite_client_over_tcp() {
    check(
        NonInviteClient,
        Transport::Tcp,
        &[
            (&[], At(500), "", "trying"),
            (&[], Status(200), "dx", "terminated"),
            (&[Status(100)], At(32_000), "tx", "terminated"),
        ],
    );
}

#[test]
fn invite_server_over_udp() {
    check(
        InviteServer,
        Transport::Udp,
        &[
            (&[], Again, "", "proceeding"),
            (&[], Ack, "", "proceeding"),
            (&[], At(60_000), "", "proceeding"),
            (&[], Broken, "f", "proceeding"),
            (&[], Status(100), "s", "proceeding"),
            (&[Status(100)], Status(180), "s", "proceeding"),
            (&[Status(100)], Again, "r", "proceeding"),
            (&[], Status(486), "s", "completed"),
            (&[], Status(200), "s", "accepted"),
            (&[Status(486)], Again, "r", "completed"),
            (&[Status(486)], At(500), "r", "completed"),
            (
                &[Status(486), At(500), At(1500), At(3500), At(7500)],
                At(11_499),
                "",
                "completed",
            ),
            (
                &[Status(486), At(500), At(1500), At(3500), At(7500)],
                At(11_500),
                "r",
                "completed",
            ),
            (&[Status(486)], At(32_000), "tx", "terminated"),
            (&[Status(486)], Broken, "f", "completed"),
            (&[Status(486)], Status(200), "", "completed"),
            (&[Status(486)], Status(180), "", "completed"),
            (&[Status(486)], Ack, "", "confirmed"),
            (&[Status(486), Ack], Ack, "", "confirmed"),
            (&[Status(486), Ack], Again, "", "confirmed"),
            (&[Status(486), Ack], Status(200), "", "confirmed"),
            (&[Status(486), Ack], Broken, "", "confirmed"),
            (&[Status(486), Ack], At(4999), "", "confirmed"),
            (&[Status(486), Ack], At(5000), "x", "terminated"),
            (&[Status(200)], Again, "", "accepted"),
            (&[Status(200)], Ack, "d", "accepted"),
            (&[Status(200)], Status(200), "r", "accepted"),
            (&[Status(200)], Status(202), "s", "accepted"),
            (&[Status(200)], Status(486), "", "accepted"),
            (&[Status(200)], Status(180), "", "accepted"),
            (&[Status(200)], Broken, "f", "accepted"),
            (&[Status(200)], At(31_999), "", "accepted"),
            (&[Status(200)], At(32_000), "x", "terminated"),
        ],
    );
}

#[test]
fn invite_server_over_tcp() {
    check(
        InviteServer,
        Transport::Tcp,
        &[
            (&[Status(486)], At(500), "", "completed"),
            (&[Status(486)], At(32_000), "tx", "terminated"),
            (&[Status(486)], Ack, "x", "terminated"),
        ],
    );
}

#[test]
fn non_invite_server_over_udp() {
    check(
        NonInviteServer,
        Transport::Udp,
        &[
            (&[], Again, "", "trying"),
            (&[], Ack, "", "trying"),
            (&[], At(60_000), "", "trying"),
            (&[], Broken, "", "trying"),
            (&[], Status(100), "s", "proceeding"),
            (&[], Status(200), "s", "completed"),
            (&[Status(100)], Status(183), "s", "proceeding"),
            (&[Status(100)], Again, "r", "proceeding"),
            (&[Status(100)], At(60_000), "", "proceeding"),
            (&[Status(100)], Broken, "fx", "terminated"),
            (&[Status(100)], Status(500), "s", "completed"),
            (&[Status(200)], Again, "r", "completed"),
            (&[Status(200)], Status(500), "", "completed"),
            (&[Status(200)], Status(100), "", "completed"),
            (&[Status(200)], Broken, "fx", "terminated"),
            (&[Status(200)], At(31_999), "", "completed"),
            (&[Status(200)], At(32_000), "x", "terminated"),
        ],
    );
}

#[test]
fn non_invite_server_over_tcp() {
    check(
        NonInviteServer,
        Transport::Tcp,
        &[
            (&[], Status(200), "sx", "terminated"),
            (&[Status(100)], Status(404), "sx", "terminated"),
        ],
    );
}

/// RFC 3261 section 17.1.1.3.
#[test]
fn the_ack_is_made_of_request_and_response() {
    let mut record = start(InviteClient, Transport::Udp);
    let out = apply(&mut record, Status(486), &mut START.clone());
    let [Output::Deliver, Output::Send { bytes, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    let expected = b"ACK sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKabc\r\n\
        Max-Forwards: 70\r\nRoute: <sip:proxy.example.com;lr>\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
        To: <sip:bob@example.com>;tag=remote\r\nCall-ID: x\r\nCSeq: 7 ACK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(bytes, &expected[..]);
    let invite = Message::parse(record.request().clone()).unwrap();
    let ack = Message::parse(bytes.clone()).unwrap();
    assert_eq!(ServerKey::of(&ack), ServerKey::of(&invite));
}

/// RFC 3261 section 9.1.
#[test]
fn a_cancel_waits_for_a_provisional_and_ends_with_a_final() {
    let mut record = start(InviteClient, Transport::Udp);
    let mut now = START;
    assert!(record.is_calling());
    assert_eq!(record.cancel(), None);
    apply(&mut record, Status(180), &mut now);
    let expected = b"CANCEL sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKabc\r\n\
        Max-Forwards: 70\r\nRoute: <sip:proxy.example.com;lr>\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
        To: <sip:bob@example.com>\r\nCall-ID: x\r\nCSeq: 7 CANCEL\r\nContent-Length: 0\r\n\r\n";
    let cancel = record.cancel().unwrap();
    assert_eq!(cancel, &expected[..]);
    let cancel = Message::parse(cancel).unwrap();
    let invite = Message::parse(record.request().clone()).unwrap();
    assert_eq!(ServerKey::of_cancelled(&cancel), ServerKey::of(&invite));
    apply(&mut record, Status(487), &mut now);
    assert_eq!(record.cancel(), None);
}

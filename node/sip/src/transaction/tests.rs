//! The machines against their diagrams, against arbitrary input, and against each other over a lossy network.

#![allow(clippy::unwrap_used)]

mod arbitrary;
mod simulation;
mod table;
mod takeover;

use bytes::Bytes;

use super::*;
use crate::flow::{RealmId, Transport};
use crate::message::Builder;

const START: Timestamp = Timestamp(1_700_000_000_000);

fn flow(transport: Transport) -> Flow {
    Flow {
        realm: RealmId(1),
        transport,
        remote: "192.0.2.1:5060".parse().unwrap(),
    }
}

fn request(method: &str) -> Message {
    let text = format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKabc\r\n\
         Max-Forwards: 70\r\nRoute: <sip:proxy.example.com;lr>\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
         To: <sip:bob@example.com>\r\nCall-ID: x\r\nCSeq: 7 {method}\r\nContent-Length: 0\r\n\r\n"
    );
    Message::parse(Bytes::from(text)).unwrap()
}

fn response(request: &Message, status: u16) -> Bytes {
    Builder::response_to(request, status, "Any", Some("remote"))
        .build()
        .unwrap()
}

/// A transaction in its first state; a client's first `Send` is checked and left out.
fn start(kind: Kind, transport: Transport) -> TransactionRecord {
    let method = match kind {
        Kind::InviteClient | Kind::InviteServer => "INVITE",
        Kind::NonInviteClient | Kind::NonInviteServer => "OPTIONS",
    };
    let request = request(method);
    let flow = flow(transport);
    let record = match kind {
        Kind::InviteClient | Kind::NonInviteClient => {
            let mut out = Vec::new();
            let record =
                TransactionRecord::client(&request, flow, START, &TimerConfig::default(), &mut out);
            let bytes = request.bytes().clone();
            assert_eq!(
                out,
                [Output::Send {
                    bytes,
                    retransmission: false
                }]
            );
            record
        }
        Kind::InviteServer | Kind::NonInviteServer => TransactionRecord::server(&request, flow),
    };
    assert_eq!(record.kind(), Some(kind));
    record
}

//! Packets, addresses and plans for the tests.
// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::net::SocketAddr;
use tandem_media::{LegPlan, LocalPort, RealmNumber, StreamPlan};

pub(crate) const CALLER: &str = "192.0.2.10:4000";
pub(crate) const CALLEE: &str = "198.51.100.20:6000";
pub(crate) const NAT: &str = "203.0.113.5:40122";
pub(crate) const STRANGER: &str = "203.0.113.66:9999";
pub(crate) const CALLER_PORT: u16 = 20_000;
pub(crate) const CALLEE_PORT: u16 = 21_000;

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal address")
}

pub(crate) fn port(port: u16) -> LocalPort {
    LocalPort {
        realm: RealmNumber(1),
        port,
    }
}

pub(crate) fn leg(local: u16, remote: &str) -> LegPlan {
    LegPlan {
        remote_rtp: Some(address(remote)),
        ..LegPlan::new(port(local))
    }
}

/// One audio stream between the caller and the callee.
pub(crate) fn plan() -> StreamPlan {
    StreamPlan::rtp(0, [leg(CALLER_PORT, CALLER), leg(CALLEE_PORT, CALLEE)])
}

/// 20 ms of PCMU.
pub(crate) fn rtp(sequence: u16) -> Vec<u8> {
    rtp_rs::RtpPacketBuilder::new()
        .payload_type(0)
        .ssrc(0x1122_3344)
        .sequence(sequence.into())
        .timestamp(u32::from(sequence) * 160)
        .payload(&[0xff; 160])
        .build()
        .expect("a valid packet")
}

pub(crate) fn receiver_report() -> Vec<u8> {
    vec![0x80, 201, 0, 1, 0x11, 0x22, 0x33, 0x44]
}

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proptest::prelude::{any, prop_assert, proptest};

use super::*;

const LIMITS: SdpLimits = SdpLimits {
    bytes: 4096,
    streams: 4,
};

const OFFER: &str = "v=0\r\n\
o=alice 2890844526 2890844527 IN IP4 10.1.2.3\r\n\
s=a  call\r\n\
c=IN IP4 10.1.2.3\r\n\
b=AS:84\r\n\
t=0 0\r\n\
a=ice-lite\r\n\
m=audio 49170/2 RTP/AVP  0 8 101\r\n\
a=rtpmap:0 PCMU/8000\r\n\
a=rtcp:49180 IN IP4 10.1.2.4\r\n\
a=candidate:1 1 UDP 2130706431 10.1.2.3 49170 typ host\r\n\
a=fmtp:101 0-16\r\n\
a=x-unknown:caf\u{e9} ;;\r\n\
a=sendonly\r\n\
m=video 0 RTP/AVP 31\r\n\
m=message 2855 TCP/MSRP *\r\n\
c=IN IP4 10.9.9.9\r\n";

fn anchored(body: &str, address: &str, ports: &[Option<u16>]) -> String {
    let description = Description::parse(body.as_bytes(), LIMITS).unwrap();
    let anchor = Anchor {
        address: address.parse().unwrap(),
        session: 7,
        version: 3,
        ports,
    };
    String::from_utf8(description.anchor(&anchor).to_vec()).unwrap()
}

#[test]
fn only_the_lines_that_place_media_change() {
    let out = anchored(OFFER, "203.0.113.9", &[Some(20000), None, Some(20002)]);
    assert_eq!(
        out,
        "v=0\r\n\
         o=- 7 3 IN IP4 203.0.113.9\r\n\
         s=a  call\r\n\
         c=IN IP4 203.0.113.9\r\n\
         b=AS:84\r\n\
         t=0 0\r\n\
         m=audio 20000 RTP/AVP  0 8 101\r\n\
         a=rtpmap:0 PCMU/8000\r\n\
         a=rtcp:20001\r\n\
         a=fmtp:101 0-16\r\n\
         a=x-unknown:caf\u{e9} ;;\r\n\
         a=sendonly\r\n\
         m=video 0 RTP/AVP 31\r\n\
         m=message 0 TCP/MSRP *\r\n\
         c=IN IP4 203.0.113.9\r\n"
    );
}

#[test]
fn streams_state_where_media_is_wanted() {
    let description = Description::parse(OFFER.as_bytes(), LIMITS).unwrap();
    let streams: Vec<Stream> = description.streams().copied().collect();
    assert_eq!(streams[0].port, 49170);
    assert_eq!(streams[0].address, Some("10.1.2.3".parse().unwrap()));
    assert_eq!(streams[0].rtcp_port, Some(49180));
    assert_eq!(streams[0].rtcp_address, Some("10.1.2.4".parse().unwrap()));
    assert_eq!(streams[0].direction, Direction::SendOnly);
    assert!(streams[0].is_active());
    assert!(!streams[1].is_active());
    assert!(!streams[2].is_active(), "TCP cannot be relayed");
}

#[test]
fn the_family_of_the_other_side_is_written() {
    let out = anchored(OFFER, "2001:db8::9", &[Some(20000)]);
    assert!(out.contains("o=- 7 3 IN IP6 2001:db8::9\r\n"));
    assert!(out.contains("c=IN IP6 2001:db8::9\r\n"));
    assert!(!out.contains("10."));
}

#[test]
fn hold_by_null_address_stays_hold() {
    let held = OFFER.replace("c=IN IP4 10.1.2.3", "c=IN IP4 0.0.0.0");
    assert!(anchored(&held, "203.0.113.9", &[Some(2)]).contains("c=IN IP4 0.0.0.0\r\n"));
    assert!(anchored(&held, "2001:db8::9", &[Some(2)]).contains("c=IN IP6 ::\r\n"));
    let description = Description::parse(held.as_bytes(), LIMITS).unwrap();
    assert!(description.streams().next().unwrap().is_null_address());
}

#[test]
fn session_level_direction_and_multiplexing() {
    let body = "v=0\no=- 1 1 IN IP6 ::1\ns=-\nc=IN IP6 fd00::1\nt=0 0\na=inactive\n\
                m=audio 4000 RTP/SAVP 0\na=rtcp-mux\na=rtcp:4000\na=crypto:1 X inline:k\nm=video 4002 RTP/AVP 9\na=sendrecv\n";
    let description = Description::parse(body.as_bytes(), LIMITS).unwrap();
    let streams: Vec<Stream> = description.streams().copied().collect();
    assert_eq!(streams[0].direction, Direction::Inactive);
    assert!(streams[0].mux);
    assert_eq!(streams[1].direction, Direction::SendReceive);
    assert!(!streams[1].mux);
    // Bare line feeds are kept as they came, and the multiplexed RTCP port follows the RTP port.
    let out = anchored(body, "203.0.113.9", &[Some(6), Some(8)]);
    assert!(
        out.contains("a=rtcp:6\na=crypto:1 X inline:k\nm=video 8 RTP/AVP 9\n"),
        "{out}"
    );
}

#[test]
fn a_missing_connection_line_is_supplied() {
    let out = anchored(
        "v=0\r\ns=-\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\na=x\r\n",
        "203.0.113.9",
        &[Some(6)],
    );
    assert!(
        out.ends_with("m=audio 6 RTP/AVP 0\r\nc=IN IP4 203.0.113.9\r\na=x\r\n"),
        "{out}"
    );
}

#[test]
fn bundles_are_taken_apart() {
    let body = "v=0\r\na=group:BUNDLE a b\r\na=group:LS a b\r\nm=audio 9 RTP/AVP 0\r\nc=IN IP4 h.example\r\na=bundle-only\r\n";
    let out = anchored(body, "203.0.113.9", &[Some(6)]);
    assert!(out.contains("a=group:LS a b\r\n"));
    assert!(!out.contains("BUNDLE") && !out.contains("bundle-only") && !out.contains("h.example"));
    let description = Description::parse(body.as_bytes(), LIMITS).unwrap();
    assert_eq!(description.streams().next().unwrap().address, None);
}

#[test]
fn bounds_and_broken_lines_are_refused() {
    let error = |body: &str| Description::parse(body.as_bytes(), LIMITS).unwrap_err();
    assert_eq!(error(""), SdpError::Version);
    assert_eq!(error("o=- 1 1 IN IP4 1.1.1.1\r\n"), SdpError::Version);
    assert_eq!(error("v=0\r\nnonsense\r\n"), SdpError::Line(2));
    assert_eq!(error("v=0\r\nm=audio\r\n"), SdpError::MediaLine);
    assert_eq!(
        error("v=0\r\nm=audio 70000 RTP/AVP 0\r\n"),
        SdpError::MediaLine
    );
    assert_eq!(
        error(&format!("v=0\r\n{}", "a=x\r\n".repeat(1000))),
        SdpError::TooLarge(5005)
    );
    let many = format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(5));
    assert_eq!(error(&many), SdpError::TooManyStreams(4));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..512), v4 in any::<bool>()) {
        let address: IpAddr = if v4 { "192.0.2.1".parse().unwrap() } else { "2001:db8::1".parse().unwrap() };
        for body in [body.clone(), [b"v=0\r\n".as_slice(), &body].concat()] {
            if let Ok(description) = Description::parse(&body, LIMITS) {
                let anchor = Anchor { address, session: 1, version: 1, ports: &[Some(10), Some(20)] };
                let out = description.anchor(&anchor);
                let again = Description::parse(&out, SdpLimits { bytes: usize::MAX, streams: 4 }).unwrap();
                prop_assert!(again.streams().len() == description.streams().len());
            }
        }
    }
}

//! The few header fields of a captured frame that the report needs.

use std::net::{Ipv4Addr, SocketAddrV4};

const ETHERNET_HEADER: usize = 14;
const IPV4_MINIMUM_HEADER: usize = 20;
const PROTOCOL_UDP: u8 = 17;

/// RFC 791 and RFC 768 fields of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers {
    /// Port 0 unless the packet is UDP.
    pub(super) destination: SocketAddrV4,
    /// `None` unless the packet is UDP and this is its first fragment.
    pub(super) source_port: Option<u16>,
}

/// Reads an Ethernet frame; `None` when it is not IPv4 or too short to tell.
pub(super) fn parse(frame: &[u8]) -> Option<Headers> {
    if frame.get(12..ETHERNET_HEADER)? != [0x08, 0x00] {
        return None;
    }
    let packet = frame.get(ETHERNET_HEADER..)?;
    let header = packet.get(..IPV4_MINIMUM_HEADER)?;
    // RFC 791 s3.1: IHL counts 32-bit words.
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let ports = packet.get(header_length..).and_then(<[u8]>::first_chunk);
    let (source_port, destination_port) = match (header[9], fragment_offset, ports) {
        (PROTOCOL_UDP, 0, Some(&[s0, s1, d0, d1])) => (
            Some(u16::from_be_bytes([s0, s1])),
            u16::from_be_bytes([d0, d1]),
        ),
        _ => (None, 0),
    };
    Some(Headers {
        destination: SocketAddrV4::new(destination, destination_port),
        source_port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u8, fragment: u16, words: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        let mut header = vec![0; usize::from(words) * 4];
        header[0] = 0x40 | words;
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[9] = protocol;
        header[12..16].copy_from_slice(&[10, 0, 0, 100]);
        header[16..20].copy_from_slice(&[198, 51, 100, 20]);
        frame.extend(header);
        frame.extend([0x13, 0xc4, 0x13, 0xce, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn udp_ports_are_read_behind_any_header_length() {
        for words in [5, 6, 15] {
            let headers = parse(&frame(PROTOCOL_UDP, 0, words));
            assert_eq!(
                headers,
                Some(Headers {
                    destination: SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 20), 5070),
                    source_port: Some(5060),
                })
            );
        }
    }

    #[test]
    fn other_protocols_and_later_fragments_have_no_ports() {
        let portless = Headers {
            destination: SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 20), 0),
            source_port: None,
        };
        assert_eq!(parse(&frame(1, 0, 5)), Some(portless));
        assert_eq!(parse(&frame(PROTOCOL_UDP, 0x2001, 5)), Some(portless));
    }

    #[test]
    fn arp_and_short_frames_are_nothing() {
        let whole = frame(PROTOCOL_UDP, 0, 5);
        for length in 0..ETHERNET_HEADER + IPV4_MINIMUM_HEADER {
            assert_eq!(parse(&whole[..length]), None, "cut at {length}");
        }
        let mut arp = whole;
        arp[13] = 0x06;
        assert_eq!(parse(&arp), None);
    }
}

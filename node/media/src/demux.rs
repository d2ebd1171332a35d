//! What a datagram is, before any of it is believed.

use rtp_rs::{RtpReader, RtpReaderError};

/// RFC 3550 section 6.4.1: header and sender of the smallest RTCP packet.
const RTCP_MINIMUM: usize = 8;
/// RFC 3550 section 5.1: the fixed part of every RTP header.
const RTP_FIXED_HEADER: usize = 12;

/// The kinds that share a media port (RFC 7983 section 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Packet {
    Rtp(RtpHeader),
    Rtcp,
    Stun,
    Dtls,
    /// The first byte names no protocol that shares the port.
    Unknown,
    /// Says RTP or RTCP but does not hold together.
    Malformed,
}

/// What statistics need of an RTP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RtpHeader {
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
}

pub(crate) fn classify(packet: &[u8]) -> Packet {
    let (Some(&first), second) = (packet.first(), packet.get(1)) else {
        return Packet::Malformed;
    };
    match first {
        0..=3 => Packet::Stun,
        20..=63 => Packet::Dtls,
        // Version 2. RFC 5761 section 4: the second byte of RTCP is 192 to 223, which RTP leaves free by not using
        // payload types 64 to 95.
        128..=191 => match second {
            Some(192..=223) => rtcp(packet),
            Some(0..=191 | 224..=255) => rtp(packet),
            None => Packet::Malformed,
        },
        4..=19 | 64..=127 | 192..=255 => Packet::Unknown,
    }
}

/// RFC 3550 appendix A.2: the length of the first packet stays inside the datagram. SRTCP only adds to the end.
fn rtcp(packet: &[u8]) -> Packet {
    let length = match packet.get(2..4) {
        Some(&[high, low]) => (usize::from(u16::from_be_bytes([high, low])) + 1) * 4,
        Some(_) | None => return Packet::Malformed,
    };
    if packet.len() < RTCP_MINIMUM || length > packet.len() {
        return Packet::Malformed;
    }
    Packet::Rtcp
}

fn rtp(packet: &[u8]) -> Packet {
    match RtpReader::new(packet) {
        Ok(reader) => Packet::Rtp(header(&reader)),
        // RFC 3711 section 3.1: padding is inside the encrypted part, so under SRTP the last byte is no padding
        // count. The header has been found whole; the rest is for the receiver to judge.
        Err(RtpReaderError::PaddingLengthInvalid(_)) => fixed_header(packet),
        Err(
            RtpReaderError::BufferTooShort(_)
            | RtpReaderError::UnsupportedVersion(_)
            | RtpReaderError::HeadersTruncated { .. },
        ) => Packet::Malformed,
    }
}

/// Reads the fixed header alone: a copy that announces neither padding, extension nor contributing sources.
fn fixed_header(packet: &[u8]) -> Packet {
    const VERSION_BITS: u8 = 0b1100_0000;
    let Some(mut copy) = packet.first_chunk::<RTP_FIXED_HEADER>().copied() else {
        return Packet::Malformed;
    };
    copy[0] &= VERSION_BITS;
    match RtpReader::new(&copy) {
        Ok(reader) => Packet::Rtp(header(&reader)),
        Err(_) => Packet::Malformed,
    }
}

fn header(reader: &RtpReader<'_>) -> RtpHeader {
    RtpHeader {
        sequence: reader.sequence_number().into(),
        timestamp: reader.timestamp(),
        ssrc: reader.ssrc(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    fn rtp_bytes(first: u8, second: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[0] = first;
        bytes[1] = second;
        bytes[2..12].copy_from_slice(&[0x12, 0x34, 0, 0, 0, 160, 0, 0, 0, 9]);
        bytes
    }

    const HEADER: RtpHeader = RtpHeader {
        sequence: 0x1234,
        timestamp: 160,
        ssrc: 9,
    };

    #[test]
    fn kinds_by_their_first_bytes() {
        let receiver_report = [0x80, 201, 0, 1, 0, 0, 0, 1];
        let overlong_report = [0x80, 201, 0, 2, 0, 0, 0, 1];
        let cases: [(&[u8], Packet); 10] = [
            (&[], Packet::Malformed),
            (&[0x80], Packet::Malformed),
            (&[0, 1, 0, 0], Packet::Stun),
            (&[22, 254, 253], Packet::Dtls),
            (&[64, 0], Packet::Unknown),
            (&[0xff, 0xff], Packet::Unknown),
            (&receiver_report, Packet::Rtcp),
            (&overlong_report, Packet::Malformed),
            (&receiver_report[..6], Packet::Malformed),
            (&[0x80, 0, 0, 0], Packet::Malformed),
        ];
        for (bytes, expected) in cases {
            assert_eq!(classify(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn rtp_is_what_rtcp_leaves_free() {
        for second in [0, 8, 63, 96, 127, 128, 191, 224, 255] {
            assert_eq!(
                classify(&rtp_bytes(0x80, second, 172)),
                Packet::Rtp(HEADER),
                "{second}"
            );
        }
    }

    #[test]
    fn a_header_longer_than_the_datagram_is_malformed() {
        assert_eq!(classify(&rtp_bytes(0x8f, 0, 20)), Packet::Malformed);
        assert_eq!(classify(&rtp_bytes(0x90, 0, 12)), Packet::Malformed);
    }

    #[test]
    fn padding_under_srtp_is_not_judged() {
        let mut bytes = rtp_bytes(0xa0, 0, 172);
        bytes[171] = 0;
        assert_eq!(classify(&bytes), Packet::Rtp(HEADER));
        bytes[171] = 255;
        assert_eq!(classify(&bytes), Packet::Rtp(HEADER));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            classify(&bytes);
        }

        /// Random bytes seldom say version 2; these always do.
        #[test]
        fn never_panics_on_version_two(first in 128u8..192, rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = vec![first];
            bytes.extend(rest);
            classify(&bytes);
        }
    }
}

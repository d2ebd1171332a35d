//! The frames that tell neighbours where an address is now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HardwareAddress(pub(crate) [u8; 6]);

const BROADCAST: HardwareAddress = HardwareAddress([0xff; 6]);
/// The Ethernet address of ff02::1 (RFC 2464 s7).
const ALL_NODES_HARDWARE: HardwareAddress = HardwareAddress([0x33, 0x33, 0, 0, 0, 1]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const NEXT_HEADER_ICMPV6: u8 = 58;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// The frames of one announcement of `address` at `source`.
pub(crate) fn announcement(source: HardwareAddress, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            // Implementations differ in which of the two forms updates their cache (RFC 5944 s4.6), so both.
            vec![
                gratuitous_arp(source, address, ARP_REQUEST),
                gratuitous_arp(source, address, ARP_REPLY),
            ]
        }
        IpAddr::V6(address) => vec![unsolicited_advertisement(source, address)],
    }
}

/// RFC 5944 s4.6: sender and target protocol address are both the announced one. The target hardware
/// address "is not used in ARP Requests"; in a reply it "MUST be set to the link-layer address to which
/// this cache entry should be updated".
fn gratuitous_arp(source: HardwareAddress, address: Ipv4Addr, operation: u16) -> Vec<u8> {
    let target = if operation == ARP_REPLY {
        source
    } else {
        HardwareAddress([0; 6])
    };
    let mut frame = ethernet(BROADCAST, source, ETHERTYPE_ARP);
    frame.extend_from_slice(&1u16.to_be_bytes()); // hardware type: Ethernet
    frame.extend_from_slice(&0x0800u16.to_be_bytes()); // protocol type: IPv4
    frame.extend_from_slice(&[6, 4]); // lengths of both
    frame.extend_from_slice(&operation.to_be_bytes());
    frame.extend_from_slice(&source.0);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&target.0);
    frame.extend_from_slice(&address.octets());
    frame
}

/// RFC 4861 s7.2.6: unsolicited, to all nodes, with the override flag so that caches are replaced.
fn unsolicited_advertisement(source: HardwareAddress, address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[OPTION_TARGET_LINK_LAYER_ADDRESS, 1]); // in units of 8 octets
    message.extend_from_slice(&source.0);
    let length = u16::try_from(message.len()).expect("the message is 32 octets long");

    let mut checksummed = Vec::with_capacity(40 + message.len());
    checksummed.extend_from_slice(&address.octets());
    checksummed.extend_from_slice(&ALL_NODES.octets());
    checksummed.extend_from_slice(&u32::from(length).to_be_bytes());
    checksummed.extend_from_slice(&[0, 0, 0, NEXT_HEADER_ICMPV6]);
    checksummed.extend_from_slice(&message);
    message[2..4].copy_from_slice(&internet_checksum(&checksummed).to_be_bytes());

    let mut frame = ethernet(ALL_NODES_HARDWARE, source, ETHERTYPE_IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    // RFC 4861 s7.1.2: receivers discard what does not have hop limit 255.
    frame.extend_from_slice(&[NEXT_HEADER_ICMPV6, 255]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    frame.extend_from_slice(&message);
    frame
}

fn ethernet(destination: HardwareAddress, source: HardwareAddress, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend_from_slice(&destination.0);
    frame.extend_from_slice(&source.0);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 0x0a]);

    #[test]
    fn arp_comes_in_both_forms() {
        let address = Ipv4Addr::new(10, 0, 0, 100);
        let frames = announcement(SOURCE, address.into());
        let request = [
            &[0xff; 6][..],
            &SOURCE.0,
            &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
            &SOURCE.0,
            &[10, 0, 0, 100],
            &[0; 6],
            &[10, 0, 0, 100],
        ]
        .concat();
        let mut reply = request.clone();
        reply[21] = 2;
        reply[32..38].copy_from_slice(&SOURCE.0);
        assert_eq!(frames, [request, reply]);
    }

    #[test]
    fn the_advertisement_has_a_right_checksum() {
        let address: Ipv6Addr = "2001:db8::64".parse().expect("a literal address");
        let frames = announcement(SOURCE, address.into());
        assert_eq!(frames.len(), 1);
        let frame = &frames[0];
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        assert_eq!(frame[21], 255, "hop limit");
        // Summed over the pseudo header and a message with its checksum in place, the result is zero.
        let mut whole = frame[22..54].to_vec();
        whole.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, 58]);
        whole.extend_from_slice(&frame[54..]);
        assert_eq!(internet_checksum(&whole), 0);
    }
}

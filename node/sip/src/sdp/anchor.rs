//! Rewriting a description so that its media comes to us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{Description, Line, Media, connection_address, fields};

/// What the rewritten description says about us.
#[derive(Clone, Copy, Debug)]
pub struct Anchor<'a> {
    /// Advertised media address of the realm the description goes to.
    pub address: IpAddr,
    /// `o=` of our own: constant for a leg, so that nothing of the other side's origin shows.
    pub session: u64,
    pub version: u64,
    /// RTP port per media line; None writes port zero. Missing entries count as None.
    pub ports: &'a [Option<u16>],
}

/// Attributes that offer media paths around the border: ICE (RFC 8839), its ancestors, RFC 6947 alternatives,
/// RFC 4570 source filters, and the mark with which a relay claims the call.
const DROPPED_ATTRIBUTES: [&[u8]; 13] = [
    b"candidate",
    b"remote-candidates",
    b"end-of-candidates",
    b"ice-ufrag",
    b"ice-pwd",
    b"ice-lite",
    b"ice-options",
    b"ice-pacing",
    b"ice-mismatch",
    b"alt",
    b"altc",
    b"source-filter",
    b"nortpproxy",
];

impl Description<'_> {
    pub fn anchor(&self, anchor: &Anchor<'_>) -> Bytes {
        let mut out = Vec::new();
        for line in &self.session {
            match line.kind {
                b'o' => write_line(&mut out, line, &origin(anchor)),
                b'c' => write_line(&mut out, line, &connection(line, anchor.address)),
                b'a' if is_dropped(line.value) => {}
                _ => out.extend_from_slice(line.raw),
            }
        }
        let has_connection = self.session.iter().any(|line| line.kind == b'c');
        for (index, media) in self.media.iter().enumerate() {
            let port = anchor
                .ports
                .get(index)
                .copied()
                .flatten()
                .filter(|_| media.stream.is_active());
            media.anchor(anchor.address, port, has_connection, &mut out);
        }
        Bytes::from(out)
    }
}

impl Media<'_> {
    fn anchor(&self, address: IpAddr, port: Option<u16>, has_connection: bool, out: &mut Vec<u8>) {
        let mut connection_written = false;
        for line in &self.lines {
            match line.kind {
                b'm' => {
                    write_line(out, line, &media_line(line.value, port.unwrap_or(0)));
                    let missing =
                        !has_connection && !self.lines.iter().any(|line| line.kind == b'c');
                    if missing && port.is_some() {
                        out.extend_from_slice(b"c=");
                        out.extend_from_slice(&network_address(address));
                        out.extend_from_slice(b"\r\n");
                    }
                }
                // More than one connection line is for layered multicast (RFC 8866 section 5.7): the relay is one
                // address.
                b'c' if connection_written => {}
                b'c' => {
                    connection_written = true;
                    write_line(out, line, &connection(line, address));
                }
                b'a' if line.value.starts_with(b"rtcp:") => {
                    if let Some(port) = port {
                        let same = self.stream.rtcp_port == Some(self.stream.port);
                        let rtcp = if same { port } else { port.saturating_add(1) };
                        write_line(out, line, format!("rtcp:{rtcp}").as_bytes());
                    }
                }
                b'a' if is_dropped(line.value) => {}
                _ => out.extend_from_slice(line.raw),
            }
        }
    }
}

fn write_line(out: &mut Vec<u8>, line: &Line<'_>, value: &[u8]) {
    out.extend_from_slice(&[line.kind, b'=']);
    out.extend_from_slice(value);
    out.extend_from_slice(line.end_of_line());
}

fn origin(anchor: &Anchor<'_>) -> Vec<u8> {
    let mut value = format!("- {} {} ", anchor.session, anchor.version).into_bytes();
    value.extend_from_slice(&network_address(anchor.address));
    value
}

fn connection(line: &Line<'_>, address: IpAddr) -> Vec<u8> {
    // Hold by null address must stay visible as such, in the family of the side it goes to.
    let held = connection_address(line).is_some_and(|address| address.is_unspecified());
    network_address(match (held, address) {
        (false, address) => address,
        (true, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (true, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    })
}

fn network_address(address: IpAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { "IP4" } else { "IP6" };
    format!("IN {family} {address}").into_bytes()
}

/// The media line with another port. A port count ("/2") goes: each media line has one pair of ports here.
fn media_line(value: &[u8], port: u16) -> Vec<u8> {
    let is_space = |byte: &u8| *byte == b' ';
    let mut out = Vec::with_capacity(value.len() + 5);
    let media = value.iter().position(is_space).unwrap_or(value.len());
    let (name, rest) = value.split_at(media);
    let spaces = rest.iter().take_while(|byte| is_space(byte)).count();
    let (gap, rest) = rest.split_at(spaces);
    let digits = rest.iter().position(is_space).unwrap_or(rest.len());
    let (_, tail) = rest.split_at(digits);
    out.extend_from_slice(name);
    out.extend_from_slice(gap);
    out.extend_from_slice(port.to_string().as_bytes());
    out.extend_from_slice(tail);
    out
}

fn is_dropped(attribute: &[u8]) -> bool {
    let name = attribute
        .split(|byte| *byte == b':')
        .next()
        .unwrap_or(attribute);
    if DROPPED_ATTRIBUTES.contains(&name) {
        return true;
    }
    // RFC 9143: bundled streams share one port; ours have one pair each.
    if name == b"bundle-only" {
        return true;
    }
    let value = attribute.get(name.len() + 1..).unwrap_or_default();
    name == b"group" && fields(value).next() == Some(b"BUNDLE")
}

//! Session descriptions (RFC 8866), read and rewritten line by line.
//!
//! The border changes the few lines that say where media flows (`o=`, `c=`, the port of `m=`, `a=rtcp`), drops those
//! that would lead media past it (ICE, alternative addresses), and leaves every other byte as it came: codecs and
//! attributes it has never heard of work because it does not look at them.

mod anchor;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::str::FromStr;

pub use anchor::Anchor;

/// What a description may cost. Beyond a bound the description is refused, never cut.
#[derive(Clone, Copy, Debug)]
pub struct SdpLimits {
    pub bytes: usize,
    pub streams: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    #[error("session description of {0} bytes is over the limit")]
    TooLarge(usize),
    #[error("session description has more than {0} media lines")]
    TooManyStreams(usize),
    #[error("line {0} of the session description is not of the form <type>=<value>")]
    Line(usize),
    #[error("session description does not begin with v=0")]
    Version,
    #[error("media line without a usable port")]
    MediaLine,
}

/// Direction of a stream as its sender sees it (RFC 8866 section 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    SendReceive,
    SendOnly,
    ReceiveOnly,
    Inactive,
}

impl Direction {
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendReceive | Direction::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Direction::SendReceive | Direction::ReceiveOnly)
    }

    fn of_attribute(attribute: &[u8]) -> Option<Direction> {
        match attribute {
            b"sendrecv" => Some(Direction::SendReceive),
            b"sendonly" => Some(Direction::SendOnly),
            b"recvonly" => Some(Direction::ReceiveOnly),
            b"inactive" => Some(Direction::Inactive),
            _ => None,
        }
    }
}

/// What the border needs to know of one media line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Zero: rejected or disabled (RFC 3264 sections 6 and 8.2).
    pub port: u16,
    /// None when the connection line names a host or is missing: the stream is then found by latching alone.
    pub address: Option<IpAddr>,
    /// `a=rtcp` (RFC 3605); without it RTCP is one above RTP.
    pub rtcp_port: Option<u16>,
    pub rtcp_address: Option<IpAddr>,
    /// `a=rtcp-mux` (RFC 5761).
    pub mux: bool,
    pub direction: Direction,
    /// Carried over datagrams, so it can be relayed. Streams over TCP (MSRP, BFCP) are refused with port zero.
    pub anchorable: bool,
}

impl Stream {
    /// Neither rejected nor beyond what the relay carries.
    pub fn is_active(&self) -> bool {
        self.port != 0 && self.anchorable
    }

    /// The old form of hold: a connection address of all zeros (RFC 3264 section 8.4).
    pub fn is_null_address(&self) -> bool {
        self.address.is_some_and(|address| address.is_unspecified())
    }
}

/// One line with its end of line, exactly as received.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    kind: u8,
    value: &'a [u8],
    raw: &'a [u8],
}

impl<'a> Line<'a> {
    fn attribute(&self) -> Option<&'a [u8]> {
        (self.kind == b'a').then_some(self.value)
    }

    fn end_of_line(&self) -> &'a [u8] {
        // `raw` is kind, '=', value, end of line.
        self.raw.get(2 + self.value.len()..).unwrap_or_default()
    }
}

/// A parsed description that borrows the body.
#[derive(Debug)]
pub struct Description<'a> {
    session: Vec<Line<'a>>,
    media: Vec<Media<'a>>,
}

#[derive(Debug)]
struct Media<'a> {
    lines: Vec<Line<'a>>,
    stream: Stream,
}

impl<'a> Description<'a> {
    pub fn parse(body: &'a [u8], limits: SdpLimits) -> Result<Description<'a>, SdpError> {
        if body.len() > limits.bytes {
            return Err(SdpError::TooLarge(body.len()));
        }
        let mut session = Vec::new();
        let mut media: Vec<Media<'a>> = Vec::new();
        for (index, raw) in body.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let content = raw.trim_ascii_end_of_line();
            let (kind, value) = match content {
                [] => continue,
                [kind, b'=', value @ ..] => (*kind, value),
                _ => return Err(SdpError::Line(index + 1)),
            };
            if index == 0 && content != b"v=0" {
                return Err(SdpError::Version);
            }
            let line = Line { kind, value, raw };
            if kind == b'm' {
                if media.len() >= limits.streams {
                    return Err(SdpError::TooManyStreams(limits.streams));
                }
                media.push(Media {
                    lines: vec![line],
                    stream: read_media_line(value)?,
                });
            } else if let Some(current) = media.last_mut() {
                current.lines.push(line);
            } else {
                session.push(line);
            }
        }
        if session.first().is_none_or(|line| line.kind != b'v') {
            return Err(SdpError::Version);
        }
        let mut description = Description { session, media };
        description.resolve();
        Ok(description)
    }

    /// One entry per media line, in order.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = &Stream> {
        self.media.iter().map(|media| &media.stream)
    }

    /// Session-level values hold for every stream that does not state its own (RFC 8866 sections 5.7 and 6.7).
    fn resolve(&mut self) {
        let address = self.session.iter().find_map(connection_address);
        let direction = self.session.iter().find_map(direction).unwrap_or_default();
        for media in &mut self.media {
            let own = media.lines.iter().find(|line| line.kind == b'c');
            media.stream.address = match own {
                Some(line) => connection_address(line),
                None => address,
            };
            media.stream.direction = media
                .lines
                .iter()
                .find_map(self::direction)
                .unwrap_or(direction);
            media.stream.mux = media
                .lines
                .iter()
                .any(|line| line.attribute() == Some(b"rtcp-mux"));
            if let Some(value) = media
                .lines
                .iter()
                .find_map(|line| line.attribute()?.strip_prefix(b"rtcp:"))
            {
                let mut fields = fields(value);
                media.stream.rtcp_port = fields.next().and_then(number);
                media.stream.rtcp_address = fields.nth(2).and_then(number);
            }
        }
    }
}

fn read_media_line(value: &[u8]) -> Result<Stream, SdpError> {
    let mut fields = fields(value);
    let (Some(_), Some(port), Some(protocol)) = (fields.next(), fields.next(), fields.next())
    else {
        return Err(SdpError::MediaLine);
    };
    let port = port
        .split(|byte| *byte == b'/')
        .next()
        .and_then(number)
        .ok_or(SdpError::MediaLine)?;
    Ok(Stream {
        port,
        address: None,
        rtcp_port: None,
        rtcp_address: None,
        mux: false,
        direction: Direction::default(),
        anchorable: !protocol
            .get(..3)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"TCP")),
    })
}

/// `IN IP4 192.0.2.1[/ttl[/count]]`; a host name gives None.
fn connection_address(line: &Line<'_>) -> Option<IpAddr> {
    if line.kind != b'c' {
        return None;
    }
    let address = fields(line.value).nth(2)?;
    number(address.split(|byte| *byte == b'/').next()?)
}

fn direction(line: &Line<'_>) -> Option<Direction> {
    line.attribute().and_then(Direction::of_attribute)
}

/// Space-separated fields; runs of spaces count as one, as some phones send them.
fn fields(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty())
}

fn number<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

trait TrimEndOfLine {
    fn trim_ascii_end_of_line(&self) -> &[u8];
}

impl TrimEndOfLine for [u8] {
    fn trim_ascii_end_of_line(&self) -> &[u8] {
        let line = self.strip_suffix(b"\n").unwrap_or(self);
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

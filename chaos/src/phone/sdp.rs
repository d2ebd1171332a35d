//! The little SDP a telephone needs: one PCMU stream, both ways.

use std::net::{IpAddr, SocketAddr};

/// Describes a PCMU stream received at `media`. `session` distinguishes the call (RFC 4566 section
/// 5.2).
pub(super) fn describe(media: SocketAddr, session: u32) -> Vec<u8> {
    let (address, port) = (media.ip(), media.port());
    let family = if media.is_ipv4() { "IP4" } else { "IP6" };
    format!(
        "v=0\r\n\
         o=phone {session} 1 IN {family} {address}\r\n\
         s=-\r\n\
         c=IN {family} {address}\r\n\
         t=0 0\r\n\
         m=audio {port} RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\n\
         a=ptime:20\r\n\
         a=sendrecv\r\n"
    )
    .into_bytes()
}

/// Where the first audio stream of `body` is to be sent; None without one, or when it is refused
/// (port 0).
pub(super) fn audio_address(body: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(body).ok()?;
    let mut address: Option<IpAddr> = None;
    let mut port: Option<u16> = None;
    for line in text.lines() {
        match line.split_once('=') {
            Some(("c", value)) => {
                // A connection line of the stream overrides the session's (RFC 4566 section 5.7).
                address = value
                    .split(' ')
                    .nth(2)
                    .and_then(|ip| ip.trim().parse().ok());
            }
            Some(("m", value)) if port.is_none() && value.starts_with("audio ") => {
                port = value.split(' ').nth(1).and_then(|port| port.parse().ok());
            }
            Some(("m", _)) if port.is_some() => break,
            Some(_) | None => {}
        }
    }
    port.filter(|port| *port != 0)
        .and_then(|port| address.map(|ip| SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::{audio_address, describe};

    #[test]
    fn own_description_is_understood() {
        for address in ["192.0.2.1:4000", "[2001:db8::1]:4000"] {
            let address = address.parse().expect("a literal address");
            assert_eq!(audio_address(&describe(address, 1)), Some(address));
        }
    }

    #[test]
    fn stream_level_connection_wins_and_refused_streams_have_no_address() {
        let body = "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.2\r\n\
                    m=video 5000 RTP/AVP 96\r\nc=IN IP4 192.0.2.3\r\n";
        assert_eq!(
            audio_address(body.as_bytes()),
            "192.0.2.2:4000".parse().ok()
        );
        let refused = body.replace("audio 4000", "audio 0");
        assert_eq!(audio_address(refused.as_bytes()), None);
        assert_eq!(audio_address(b"\xff\xfe"), None);
    }
}

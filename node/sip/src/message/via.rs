//! Via (RFC 3261 section 20.42), with `received` and `rport` (RFC 3581).

use std::net::{IpAddr, SocketAddr};

use super::lexis::{is_lws, number, split_once, token, trim};
use super::parameters::Parameters;
use super::uri::Host;

/// RFC 3261 section 8.1.1.7: a branch that starts so is unique across space and time.
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

const DEFAULT_PORT: u16 = 5060;
const DEFAULT_TLS_PORT: u16 = 5061;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// Transport token as written; unknown ones pass through.
    pub transport: &'a str,
    pub host: Host<'a>,
    pub port: Option<u16>,
    pub parameters: Parameters<'a>,
}

impl<'a> Via<'a> {
    /// One Via value (of a comma list, one element).
    pub fn parse(value: &'a [u8]) -> Option<Via<'a>> {
        let (protocol, rest) = split_once(trim(value), b'/')?;
        let (version, rest) = split_once(rest, b'/')?;
        if !trim(protocol).eq_ignore_ascii_case(b"SIP") || trim(version) != b"2.0" {
            return None;
        }
        let rest = trim(rest);
        let gap = rest.iter().position(|byte| is_lws(*byte))?;
        let (transport, rest) = rest.split_at_checked(gap)?;
        let rest = trim(rest);
        let end = rest
            .iter()
            .position(|byte| *byte == b';')
            .unwrap_or(rest.len());
        let (sent_by, parameters) = rest.split_at_checked(end)?;
        let (host, port) = Host::parse_with_port(trim(sent_by))?;
        let parameters = Parameters::parse(parameters)?;
        Some(Via {
            transport: token(transport)?,
            host,
            port,
            parameters,
        })
    }

    pub fn branch(&self) -> Option<&'a [u8]> {
        self.parameters.value("branch")
    }

    /// Whether the branch identifies the transaction by itself: the cookie and something behind it. A bare cookie
    /// (RFC 4475 section 3.2.1) identifies nothing.
    pub fn has_cookie(&self) -> bool {
        self.branch().is_some_and(|branch| {
            branch.len() > MAGIC_COOKIE.len()
                && branch
                    .get(..MAGIC_COOKIE.len())
                    .is_some_and(|front| front.eq_ignore_ascii_case(MAGIC_COOKIE))
        })
    }

    /// `Some(None)`: asked for (`;rport`); `Some(Some(port))`: filled in; `None`: absent or unreadable.
    pub fn rport(&self) -> Option<Option<u16>> {
        match self.parameters.find("rport")? {
            None => Some(None),
            Some(value) => {
                let port = number(value, u64::from(u16::MAX))?;
                Some(u16::try_from(port).ok())
            }
        }
    }

    pub fn received(&self) -> Option<IpAddr> {
        let text = std::str::from_utf8(self.parameters.value("received")?).ok()?;
        // Grammar has no brackets here, yet they are common for IPv6.
        text.trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok()
    }

    /// The port of sent-by, the transport's default if none is written (RFC 3261 section 18.2.2).
    pub fn port_or_default(&self) -> u16 {
        let default = if self.transport.eq_ignore_ascii_case("TLS") {
            DEFAULT_TLS_PORT
        } else {
            DEFAULT_PORT
        };
        self.port.unwrap_or(default)
    }

    /// Where the response to a request from `source` goes over an unreliable transport (RFC 3261 section 18.2.2,
    /// RFC 3581 section 4): always to the source's address, to its port if the client asked with `rport`, else to
    /// the port of sent-by.
    ///
    /// `maddr` is not followed: it lets a sender aim our responses at a third party.
    pub fn response_destination(&self, source: SocketAddr) -> SocketAddr {
        let mut destination = source;
        if !self.parameters.has("rport") {
            destination.set_port(self.port_or_default());
        }
        destination
    }

    /// The value with `received` and `rport` as this server must set them, or `None` if it stays as it is. What
    /// the client claims in these two is replaced.
    ///
    /// RFC 3261 section 18.2.1: "If the host portion of the "sent-by" parameter contains a domain name, or if it
    /// contains an IP address that differs from the packet source address, the server MUST add a "received"
    /// parameter". RFC 3581 section 4: with `rport`, both are set even when nothing differs.
    pub(crate) fn annotated(&self, value: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
        let wants_port = self.parameters.has("rport");
        let source_ip = source.ip().to_canonical();
        let differs = match self.host {
            Host::Name(_) => true,
            Host::V4(address) => source_ip != IpAddr::V4(address),
            Host::V6(address) => source_ip != address.to_canonical(),
        };
        let claims = self.parameters.has("received");
        if !wants_port && !differs && !claims {
            return None;
        }
        let value = trim(value);
        let front = value.len().checked_sub(self.parameters.raw().len())?;
        let mut text = trim(value.get(..front)?).to_vec();
        for (name, parameter) in self.parameters.iter() {
            if name.eq_ignore_ascii_case(b"received") || name.eq_ignore_ascii_case(b"rport") {
                continue;
            }
            text.push(b';');
            text.extend_from_slice(name);
            if let Some(parameter) = parameter {
                text.push(b'=');
                text.extend_from_slice(parameter);
            }
        }
        if wants_port || differs {
            text.extend_from_slice(format!(";received={source_ip}").as_bytes());
        }
        if wants_port {
            text.extend_from_slice(format!(";rport={}", source.port()).as_bytes());
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn annotate(value: &str, source: &str) -> Option<String> {
        let via = Via::parse(value.as_bytes()).unwrap();
        let text = via.annotated(value.as_bytes(), source.parse().unwrap());
        text.map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn reads_white_space_everywhere_the_grammar_allows_it() {
        let value =
            b" SIP  / 2.0  / TCP     spindle.example.com : 5070  ;  branch  =   z9hG4bK9ikj8  ";
        let via = Via::parse(value).unwrap();
        assert_eq!(
            (via.transport, via.host),
            ("TCP", Host::Name("spindle.example.com"))
        );
        assert_eq!(
            (via.port, via.branch()),
            (Some(5070), Some(&b"z9hG4bK9ikj8"[..]))
        );
        assert!(via.has_cookie());
        let via = Via::parse(b"SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bK;rport").unwrap();
        assert_eq!(via.host, Host::V6("2001:db8::9:1".parse().unwrap()));
        assert_eq!(via.rport(), Some(None));
        assert!(!via.has_cookie());
    }

    #[test]
    fn refuses_malformed_values() {
        for bad in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ;branch=x",
            "SIP/7.0/UDP a;branch=x",
            "SIP/2.0 a",
            "SIP/2.0/UDP a b",
            "SIP/2.0/UDP 192.0.2.15;;",
            "SIP/2.0/UDP a:x",
            "HTTP/2.0/UDP a",
        ] {
            assert_eq!(Via::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn adds_received_and_rport() {
        let source = "198.51.100.7:1024";
        assert_eq!(annotate("SIP/2.0/UDP 198.51.100.7;branch=b", source), None);
        assert_eq!(
            annotate("SIP/2.0/UDP 198.51.100.7;rport;branch=b", source).unwrap(),
            "SIP/2.0/UDP 198.51.100.7;branch=b;received=198.51.100.7;rport=1024"
        );
        assert_eq!(
            annotate("SIP/2.0/UDP host.example ; branch=b", source).unwrap(),
            "SIP/2.0/UDP host.example;branch=b;received=198.51.100.7"
        );
        // A forged claim does not survive.
        assert_eq!(
            annotate(
                "SIP/2.0/UDP 198.51.100.7;received=203.0.113.1;branch=b",
                source
            )
            .unwrap(),
            "SIP/2.0/UDP 198.51.100.7;branch=b"
        );
        assert_eq!(
            annotate(
                "SIP/2.0/UDP 10.0.0.1:5080;rport=1;branch=b",
                "[2001:db8::1]:9"
            )
            .unwrap(),
            "SIP/2.0/UDP 10.0.0.1:5080;branch=b;received=2001:db8::1;rport=9"
        );
    }

    #[test]
    fn answers_go_to_the_source() {
        let source: SocketAddr = "198.51.100.7:1024".parse().unwrap();
        let to = |value: &str| {
            Via::parse(value.as_bytes())
                .unwrap()
                .response_destination(source)
                .to_string()
        };
        assert_eq!(to("SIP/2.0/UDP 10.0.0.1:5070;rport"), "198.51.100.7:1024");
        assert_eq!(to("SIP/2.0/UDP 10.0.0.1:5070"), "198.51.100.7:5070");
        assert_eq!(
            to("SIP/2.0/UDP a.example;maddr=203.0.113.9"),
            "198.51.100.7:5060"
        );
        assert_eq!(to("SIP/2.0/TLS a.example"), "198.51.100.7:5061");
    }
}

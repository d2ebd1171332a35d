//! URIs (RFC 3261 section 19.1). SIP and SIPS are taken apart; every other scheme stays opaque.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::lexis::{number, split_once};
use super::parameters::Parameters;

/// A host as written in a URI or a Via; IPv6 references come without brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host<'a> {
    Name(&'a str),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uri<'a> {
    Sip(SipUri<'a>),
    /// `tel:` and all others: passed through, never interpreted here.
    Other {
        scheme: &'a str,
        rest: &'a [u8],
    },
}

/// A `sip:` or `sips:` URI. User and password keep their escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipUri<'a> {
    pub secure: bool,
    pub user: Option<&'a [u8]>,
    pub password: Option<&'a [u8]>,
    pub host: Host<'a>,
    pub port: Option<u16>,
    pub parameters: Parameters<'a>,
    /// What follows `?`, without it.
    pub headers: Option<&'a [u8]>,
}

impl<'a> Uri<'a> {
    /// `None` for text that is no URI: white space, angle brackets, quotes or controls inside, no scheme, or a
    /// malformed SIP host or port.
    pub fn parse(text: &'a [u8]) -> Option<Uri<'a>> {
        if !text.iter().all(|byte| is_uri_byte(*byte)) {
            return None;
        }
        let (scheme, rest) = split_once(text, b':')?;
        let scheme = scheme_text(scheme)?;
        if scheme.eq_ignore_ascii_case("sip") {
            SipUri::parse_rest(rest, false).map(Uri::Sip)
        } else if scheme.eq_ignore_ascii_case("sips") {
            SipUri::parse_rest(rest, true).map(Uri::Sip)
        } else {
            Some(Uri::Other { scheme, rest })
        }
    }

    pub fn sip(&self) -> Option<&SipUri<'a>> {
        match self {
            Uri::Sip(uri) => Some(uri),
            Uri::Other { .. } => None,
        }
    }
}

impl<'a> SipUri<'a> {
    fn parse_rest(rest: &'a [u8], secure: bool) -> Option<SipUri<'a>> {
        // `@` must be escaped everywhere else, so the first one ends the user part, which may itself hold `;` and
        // `?`; a second one falls into the host and is refused there.
        let (user_info, rest) = match split_once(rest, b'@') {
            Some((user_info, rest)) => (Some(user_info), rest),
            None => (None, rest),
        };
        let (user, password) = match user_info.map(|info| (info, split_once(info, b':'))) {
            None => (None, None),
            Some((_, Some((user, password)))) => (Some(user), Some(password)),
            Some((user, None)) => (Some(user), None),
        };
        if user.is_some_and(<[u8]>::is_empty) {
            return None;
        }
        let (rest, headers) = match split_once(rest, b'?') {
            Some((rest, headers)) => (rest, Some(headers)),
            None => (rest, None),
        };
        let end = rest
            .iter()
            .position(|byte| *byte == b';')
            .unwrap_or(rest.len());
        let (host_port, parameters) = rest.split_at_checked(end)?;
        let (host, port) = Host::parse_with_port(host_port)?;
        let parameters = Parameters::parse(parameters)?;
        Some(SipUri {
            secure,
            user,
            password,
            host,
            port,
            parameters,
            headers,
        })
    }

    /// RFC 3261 section 19.1.2: the port that counts when none is written.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(if self.secure { 5061 } else { 5060 })
    }
}

impl<'a> Host<'a> {
    pub fn parse(text: &'a [u8]) -> Option<Host<'a>> {
        let text = std::str::from_utf8(text).ok()?;
        if let Some(reference) = text.strip_prefix('[') {
            return reference.strip_suffix(']')?.parse().ok().map(Host::V6);
        }
        if let Ok(address) = text.parse() {
            return Some(Host::V4(address));
        }
        // `_` is no hostname character but stands in service names that are in use.
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        (!text.is_empty() && text.bytes().all(legal)).then_some(Host::Name(text))
    }

    /// `host [":" port]`.
    pub(crate) fn parse_with_port(text: &'a [u8]) -> Option<(Host<'a>, Option<u16>)> {
        let bracket = text
            .iter()
            .position(|byte| *byte == b']')
            .map_or(0, |offset| offset + 1);
        let colon = text.iter().skip(bracket).position(|byte| *byte == b':');
        let Some(colon) = colon.map(|offset| offset + bracket) else {
            return Some((Host::parse(text)?, None));
        };
        let host = super::lexis::trim(text.get(..colon)?);
        let port = super::lexis::trim(text.get(colon + 1..)?);
        let port = u16::try_from(number(port, u64::from(u16::MAX))?).ok()?;
        Some((Host::parse(host)?, Some(port)))
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => formatter.write_str(name),
            Host::V4(address) => write!(formatter, "{address}"),
            Host::V6(address) => write!(formatter, "[{address}]"),
        }
    }
}

/// RFC 3986 section 3.1.
fn scheme_text(scheme: &[u8]) -> Option<&str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let valid = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| legal(*byte));
    if valid {
        std::str::from_utf8(scheme).ok()
    } else {
        None
    }
}

fn is_uri_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !matches!(byte, b'<' | b'>' | b'"')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sip(text: &str) -> SipUri<'_> {
        *Uri::parse(text.as_bytes()).unwrap().sip().unwrap()
    }

    #[test]
    fn takes_sip_uris_apart() {
        let uri = sip("sips:john.doe:secret@Host.example.com:5071;transport=tcp;lr?Subject=x");
        assert!(uri.secure);
        assert_eq!(uri.user, Some(&b"john.doe"[..]));
        assert_eq!(uri.password, Some(&b"secret"[..]));
        assert_eq!(uri.host, Host::Name("Host.example.com"));
        assert_eq!(uri.port, Some(5071));
        assert_eq!(uri.parameters.value("transport"), Some(&b"tcp"[..]));
        assert!(uri.parameters.has("lr"));
        assert_eq!(uri.headers, Some(&b"Subject=x"[..]));
    }

    #[test]
    fn reads_ipv6_references() {
        assert_eq!(
            sip("sip:[2001:db8::10]").host,
            Host::V6("2001:db8::10".parse().unwrap())
        );
        let uri = sip("sip:a@[2001:db8::10]:5070;lr");
        assert_eq!(
            (uri.port, uri.host.to_string()),
            (Some(5070), "[2001:db8::10]".to_owned())
        );
    }

    #[test]
    fn keeps_reserved_characters_in_the_user_part() {
        let uri = sip("sip:user;par=u%40example.net@example.com");
        assert_eq!(uri.user, Some(&b"user;par=u%40example.net"[..]));
        assert_eq!(sip("sip:a?b@example.com").user, Some(&b"a?b"[..]));
    }

    #[test]
    fn passes_other_schemes_through() {
        let tel = Uri::parse(b"tel:+15551234;phone-context=x").unwrap();
        assert_eq!(
            tel,
            Uri::Other {
                scheme: "tel",
                rest: b"+15551234;phone-context=x"
            }
        );
        assert!(Uri::parse(b"soap.beep://192.0.2.103:3002").is_some());
    }

    #[test]
    fn refuses_malformed_uris() {
        for bad in [
            "",
            "sip",
            "sip:",
            "sip:@host",
            "sip:a@b@c",
            "sip:a@host:",
            "sip:a@host:99999",
            "sip:a b@host",
            "sip:[::1",
            "sip:a@[::g]",
            "<sip:a@b>",
            "sip:a@b;",
            "sip:a@b;;lr",
            "1sip:a@b",
            "sip:a@ho\u{7f}st",
        ] {
            assert_eq!(Uri::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}

//! Which headers travel from one side to the other, and what is hidden in them.
//!
//! The list is closed: what is not named here stays on its side. Via, Record-Route, Route, Contact, Call-ID, CSeq and
//! the dialog's From and To are never passed, each side has its own.

use bytes::Bytes;

use crate::dialog::with_uri;
use crate::message::{Builder, Message, Name, NameAddr, Uri};

/// Passed byte for byte.
const PASSED: [Name<'static>; 19] = [
    Name::Subject,
    Name::Privacy,
    Name::Other("User-to-User"),
    Name::Reason,
    Name::Other("Session-ID"),
    Name::Other("Accept-Language"),
    Name::Other("Content-Language"),
    Name::Other("Priority"),
    Name::Other("Organization"),
    Name::AlertInfo,
    Name::Other("Call-Info"),
    Name::Date,
    Name::Expires,
    Name::RetryAfter,
    Name::Authorization,
    Name::ProxyAuthorization,
    Name::WwwAuthenticate,
    Name::ProxyAuthenticate,
    Name::Identity,
];

/// Identities: the user travels, the host becomes ours.
const HOST_HIDDEN: [Name<'static>; 5] = [
    Name::PAssertedIdentity,
    Name::PPreferredIdentity,
    Name::Diversion,
    Name::HistoryInfo,
    Name::Other("Remote-Party-ID"),
];

/// Extension headers passed of one message; more are cut.
const MAX_EXTENSION_HEADERS: usize = 32;

/// Adds what `from` may tell the other side. `host` is our address there.
pub(super) fn pass(mut builder: Builder, from: &Message, host: &str) -> Builder {
    for name in PASSED {
        builder = builder.copy(from, name);
    }
    for name in HOST_HIDDEN {
        for value in from.values(name) {
            if let Some(value) = hide_host(value, host) {
                builder = builder.header(name, value);
            }
        }
    }
    let extensions = from.all_headers().filter(|(name, _)| is_extension(*name));
    for (name, value) in extensions.take(MAX_EXTENSION_HEADERS) {
        builder = builder.header(name, value);
    }
    builder
}

fn is_extension(name: Name<'_>) -> bool {
    match name {
        Name::Known(_) => false,
        Name::Other(text) => text
            .get(..2)
            .is_some_and(|start| start.eq_ignore_ascii_case("X-")),
    }
}

/// The address with its host replaced and its parameters kept. None when it is no address we understand: then it
/// could show anything.
fn hide_host(value: &[u8], host: &str) -> Option<Bytes> {
    let name = NameAddr::parse(value)?;
    let uri = own_uri(name.uri, host)?;
    let mut out = with_uri(&name, &uri).to_vec();
    out.extend_from_slice(name.parameters.raw());
    Some(Bytes::from(out))
}

/// A URI of the other side as this side may see it: the user at our address. A telephone number has no host to hide,
/// and an anonymous address (RFC 3323 section 4.1.1.3) shows nothing. None for what cannot be shown.
pub(super) fn own_uri(uri: &[u8], host: &str) -> Option<Vec<u8>> {
    match Uri::parse(uri)? {
        Uri::Other { scheme, .. } if scheme.eq_ignore_ascii_case("tel") => Some(uri.to_vec()),
        Uri::Other { .. } => None,
        Uri::Sip(sip) => {
            if uri.ends_with(b"@anonymous.invalid") {
                return Some(uri.to_vec());
            }
            let mut out = b"sip:".to_vec();
            if let Some(user) = sip.user {
                out.extend_from_slice(user);
                out.push(b'@');
            }
            out.extend_from_slice(host.as_bytes());
            if is_phone(&sip) {
                out.extend_from_slice(b";user=phone");
            }
            Some(out)
        }
    }
}

/// The Request-URI toward a target: the user part stays, the host is the target. None for schemes we cannot carry.
pub(super) fn target_uri(uri: &[u8], target: &str) -> Option<Vec<u8>> {
    match Uri::parse(uri)? {
        Uri::Sip(sip) if sip.secure => None,
        Uri::Sip(_) => own_uri(uri, target),
        Uri::Other { scheme, rest } if scheme.eq_ignore_ascii_case("tel") => {
            // RFC 3261 section 19.1.6.
            let number = rest.split(|byte| *byte == b';').next().unwrap_or(rest);
            Some([b"sip:", number, b"@", target.as_bytes(), b";user=phone"].concat())
        }
        Uri::Other { .. } => None,
    }
}

fn is_phone(sip: &crate::message::SipUri<'_>) -> bool {
    sip.parameters
        .value("user")
        .is_some_and(|value| value.eq_ignore_ascii_case(b"phone"))
}

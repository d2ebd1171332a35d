//! `name-addr` and `addr-spec` (RFC 3261 section 20.10): what From, To, Contact and the Route headers carry.

use super::lexis::{is_lws, is_token_byte, quoted_length, trim};
use super::parameters::Parameters;
use super::uri::Uri;

/// `"Display" <uri>;parameters`, or the bare form `uri;parameters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// As written, quotes included.
    pub display: Option<&'a [u8]>,
    pub uri: &'a [u8],
    /// Header parameters. In the bare form everything behind `;` belongs here, not to the URI.
    pub parameters: Parameters<'a>,
}

impl<'a> NameAddr<'a> {
    pub fn parse(value: &'a [u8]) -> Option<NameAddr<'a>> {
        let value = trim(value);
        let display = display_length(value)?;
        let (front, rest) = value.split_at_checked(display)?;
        let (display, uri, parameters) = match rest.split_first() {
            Some((b'<', rest)) => {
                let end = rest.iter().position(|byte| *byte == b'>')?;
                let display = trim(front);
                let display = (!display.is_empty()).then_some(display);
                (display, rest.get(..end)?, rest.get(end + 1..)?)
            }
            _ => {
                let (uri, parameters) = bare(value)?;
                (None, uri, parameters)
            }
        };
        Uri::parse(uri)?;
        Some(NameAddr {
            display,
            uri,
            parameters: Parameters::parse(parameters)?,
        })
    }

    pub fn tag(&self) -> Option<&'a [u8]> {
        self.parameters.value("tag")
    }

    /// The URI taken apart; it was checked when the address was parsed.
    pub fn parsed_uri(&self) -> Option<Uri<'a>> {
        Uri::parse(self.uri)
    }
}

/// Length of what may stand before `<`: a quoted string or tokens, with white space behind. Anything else is zero
/// or stops before the offending byte, so that the bare form is tried. `None` for a quote that never closes.
///
/// Bytes above ASCII are let through unquoted, as phones send them.
fn display_length(value: &[u8]) -> Option<usize> {
    let quoted = match value.first() {
        Some(b'"') => quoted_length(value)?,
        _ => 0,
    };
    let legal = |byte: u8| is_lws(byte) || (quoted == 0 && (is_token_byte(byte) || byte >= 0x80));
    let rest = value
        .iter()
        .skip(quoted)
        .take_while(|byte| legal(**byte))
        .count();
    Some(quoted + rest)
}

/// The bare form: a URI that needs brackets (`?` or `,` inside) must have them (RFC 3261 section 20.10).
fn bare(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value
        .iter()
        .position(|byte| *byte == b';')
        .unwrap_or(value.len());
    let (uri, parameters) = value.split_at_checked(end)?;
    let needs_brackets = uri.iter().any(|byte| matches!(byte, b'?' | b','));
    (!needs_brackets).then_some((trim(uri), parameters))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(value: &str) -> Option<NameAddr<'_>> {
        NameAddr::parse(value.as_bytes())
    }

    #[test]
    fn reads_every_form() {
        let address = parse("\"A, \\\"B\" <sip:a@b;lr>;tag=1").unwrap();
        assert_eq!(address.display, Some(&b"\"A, \\\"B\""[..]));
        assert_eq!(address.uri, b"sip:a@b;lr");
        assert_eq!(address.tag(), Some(&b"1"[..]));
        assert_eq!(
            parse("caller<sip:a@b>").unwrap().display,
            Some(&b"caller"[..])
        );
        assert_eq!(
            parse("J\u{fc}rgen B <sip:a@b>").unwrap().display,
            Some("J\u{fc}rgen B".as_bytes())
        );
        let bare = parse("sip:a@b ; tag = x").unwrap();
        assert_eq!((bare.uri, bare.tag()), (&b"sip:a@b"[..], Some(&b"x"[..])));
        assert_eq!(parse("<sip:a@b>").unwrap().display, None);
        assert!(parse("isbn:2983792873").is_some());
    }

    #[test]
    fn refuses_malformed_addresses() {
        for bad in [
            "",
            "\"Mr. J. User <sip:j@b>",
            "Bell, Alexander <sip:a@b>;tag=43",
            "\"W\" < sip:t@b >",
            "<sip:a@b",
            "sip:a@b?Route=x",
            "\"J\" <sip:a@b>;;;;",
            "<sip:a@b> x",
            "\"x\" sip:a@b",
            "<>",
            "<sip:a@b>tag=1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

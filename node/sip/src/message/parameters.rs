//! `;name=value` lists as they stand behind a URI, an address or a Via.

use super::lexis::{quoted_length, split_list, split_once, trim};

/// The raw list, first `;` included. Names compare without regard to case (RFC 3261 section 7.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters<'a>(&'a [u8]);

impl<'a> Parameters<'a> {
    /// `None` unless the text is empty or a well-formed list: `;;`, a missing value, stray quotes and white space
    /// within a value are refused.
    pub fn parse(text: &'a [u8]) -> Option<Parameters<'a>> {
        let text = trim(text);
        let list = match text.split_first() {
            None => return Some(Parameters(text)),
            Some((b';', list)) => list,
            Some(_) => return None,
        };
        // A lone `;` leaves an empty list, which has no element to refuse.
        let well_formed = !trim(list).is_empty()
            && split_list(list, b';').all(|span| is_parameter(span.of(list)));
        well_formed.then_some(Parameters(text))
    }

    pub fn raw(&self) -> &'a [u8] {
        self.0
    }

    /// Name and value in order of appearance; a quoted value keeps its quotes.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let list = self.0.get(1..).unwrap_or_default();
        split_list(list, b';').map(|span| parameter(span.of(list)))
    }

    /// `Some(None)` for a parameter without a value.
    pub fn find(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.iter()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.find(name).flatten()
    }

    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

fn parameter(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match split_once(text, b'=') {
        Some((name, value)) => (trim(name), Some(trim(value))),
        None => (text, None),
    }
}

fn is_parameter(text: &[u8]) -> bool {
    let (name, value) = parameter(text);
    if name.is_empty() || !name.iter().all(|byte| is_plain_byte(*byte)) {
        return false;
    }
    match value {
        None => true,
        Some(value) => {
            quoted_length(value) == Some(value.len())
                || (!value.is_empty() && value.iter().all(|byte| is_plain_byte(*byte)))
        }
    }
}

/// Wider than a token: `pname` of a URI parameter allows `[ ] / : & + $` too (RFC 3261 section 25.1).
fn is_plain_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !matches!(byte, b'"' | b'<' | b'>' | b',' | b';')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn finds_names_in_any_case_with_white_space_around() {
        let list = Parameters::parse(b" ; Tag = abc ;lr; x = \"a;b=\\\"c\" ").unwrap();
        assert_eq!(list.value("tag"), Some(&b"abc"[..]));
        assert_eq!(list.find("LR"), Some(None));
        assert_eq!(list.value("x"), Some(&b"\"a;b=\\\"c\""[..]));
        assert!(!list.has("b"));
        assert_eq!(list.iter().count(), 3);
    }

    #[test]
    fn refuses_what_is_no_list() {
        for bad in [
            ";",
            ";;",
            ";a;;b",
            ";a=",
            ";=b",
            ";a=b c",
            ";a=\"b",
            ";a=\"b\"c",
            "a=b",
            ";a,b",
        ] {
            assert_eq!(Parameters::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Parameters::parse(b" "), Some(Parameters::default()));
    }
}

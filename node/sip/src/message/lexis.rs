//! Character classes and byte helpers of the RFC 3261 grammar (section 25.1).

/// A stretch of the message by offset; the index holds these instead of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Offsets fit because a message never exceeds [`super::MAX_MESSAGE_BYTES`].
    pub(crate) fn new(start: usize, end: usize) -> Span {
        let clamp = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Span {
            start: clamp(start),
            end: clamp(end),
        }
    }

    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn end(self) -> usize {
        self.end as usize
    }

    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start()..self.end()).unwrap_or_default()
    }

    /// The same stretch without white space (and fold marks) at its ends.
    pub(crate) fn trimmed(self, text: &[u8]) -> Span {
        let slice = self.of(text);
        let blank = |byte: &&u8| is_lws(**byte);
        let front = slice.iter().take_while(blank).count();
        let back = slice.iter().skip(front).rev().take_while(blank).count();
        Span::new(self.start() + front, self.start() + slice.len() - back)
    }
}

/// Linear white space, the line ends of a fold included.
pub(crate) fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `token` of RFC 3261 section 25.1.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~'
        )
}

/// Control characters that may stand in no header value outside a quoted pair. HTAB is white space.
pub(crate) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// The text as a token; `None` when it is none.
pub(crate) fn token(text: &[u8]) -> Option<&str> {
    if text.is_empty() || !text.iter().all(|byte| is_token_byte(*byte)) {
        return None;
    }
    std::str::from_utf8(text).ok()
}

pub(crate) fn trim(text: &[u8]) -> &[u8] {
    Span::new(0, text.len()).trimmed(text).of(text)
}

/// Splits at the first `separator`.
pub(crate) fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|byte| *byte == separator)?;
    let (front, back) = text.split_at_checked(position)?;
    Some((front, back.get(1..)?))
}

/// Decimal digits only: no sign, no white space, nothing above `limit`.
pub(crate) fn number(text: &[u8], limit: u64) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut value = 0_u64;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (value <= limit).then_some(value)
}

/// Length of the quoted string (RFC 3261 `quoted-string`) at the front of `text`, both quotes included.
pub(crate) fn quoted_length(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut escaped = false;
    for (offset, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(offset + 1),
            _ => {}
        }
    }
    None
}

/// Splits a header value at separators outside quoted strings and angle brackets. An element may come out empty;
/// an empty value has no element at all.
pub(crate) fn split_list(value: &[u8], separator: u8) -> impl Iterator<Item = Span> + '_ {
    let mut rest = (!trim(value).is_empty()).then_some(0);
    std::iter::from_fn(move || {
        let start = rest?;
        let end = element_end(value, start, separator);
        rest = (end < value.len()).then_some(end + 1);
        Some(Span::new(start, end).trimmed(value))
    })
}

fn element_end(value: &[u8], start: usize, separator: u8) -> usize {
    let (mut quoted, mut escaped, mut bracketed) = (false, false, false);
    for (offset, byte) in value.iter().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !bracketed => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            byte if *byte == separator && !quoted && !bracketed => return offset,
            _ => {}
        }
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(value: &str) -> Vec<&str> {
        split_list(value.as_bytes(), b',')
            .map(|span| std::str::from_utf8(span.of(value.as_bytes())).unwrap_or_default())
            .collect()
    }

    #[test]
    fn lists_split_outside_quotes_and_brackets() {
        assert_eq!(split("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(
            split("\"x, y\" <sip:a@b;p=1,2>;q=1, <sip:c>"),
            ["\"x, y\" <sip:a@b;p=1,2>;q=1", "<sip:c>"]
        );
        assert_eq!(split("\"a\\\",b\", c"), ["\"a\\\",b\"", "c"]);
        assert_eq!(split(" "), [""; 0]);
        assert_eq!(split(",a,"), ["", "a", ""]);
    }

    #[test]
    fn numbers_are_digits_within_the_limit() {
        assert_eq!(number(b"0068", 255), Some(68));
        assert_eq!(number(b"256", 255), None);
        for bad in [
            &b""[..],
            b"+1",
            b"-1",
            b"1 1",
            b"0x1",
            b"36893488147419103232",
        ] {
            assert_eq!(number(bad, u64::MAX), None, "{bad:?}");
        }
    }
}

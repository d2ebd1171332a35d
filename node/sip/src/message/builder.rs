//! Writing messages. Values that would break out of their line are refused, not cleaned.

use bytes::Bytes;

use super::lexis::{is_control, token};
use super::method::Method;
use super::name::Name;
use super::uri::Uri;
use super::{MAX_MESSAGE_BYTES, Message};

/// Room that fits a usual INVITE with SDP without growing.
const INITIAL_CAPACITY: usize = 1536;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("control character in the value of {0}")]
    HeaderInjection(String),
    #[error("{0:?} is no header name")]
    Name(String),
    #[error("{0} is written by the builder itself")]
    Reserved(&'static str),
    #[error("{0:?} is no method")]
    Method(String),
    #[error("malformed Request-URI")]
    RequestUri,
    #[error("status {0} is outside 100 to 699")]
    Status(u16),
    #[error("control character in the reason phrase")]
    Reason,
    #[error("larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
}

/// A message under construction: headers come out in the order they are added, Content-Type and Content-Length
/// last. The first error is kept and returned by [`Builder::build`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    text: Vec<u8>,
    body: Bytes,
    error: Option<BuildError>,
}

impl Builder {
    pub fn request(method: Method<'_>, uri: impl AsRef<[u8]>) -> Builder {
        let mut builder = Builder::empty();
        if token(method.text().as_bytes()).is_none() {
            builder.fail(BuildError::Method(method.text().to_owned()));
        }
        if Uri::parse(uri.as_ref()).is_none() {
            builder.fail(BuildError::RequestUri);
        }
        builder.write(&[
            method.text().as_bytes(),
            b" ",
            uri.as_ref(),
            b" SIP/2.0\r\n",
        ]);
        builder
    }

    pub fn response(status: u16, reason: impl AsRef<[u8]>) -> Builder {
        let mut builder = Builder::empty();
        if !(100..700).contains(&status) {
            builder.fail(BuildError::Status(status));
        }
        if reason.as_ref().iter().any(|byte| is_control(*byte)) {
            builder.fail(BuildError::Reason);
        }
        builder.write(&[
            b"SIP/2.0 ",
            status.to_string().as_bytes(),
            b" ",
            reason.as_ref(),
            b"\r\n",
        ]);
        builder
    }

    /// A response to `request` with all of its Via, From, To, Call-ID and CSeq unchanged. A To without tag gets
    /// `to_tag`, if given (RFC 3261 section 8.2.6.2); a 100 takes over the Timestamp (section 8.2.6.1).
    pub fn response_to(
        request: &Message,
        status: u16,
        reason: impl AsRef<[u8]>,
        to_tag: Option<&str>,
    ) -> Builder {
        let mut builder = Builder::response(status, reason)
            .copy(request, Name::Via)
            .copy(request, Name::From);
        builder = match to_tag {
            Some(tag) if request.to_tag().is_none() => builder.tagged_to(request, tag),
            Some(_) | None => builder.copy(request, Name::To),
        };
        builder = builder
            .copy(request, Name::CallId)
            .copy(request, Name::CSeq);
        if status == 100 {
            builder.copy(request, Name::Timestamp)
        } else {
            builder
        }
    }

    pub fn header(mut self, name: Name<'_>, value: impl AsRef<[u8]>) -> Builder {
        let text = name.text();
        if token(text.as_bytes()).is_none() {
            self.fail(BuildError::Name(text.to_owned()));
        } else if name.matches(Name::ContentLength) {
            self.fail(BuildError::Reserved("Content-Length"));
        } else if value.as_ref().iter().any(|byte| is_control(*byte)) {
            self.fail(BuildError::HeaderInjection(text.to_owned()));
        } else {
            self.write_field(name, value.as_ref());
        }
        self
    }

    /// Every header line of that name, value unchanged. What a parsed message holds cannot break out of its line,
    /// so escaped control characters in quoted strings may pass here.
    pub fn copy(mut self, message: &Message, name: Name<'_>) -> Builder {
        if name.matches(Name::ContentLength) {
            self.fail(BuildError::Reserved("Content-Length"));
            return self;
        }
        for value in message.headers(name) {
            self.write_field(name, value);
        }
        self
    }

    /// Every header line whose name is not listed, in order, values unchanged. Content-Length stays behind: the
    /// builder writes its own.
    pub fn copy_except(mut self, message: &Message, names: &[Name<'_>]) -> Builder {
        for (name, value) in message.all_headers() {
            let left_out = names.iter().any(|excluded| excluded.matches(name));
            if !left_out && !name.matches(Name::ContentLength) {
                self.write_field(name, value);
            }
        }
        self
    }

    pub fn body(self, content_type: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Builder {
        let mut builder = self.header(Name::ContentType, content_type);
        builder.body = Bytes::copy_from_slice(body.as_ref());
        builder
    }

    /// The other message's body with the headers that describe it.
    pub fn copy_body(self, message: &Message) -> Builder {
        let mut builder = self
            .copy(message, Name::ContentType)
            .copy(message, Name::ContentEncoding)
            .copy(message, Name::ContentDisposition);
        builder.body = message.body();
        builder
    }

    pub fn build(mut self) -> Result<Bytes, BuildError> {
        let length = self.body.len().to_string();
        self.write_field(Name::ContentLength, length.as_bytes());
        self.text.extend_from_slice(b"\r\n");
        self.text.extend_from_slice(&self.body);
        match self.error {
            Some(error) => Err(error),
            None if self.text.len() > MAX_MESSAGE_BYTES => Err(BuildError::TooLarge),
            None => Ok(Bytes::from(self.text)),
        }
    }

    fn empty() -> Builder {
        Builder {
            text: Vec::with_capacity(INITIAL_CAPACITY),
            body: Bytes::new(),
            error: None,
        }
    }

    fn tagged_to(mut self, request: &Message, tag: &str) -> Builder {
        if token(tag.as_bytes()).is_none() {
            self.fail(BuildError::HeaderInjection("To".to_owned()));
        } else if let Some(value) = request.header(Name::To) {
            self.write(&[b"To: ", value, b";tag=", tag.as_bytes(), b"\r\n"]);
        }
        self
    }

    fn write_field(&mut self, name: Name<'_>, value: &[u8]) {
        self.write(&[name.text().as_bytes(), b": ", value, b"\r\n"]);
    }

    fn write(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.text.extend_from_slice(part);
        }
    }

    fn fail(&mut self, error: BuildError) {
        self.error.get_or_insert(error);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const INVITE: &[u8] = b"INVITE sip:bob@example.com SIP/2.0\r\n\
        Via: SIP/2.0/UDP a.example;branch=z9hG4bK1, SIP/2.0/UDP b.example;branch=z9hG4bK2\r\n\
        v: SIP/2.0/UDP c.example;branch=z9hG4bK3\r\n\
        From: \"NUL \\\x00\" <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\n\
        Call-ID: x\r\nCSeq: 7 INVITE\r\nTimestamp: 54\r\nX-Other: y\r\n\
        Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi";

    fn invite() -> Message {
        Message::parse(Bytes::from_static(INVITE)).unwrap()
    }

    #[test]
    fn a_response_carries_what_section_8_2_6_2_asks_for() {
        let trying = Builder::response_to(&invite(), 100, "Trying", None)
            .build()
            .unwrap();
        let expected = b"SIP/2.0 100 Trying\r\n\
            Via: SIP/2.0/UDP a.example;branch=z9hG4bK1, SIP/2.0/UDP b.example;branch=z9hG4bK2\r\n\
            Via: SIP/2.0/UDP c.example;branch=z9hG4bK3\r\n\
            From: \"NUL \\\x00\" <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\n\
            Call-ID: x\r\nCSeq: 7 INVITE\r\nTimestamp: 54\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(trying, expected[..]);
        let ringing = Builder::response_to(&invite(), 180, "Ringing", Some("abc"))
            .build()
            .unwrap();
        let ringing = Message::parse(ringing).unwrap();
        assert_eq!(ringing.to_tag(), Some(&b"abc"[..]));
        assert_eq!(ringing.header(Name::Timestamp), None);
    }

    #[test]
    fn refuses_header_injection() {
        let base = || Builder::response(200, "OK");
        for value in ["a\r\nVia: x", "a\nb", "a\rb", "a\0b", "a\u{7f}"] {
            let built = base().header(Name::Other("X-A"), value).build();
            assert_eq!(
                built,
                Err(BuildError::HeaderInjection("X-A".to_owned())),
                "{value:?}"
            );
        }
        assert!(matches!(
            base().header(Name::Other("X:"), "a").build(),
            Err(BuildError::Name(_))
        ));
        assert!(matches!(
            base().header(Name::Other(""), "a").build(),
            Err(BuildError::Name(_))
        ));
        for name in [
            Name::ContentLength,
            Name::Other("content-length"),
            Name::Other("L"),
        ] {
            assert!(matches!(
                base().header(name, "5").build(),
                Err(BuildError::Reserved(_))
            ));
        }
        assert_eq!(
            Builder::response(200, "O\r\nK").build(),
            Err(BuildError::Reason)
        );
        assert_eq!(
            Builder::response(99, "x").build(),
            Err(BuildError::Status(99))
        );
        let split = Builder::request(Method::Bye, "sip:a@b SIP/2.0\r\nX: y");
        assert_eq!(split.build(), Err(BuildError::RequestUri));
        assert!(
            Builder::request(Method::Other("A B"), "sip:a@b")
                .build()
                .is_err()
        );
        let tag = Builder::response_to(&invite(), 200, "OK", Some("a\r\nb")).build();
        assert!(matches!(tag, Err(BuildError::HeaderInjection(_))));
    }

    #[test]
    fn copies_selected_headers_and_the_body() {
        let source = invite();
        let names = [
            Name::Via,
            Name::From,
            Name::To,
            Name::CallId,
            Name::CSeq,
            Name::ContentType,
        ];
        let copy = Builder::request(Method::Invite, "sip:c@d")
            .header(Name::Via, "SIP/2.0/UDP e.example;branch=z9hG4bK9")
            .header(Name::From, "<sip:a@b>;tag=2")
            .header(Name::To, "<sip:c@d>")
            .header(Name::CallId, "other")
            .header(Name::CSeq, "1 INVITE")
            .copy_except(&source, &names)
            .copy_body(&source)
            .build()
            .unwrap();
        let copy = Message::parse(copy).unwrap();
        assert_eq!(copy.header(Name::Other("x-other")), Some(&b"y"[..]));
        assert_eq!(
            copy.headers(Name::ContentLength).collect::<Vec<_>>(),
            [b"2"]
        );
        assert_eq!(copy.headers(Name::ContentType).count(), 1);
        assert_eq!(&copy.body()[..], b"hi");
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let built = Builder::response(200, "OK")
            .body("a/b", vec![0; MAX_MESSAGE_BYTES])
            .build();
        assert_eq!(built, Err(BuildError::TooLarge));
    }
}

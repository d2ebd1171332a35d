//! What to do with a message that cannot be used: answer it, or drop it.

use std::net::SocketAddr;

use bytes::Bytes;

use super::address::NameAddr;
use super::head::Head;
use super::lexis::split_list;
use super::name::Name;
use super::via::Via;

#[derive(Clone, Debug, thiserror::Error)]
pub enum ParseError {
    /// A request to refuse: send [`Answer::response`] to [`Answer::destination`].
    #[error("refused with {} {}", .0.status(), .0.reason())]
    Answer(Box<Answer>),
    /// Responses, ACKs and text without a usable shape get no answer.
    #[error("dropped: {0}")]
    Drop(DropReason),
}

/// Why a message is dropped without an answer; one counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum DropReason {
    #[error("nothing but line ends: a keep-alive")]
    KeepAlive,
    #[error("larger than {} bytes", super::MAX_MESSAGE_BYTES)]
    TooLarge,
    #[error("no start line")]
    NoStartLine,
    #[error("start line is neither a request line nor a status line")]
    NotSip,
    #[error("start line continues on the next line")]
    FoldedStartLine,
    #[error("CR or LF on its own")]
    BareLineEnd,
    #[error("control character")]
    ControlCharacter,
    #[error("malformed response: {0}")]
    Response(Defect),
    #[error("malformed ACK: {0}")]
    Ack(Defect),
    #[error("malformed request without Via: {0}")]
    NoVia(Defect),
}

/// What is wrong with a message whose header block could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Defect {
    #[error("Bad Request-Line")]
    RequestLine,
    #[error("Bad Status-Line")]
    StatusLine,
    #[error("Version Not Supported")]
    Version,
    #[error("Bad Request-URI")]
    RequestUri,
    #[error("Request-URI Too Long")]
    RequestUriTooLong,
    #[error("Bad Header Line")]
    HeaderLine,
    #[error("Too Many Headers")]
    TooManyHeaders,
    #[error("Missing Empty Line")]
    NoEmptyLine,
    #[error("Bad Content-Length")]
    ContentLength,
    #[error("Conflicting Content-Length")]
    ContentLengthConflict,
    #[error("Missing Content-Length")]
    NoContentLength,
    #[error("Body Shorter Than Content-Length")]
    BodyTooShort,
    #[error("Message Too Large")]
    TooLarge,
    #[error("Missing or Repeated Header")]
    Mandatory,
    #[error("Bad Via")]
    Via,
    #[error("Too Many Via")]
    TooManyVias,
    #[error("Bad From")]
    From,
    #[error("Bad To")]
    To,
    #[error("Bad Call-ID")]
    CallId,
    #[error("Bad CSeq")]
    CSeq,
    #[error("CSeq Method Mismatch")]
    CSeqMethod,
    #[error("Bad Max-Forwards")]
    MaxForwards,
    #[error("Bad Contact")]
    Contact,
    #[error("Bad Route")]
    Route,
    #[error("Bad Date")]
    Date,
}

impl Defect {
    /// RFC 3261 section 21.4 and 21.5.
    pub fn status(self) -> u16 {
        match self {
            Defect::Version => 505,
            Defect::RequestUriTooLong => 414,
            Defect::TooLarge => 513,
            Defect::RequestLine
            | Defect::StatusLine
            | Defect::RequestUri
            | Defect::HeaderLine
            | Defect::TooManyHeaders
            | Defect::NoEmptyLine
            | Defect::ContentLength
            | Defect::ContentLengthConflict
            | Defect::NoContentLength
            | Defect::BodyTooShort
            | Defect::Mandatory
            | Defect::Via
            | Defect::TooManyVias
            | Defect::From
            | Defect::To
            | Defect::CallId
            | Defect::CSeq
            | Defect::CSeqMethod
            | Defect::MaxForwards
            | Defect::Contact
            | Defect::Route
            | Defect::Date => 400,
        }
    }
}

/// A refused request with enough of its header block to build the response of RFC 3261 section 8.2.6.
#[derive(Clone, Debug)]
pub struct Answer {
    defect: Defect,
    head: Head,
}

impl Answer {
    pub(crate) fn new(defect: Defect, head: Head) -> Answer {
        Answer { defect, head }
    }

    pub fn status(&self) -> u16 {
        self.defect.status()
    }

    /// The reason phrase: it names the defect.
    pub fn reason(&self) -> String {
        self.defect.to_string()
    }

    pub fn defect(&self) -> Defect {
        self.defect
    }

    /// The response: what the request holds of Via, From, To, Call-ID and CSeq, unchanged. `received` and `rport`
    /// are filled in if the top Via can be read; `to_tag` is added if To can be read and has none.
    pub fn response(&self, source: SocketAddr, to_tag: &str) -> Bytes {
        let mut text = format!("SIP/2.0 {} {}\r\n", self.status(), self.defect).into_bytes();
        for (position, field) in self.head.all(Name::Via).enumerate() {
            let value = self.head.value(field);
            let annotated = (position == 0)
                .then(|| annotate_top(value, source))
                .flatten();
            write_field(&mut text, Name::Via, annotated.as_deref().unwrap_or(value));
        }
        for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
            let Some(field) = self.head.all(name).next() else {
                continue;
            };
            let mut value = self.head.value(field).to_vec();
            let untagged = NameAddr::parse(&value).is_some_and(|address| address.tag().is_none());
            if name == Name::To && untagged {
                value.extend_from_slice(b";tag=");
                value.extend_from_slice(to_tag.as_bytes());
            }
            write_field(&mut text, name, &value);
        }
        text.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        Bytes::from(text)
    }

    /// RFC 3261 section 18.2.2 if the top Via can be read, else back to the source.
    pub fn destination(&self, source: SocketAddr) -> SocketAddr {
        let field = self.head.all(Name::Via).next();
        let value = field
            .map(|field| self.head.value(field))
            .unwrap_or_default();
        let top = split_list(value, b',')
            .next()
            .and_then(|top| Via::parse(top.of(value)));
        top.map_or(source, |via| via.response_destination(source))
    }
}

fn annotate_top(value: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let top = split_list(value, b',').next()?;
    let mut text = Via::parse(top.of(value))?.annotated(top.of(value), source)?;
    text.extend_from_slice(value.get(top.end()..)?);
    Some(text)
}

fn write_field(text: &mut Vec<u8>, name: Name<'_>, value: &[u8]) {
    text.extend_from_slice(name.text().as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

//! Cutting a byte stream into messages (RFC 3261 section 18.3) with bounded memory.
//!
//! The framer reads the header block with the same routine as [`Message::parse`], so a stream and a datagram can
//! never be cut differently. What makes the end of a message uncertain ends the stream: guessing where the next
//! one starts is how requests get smuggled.

use bytes::{Buf, Bytes, BytesMut};

use super::error::{Defect, DropReason, ParseError};
use super::head::Head;
use super::{MAX_MESSAGE_BYTES, Message, refuse};

const EMPTY_LINE: &[u8] = b"\r\n\r\n";

/// One thing read from the stream.
#[derive(Clone, Debug)]
pub enum Frame {
    Message(Message),
    /// A message of known extent that is malformed. The stream goes on behind it.
    Invalid(ParseError),
    /// A double CRLF between messages: the peer expects one CRLF back (RFC 5626 section 3.5.1).
    Ping,
}

/// The stream cannot be read any further: answer if the error says so, then close the connection.
#[derive(Clone, Debug, thiserror::Error)]
#[error("stream lost its framing: {0}")]
pub struct FramingError(#[source] pub ParseError);

#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    /// Everything before this offset has been searched for the empty line.
    searched: usize,
    /// The header block found, while its body is still arriving.
    pending: Option<(Head, usize)>,
    broken: Option<FramingError>,
}

impl Framer {
    pub fn new() -> Framer {
        Framer::default()
    }

    /// How many bytes the framer takes at most before [`Framer::next_frame`] must be called until it returns
    /// `None`. Reading no more than this from the socket is the back-pressure.
    pub fn room(&self) -> usize {
        MAX_MESSAGE_BYTES.saturating_sub(self.buffer.len())
    }

    /// Takes bytes from the stream, at most [`Framer::room`] of them; returns how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.buffer
            .extend_from_slice(bytes.get(..taken).unwrap_or_default());
        taken
    }

    /// The next frame; `Ok(None)` when more bytes are needed. After an error every further call returns it again.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FramingError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let frame = self.read();
        if let Err(error) = &frame {
            self.broken = Some(error.clone());
            self.buffer.clear();
        }
        frame
    }

    fn read(&mut self) -> Result<Option<Frame>, FramingError> {
        if self.pending.is_none() {
            if self.buffer.starts_with(EMPTY_LINE) {
                self.skip(EMPTY_LINE.len());
                return Ok(Some(Frame::Ping));
            }
            while self.buffer.starts_with(b"\r\n") {
                // A lone CRLF may be the first half of a ping.
                if EMPTY_LINE.starts_with(&self.buffer) {
                    return Ok(None);
                }
                self.skip(2);
            }
            self.pending = self.read_head()?;
        }
        let Some((head, length)) = self.pending.take() else {
            return Ok(None);
        };
        let Some(end) = head
            .end
            .checked_add(length)
            .filter(|end| *end <= MAX_MESSAGE_BYTES)
        else {
            return Err(FramingError(refuse(Defect::TooLarge, head)));
        };
        if self.buffer.len() < end {
            self.pending = Some((head, length));
            return Ok(None);
        }
        let bytes = self.buffer.split_to(end).freeze();
        self.searched = 0;
        Ok(Some(
            Message::finish(bytes, head).map_or_else(Frame::Invalid, Frame::Message),
        ))
    }

    fn read_head(&mut self) -> Result<Option<(Head, usize)>, FramingError> {
        let from = self.searched.saturating_sub(EMPTY_LINE.len() - 1);
        let window = self.buffer.get(from..).unwrap_or_default();
        let found = window
            .windows(EMPTY_LINE.len())
            .position(|window| window == EMPTY_LINE);
        let Some(position) = found else {
            self.searched = self.buffer.len();
            if self.room() == 0 {
                return Err(FramingError(ParseError::Drop(DropReason::TooLarge)));
            }
            return Ok(None);
        };
        let end = from + position + EMPTY_LINE.len();
        let block = Bytes::copy_from_slice(self.buffer.get(..end).unwrap_or_default());
        let head = Head::scan(&block).map_err(|reason| FramingError(ParseError::Drop(reason)))?;
        // A header block that stops early (too many headers) leaves the message's end unknown.
        if head.end != end {
            let defect = head.defect.unwrap_or(Defect::NoEmptyLine);
            return Err(FramingError(refuse(defect, head)));
        }
        // RFC 3261 section 20.14: "If a stream-based protocol (such as TCP) is used as transport, then the header
        // field MUST be used."
        match head.content_length() {
            Ok(Some(length)) => Ok(Some((head, length))),
            Ok(None) => Err(FramingError(refuse(Defect::NoContentLength, head))),
            Err(defect) => Err(FramingError(refuse(defect, head))),
        }
    }

    fn skip(&mut self, count: usize) {
        self.buffer.advance(count);
        self.searched = 0;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn message(call: &str, body: &str) -> String {
        format!(
            "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP c;branch=z9hG4bK{call}\r\nFrom: <sip:c@d>;tag=1\r\n\
             To: <sip:a@b>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Everything `stream` yields when it arrives in chunks of `size` bytes.
    fn frames(stream: &[u8], size: usize) -> Result<Vec<Frame>, FramingError> {
        let mut framer = Framer::new();
        let mut frames = Vec::new();
        for chunk in stream.chunks(size) {
            assert_eq!(framer.push(chunk), chunk.len());
            while let Some(frame) = framer.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn the_chunking_makes_no_difference() {
        let (one, two) = (message("one", ""), message("two", "body\r\n\r\nOPTIONS x"));
        let stream = format!("\r\n{one}\r\n\r\n\r\n{two}{one}");
        for size in 1..stream.len() {
            let mut texts = Vec::new();
            let mut pings = 0;
            for frame in frames(stream.as_bytes(), size).unwrap() {
                match frame {
                    Frame::Message(message) => texts.push(message.bytes().clone()),
                    Frame::Ping => pings += 1,
                    Frame::Invalid(error) => panic!("{error}"),
                }
            }
            assert_eq!(
                texts,
                [one.as_bytes(), two.as_bytes(), one.as_bytes()],
                "chunks of {size}"
            );
            assert_eq!(pings, 1, "chunks of {size}");
        }
    }

    #[test]
    fn a_malformed_message_does_not_end_the_stream() {
        let bad = message("bad", "").replace("1 OPTIONS", "1 INVITE");
        let frames = frames(format!("{bad}{}", message("good", "")).as_bytes(), 7).unwrap();
        assert!(matches!(
            &frames[..],
            [Frame::Invalid(ParseError::Answer(_)), Frame::Message(_)]
        ));
    }

    #[test]
    fn uncertain_framing_ends_the_stream() {
        let good = message("good", "");
        for (from, to) in [
            ("Content-Length: 0", "X: 0"),
            ("Content-Length: 0", "Content-Length: 0\r\nl: 5"),
            ("Content-Length: 0", "Content-Length: -1"),
            ("Content-Length: 0", "Content-Length: 99999999999"),
            ("Content-Length: 0", "Content-Length: 65536"),
            ("Content-Length: 0", "Content-Length: 0\nX: y"),
        ] {
            let stream = format!("{}{good}", good.replace(from, to));
            assert!(frames(stream.as_bytes(), 64).is_err(), "{to:?}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut framer = Framer::new();
        let mut pushed = 0;
        let error = loop {
            pushed += framer.push(&[b'a'; 4096]);
            if let Err(error) = framer.next_frame() {
                break error;
            }
        };
        assert_eq!(pushed, MAX_MESSAGE_BYTES);
        assert!(matches!(error.0, ParseError::Drop(DropReason::TooLarge)));
        assert!(framer.next_frame().is_err());
    }
}

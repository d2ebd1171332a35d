//! The header block as an index of offsets. Stream framing and datagram parsing both start here, so they cannot
//! disagree about where a message ends.

use bytes::{Bytes, BytesMut};

use super::error::{Defect, DropReason};
use super::lexis::{Span, is_control, is_lws, number, token};
use super::name::{Known, Name};

/// More header lines than this are refused with 400.
pub const MAX_HEADERS: usize = 256;

/// Largest value a Content-Length can have and still be read; larger ones are refused with 400.
const MAX_CONTENT_LENGTH: u64 = u32::MAX as u64;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) known: Option<Known>,
}

/// Start line and header fields of one message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The header block with every fold replaced by blanks of equal length: offsets are those of the original
    /// (RFC 3261 section 7.3.1 makes a fold equal to one space).
    pub(crate) text: Bytes,
    pub(crate) start_line: Span,
    pub(crate) fields: Vec<Field>,
    /// Offset behind the empty line.
    pub(crate) end: usize,
    /// The first thing wrong that still lets a request be answered.
    pub(crate) defect: Option<Defect>,
}

impl Head {
    /// Indexes the header block at the front of `bytes`, which starts at the start line.
    ///
    /// Bare CR or LF, stray control characters and a folded start line end in `DropReason`: such a text means
    /// different things to different parsers, so nothing in it is worth an answer.
    pub(crate) fn scan(bytes: &Bytes) -> Result<Head, DropReason> {
        let first = Line::read(bytes, 0)?.ok_or(DropReason::NoStartLine)?;
        if first.control {
            return Err(DropReason::ControlCharacter);
        }
        let mut scan = Scan {
            bytes,
            fields: Vec::new(),
            folds: Vec::new(),
            defect: None,
        };
        let end = scan.fields(first.next)?;
        let Scan {
            fields,
            folds,
            defect,
            ..
        } = scan;
        let text = unfolded(bytes.slice(..end), &folds);
        Ok(Head {
            text,
            start_line: Span::new(0, first.end),
            fields,
            end,
            defect,
        })
    }

    pub(crate) fn name<'a>(&'a self, field: &Field) -> Name<'a> {
        match field.known {
            Some(known) => Name::Known(known),
            None => Name::Other(token(field.name.of(&self.text)).unwrap_or_default()),
        }
    }

    pub(crate) fn all<'a>(&'a self, name: Name<'a>) -> impl Iterator<Item = &'a Field> {
        let name = name.normal();
        self.fields.iter().filter(move |field| match name {
            Name::Known(known) => field.known == Some(known),
            Name::Other(text) => {
                field.known.is_none()
                    && field
                        .name
                        .of(&self.text)
                        .eq_ignore_ascii_case(text.as_bytes())
            }
        })
    }

    pub(crate) fn value(&self, field: &Field) -> &[u8] {
        field.value.of(&self.text)
    }

    /// The one reading of Content-Length. `Ok(None)` when there is none.
    ///
    /// Only digits count; a sign, a list or a second header that differs is an attempt to make two parsers
    /// disagree. Equal repetitions are harmless.
    pub(crate) fn content_length(&self) -> Result<Option<usize>, Defect> {
        let mut found = None;
        for field in self.all(Name::ContentLength) {
            let length = number(self.value(field), MAX_CONTENT_LENGTH)
                .and_then(|length| usize::try_from(length).ok())
                .ok_or(Defect::ContentLength)?;
            if found.is_some_and(|earlier| earlier != length) {
                return Err(Defect::ContentLengthConflict);
            }
            found = Some(length);
        }
        Ok(found)
    }
}

/// One physical line.
struct Line {
    end: usize,
    next: usize,
    control: bool,
}

impl Line {
    /// `Ok(None)` when the text ends before a CRLF.
    fn read(bytes: &[u8], start: usize) -> Result<Option<Line>, DropReason> {
        let mut control = false;
        for (offset, byte) in bytes.iter().enumerate().skip(start) {
            match byte {
                b'\r' => {
                    return match bytes.get(offset + 1) {
                        Some(b'\n') => Ok(Some(Line {
                            end: offset,
                            next: offset + 2,
                            control,
                        })),
                        Some(_) => Err(DropReason::BareLineEnd),
                        None => Ok(None),
                    };
                }
                b'\n' => return Err(DropReason::BareLineEnd),
                byte => control |= is_control(*byte),
            }
        }
        Ok(None)
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    fields: Vec<Field>,
    folds: Vec<usize>,
    defect: Option<Defect>,
}

impl Scan<'_> {
    /// Reads fields from `start` to the empty line and returns the offset behind it.
    fn fields(&mut self, start: usize) -> Result<usize, DropReason> {
        let mut start = start;
        if self.is_blank(start) {
            return Err(DropReason::FoldedStartLine);
        }
        loop {
            let Some(line) = Line::read(self.bytes, start)? else {
                self.note(Defect::NoEmptyLine);
                return Ok(start);
            };
            if line.end == start {
                return Ok(line.next);
            }
            if self.fields.len() == MAX_HEADERS {
                self.note(Defect::TooManyHeaders);
                return Ok(start);
            }
            let name_limit = line.end;
            let (mut end, mut next, mut control) = (line.end, line.next, line.control);
            while self.is_blank(next) {
                let Some(more) = Line::read(self.bytes, next)? else {
                    break;
                };
                self.folds.push(end);
                (end, next, control) = (more.end, more.next, control || more.control);
            }
            self.field(start, name_limit, end, control)?;
            start = next;
        }
    }

    fn field(
        &mut self,
        start: usize,
        name_limit: usize,
        end: usize,
        control: bool,
    ) -> Result<(), DropReason> {
        let line = self.bytes.get(start..name_limit).unwrap_or_default();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            self.note(Defect::HeaderLine);
            return Ok(());
        };
        let name = Span::new(start, start + colon).trimmed(self.bytes);
        let Some(text) = token(name.of(self.bytes)) else {
            self.note(Defect::HeaderLine);
            return if control {
                Err(DropReason::ControlCharacter)
            } else {
                Ok(())
            };
        };
        let value = Span::new(start + colon + 1, end).trimmed(self.bytes);
        if control && !controls_are_escaped(value.of(self.bytes)) {
            return Err(DropReason::ControlCharacter);
        }
        let known = match Name::parse(text) {
            Name::Known(known) => Some(known),
            Name::Other(_) => None,
        };
        self.fields.push(Field { name, value, known });
        Ok(())
    }

    fn is_blank(&self, offset: usize) -> bool {
        matches!(self.bytes.get(offset), Some(b' ' | b'\t'))
    }

    fn note(&mut self, defect: Defect) {
        self.defect.get_or_insert(defect);
    }
}

/// `quoted-pair` of RFC 3261 section 25.1 lets a control character stand, escaped, in a quoted string.
fn controls_are_escaped(value: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte if is_control(*byte) && !is_lws(*byte) => return false,
            _ => {}
        }
    }
    true
}

fn unfolded(head: Bytes, folds: &[usize]) -> Bytes {
    if folds.is_empty() {
        return head;
    }
    let mut text = BytesMut::from(&head[..]);
    for fold in folds {
        if let Some(line_end) = text.get_mut(*fold..fold.saturating_add(2)) {
            line_end.fill(b' ');
        }
    }
    text.freeze()
}

//! Records of other versions, made from ours: protobuf fields put in and taken out without knowing the message.

/// One field of an encoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    number: u64,
    wire_type: u64,
    /// Everything behind the tag, the length of a length-delimited field excluded.
    content: Vec<u8>,
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

/// A field number that no record of ours uses.
const UNKNOWN: u64 = 900;

/// The message as a later version might write it: with a field of every wire type that we do not know. `path` leads,
/// by field numbers, to the messages inside that get them.
///
/// # Panics
/// If the bytes are no message.
pub fn with_unknown_fields(bytes: &[u8], path: &[u64]) -> Vec<u8> {
    change(bytes, path, &|fields| {
        for (wire_type, content) in [
            (VARINT, vec![0xff, 0x01]),
            (FIXED64, vec![7; 8]),
            (DELIMITED, b"unknown".to_vec()),
            (FIXED32, vec![9; 4]),
        ] {
            fields.push(Field {
                number: UNKNOWN + wire_type,
                wire_type,
                content,
            });
        }
    })
}

/// The message as an earlier version might have written it: without one of its fields.
///
/// # Panics
/// If the bytes are no message.
pub fn without_field(bytes: &[u8], path: &[u64], number: u64) -> Vec<u8> {
    change(bytes, path, &|fields| {
        fields.retain(|field| field.number != number)
    })
}

fn change(bytes: &[u8], path: &[u64], edit: &dyn Fn(&mut Vec<Field>)) -> Vec<u8> {
    let mut fields = parse(bytes);
    match path.split_first() {
        None => edit(&mut fields),
        Some((next, rest)) => {
            let inner = fields
                .iter_mut()
                .filter(|field| field.number == *next && field.wire_type == DELIMITED);
            for field in inner {
                field.content = change(&field.content, rest, edit);
            }
        }
    }
    let mut out = Vec::new();
    for field in fields {
        put_varint(&mut out, field.number << 3 | field.wire_type);
        if field.wire_type == DELIMITED {
            put_varint(&mut out, field.content.len() as u64);
        }
        out.extend(field.content);
    }
    out
}

fn parse(mut bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let wire_type = tag & 7;
        let before = bytes;
        let content = match wire_type {
            VARINT => {
                varint(&mut bytes);
                before[..before.len() - bytes.len()].to_vec()
            }
            FIXED64 => take(&mut bytes, 8),
            DELIMITED => {
                let length = varint(&mut bytes);
                take(
                    &mut bytes,
                    usize::try_from(length).expect("a length within the message"),
                )
            }
            FIXED32 => take(&mut bytes, 4),
            other => panic!("wire type {other}"),
        };
        fields.push(Field {
            number: tag >> 3,
            wire_type,
            content,
        });
    }
    fields
}

fn take(bytes: &mut &[u8], length: usize) -> Vec<u8> {
    let (content, rest) = bytes.split_at(length);
    *bytes = rest;
    content.to_vec()
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes
            .split_first()
            .expect("the message ends inside a number");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a number of more than ten bytes")
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 1 is 300, field 2 a message whose field 1 is 5.
    const MESSAGE: [u8; 7] = [0x08, 0xac, 0x02, 0x12, 0x02, 0x08, 0x05];

    #[test]
    fn fields_go_in_and_out_where_the_path_leads() {
        assert_eq!(without_field(&MESSAGE, &[], 9), MESSAGE);
        assert_eq!(without_field(&MESSAGE, &[], 1), MESSAGE[3..]);
        assert_eq!(
            without_field(&MESSAGE, &[2], 1),
            [0x08, 0xac, 0x02, 0x12, 0x00]
        );
        let more = with_unknown_fields(&MESSAGE, &[]);
        assert_eq!(more[..7], MESSAGE);
        assert_eq!(parse(&more).len(), 6);
        let inner = with_unknown_fields(&MESSAGE, &[2]);
        assert_eq!(parse(&inner).len(), 2);
        assert_eq!(parse(&parse(&inner)[1].content).len(), 5);
    }
}

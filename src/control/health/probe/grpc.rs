//! The two messages of `grpc.health.v1.Health/Check`, written and read by hand: they have one field each.
//!
//! Source: "GRPC Health Checking Protocol", and the wire format of Protocol Buffers.

use bytes::Bytes;

/// Where the question goes.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";

/// The status that means success.
const SERVING: u64 = 1;

/// A message in its frame: not compressed, its length, then the name of the service unless it is empty.
pub(super) fn question(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 16);
    if !service.is_empty() {
        message.push(1 << 3 | LENGTH_DELIMITED as u8);
        write_varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).expect("a name of a service is short");
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.append(&mut message);
    framed.into()
}

/// Whether a framed answer says `SERVING`; `None` when it is no such message.
pub(super) fn is_serving(framed: &[u8]) -> Option<bool> {
    let (head, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    // Nobody may compress it, for we have not said that we could read that.
    if head[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut left = message;
    // A field that is left out is 0: unknown.
    let mut status = 0;
    while !left.is_empty() {
        let key = read_varint(&mut left)?;
        match (key >> 3, key & 7) {
            (1, VARINT) => status = read_varint(&mut left)?,
            (_, VARINT) => drop(read_varint(&mut left)?),
            (_, FIXED_64) => left = left.get(8..)?,
            (_, LENGTH_DELIMITED) => {
                let length = usize::try_from(read_varint(&mut left)?).ok()?;
                left = left.get(length..)?;
            }
            (_, FIXED_32) => left = left.get(4..)?,
            _ => return None,
        }
    }
    Some(status == SERVING)
}

fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_the_service_or_nothing() {
        assert_eq!(&*question(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*question("carts"), b"\0\0\0\0\x07\x0a\x05carts");
        let long = question(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn an_answer_is_read_whatever_else_is_in_it() {
        let rows: [(&[u8], Option<bool>); 14] = [
            (b"\x08\x01", Some(true)),
            (b"\x08\x02", Some(false)),
            (b"\x08\x03", Some(false)),
            (b"", Some(false)),
            // The last one counts.
            (b"\x08\x02\x08\x01", Some(true)),
            // Fields of a later version: a varint, 64 bits, a text, 32 bits.
            (b"\x10\xac\x02\x19abcdefgh\x22\x02ok\x2dabcd\x08\x01", Some(true)),
            (b"\x08", None),
            (b"\x08\x80", None),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
            (b"\x0a\x01", None),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
            (b"\x09abc", None),
            (b"\x0d", None),
            (b"\x0b", None),
        ];
        for (message, expected) in rows {
            let mut framed = vec![0, 0, 0, 0, message.len() as u8];
            framed.extend_from_slice(message);
            assert_eq!(is_serving(&framed), expected, "{message:?}");
        }
        for framed in
            [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x03\x08\x01", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x01\x08\x01"]
        {
            assert_eq!(is_serving(framed), None, "{framed:?}");
        }
    }
}

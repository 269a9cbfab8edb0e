//! JSON strings from bytes that a client chose.

/// Longest text written; a longer one is cut and ends in `…`.
pub(super) const LONGEST: usize = 8 * 1024;

/// Appends `bytes` as a JSON string, quotes included.
///
/// Whatever is not UTF-8 becomes U+FFFD, so that the result is valid whatever a client sent. No allocation beyond the
/// growth of `out`.
pub(super) fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let kept = cut(bytes);
    out.push(b'"');
    for chunk in kept.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    if kept.len() < bytes.len() {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

/// The first [`LONGEST`] bytes, fewer where that would split a character.
fn cut(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= LONGEST {
        return bytes;
    }
    // A character has at most three continuation bytes; more of them are not UTF-8, and may be cut anywhere.
    let boundary = (LONGEST - 3..=LONGEST).rev().find(|at| bytes[*at] & 0xc0 != 0x80);
    &bytes[..boundary.unwrap_or(LONGEST)]
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut copied = 0;
    for (at, byte) in text.iter().copied().enumerate() {
        // DEL is allowed in JSON, but a terminal that shows the log would obey it.
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7f {
            continue;
        }
        out.extend_from_slice(&text[copied..at]);
        copied = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    out.extend_from_slice(&text[copied..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write_string(&mut out, bytes);
        String::from_utf8(out).expect("always UTF-8")
    }

    #[test]
    fn what_would_end_the_string_or_the_line_is_escaped() {
        assert_eq!(written(b"/a?b=c"), r#""/a?b=c""#);
        assert_eq!(written(b"a\"b\\c\nd\0\x1b\x7f"), r#""a\"b\\c\u000ad\u0000\u001b\u007f""#);
        assert_eq!(written("für 水".as_bytes()), r#""für 水""#);
        assert_eq!(written(b"a\xffb\xe6\xb0"), "\"a\u{fffd}b\u{fffd}\"");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        assert_eq!(written(&[b'a'; LONGEST]).len(), LONGEST + 2);
        assert_eq!(written(&[b'a'; LONGEST + 1]), format!("\"{}…\"", "a".repeat(LONGEST)));
        let text = format!("{}水水", "a".repeat(LONGEST - 2));
        assert_eq!(written(text.as_bytes()), format!("\"{}…\"", "a".repeat(LONGEST - 2)));
        assert_eq!(written(&[0x80; LONGEST + 9]), format!("\"{}…\"", "\u{fffd}".repeat(LONGEST)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_back_as_the_text_they_hold(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let read: String = serde_json::from_str(&written(&bytes)).expect("valid JSON");
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_text_is_read_back_as_it_was(text in ".{0,256}") {
            let read: String = serde_json::from_str(&written(text.as_bytes())).expect("valid JSON");
            prop_assert_eq!(read, text);
        }
    }
}

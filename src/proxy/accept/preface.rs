//! Which version of HTTP a client begins with: told by its first bytes, while hyper waits for them.

/// What a client of HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection have told so far.
#[derive(Debug)]
pub(super) enum Beginning {
    /// Nothing, or all of them are of the preface: they are kept here.
    Open(Vec<u8>),
    /// HTTP/1.1, or nobody asks.
    Http1,
    /// HTTP/2; with everything that was read.
    Http2(Vec<u8>),
}

impl Beginning {
    /// How many bytes are kept that may yet be for HTTP/1.1.
    pub(super) fn kept(&self) -> usize {
        match self {
            Self::Open(kept) => kept.len(),
            Self::Http1 | Self::Http2(_) => 0,
        }
    }

    /// Looks at bytes that were read. Gives what was kept before, when all of it is for HTTP/1.1; `None` keeps them.
    ///
    /// Costs a comparison where the first bytes are not of the preface, which is all but always.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let Self::Open(kept) = self else { return Some(Vec::new()) };
        let at = kept.len();
        let common = bytes.len().min(PREFACE.len() - at);
        // The end of the stream, or something else than the preface.
        if common == 0 || bytes[..common] != PREFACE[at..at + common] {
            let kept = std::mem::take(kept);
            *self = Self::Http1;
            return Some(kept);
        }
        kept.extend_from_slice(bytes);
        if kept.len() >= PREFACE.len() {
            *self = Self::Http2(std::mem::take(kept));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is handed on, and whether it is HTTP/2.
    fn looked(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut beginning = Beginning::Open(Vec::new());
        let mut handed_on = Vec::new();
        for piece in pieces {
            if let Some(kept) = beginning.look(piece) {
                handed_on.extend(kept);
                handed_on.extend_from_slice(piece);
            }
        }
        (handed_on, matches!(beginning, Beginning::Http2(_)))
    }

    #[test]
    fn only_the_whole_preface_is_http2_however_it_is_cut() {
        type Pieces = &'static [&'static [u8]];
        let rows: [(Pieces, &[u8], bool); 8] = [
            (&[b"GET / HTTP/1.1\r\n"], b"GET / HTTP/1.1\r\n", false),
            (&[b"P", b"OST /"], b"POST /", false),
            (&[b"PRI * HTTP/2.0\r\n\r\n", b"XX"], b"PRI * HTTP/2.0\r\n\r\nXX", false),
            (&[b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"], b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", false),
            (&[b"P", b""], b"P", false),
            (&[PREFACE], b"", true),
            (&[b"PRI", b" * HTTP/2.0\r\n\r\nSM\r\n\r", b"\n\0\0"], b"", true),
            (&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0"], b"", true),
        ];
        for (pieces, handed_on, is_http2) in rows {
            assert_eq!(looked(pieces), (handed_on.to_vec(), is_http2), "{pieces:?}");
        }
    }

    #[test]
    fn what_came_with_the_preface_is_kept() {
        let mut beginning = Beginning::Open(Vec::new());
        assert_eq!(beginning.look(&PREFACE[..5]), None);
        assert_eq!(beginning.look(&[&PREFACE[5..], b"\0\0\0\x04"].concat()), None);
        let Beginning::Http2(kept) = beginning else { panic!("HTTP/2") };
        assert_eq!(kept, [PREFACE, b"\0\0\0\x04"].concat());
    }
}

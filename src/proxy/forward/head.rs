//! The head of a backend's reply: parsed, and its framing decided (RFC 9112 §6.3).

use std::fmt;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::chunked::Chunked;

/// Longest head of a reply.
pub(super) const REPLY_HEAD_LIMIT: usize = 256 * 1024;

/// Most header lines of a reply.
const REPLY_HEADER_LINES: usize = 256;

/// Most header lines that are tried first, so that the common head needs a small stack frame.
const FEW_HEADER_LINES: usize = 48;

/// The head of one reply, 1xx included.
#[derive(Debug)]
pub struct ReplyHead {
    /// Status code.
    pub status: StatusCode,
    /// Header lines as received, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// Whether the backend speaks HTTP/1.1; otherwise 1.0.
    pub is_http_11: bool,
}

/// How the body of a reply ends.
#[derive(Debug)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// After this many more bytes.
    Length(u64),
    Chunked(Chunked),
    /// When the connection ends.
    UntilClose,
}

/// Why a reply cannot be understood. The connection it came on is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Not HTTP/1.x.
    Malformed,
    /// More bytes or lines than anybody needs.
    TooLarge,
    /// `Content-Length` or `Transfer-Encoding` that contradict each other or themselves.
    Framing,
    /// Not chunked coding.
    Chunk,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the reply is not HTTP/1.x",
            Self::TooLarge => "the head of the reply is too large",
            Self::Framing => "the length of the reply is ambiguous",
            Self::Chunk => "the reply's chunked coding is broken",
        })
    }
}

impl std::error::Error for HeadError {}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooLarge,
            _ => Self::Malformed,
        }
    }
}

/// Takes one head out of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// When it is not the head of a reply.
pub(super) fn parse(buffer: &mut BytesMut) -> Result<Option<ReplyHead>, HeadError> {
    let parsed = match scan::<FEW_HEADER_LINES>(buffer) {
        Err(HeadError::TooLarge) => scan::<REPLY_HEADER_LINES>(buffer)?.map(|scanned| scanned.take_from(buffer)),
        scanned => scanned?.map(|scanned| scanned.take_from(buffer)),
    };
    match parsed {
        Some(head) => head.map(Some),
        None if buffer.len() > REPLY_HEAD_LIMIT => Err(HeadError::TooLarge),
        None => Ok(None),
    }
}

/// Decides how the body that follows `head` ends.
///
/// # Errors
/// When lengths contradict each other: whoever guesses there can be made to guess wrong.
pub(super) fn framing(head: &ReplyHead, method: &Method) -> Result<Framing, HeadError> {
    let coding = head.headers.get_all(header::TRANSFER_ENCODING);
    let lengths = head.headers.get_all(header::CONTENT_LENGTH);
    if *method == Method::HEAD || matches!(head.status.as_u16(), 100..=199 | 204 | 304) {
        return Ok(Framing::Empty);
    }
    let mut codings = coding.iter();
    if let Some(first) = codings.next() {
        // Both at once is how replies are smuggled, and any coding but chunked would reach the client undecoded.
        let is_chunked = first.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if codings.next().is_some() || !is_chunked || !head.is_http_11 || lengths.iter().next().is_some() {
            return Err(HeadError::Framing);
        }
        return Ok(Framing::Chunked(Chunked::default()));
    }
    let mut lengths = lengths.iter();
    let Some(first) = lengths.next() else { return Ok(Framing::UntilClose) };
    let length = decimal(first.as_bytes())?;
    if lengths.any(|other| decimal(other.as_bytes()) != Ok(length)) {
        return Err(HeadError::Framing);
    }
    Ok(if length == 0 { Framing::Empty } else { Framing::Length(length) })
}

/// Header lines as a map whose values share `bytes`, in which the lines were found.
pub(super) fn header_map(bytes: &Bytes, lines: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadError> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadError::Malformed)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).map_err(|_| HeadError::Malformed)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// A head that was found at the start of a buffer: positions only, so that the buffer can be cut meanwhile.
struct Scanned<const N: usize> {
    length: usize,
    status: StatusCode,
    is_http_11: bool,
    lines: [Line; N],
    count: usize,
}

#[derive(Clone, Copy, Default)]
struct Line {
    name: (usize, usize),
    value: (usize, usize),
}

fn scan<const N: usize>(buffer: &[u8]) -> Result<Option<Scanned<N>>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; N];
    let mut reply = httparse::Response::new(&mut headers);
    let length = match reply.parse(buffer)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = reply.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(HeadError::Malformed)?;
    let start = buffer.as_ptr() as usize;
    let span = |part: &[u8]| {
        let at = part.as_ptr() as usize - start;
        (at, at + part.len())
    };
    let mut lines = [Line::default(); N];
    for (line, header) in lines.iter_mut().zip(reply.headers.iter()) {
        *line = Line { name: span(header.name.as_bytes()), value: span(header.value) };
    }
    let count = reply.headers.len();
    Ok(Some(Scanned { length, status, is_http_11: reply.version == Some(1), lines, count }))
}

impl<const N: usize> Scanned<N> {
    fn take_from(self, buffer: &mut BytesMut) -> Result<ReplyHead, HeadError> {
        let head = buffer.split_to(self.length).freeze();
        // Room for the lines that a reply may gain on its way, so that the map does not grow.
        let mut headers = HeaderMap::with_capacity(self.count + 2);
        for line in &self.lines[..self.count] {
            let name = HeaderName::from_bytes(&head[line.name.0..line.name.1]).map_err(|_| HeadError::Malformed)?;
            let value = HeaderValue::from_maybe_shared(head.slice(line.value.0..line.value.1))
                .map_err(|_| HeadError::Malformed)?;
            headers.append(name, value);
        }
        Ok(ReplyHead { status: self.status, headers, is_http_11: self.is_http_11 })
    }
}

fn decimal(text: &[u8]) -> Result<u64, HeadError> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::Framing);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(HeadError::Framing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Option<ReplyHead>, HeadError> {
        parse(&mut BytesMut::from(text))
    }

    #[test]
    fn a_head_is_taken_and_what_follows_stays() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX: \r\n\r\nbody");
        let head = parse(&mut buffer).expect("well formed").expect("complete");
        assert_eq!((head.status, head.is_http_11), (StatusCode::OK, true));
        assert_eq!(head.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(head.headers["x"], "");
        assert_eq!(&buffer[..], b"body");
    }

    #[test]
    fn an_incomplete_head_waits_and_an_endless_one_does_not() {
        assert!(parsed("HTTP/1.1 200 OK\r\nA: b\r\n").expect("so far so good").is_none());
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(REPLY_HEAD_LIMIT));
        assert!(matches!(parsed(&endless), Err(HeadError::TooLarge)));
        let many = |lines: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(lines));
        assert_eq!(
            parsed(&many(REPLY_HEADER_LINES)).expect("fits").expect("complete").headers.len(),
            REPLY_HEADER_LINES
        );
        assert!(matches!(parsed(&many(REPLY_HEADER_LINES + 1)), Err(HeadError::TooLarge)));
    }

    #[test]
    fn what_is_not_a_reply_is_an_error() {
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 099 X\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n",
            "\u{1}\u{2}\u{3}",
        ] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_framing_is_the_one_of_rfc_9112_or_an_error() {
        let table: [(&str, &Method, Result<&str, HeadError>); 16] = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", &Method::GET, Ok("Length(5)")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", &Method::GET, Ok("Empty")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n", &Method::GET, Ok("Length(5)")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n", &Method::GET, Err(HeadError::Framing)),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n", &Method::GET, Err(HeadError::Framing)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n", &Method::GET, Err(HeadError::Framing)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n", &Method::GET, Err(HeadError::Framing)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n", &Method::GET, Ok("Chunked")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n", &Method::GET, Err(HeadError::Framing)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                &Method::GET,
                Err(HeadError::Framing),
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", &Method::GET, Err(HeadError::Framing)),
            ("HTTP/1.1 200 OK\r\n", &Method::GET, Ok("UntilClose")),
            ("HTTP/1.1 204 No Content\r\n", &Method::GET, Ok("Empty")),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n", &Method::GET, Ok("Empty")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", &Method::HEAD, Ok("Empty")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", &Method::HEAD, Ok("Empty")),
        ];
        for (text, method, expected) in table {
            let head = parsed(&format!("{text}\r\n")).expect("well formed").expect("complete");
            let found = framing(&head, method).map(|framing| match framing {
                Framing::Chunked(_) => "Chunked".to_owned(),
                other => format!("{other:?}"),
            });
            assert_eq!(found.as_deref().map_err(|error| *error), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\n");
            buffer.extend_from_slice(&bytes);
            let _ = parse(&mut buffer);
            let _ = parse(&mut BytesMut::from(&bytes[..]));
        }
    }
}

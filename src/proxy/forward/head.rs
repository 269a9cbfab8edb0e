//! The head of a backend's reply: parsed, and its framing decided (RFC 9112 §6.3).

use std::fmt;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httparse::ParserConfig;
use hyper::ext::ReasonPhrase;

use super::chunked::Chunked;

/// Longest head of a reply.
pub(super) const REPLY_HEAD_LIMIT: usize = 256 * 1024;

/// Most header lines of a reply.
const REPLY_HEADER_LINES: usize = 256;

/// Most header lines that are tried first, so that the common head needs a small stack frame.
const FEW_HEADER_LINES: usize = 48;

/// The head of one reply, 1xx included.
///
/// What concerns only the hop from the backend is understood here and not kept, but for a `101`, whose `Connection` and
/// `Upgrade` are the message.
#[derive(Debug)]
pub struct ReplyHead {
    /// Status code.
    pub status: StatusCode,
    /// The reason phrase, when it is not the usual one.
    pub reason: Option<ReasonPhrase>,
    /// Header lines for the client, and words for us.
    pub headers: HeaderMap,
    /// What was seen on the way.
    pub(super) seen: Seen,
}

/// What the header lines of a reply say about framing and connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    is_http_11: bool,
    says_close: bool,
    says_keep_alive: bool,
    coding: Coding,
    length: Length,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    Chunked,
    /// More than one line, or any coding but chunked: it would reach the client undecoded.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    None,
    Bytes(u64),
    /// Not a number, or numbers that differ.
    Wrong,
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
    if *method == Method::HEAD || matches!(head.status.as_u16(), 100..=199 | 204 | 304) {
        return Ok(Framing::Empty);
    }
    match (head.seen.coding, head.seen.length) {
        (Coding::None, Length::None) => Ok(Framing::UntilClose),
        (Coding::None, Length::Bytes(0)) => Ok(Framing::Empty),
        (Coding::None, Length::Bytes(length)) => Ok(Framing::Length(length)),
        (Coding::Chunked, Length::None) if head.seen.is_http_11 => Ok(Framing::Chunked(Chunked::default())),
        // A coding beside a length is how replies are smuggled.
        (Coding::Chunked | Coding::Other, _) | (_, Length::Wrong) => Err(HeadError::Framing),
    }
}

/// Whether the backend keeps the connection open after this reply.
pub(super) fn keeps_alive(head: &ReplyHead) -> bool {
    (head.seen.is_http_11 || head.seen.says_keep_alive) && !head.seen.says_close
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
    reason: Option<ReasonPhrase>,
    is_http_11: bool,
    lines: [Line; N],
    count: usize,
}

/// Where name and value begin and end. A head is far shorter than 4 GiB.
#[derive(Clone, Copy, Default)]
struct Line {
    name: (u32, u32),
    value: (u32, u32),
}

// Inlined, so that the positions stay where they are instead of being copied out.
#[inline(always)]
fn scan<const N: usize>(buffer: &[u8]) -> Result<Option<Scanned<N>>, HeadError> {
    let mut headers = [const { MaybeUninit::uninit() }; N];
    let mut reply = httparse::Response::new(&mut []);
    let length = match ParserConfig::default().parse_response_with_uninit_headers(&mut reply, buffer, &mut headers)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = reply.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(HeadError::Malformed)?;
    let reason = reply.reason.filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let start = buffer.as_ptr() as usize;
    let span = |part: &[u8]| {
        let at = part.as_ptr() as usize - start;
        (at as u32, (at + part.len()) as u32)
    };
    let mut lines = [Line::default(); N];
    for (line, header) in lines.iter_mut().zip(reply.headers.iter()) {
        *line = Line { name: span(header.name.as_bytes()), value: span(header.value) };
    }
    let count = reply.headers.len();
    Ok(Some(Scanned { length, status, reason, is_http_11: reply.version == Some(1), lines, count }))
}

impl<const N: usize> Scanned<N> {
    #[inline(always)]
    fn take_from(self, buffer: &mut BytesMut) -> Result<ReplyHead, HeadError> {
        let head = buffer.split_to(self.length).freeze();
        let is_switching = self.status == StatusCode::SWITCHING_PROTOCOLS;
        let mut seen = Seen { is_http_11: self.is_http_11, ..Seen::default() };
        // Room for the lines that a reply may gain on its way, so that the map does not grow.
        let mut headers = HeaderMap::with_capacity(self.count + 2);
        for line in &self.lines[..self.count] {
            let name = &head[line.name.0 as usize..line.name.1 as usize];
            let value = line.value.0 as usize..line.value.1 as usize;
            if !seen.keeps(name, &head[value.clone()]) && !is_switching {
                continue;
            }
            let name = HeaderName::from_bytes(name).map_err(|_| HeadError::Malformed)?;
            let value = HeaderValue::from_maybe_shared(head.slice(value)).map_err(|_| HeadError::Malformed)?;
            headers.append(name, value);
        }
        Ok(ReplyHead { status: self.status, reason: self.reason, headers, seen })
    }
}

impl Seen {
    /// Takes note of a line, and says whether it is for the client.
    fn keeps(&mut self, name: &[u8], value: &[u8]) -> bool {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        // By length, so that most names are told apart by one comparison of numbers.
        match name.len() {
            2 => !is("te"),
            7 => !is("upgrade"),
            10 if is("keep-alive") => false,
            10 if is("connection") => self.connection(value),
            14 if is("content-length") => {
                self.length(value);
                true
            }
            16 => !is("proxy-connection"),
            17 if is("transfer-encoding") => {
                self.coding(value);
                false
            }
            18 => !is("proxy-authenticate"),
            _ => true,
        }
    }

    /// Says whether the line names header lines: those have to be removed with it, by whoever has them all.
    fn connection(&mut self, value: &[u8]) -> bool {
        let mut names_lines = false;
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.says_close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.says_keep_alive = true;
            } else if !option.is_empty() && !option.eq_ignore_ascii_case(b"upgrade") {
                names_lines = true;
            }
        }
        names_lines
    }

    fn coding(&mut self, value: &[u8]) {
        let is_chunked = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
        self.coding = if self.coding == Coding::None && is_chunked { Coding::Chunked } else { Coding::Other };
    }

    fn length(&mut self, value: &[u8]) {
        self.length = match (self.length, decimal(value)) {
            (Length::None, Some(bytes)) => Length::Bytes(bytes),
            (Length::Bytes(known), Some(bytes)) if known == bytes => Length::Bytes(bytes),
            _ => Length::Wrong,
        };
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
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
        assert_eq!((head.status, head.seen.is_http_11), (StatusCode::OK, true));
        assert_eq!(head.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(head.headers["x"], "");
        assert!(head.reason.is_none(), "the usual one goes without saying");
        let odd = parsed("HTTP/1.1 299 Odd one\r\n\r\n").expect("well formed").expect("complete");
        assert_eq!(odd.reason.expect("another one").as_bytes(), b"Odd one");
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

    #[test]
    fn what_concerns_the_hop_is_understood_and_not_kept() {
        let lines = "Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTE: x\r\nX: 1\r\n";
        let names = |text: &str| {
            let head = parsed(text).expect("well formed").expect("complete");
            let mut names: Vec<_> = head.headers.keys().map(ToString::to_string).collect();
            names.sort();
            (names, keeps_alive(&head))
        };
        assert_eq!(names(&format!("HTTP/1.0 200 OK\r\n{lines}\r\n")), (vec!["x".to_owned()], true));
        assert_eq!(names("HTTP/1.0 200 OK\r\n\r\n"), (vec![], false));
        assert_eq!(names("HTTP/1.1 200 OK\r\n\r\n"), (vec![], true));
        assert_eq!(names("HTTP/1.1 200 OK\r\nConnection: keep-alive, CLOSE\r\n\r\n"), (vec![], false));
        let named = names("HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n");
        assert_eq!(
            named,
            (vec!["connection".to_owned(), "x-hop".to_owned()], true),
            "whoever has them all removes them"
        );
        let switching = names("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(switching.0, ["connection", "upgrade"]);
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

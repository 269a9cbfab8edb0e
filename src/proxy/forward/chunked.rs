//! The chunked coding of a backend's reply (RFC 9112 §7.1), one piece at a time.
//!
//! Strict where leniency would let two parsers disagree: sizes are hexadecimal digits only, lines end with CRLF, data is
//! followed by CRLF. Extensions are skipped, and they and the trailers are bounded.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::head::{HeadError, header_map};

/// Longest line with a chunk size, extensions included.
const SIZE_LINE_LIMIT: usize = 4096;

/// Longest trailer section.
const TRAILER_LIMIT: usize = 16 * 1024;

/// Most trailer lines.
const TRAILER_LINES: usize = 64;

/// Reads chunked data out of a buffer that is filled from outside.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// Before a line with a chunk size.
    #[default]
    Size,
    /// Within a chunk that has this many bytes left.
    Data(u64),
    /// Before the CRLF that follows a chunk.
    DataEnd,
    /// After the last chunk.
    Trailers,
    Ended,
}

/// What was found in the buffer.
#[derive(Debug)]
pub(super) enum Piece {
    /// Never empty.
    Data(Bytes),
    /// The end, with the trailers if there were any.
    End(Option<HeaderMap>),
    /// More bytes are needed.
    Incomplete,
}

impl Chunked {
    /// Takes the next piece out of `buffer`.
    ///
    /// # Errors
    /// When the bytes are not chunked coding; the connection is of no use then.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Piece, HeadError> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line_end) = line_end(buffer, SIZE_LINE_LIMIT)? else { return Ok(Piece::Incomplete) };
                    let size = chunk_size(&buffer[..line_end])?;
                    buffer.advance(line_end + 2);
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Piece::Incomplete);
                    }
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Piece::Data(buffer.split_to(taken).freeze()));
                }
                State::DataEnd => {
                    if buffer.len() < 2 {
                        return Ok(Piece::Incomplete);
                    }
                    if &buffer[..2] != b"\r\n" {
                        return Err(HeadError::Chunk);
                    }
                    buffer.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => {
                    if buffer.starts_with(b"\r\n") {
                        buffer.advance(2);
                        self.state = State::Ended;
                        return Ok(Piece::End(None));
                    }
                    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
                        return if buffer.len() > TRAILER_LIMIT {
                            Err(HeadError::TooLarge)
                        } else {
                            Ok(Piece::Incomplete)
                        };
                    };
                    if end > TRAILER_LIMIT {
                        return Err(HeadError::TooLarge);
                    }
                    let section = buffer.split_to(end + 4).freeze();
                    self.state = State::Ended;
                    return Ok(Piece::End(Some(trailers(&section)?)));
                }
                State::Ended => return Ok(Piece::End(None)),
            }
        }
    }
}

fn line_end(buffer: &[u8], limit: usize) -> Result<Option<usize>, HeadError> {
    match memchr::memchr(b'\n', &buffer[..buffer.len().min(limit)]) {
        Some(at) if at > 0 && buffer[at - 1] == b'\r' => Ok(Some(at - 1)),
        Some(_) => Err(HeadError::Chunk),
        None if buffer.len() >= limit => Err(HeadError::TooLarge),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, HeadError> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let rest = line[digits..].trim_ascii_start();
    // Sixteen digits would fit, but nobody sends chunks of 2^60 bytes in earnest.
    if digits == 0 || digits > 15 || !(rest.is_empty() || rest[0] == b';') {
        return Err(HeadError::Chunk);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| HeadError::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| HeadError::Chunk)
}

fn trailers(section: &Bytes) -> Result<HeaderMap, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; TRAILER_LINES];
    match httparse::parse_headers(section, &mut headers) {
        Ok(httparse::Status::Complete((_, headers))) => header_map(section, headers),
        Ok(httparse::Status::Partial) => Err(HeadError::Chunk),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Option<HeaderMap>, bool), HeadError> {
        let mut decoder = Chunked::default();
        let mut buffer = BytesMut::new();
        let (mut data, mut at) = (Vec::new(), 0);
        let mut cuts = cuts.iter().copied().chain([bytes.len()]);
        loop {
            match decoder.decode(&mut buffer)? {
                Piece::Data(bytes) => data.extend_from_slice(&bytes),
                Piece::End(trailers) => return Ok((data, trailers, true)),
                Piece::Incomplete => {
                    let Some(cut) = cuts.next() else { return Ok((data, None, false)) };
                    let cut = cut.clamp(at, bytes.len());
                    buffer.extend_from_slice(&bytes[at..cut]);
                    at = cut;
                }
            }
        }
    }

    #[test]
    fn data_and_trailers_come_out_wherever_the_bytes_are_cut() {
        let bytes = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n";
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let (data, trailers, ended) = decode_in_pieces(bytes, &[first, second]).expect("well formed");
                assert_eq!(data, b"hello world");
                assert!(ended);
                assert_eq!(trailers.expect("two trailers")["x-more"], "2");
            }
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_an_error() {
        for bad in [
            &b"5\nhello\n0\n\n"[..],
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"1234567890abcdef0\r\n",
            b"0\r\nno colon\r\n\r\n",
        ] {
            assert!(decode_in_pieces(bad, &[]).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn endless_extensions_and_trailers_are_cut_off() {
        let long = [b"5;".as_slice(), &vec![b'a'; SIZE_LINE_LIMIT]].concat();
        assert!(matches!(decode_in_pieces(&long, &[]), Err(HeadError::TooLarge)));
        let long = [b"0\r\nX: ".as_slice(), &vec![b'a'; TRAILER_LIMIT + 1]].concat();
        assert!(matches!(decode_in_pieces(&long, &[]), Err(HeadError::TooLarge)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let _ = decode_in_pieces(&bytes, &[cut]);
        }
    }
}

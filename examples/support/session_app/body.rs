//! Bodies of replies, and the checksum of bodies of requests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The body of a reply.
#[derive(Debug)]
pub enum ReplyBody {
    /// All of it at hand.
    Whole(Bytes),
    /// So many bytes of the pattern, of which some may never come.
    Pattern(Pattern),
    /// Chunks as they come.
    Chunks(mpsc::Receiver<Bytes>),
}

/// Bytes of [`pattern`], made as they are sent.
#[derive(Debug)]
pub struct Pattern {
    sent: u64,
    length: u64,
    breaks: Option<Break>,
}

/// Where a body breaks off.
#[derive(Debug)]
struct Break {
    at: u64,
    /// What was sent before has been handed to the system; otherwise it would be lost with the rest.
    flushed: bool,
}

impl ReplyBody {
    /// The first `length` bytes of the pattern.
    pub fn pattern(length: u64) -> Self {
        Self::Pattern(Pattern { sent: 0, length, breaks: None })
    }

    /// Announces `length` bytes and breaks off half way.
    pub fn broken(length: u64) -> Self {
        Self::Pattern(Pattern { sent: 0, length, breaks: Some(Break { at: length / 2, flushed: false }) })
    }

    /// `count` chunks, `apart` from one another. The first comes at once; they end with the client.
    pub fn chunks(count: u64, apart: Duration) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for n in 0..count {
                if n > 0 && !apart.is_zero() {
                    sleep(apart).await;
                }
                if sender.send(format!("chunk {n}\n").into()).await.is_err() {
                    return;
                }
            }
        });
        Self::Chunks(receiver)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let data = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::Pattern(pattern) => ready!(pattern.poll_piece(cx)),
            Self::Chunks(chunks) => ready!(chunks.poll_recv(cx)).map(Ok),
        };
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pattern(pattern) => SizeHint::with_exact(pattern.length - pattern.sent),
            Self::Chunks(_) => SizeHint::default(),
        }
    }
}

/// One period of the pattern: as long as a prime, so that a piece that is lost or doubled shows.
static PERIOD: [u8; 65521] = {
    let mut period = [0; 65521];
    let mut i = 0;
    while i < period.len() {
        period[i] = (i % 251) as u8;
        i += 1;
    }
    period
};

impl Pattern {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, io::Error>>> {
        let mut end = self.length;
        if let Some(broken) = &mut self.breaks {
            if self.sent < broken.at {
                end = broken.at;
            } else if broken.flushed {
                return Poll::Ready(Some(Err(io::Error::other("broken off as asked"))));
            } else {
                // The server writes out what it has whenever a body has nothing ready.
                broken.flushed = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let from = (self.sent % PERIOD.len() as u64) as usize;
        let piece = (PERIOD.len() - from).min(usize::try_from(end - self.sent).unwrap_or(usize::MAX));
        self.sent += piece as u64;
        Poll::Ready((piece > 0).then(|| Ok(Bytes::from_static(&PERIOD[from..from + piece]))))
    }
}

/// The bytes that `/bytes?n=length` sends.
pub fn pattern(length: usize) -> Vec<u8> {
    PERIOD.iter().copied().cycle().take(length).collect()
}

/// FNV-1a with 64 bits, in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// The checksum of the whole.
    pub fn of(bytes: &[u8]) -> Self {
        let mut checksum = Self::default();
        checksum.add(bytes);
        checksum
    }

    /// Continues with the next piece.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// As `/upload` writes it: 16 hexadecimal digits.
    pub fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from the authors' published test vectors.
    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(Checksum::of(b"").hex(), "cbf29ce484222325");
        assert_eq!(Checksum::of(b"a").hex(), "af63dc4c8601ec8c");
        assert_eq!(Checksum::of(b"foobar").hex(), "85944171f73967e8");
    }
}

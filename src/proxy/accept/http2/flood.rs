//! Frames that make work without asking for anything: how many of each a client may send.
//!
//! Every kind has a budget that time refills, and what the client is served: whoever is sent a lot acknowledges a lot.
//! Bytes of bodies have flow control, and requests their limit; what else there is of frames is counted here. Nothing is
//! copied: `FrameWatch` follows the frames through what is read anyway, by their heads of nine bytes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Length of the client's preface, which is no frame.
const PREFACE: usize = 24;

/// Length of a frame's head.
const HEAD: usize = 9;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// `DATA` with nothing in it that is not the end.
    EmptyData,
    /// `CONTINUATION`.
    Continuation,
    /// `PING`, and answers to ours.
    Ping,
    /// `PRIORITY`, and frames of an unknown kind.
    Priority,
    /// `RST_STREAM`.
    Reset,
    /// `SETTINGS`, and answers to ours.
    Settings,
    /// `WINDOW_UPDATE`.
    WindowUpdate,
    /// What h2 limits by itself: streams that end in errors, or are reset before they were looked at.
    Streams,
}

impl Flood {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::EmptyData,
        Self::Continuation,
        Self::Ping,
        Self::Priority,
        Self::Reset,
        Self::Settings,
        Self::WindowUpdate,
        Self::Streams,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyData => "empty_data",
            Self::Continuation => "continuation",
            Self::Ping => "ping",
            Self::Priority => "priority",
            Self::Reset => "reset",
            Self::Settings => "settings",
            Self::WindowUpdate => "window_update",
            Self::Streams => "streams",
        }
    }

    /// The most of it that may ever be left. Replies earn ahead of what acknowledges them: of small pieces, as many are on
    /// their way as the client's windows have room for.
    fn most(self) -> u32 {
        match self {
            Self::WindowUpdate => 100_000,
            _ => self.allowance().burst,
        }
    }

    /// What may come of it.
    fn allowance(self) -> Allowance {
        let allowance = |burst, per_second, per_piece| Allowance { burst, per_second, per_piece };
        match self {
            // Fewer than h2 takes in the life of a connection. Those that end a body are not counted.
            Self::EmptyData => allowance(64, 8, 0),
            // A head of 1 MiB takes 64 of them.
            Self::Continuation => allowance(256, 16, 2),
            // gRPC measures the round trip with one for each piece that it receives.
            Self::Ping => allowance(200, 10, 2),
            // Browsers send some with each request.
            Self::Priority => allowance(200, 20, 4),
            // Whoever types looks for something else before the first answer came; a whole page of requests at a time.
            Self::Reset => allowance(300, 20, 0),
            Self::Settings => allowance(20, 1, 0),
            // For each piece one for the stream and one for the connection, however small.
            Self::WindowUpdate => allowance(1000, 100, 4),
            Self::Streams => allowance(0, 0, 0),
        }
    }
}

/// What is counted about HTTP/2 at one listener, over all workers.
#[derive(Debug, Default)]
pub struct Http2Counts {
    /// Open connections.
    pub connections: AtomicUsize,
    floods: [AtomicU64; Flood::ALL.len()],
}

impl Http2Counts {
    /// Counts a connection that was ended for a flood.
    pub fn note(&self, flood: Flood) {
        // Relaxed, as all of these: figures, and nothing is published through them.
        self.floods[flood as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were ended for floods of each kind.
    pub fn floods(&self) -> [(&'static str, u64); Flood::ALL.len()] {
        Flood::ALL.map(|flood| (flood.as_str(), self.floods[flood as usize].load(Ordering::Relaxed)))
    }

    /// Counts a connection until dropped.
    pub(super) fn enter(&self) -> OpenHttp2<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenHttp2(self)
    }
}

/// Counts one connection.
pub(super) struct OpenHttp2<'a>(&'a Http2Counts);

impl Drop for OpenHttp2<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many of one kind may come.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    /// At once, at most.
    burst: u32,
    per_second: u32,
    /// For each piece of a reply.
    per_piece: u32,
}

/// What a connection may still send.
#[derive(Debug)]
pub(super) struct Budget {
    left: [u32; Flood::ALL.len()],
    refilled: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: Flood::ALL.map(|flood| flood.allowance().burst), refilled: now }
    }

    /// Takes one of it; `false` when there is none left.
    fn spend(&mut self, flood: Flood) -> bool {
        let left = &mut self.left[flood as usize];
        match left.checked_sub(1) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => false,
        }
    }

    /// Time went by.
    pub(super) fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        // Less would be lost by rounding.
        if passed >= Duration::from_secs(1) {
            self.refilled = now;
            let seconds = u32::try_from(passed.as_secs()).unwrap_or(u32::MAX);
            for (left, flood) in self.left.iter_mut().zip(Flood::ALL) {
                let allowance = flood.allowance();
                let more = left.saturating_add(allowance.per_second.saturating_mul(seconds));
                // What was earned beyond the burst stays.
                *left = more.min(allowance.burst).max(*left);
            }
        }
    }

    /// The client was sent so many pieces of replies: heads, and up to 1 KiB of a body each.
    pub(super) fn earn(&mut self, pieces: u32) {
        for (left, flood) in self.left.iter_mut().zip(Flood::ALL) {
            let earned = flood.allowance().per_piece.saturating_mul(pieces);
            *left = left.saturating_add(earned).min(flood.most());
        }
    }

    /// A request was answered to its end, which is as good as one that was never reset.
    pub(super) fn answered(&mut self) {
        let left = &mut self.left[Flood::Reset as usize];
        *left = left.saturating_add(1).min(Flood::Reset.allowance().burst);
    }
}

/// Follows the frames of a connection through its bytes.
#[derive(Debug)]
pub(super) struct FrameWatch {
    /// Bytes that belong to no head.
    skip: usize,
    /// A head that is not whole yet.
    head: [u8; HEAD],
    filled: usize,
}

impl FrameWatch {
    pub(super) fn new() -> Self {
        Self { skip: PREFACE, head: [0; HEAD], filled: 0 }
    }

    /// Counts the frames that begin in these bytes.
    ///
    /// # Errors
    /// What there was too much of.
    pub(super) fn look(&mut self, mut bytes: &[u8], budget: &mut Budget) -> Result<(), Flood> {
        loop {
            if self.skip >= bytes.len() {
                self.skip -= bytes.len();
                return Ok(());
            }
            bytes = &bytes[self.skip..];
            self.skip = 0;
            let taken = bytes.len().min(HEAD - self.filled);
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < HEAD {
                return Ok(());
            }
            self.filled = 0;
            self.skip = usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2]);
            if let Some(flood) = counted(self.head[3], self.head[4], self.skip)
                && !budget.spend(flood)
            {
                return Err(flood);
            }
        }
    }
}

/// What a frame of this type, with these flags and so long, counts as.
fn counted(kind: u8, flags: u8, length: usize) -> Option<Flood> {
    const END_STREAM: u8 = 1;
    match kind {
        0 if length == 0 && flags & END_STREAM == 0 => Some(Flood::EmptyData),
        // DATA and HEADERS.
        0 | 1 => None,
        3 => Some(Flood::Reset),
        4 => Some(Flood::Settings),
        6 => Some(Flood::Ping),
        // GOAWAY, after which little follows; but nobody says good-bye for ever.
        7 => Some(Flood::Settings),
        8 => Some(Flood::WindowUpdate),
        9 => Some(Flood::Continuation),
        _ => Some(Flood::Priority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE_TEXT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + length, 0xff);
        frame
    }

    /// What so many frames of a kind are found to be, after the preface.
    fn after(count: usize, frame: &[u8], cut: usize) -> Result<(), Flood> {
        let (mut watch, mut budget) = (FrameWatch::new(), Budget::new(Instant::now()));
        let bytes = [PREFACE_TEXT, &frame.repeat(count)].concat();
        bytes.chunks(cut).try_for_each(|piece| watch.look(piece, &mut budget))
    }

    #[test]
    fn each_kind_is_told_by_its_own_frames_however_they_are_cut() {
        let rows = [
            (frame(0, 0, 0), Some(Flood::EmptyData)),
            (frame(0, 1, 0), None),
            (frame(0, 0, 1), None),
            (frame(1, 4, 20), None),
            (frame(2, 0, 5), Some(Flood::Priority)),
            (frame(3, 0, 4), Some(Flood::Reset)),
            (frame(4, 0, 6), Some(Flood::Settings)),
            (frame(4, 1, 0), Some(Flood::Settings)),
            (frame(6, 0, 8), Some(Flood::Ping)),
            (frame(7, 0, 8), Some(Flood::Settings)),
            (frame(8, 0, 4), Some(Flood::WindowUpdate)),
            (frame(9, 0, 0), Some(Flood::Continuation)),
            (frame(0x10, 0, 3), Some(Flood::Priority)),
            (frame(0xee, 0, 300), Some(Flood::Priority)),
        ];
        for (frame, flood) in rows {
            for cut in [1, 7, 9, 10_000] {
                let burst = flood.map_or(2000, |flood| flood.allowance().burst as usize);
                assert_eq!(after(burst, &frame, cut), Ok(()), "{frame:?}");
                assert_eq!(after(burst + 1, &frame, cut), flood.map_or(Ok(()), Err), "{frame:?}");
            }
        }
    }

    #[test]
    fn time_and_replies_refill_what_they_are_for_up_to_the_burst() {
        let now = Instant::now();
        let empty = || Budget { left: [0; Flood::ALL.len()], refilled: now };
        let of = |budget: &Budget, flood: Flood| budget.left[flood as usize];
        let mut budget = empty();
        budget.refill(now + Duration::from_millis(999));
        assert_eq!(budget.left, empty().left);
        budget.refill(now + Duration::from_secs(2));
        assert_eq!((of(&budget, Flood::Ping), of(&budget, Flood::Settings), of(&budget, Flood::Reset)), (20, 2, 40));
        budget.refill(now + Duration::from_secs(1_000_000));
        assert_eq!(budget.left, Budget::new(now).left);
        let mut budget = empty();
        budget.earn(10);
        assert_eq!((of(&budget, Flood::Ping), of(&budget, Flood::Settings), of(&budget, Flood::Reset)), (20, 0, 0));
        assert_eq!(of(&budget, Flood::WindowUpdate), 40);
        budget.earn(5_000);
        assert_eq!(of(&budget, Flood::WindowUpdate), 20_040, "all of them are acknowledged at once");
        budget.refill(now + Duration::from_secs(1_000_000));
        assert_eq!(of(&budget, Flood::WindowUpdate), 20_040);
        let mut budget = empty();
        budget.earn(u32::MAX);
        assert_eq!(of(&budget, Flood::WindowUpdate), Flood::WindowUpdate.most());
        budget.answered();
        assert_eq!((of(&budget, Flood::Ping), of(&budget, Flood::Reset)), (200, 1));
    }
}

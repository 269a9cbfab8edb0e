//! One line of the access log: a JSON object, written without a detour through a tree or a string of its own.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::json;
use super::words::Placement;

/// What there is to say about one request. What does not apply is `null` in the line.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// When its head had been read.
    pub at: SystemTime,
    /// Who sent it: the peer, or whom a trusted proxy named.
    pub client: IpAddr,
    /// Method as sent.
    pub method: &'a [u8],
    /// `Host` as sent.
    pub host: Option<&'a [u8]>,
    /// Path as sent.
    pub path: &'a [u8],
    /// Status of the reply; 499 for a client that left before it.
    pub status: u16,
    /// Until the last byte of the reply, or the end of the tunnel.
    pub duration: Duration,
    /// Bytes of the request's body, or what a tunnel passed on from the client.
    pub bytes_in: u64,
    /// Bytes of the reply's body, or what a tunnel passed on to the client.
    pub bytes_out: u64,
    /// The pool, `None` without a route.
    pub pool: Option<&'a str>,
    /// Who answered, `None` when Stickpin did.
    pub backend: Option<&'a str>,
    /// What was decided, with its reason.
    pub placement: Option<Placement>,
    /// The pin's id, never its token.
    pub pin: Option<u64>,
    /// Tries at a backend.
    pub attempts: u32,
}

/// Writes lines; keeps the text of the current second.
#[derive(Debug, Default)]
pub(super) struct LineWriter {
    second: Option<u64>,
    text: [u8; SECOND_LENGTH],
}

const SECOND_LENGTH: usize = "1970-01-01T00:00:00".len();
const SECOND: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

impl LineWriter {
    /// Appends one line. No allocation beyond the growth of `out`.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        out.extend_from_slice(b"{\"time\":\"");
        self.time(out, entry.at);
        out.extend_from_slice(b"\",\"client\":\"");
        // An address is digits, dots and colons: nothing to escape. Writing to a vector cannot fail.
        let _ = write!(out, "{}", entry.client);
        out.extend_from_slice(b"\",\"method\":");
        json::write_string(out, entry.method);
        text(out, "host", entry.host);
        text(out, "path", Some(entry.path));
        number(out, "status", entry.status.into());
        let us = u64::try_from(entry.duration.as_micros()).unwrap_or(u64::MAX);
        number(out, "duration_ms", us / 1000);
        out.push(b'.');
        three_digits(out, us % 1000);
        number(out, "bytes_in", entry.bytes_in);
        number(out, "bytes_out", entry.bytes_out);
        text(out, "pool", entry.pool.map(str::as_bytes));
        text(out, "backend", entry.backend.map(str::as_bytes));
        text(out, "placement", entry.placement.map(|placement| placement.as_str().as_bytes()));
        let reason = entry.placement.map(Placement::reason).filter(|reason| !reason.is_empty());
        text(out, "reason", reason.map(str::as_bytes));
        match entry.pin {
            Some(pin) => {
                let _ = write!(out, ",\"pin\":\"{pin:016x}\"");
            }
            None => text(out, "pin", None),
        }
        number(out, "attempts", entry.attempts.into());
        out.extend_from_slice(b"}\n");
    }

    /// RFC 3339 in UTC with milliseconds. A clock before 1970 or after 9999 is shown as 1970.
    fn time(&mut self, out: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            let second = i64::try_from(since.as_secs()).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
            let formatted = second.unwrap_or(OffsetDateTime::UNIX_EPOCH).format_into(&mut &mut self.text[..], &SECOND);
            debug_assert!(matches!(formatted, Ok(SECOND_LENGTH)), "years up to 9999 have four digits");
        }
        out.extend_from_slice(&self.text);
        out.push(b'.');
        three_digits(out, since.subsec_millis().into());
        out.push(b'Z');
    }
}

fn number(out: &mut Vec<u8>, key: &'static str, value: u64) {
    write_key(out, key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn text(out: &mut Vec<u8>, key: &'static str, value: Option<&[u8]>) {
    write_key(out, key);
    match value {
        Some(value) => json::write_string(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_key(out: &mut Vec<u8>, key: &'static str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// `n` below 1000.
fn three_digits(out: &mut Vec<u8>, n: u64) {
    out.extend([n / 100, n / 10 % 10, n % 10].map(|digit| b'0' + (digit % 10) as u8));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::words::RehomeReason;

    fn entry() -> Entry<'static> {
        Entry {
            at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            client: IpAddr::from([192, 0, 2, 7]),
            method: b"GET",
            host: Some(b"shop.example.com"),
            path: b"/cart",
            status: 200,
            duration: Duration::from_micros(12_034),
            bytes_in: 0,
            bytes_out: 5120,
            pool: Some("shop"),
            backend: Some("app1"),
            placement: Some(Placement::Rehomed(RehomeReason::Gone)),
            pin: Some(0xabc),
            attempts: 2,
        }
    }

    fn line(entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        LineWriter::default().write(&mut out, entry);
        String::from_utf8(out).expect("always UTF-8")
    }

    #[test]
    fn a_line_says_what_happened_in_the_words_of_the_design() {
        assert_eq!(
            line(&entry()),
            concat!(
                r#"{"time":"2023-11-14T22:13:20.042Z","client":"192.0.2.7","method":"GET","host":"shop.example.com","#,
                r#""path":"/cart","status":200,"duration_ms":12.034,"bytes_in":0,"bytes_out":5120,"pool":"shop","#,
                r#""backend":"app1","placement":"rehomed","reason":"gone","pin":"0000000000000abc","attempts":2}"#,
                "\n"
            )
        );
    }

    #[test]
    fn what_does_not_apply_is_null() {
        let placement = Some(Placement::Kept);
        let entry = Entry { host: None, pool: None, backend: None, placement, pin: None, ..entry() };
        let line: serde_json::Value = serde_json::from_str(&line(&entry)).expect("valid JSON");
        for key in ["host", "pool", "backend", "reason", "pin"] {
            assert!(line[key].is_null(), "{key}");
        }
        assert_eq!(line["placement"], "kept");
    }

    #[test]
    fn the_time_follows_a_clock_that_is_set_back() {
        let mut writer = LineWriter::default();
        let mut written = |ms| {
            let mut out = Vec::new();
            writer.time(&mut out, UNIX_EPOCH + Duration::from_millis(ms));
            String::from_utf8(out).expect("digits")
        };
        assert_eq!(written(86_399_999), "1970-01-01T23:59:59.999Z");
        assert_eq!(written(86_400_000), "1970-01-02T00:00:00.000Z");
        assert_eq!(written(86_399_001), "1970-01-01T23:59:59.001Z");
        assert_eq!(written(u64::MAX), "1970-01-01T00:00:00.615Z");
    }

    proptest! {
        #[test]
        fn any_request_makes_one_valid_line(
            method in proptest::collection::vec(any::<u8>(), 0..16),
            host in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
            path in proptest::collection::vec(any::<u8>(), 0..256),
            (client, status, bytes) in (any::<IpAddr>(), any::<u16>(), any::<u64>()),
            us in any::<u64>(),
        ) {
            let duration = Duration::from_micros(us);
            let entry = Entry { client, method: &method, host: host.as_deref(), path: &path, status, duration, ..entry() };
            let line = line(&Entry { bytes_in: bytes, ..entry });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let line: serde_json::Value = serde_json::from_str(&line).expect("valid JSON");
            prop_assert_eq!(line["method"].as_str(), Some(&*String::from_utf8_lossy(&method)));
            prop_assert_eq!(line["path"].as_str(), Some(&*String::from_utf8_lossy(&path)));
            prop_assert_eq!(line["bytes_in"].as_u64(), Some(bytes));
            prop_assert_eq!(line["client"].as_str(), Some(&*client.to_string()));
            prop_assert!(line["duration_ms"].is_f64());
        }
    }
}

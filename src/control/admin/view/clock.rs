//! Times as the API shows them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// Both clocks, read once a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::control::admin) struct Now {
    pub(in crate::control::admin) monotonic: Instant,
    pub(in crate::control::admin) wall: SystemTime,
}

impl Now {
    pub(in crate::control::admin) fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// RFC 3339 in UTC, to the second; `None` beyond what a calendar can show.
    pub(super) fn date(self, at: Instant) -> Option<String> {
        let since = self.wall.duration_since(UNIX_EPOCH).ok()?;
        let since = match at.checked_duration_since(self.monotonic) {
            Some(ahead) => since.checked_add(ahead)?,
            None => since.checked_sub(self.monotonic.duration_since(at))?,
        };
        // Rounded, because the two clocks are read one after the other.
        let seconds = (since + Duration::from_millis(500)).as_secs();
        OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?.format(&Rfc3339).ok()
    }
}

/// RFC 3339 in UTC, to the millisecond.
pub(in crate::control::admin) fn date(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let at = at.replace_millisecond(at.millisecond()).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_shown_as_a_date_before_and_after_it_has_passed() {
        let now = Now { monotonic: Instant::now(), wall: UNIX_EPOCH + Duration::from_millis(1_700_000_000_700) };
        let ahead = now.monotonic + Duration::from_secs(600);
        assert_eq!(now.date(ahead).as_deref(), Some("2023-11-14T22:23:21Z"));
        let later = Now { monotonic: ahead + Duration::from_secs(5), wall: now.wall + Duration::from_secs(605) };
        assert_eq!(later.date(ahead).as_deref(), Some("2023-11-14T22:23:21Z"));
    }
}

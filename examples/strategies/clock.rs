//! The shop's time: so many times faster than ours.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a minute of the shop takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) minute: Duration,
}

impl Scale {
    /// So many minutes of the shop.
    pub(crate) fn minutes(self, minutes: f64) -> Duration {
        self.minute.mul_f64(minutes)
    }

    /// As a configuration has it.
    pub(crate) fn yaml(self, minutes: f64) -> String {
        format!("{}ms", self.minutes(minutes).as_millis())
    }

    /// A share in each minute of the shop, as a configuration has it.
    pub(crate) fn pace(self, percent: f64) -> String {
        format!("{:.3}%/s", percent / self.minute.as_secs_f64())
    }
}

/// The clock of one shop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    opened: Instant,
    scale: Scale,
}

impl Clock {
    /// One that begins now.
    pub(crate) fn start(scale: Scale) -> Self {
        Self { opened: Instant::now(), scale }
    }

    /// Minutes since.
    pub(crate) fn now(&self) -> f64 {
        self.opened.elapsed().as_secs_f64() / self.scale.minute.as_secs_f64()
    }

    /// Waits until it is that late.
    pub(crate) async fn until(&self, minute: f64) {
        sleep_until(self.opened + self.scale.minutes(minute)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_scaled_like_the_hour() {
        let scale = Scale { minute: Duration::from_millis(400) };
        assert_eq!((scale.yaml(30.0), scale.yaml(0.5)), ("12000ms".to_owned(), "200ms".to_owned()));
        assert_eq!(scale.pace(5.0), "12.500%/s");
    }
}

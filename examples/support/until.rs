//! Waiting for a condition: polled, bounded, and telling what was seen last when it never came.

use std::fmt::{self, Debug};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Time between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Polls `condition` until it gives `Ok`, which is returned. Its `Err` is the state it saw instead.
///
/// # Errors
/// The last state seen, when `timeout` is over.
pub async fn until<T, S: Debug>(
    what: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, S>,
) -> Result<T, Expired> {
    let deadline = Instant::now() + timeout;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(state) if Instant::now() >= deadline => {
                return Err(Expired { what: what.to_owned(), timeout, state: format!("{state:?}") });
            }
            Err(_) => sleep(STEP).await,
        }
    }
}

/// The condition did not come true in time.
#[derive(Debug)]
pub struct Expired {
    what: String,
    timeout: Duration,
    state: String,
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited {:?} until {}; last seen: {}", self.timeout, self.what, self.state)
    }
}

impl std::error::Error for Expired {}

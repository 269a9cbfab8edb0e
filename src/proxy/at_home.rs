//! Who is under way at home: so that a session is taken elsewhere when nobody uses it there any more.
//!
//! Of parallel requests of one client some may have been sent home before the home was drained or disabled, or before the
//! pin's turn to move came. While they are there, the first one that moves would take the session from under them: they
//! would find nobody logged in, and an app that then begins a new session has lost the old one. So it is where there is one
//! copy, and where the nodes of a cluster all have one, but give the session another id when it moves, as Tomcats do.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Pins that share a place wait for one another, which does no harm but time.
const PLACES: usize = 8192;

/// Time between two looks. Only requests look that leave a living home.
const STEP: Duration = Duration::from_millis(2);

/// Requests under way at their home, by pin.
#[derive(Debug)]
pub struct AtHome {
    places: Box<[AtomicU32]>,
}

impl Default for AtHome {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU32::new(0)).collect() }
    }
}

impl AtHome {
    /// A request of this pin is sent home; it is there until what this gives is dropped.
    pub fn enter(&self, pin: u64) -> Inside<'_> {
        let place = self.place(pin);
        // Relaxed is enough: nothing else is published through it.
        place.fetch_add(1, Relaxed);
        Inside { place }
    }

    /// Waits until nobody of this pin is there, but no longer than until `deadline`.
    pub async fn left(&self, pin: u64, deadline: Instant) {
        while self.place(pin).load(Relaxed) > 0 && Instant::now() < deadline {
            sleep(STEP).await;
        }
    }

    fn place(&self, pin: u64) -> &AtomicU32 {
        // Ids are random.
        &self.places[pin as usize % PLACES]
    }
}

/// One request under way at its home.
#[derive(Debug)]
pub struct Inside<'a> {
    place: &'a AtomicU32,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.place.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_is_there_is_waited_for_but_not_for_ever() {
        let at_home = AtHome::default();
        let limit = Duration::from_secs(5);
        let began = Instant::now();
        at_home.left(7, began + limit).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody is there");

        let (first, second) = (at_home.enter(7), at_home.enter(7));
        let leave = async {
            drop(first);
            sleep(Duration::from_secs(1)).await;
            drop(second);
        };
        tokio::join!(leave, at_home.left(7, began + limit));
        let waited = began.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_millis(1100)).contains(&waited), "{waited:?}");

        let _stays = at_home.enter(7);
        at_home.left(7, began + limit).await;
        assert!(began.elapsed() >= limit);
    }
}

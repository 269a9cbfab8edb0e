//! The one new client that is let through to a backend on probation.

use std::sync::atomic::{AtomicU32, Ordering};

/// The place for one client in a pool: offered by the control plane, taken by whichever worker comes first.
#[derive(Debug, Default)]
pub struct Trial {
    /// Serial number of the backend, plus one; 0: none.
    offered: AtomicU32,
}

impl Trial {
    /// Offers the place at this backend, by serial number. Whether it was free for it.
    pub fn offer(&self, serial: u32) -> bool {
        // Relaxed, here and below: nothing is published through it.
        self.offered.compare_exchange(0, serial + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether the place is offered at this backend and nobody has taken it yet.
    pub fn is_offered(&self, serial: u32) -> bool {
        self.offered.load(Ordering::Relaxed) == serial + 1
    }

    /// Offers it no more.
    pub fn withdraw(&self, serial: u32) {
        let _ = self.offered.compare_exchange(serial + 1, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Takes the place, if there is one: the serial number of the backend. A load of a line that is hardly ever written.
    pub fn take(&self) -> Option<u32> {
        if self.offered.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.offered.swap(0, Ordering::Relaxed).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_takes_the_place_and_it_is_offered_at_one_backend_at_a_time() {
        let trial = Trial::default();
        assert_eq!(trial.take(), None);
        assert!(trial.offer(0) && !trial.offer(7));
        trial.withdraw(7);
        assert!(trial.is_offered(0) && !trial.is_offered(7));
        assert_eq!((trial.take(), trial.take()), (Some(0), None));
        assert!(trial.offer(7) && trial.is_offered(7));
        trial.withdraw(7);
        assert_eq!(trial.take(), None);
    }
}

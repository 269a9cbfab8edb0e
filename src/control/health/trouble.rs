//! Trouble of our own, such as no free file descriptor, which says nothing of a backend: told once, not once a probe.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many backends cannot be probed for a reason of our own. Shared by all probing tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Troubles {
    troubled: Arc<AtomicUsize>,
}

impl Troubles {
    /// Counts one backend as troubled until the guard is dropped; the first one is logged.
    pub(super) fn begin(&self, error: &io::Error) -> Trouble {
        // Relaxed: a count, nothing is published through it.
        if self.troubled.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(%error, "probes cannot be made; health stays as it is meanwhile");
        }
        Trouble { troubles: self.clone() }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.troubled.load(Ordering::Relaxed)
    }
}

/// One backend that cannot be probed; dropped when it can be, or when nobody wants to any more.
#[derive(Debug)]
pub(super) struct Trouble {
    troubles: Troubles,
}

impl Drop for Trouble {
    fn drop(&mut self) {
        if self.troubles.troubled.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!("probes can be made again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_until_the_last_backend_is_out_of_it() {
        let troubles = Troubles::default();
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let (one, two) = (troubles.begin(&error), troubles.begin(&error));
        assert_eq!(troubles.count(), 2);
        drop(one);
        assert_eq!(troubles.count(), 1);
        drop(two);
        assert_eq!(troubles.count(), 0);
    }
}

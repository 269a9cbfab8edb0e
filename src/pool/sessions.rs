//! Where the session lives decides what may be done to a pinned client: the table of the design, as one match.

use crate::config::{Away, Briefly, Drained, Sessions, When};

/// What is the matter with the home that a pin names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HomeState {
    /// Nothing: it serves its clients.
    Available,
    /// It is full.
    Busy,
    /// It failed once, and is being probed.
    Suspect,
    /// One attempt of this very request failed there.
    AttemptFailed,
    /// Out of reach; it may still hold the session.
    Unreachable,
    /// The operator disabled it; it may still hold the session.
    Disabled,
    /// The operator drains it.
    Draining,
    /// Its process is gone, and its memory with it.
    Gone,
    /// It was out of reach for longer than `hold_home`.
    HoldOver,
    /// It is no longer in the pool.
    Removed,
}

impl HomeState {
    /// Every state, in the order of the table in the README.
    pub const ALL: [Self; 10] = [
        Self::Available,
        Self::Busy,
        Self::Suspect,
        Self::AttemptFailed,
        Self::Unreachable,
        Self::Disabled,
        Self::Draining,
        Self::Gone,
        Self::HoldOver,
        Self::Removed,
    ];

    /// In words, as a sentence about the home goes on.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "is available",
            Self::Busy => "is busy",
            Self::Suspect => "is suspect",
            Self::AttemptFailed => "failed this request",
            Self::Unreachable => "is out of reach",
            Self::Disabled => "is disabled",
            Self::Draining => "is draining",
            Self::Gone => "is gone",
            Self::HoldOver => "was away too long",
            Self::Removed => "was removed",
        }
    }
}

/// What may be done to a pinned client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permit {
    /// Send it home.
    Keep,
    /// Wait for the home as long as the pool says, trying it; then serve this request elsewhere.
    WaitThenDetour,
    /// Serve this request elsewhere; the pin stays.
    Detour,
    /// Move the pin to the heir; the session goes with it.
    Rehome,
    /// Move the pin to the heir; the session is lost, and that is said.
    RehomeLost,
    /// Move the pin to the heir, at the pace of the drain; until its turn comes the client stays.
    RehomePaced,
    /// The same, though the session cannot follow.
    RehomePacedLost,
    /// Answer with an error, once the request has waited as long as the pool says.
    Refuse,
}

/// What may be done to the pinned clients of one pool: the table's column for its `sessions`, and what the pool overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits([Permit; HomeState::ALL.len()]);

impl Permits {
    /// The column for these sessions, with these cells changed.
    pub fn new(sessions: Sessions, when: &When) -> Self {
        let is_lost = sessions == Sessions::Local;
        let briefly = |word: Briefly| match word {
            Briefly::Wait => Permit::WaitThenDetour,
            Briefly::Detour => Permit::Detour,
            Briefly::Refuse => Permit::Refuse,
        };
        let away = |word: Away| match word {
            Away::Detour => Permit::Detour,
            Away::Rehome if is_lost => Permit::RehomeLost,
            Away::Rehome => Permit::Rehome,
            Away::Refuse => Permit::Refuse,
        };
        let drained = |word: Drained| match word {
            Drained::Keep => Permit::Keep,
            Drained::Rehome if is_lost => Permit::RehomePacedLost,
            Drained::Rehome => Permit::RehomePaced,
        };
        Self(HomeState::ALL.map(|home| {
            let overridden = match home {
                HomeState::Available | HomeState::Removed => None,
                HomeState::Busy => when.busy.map(briefly),
                HomeState::Suspect => when.suspect.map(briefly),
                HomeState::AttemptFailed => when.connect_failed.map(briefly),
                HomeState::Unreachable => when.unreachable.map(away),
                HomeState::Disabled => when.disabled.map(away),
                HomeState::Draining => when.draining.map(drained),
                HomeState::Gone => when.gone.map(away),
                HomeState::HoldOver => when.hold_over.map(away),
            };
            overridden.unwrap_or(permit(sessions, home))
        }))
    }

    /// What may be done when the home is in this state. One look.
    pub fn of(&self, home: HomeState) -> Permit {
        self.0[home as usize]
    }
}

/// The table: what `sessions` allows when the home is in this state. Constant time.
pub fn permit(sessions: Sessions, home: HomeState) -> Permit {
    use HomeState as H;
    use Permit as P;
    use Sessions as S;
    match (home, sessions) {
        (H::Available, _) => P::Keep,
        (H::Busy | H::Suspect | H::AttemptFailed, S::Local) => P::WaitThenDetour,
        (H::Busy | H::Suspect | H::AttemptFailed, S::Replicated | S::External) | (H::Busy, S::Backup) => P::Detour,
        // Whoever serves it takes the only copy over: a home that is back, and was not there to be given one, has nothing.
        (H::Suspect | H::AttemptFailed, S::Backup) => P::Rehome,
        (H::Unreachable | H::Disabled, S::Local) => P::Detour,
        (H::Unreachable | H::Disabled, S::Replicated | S::Backup | S::External) => P::Rehome,
        (H::Draining, S::Local) => P::Keep,
        (H::Draining, S::Replicated | S::Backup | S::External) => P::RehomePaced,
        (H::Gone | H::HoldOver | H::Removed, S::Local) => P::RehomeLost,
        (H::Gone | H::HoldOver | H::Removed, S::Replicated | S::Backup | S::External) => P::Rehome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the design, written out once more: a changed cell has to be changed twice.
    #[test]
    fn every_cell_is_the_one_of_the_design() {
        use Permit as P;
        let columns = [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External];
        let rows = [
            [P::Keep; 4],
            [P::WaitThenDetour, P::Detour, P::Detour, P::Detour],
            [P::WaitThenDetour, P::Detour, P::Rehome, P::Detour],
            [P::WaitThenDetour, P::Detour, P::Rehome, P::Detour],
            [P::Detour, P::Rehome, P::Rehome, P::Rehome],
            [P::Detour, P::Rehome, P::Rehome, P::Rehome],
            [P::Keep, P::RehomePaced, P::RehomePaced, P::RehomePaced],
            [P::RehomeLost, P::Rehome, P::Rehome, P::Rehome],
            [P::RehomeLost, P::Rehome, P::Rehome, P::Rehome],
            [P::RehomeLost, P::Rehome, P::Rehome, P::Rehome],
        ];
        for (home, row) in HomeState::ALL.into_iter().zip(rows) {
            for (sessions, expected) in columns.into_iter().zip(row) {
                assert_eq!(permit(sessions, home), expected, "{home:?} under {sessions:?}");
            }
        }
    }

    #[test]
    fn a_pool_changes_the_cells_it_names_and_no_others() {
        for (place, home) in HomeState::ALL.into_iter().enumerate() {
            assert_eq!(home as usize, place);
        }
        for sessions in [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External] {
            let plain = Permits::new(sessions, &When::default());
            assert!(HomeState::ALL.into_iter().all(|home| plain.of(home) == permit(sessions, home)));
        }
        let when = When {
            busy: Some(Briefly::Refuse),
            suspect: Some(Briefly::Detour),
            unreachable: Some(Away::Rehome),
            gone: Some(Away::Detour),
            draining: Some(Drained::Rehome),
            ..When::default()
        };
        let local = Permits::new(Sessions::Local, &when);
        let expected = [
            Permit::Keep,
            Permit::Refuse,
            Permit::Detour,
            Permit::WaitThenDetour,
            Permit::RehomeLost,
            Permit::Detour,
            Permit::RehomePacedLost,
            Permit::Detour,
            Permit::RehomeLost,
            Permit::RehomeLost,
        ];
        assert_eq!(HomeState::ALL.map(|home| local.of(home)), expected);
        let external = Permits::new(Sessions::External, &When { disabled: Some(Away::Detour), ..when });
        assert_eq!(external.of(HomeState::Unreachable), Permit::Rehome);
        assert_eq!(external.of(HomeState::Disabled), Permit::Detour);
        assert_eq!(external.of(HomeState::Draining), Permit::RehomePaced);
    }

    /// The table that operators read says what the code does.
    #[test]
    fn the_readme_shows_this_table() {
        let readme = include_str!("../../README.md");
        let words = |permit: Permit| match permit {
            Permit::Keep => "keep",
            Permit::WaitThenDetour => "wait, then detour",
            Permit::Detour => "detour",
            Permit::Rehome => "rehome",
            Permit::RehomeLost => "rehome, session lost",
            Permit::RehomePaced => "rehome, paced",
            Permit::RehomePacedLost | Permit::Refuse => unreachable!("only when a pool says so"),
        };
        for home in HomeState::ALL {
            let cells = [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External]
                .map(|sessions| words(permit(sessions, home)));
            let row = format!("| {} | {} |", home.as_str(), cells.join(" | "));
            assert!(readme.contains(&row), "the README lacks {row}");
        }
    }
}

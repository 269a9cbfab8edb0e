//! Where the session lives decides what may be done to a pinned client: the table of the design, as one match.

use crate::config::Sessions;

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
}

/// The table: what `sessions` allows when the home is in this state. Constant time.
pub fn permit(sessions: Sessions, home: HomeState) -> Permit {
    use HomeState as H;
    use Permit as P;
    use Sessions as S;
    match (home, sessions) {
        (H::Available, _) => P::Keep,
        (H::Busy | H::Suspect | H::AttemptFailed, S::Local) => P::WaitThenDetour,
        (H::Busy | H::Suspect | H::AttemptFailed, S::Replicated | S::Backup | S::External) => P::Detour,
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
            [P::WaitThenDetour, P::Detour, P::Detour, P::Detour],
            [P::WaitThenDetour, P::Detour, P::Detour, P::Detour],
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
        };
        let label = |home: HomeState| match home {
            HomeState::Available => "is available",
            HomeState::Busy => "is busy",
            HomeState::Suspect => "is suspect",
            HomeState::AttemptFailed => "failed this request",
            HomeState::Unreachable => "is out of reach",
            HomeState::Disabled => "is disabled",
            HomeState::Draining => "is draining",
            HomeState::Gone => "is gone",
            HomeState::HoldOver => "was away too long",
            HomeState::Removed => "was removed",
        };
        for home in HomeState::ALL {
            let cells = [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External]
                .map(|sessions| words(permit(sessions, home)));
            let row = format!("| {} | {} |", label(home), cells.join(" | "));
            assert!(readme.contains(&row), "the README lacks {row}");
        }
    }
}

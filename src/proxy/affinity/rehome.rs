//! What happens to a pinned request when its home cannot simply serve it: the table of `sessions`, and the settings that
//! override it. Pure.

use crate::config::{Sessions, WhenUnavailable};
use crate::pool::sessions::{HomeState, Permit, Permits};
use crate::pool::{AdminState, Health, Memory, Standing};
use crate::telemetry::words::{DetourReason, RehomeReason};

/// What to do with a pinned request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Send it home.
    Home,
    /// Wait for the home a little, then ask again.
    Wait,
    /// Serve it at the heir; the pin stays.
    Detour(DetourReason),
    /// Move the pin to the heir.
    Rehome {
        /// Why.
        reason: RehomeReason,
        /// The session was in the home's memory only, and is gone.
        session_lost: bool,
    },
    /// Answer with an error.
    Refuse,
}

/// What the pool says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where the app keeps its sessions.
    pub sessions: Sessions,
    /// What follows from it, and what the pool overrides.
    pub permits: Permits,
    /// The operator's override.
    pub when_unavailable: WhenUnavailable,
}

/// What is the matter with a home, from what is known of it and what happened to this very request.
pub fn home_state(standing: Standing, attempt_failed: bool) -> HomeState {
    match (standing.health, standing.admin) {
        // Lost is lost, whatever was ordered meanwhile.
        (Health::Unhealthy, _) if standing.memory == Memory::Gone => HomeState::Gone,
        (_, AdminState::Disabled) => HomeState::Disabled,
        (Health::Unhealthy, _) => HomeState::Unreachable,
        _ if attempt_failed => HomeState::AttemptFailed,
        (Health::Suspect, _) => HomeState::Suspect,
        (_, AdminState::Draining) => HomeState::Draining,
        (Health::Starting | Health::Healthy, AdminState::Enabled) => HomeState::Available,
    }
}

/// Decides. `has_waited`: this request has waited for its home as long as it may. `is_its_turn`: the drain's pace has
/// come to this pin.
pub fn course(policy: Policy, home: HomeState, has_waited: bool, is_its_turn: bool) -> Course {
    let by_table = match policy.permits.of(home) {
        Permit::Keep => return Course::Home,
        Permit::RehomePaced | Permit::RehomePacedLost if !is_its_turn => return Course::Home,
        Permit::Refuse if home == HomeState::Suspect => return Course::Home,
        Permit::Refuse if !has_waited => return Course::Wait,
        Permit::Refuse => return Course::Refuse,
        // A home that failed once is asked again first: trying it is how one waits for it.
        Permit::WaitThenDetour if home == HomeState::Suspect => return Course::Home,
        Permit::WaitThenDetour if !has_waited => return Course::Wait,
        Permit::WaitThenDetour | Permit::Detour => Course::Detour(detour_reason(home)),
        Permit::Rehome | Permit::RehomePaced => Course::Rehome { reason: rehome_reason(home), session_lost: false },
        Permit::RehomeLost | Permit::RehomePacedLost => {
            Course::Rehome { reason: rehome_reason(home), session_lost: true }
        }
    };
    match (policy.when_unavailable, by_table) {
        (WhenUnavailable::Rehome, _) => by_table,
        // A home that is no longer in the pool cannot be kept.
        (WhenUnavailable::Detour | WhenUnavailable::Refuse, Course::Rehome { .. }) if home == HomeState::Removed => {
            by_table
        }
        // Draining is the operator's wish to move clients, not a failure.
        (_, Course::Rehome { reason: RehomeReason::Drained, .. }) => by_table,
        (WhenUnavailable::Detour, _) => Course::Detour(detour_reason(home)),
        (WhenUnavailable::Refuse, _) if !has_waited => Course::Wait,
        (WhenUnavailable::Refuse, _) => Course::Refuse,
    }
}

/// What becomes of the clients of a drained home once the deadline of its drain has passed: whoever is left has to go.
pub fn course_after_drain(policy: Policy) -> Course {
    Course::Rehome { reason: RehomeReason::Drained, session_lost: policy.sessions == Sessions::Local }
}

fn detour_reason(home: HomeState) -> DetourReason {
    match home {
        HomeState::Busy => DetourReason::Busy,
        HomeState::AttemptFailed => DetourReason::ConnectFailed,
        HomeState::Suspect => DetourReason::Suspect,
        HomeState::Disabled => DetourReason::Disabled,
        HomeState::Available
        | HomeState::Unreachable
        | HomeState::Draining
        | HomeState::Gone
        | HomeState::HoldOver
        | HomeState::Removed => DetourReason::Unreachable,
    }
}

fn rehome_reason(home: HomeState) -> RehomeReason {
    match home {
        HomeState::Gone => RehomeReason::Gone,
        HomeState::Disabled => RehomeReason::Disabled,
        HomeState::Draining => RehomeReason::Drained,
        HomeState::Removed => RehomeReason::Removed,
        HomeState::HoldOver => RehomeReason::HoldOver,
        HomeState::Available
        | HomeState::Busy
        | HomeState::Suspect
        | HomeState::AttemptFailed
        | HomeState::Unreachable => RehomeReason::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::When;

    fn policy(sessions: Sessions, when_unavailable: WhenUnavailable) -> Policy {
        Policy { sessions, permits: Permits::new(sessions, &When::default()), when_unavailable }
    }

    fn local() -> Policy {
        policy(Sessions::Local, WhenUnavailable::Rehome)
    }

    fn external() -> Policy {
        policy(Sessions::External, WhenUnavailable::Rehome)
    }

    fn detour(reason: DetourReason) -> Course {
        Course::Detour(reason)
    }

    fn rehome(reason: RehomeReason, session_lost: bool) -> Course {
        Course::Rehome { reason, session_lost }
    }

    #[test]
    fn the_state_of_a_home_is_the_gravest_that_holds() {
        let standing = |health, admin, memory| Standing { health, admin, memory, is_silent: false };
        let (enabled, draining, disabled) = (AdminState::Enabled, AdminState::Draining, AdminState::Disabled);
        let (held, gone) = (Memory::MayHold, Memory::Gone);
        let table = [
            (standing(Health::Healthy, enabled, held), false, HomeState::Available),
            (standing(Health::Starting, enabled, held), false, HomeState::Available),
            (standing(Health::Healthy, draining, held), false, HomeState::Draining),
            (standing(Health::Healthy, disabled, held), false, HomeState::Disabled),
            (standing(Health::Suspect, enabled, held), false, HomeState::Suspect),
            (standing(Health::Suspect, enabled, held), true, HomeState::AttemptFailed),
            (standing(Health::Healthy, draining, held), true, HomeState::AttemptFailed),
            (standing(Health::Unhealthy, enabled, held), true, HomeState::Unreachable),
            (standing(Health::Unhealthy, enabled, gone), true, HomeState::Gone),
            (standing(Health::Unhealthy, disabled, gone), false, HomeState::Gone),
            (standing(Health::Unhealthy, disabled, held), false, HomeState::Disabled),
            // What it had is gone, but what it has now is its clients' again.
            (standing(Health::Healthy, enabled, gone), false, HomeState::Available),
        ];
        for (standing, attempt_failed, expected) in table {
            assert_eq!(home_state(standing, attempt_failed), expected, "{standing:?} {attempt_failed}");
        }
    }

    #[test]
    fn a_local_session_is_waited_for_and_an_external_one_is_not() {
        assert_eq!(course(local(), HomeState::AttemptFailed, false, false), Course::Wait);
        assert_eq!(course(local(), HomeState::AttemptFailed, true, false), detour(DetourReason::ConnectFailed));
        assert_eq!(course(local(), HomeState::Suspect, true, false), Course::Home);
        assert_eq!(course(local(), HomeState::Unreachable, true, false), detour(DetourReason::Unreachable));
        assert_eq!(course(local(), HomeState::Gone, false, false), rehome(RehomeReason::Gone, true));
        assert_eq!(course(external(), HomeState::AttemptFailed, false, false), detour(DetourReason::ConnectFailed));
        assert_eq!(course(external(), HomeState::Suspect, false, false), detour(DetourReason::Suspect));
        assert_eq!(course(external(), HomeState::Unreachable, false, false), rehome(RehomeReason::Unreachable, false));
        assert_eq!(course(external(), HomeState::Gone, false, false), rehome(RehomeReason::Gone, false));
    }

    #[test]
    fn a_drain_moves_pins_in_turn_where_it_may_and_nowhere_else() {
        assert_eq!(course(local(), HomeState::Draining, false, true), Course::Home);
        assert_eq!(course(external(), HomeState::Draining, false, false), Course::Home);
        assert_eq!(course(external(), HomeState::Draining, false, true), rehome(RehomeReason::Drained, false));
    }

    #[test]
    fn at_the_deadline_of_a_drain_everybody_has_to_go() {
        assert_eq!(course_after_drain(local()), rehome(RehomeReason::Drained, true));
        assert_eq!(course_after_drain(external()), rehome(RehomeReason::Drained, false));
    }

    #[test]
    fn the_operator_overrides_the_table() {
        for sessions in [Sessions::Local, Sessions::Replicated, Sessions::Backup, Sessions::External] {
            let never = policy(sessions, WhenUnavailable::Detour);
            let refuse = policy(sessions, WhenUnavailable::Refuse);
            for home in HomeState::ALL {
                let by_table = course(policy(sessions, WhenUnavailable::Rehome), home, true, false);
                let is_fixed = by_table == Course::Home || home == HomeState::Removed;
                let stays = course(never, home, true, false);
                assert!(if is_fixed { stays == by_table } else { matches!(stays, Course::Detour(_)) }, "{home:?}");
                let refused = course(refuse, home, true, false);
                assert_eq!(refused, if is_fixed { by_table } else { Course::Refuse }, "{home:?}");
                let before = course(refuse, home, false, false);
                assert!(is_fixed || before == Course::Wait, "{home:?}: a refusal comes after the wait");
            }
        }
    }
}

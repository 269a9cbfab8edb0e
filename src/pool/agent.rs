//! What a backend's own agent wants: a third voice beside the file and the operator. Pure.
//!
//! The operator's order to drain or disable wins over it. An order to enable takes effect against what the agent says now,
//! until it says something else. A word holds until another one about the same thing, or until there is no agent any more.

use super::condition::AdminState;

/// What an agent says at one time; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentWord {
    /// Who may come.
    pub admin: Option<AdminState>,
    /// Share of the weight in the file, 0 to 100.
    pub weight_percent: Option<u8>,
}

/// What it has said so far, and what that amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The last word about each thing.
    pub said: AgentWord,
    /// The operator enabled the backend since.
    pub is_overruled: bool,
}

impl Agent {
    /// Takes another word.
    pub fn hear(&mut self, word: AgentWord) {
        if word.admin.is_some() && word.admin != self.said.admin {
            self.is_overruled = false;
        }
        self.said.admin = word.admin.or(self.said.admin);
        self.said.weight_percent = word.weight_percent.or(self.said.weight_percent);
    }

    /// The operator enables the backend.
    pub fn overrule(&mut self) {
        self.is_overruled = matches!(self.said.admin, Some(AdminState::Draining | AdminState::Disabled));
    }

    /// Who may come, if the operator orders nothing.
    pub fn admin(&self) -> AdminState {
        self.said.admin.filter(|_| !self.is_overruled).unwrap_or(AdminState::Enabled)
    }

    /// The weight, if the operator orders none: the share of the file's, rounded, but 0 only for 0 %.
    pub fn weight(&self, in_file: u32) -> u32 {
        match self.said.weight_percent {
            None => in_file,
            Some(0) => 0,
            Some(percent) => (in_file * u32::from(percent)).div_ceil(100).clamp(in_file.min(1), in_file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn admin(admin: AdminState) -> AgentWord {
        AgentWord { admin: Some(admin), weight_percent: None }
    }

    const fn weight(percent: u8) -> AgentWord {
        AgentWord { admin: None, weight_percent: Some(percent) }
    }

    #[test]
    fn a_word_holds_until_another_one_about_the_same_thing() {
        let mut agent = Agent::default();
        assert_eq!((agent.admin(), agent.weight(100)), (AdminState::Enabled, 100));
        for (word, expected) in [
            (admin(AdminState::Draining), (AdminState::Draining, 100)),
            (weight(50), (AdminState::Draining, 50)),
            (AgentWord::default(), (AdminState::Draining, 50)),
            (admin(AdminState::Disabled), (AdminState::Disabled, 50)),
            (admin(AdminState::Enabled), (AdminState::Enabled, 50)),
            (weight(100), (AdminState::Enabled, 100)),
        ] {
            agent.hear(word);
            assert_eq!((agent.admin(), agent.weight(100)), expected, "after {word:?}");
        }
    }

    #[test]
    fn an_order_to_enable_counts_against_what_is_said_now_and_not_against_the_next_word() {
        let mut agent = Agent::default();
        agent.hear(admin(AdminState::Draining));
        agent.overrule();
        assert_eq!(agent.admin(), AdminState::Enabled);
        agent.hear(admin(AdminState::Draining));
        agent.hear(weight(10));
        assert_eq!(agent.admin(), AdminState::Enabled, "it only says it again");
        agent.hear(admin(AdminState::Disabled));
        assert_eq!(agent.admin(), AdminState::Disabled);
        agent.hear(admin(AdminState::Enabled));
        agent.overrule();
        assert!(!agent.is_overruled, "there is nothing to overrule");
    }

    #[test]
    fn a_share_of_a_weight_is_never_nothing_unless_it_says_so() {
        for (in_file, percent, expected) in
            [(100, 50, 50), (100, 1, 1), (10, 1, 1), (1, 1, 1), (3, 50, 2), (1000, 100, 1000), (100, 0, 0), (0, 50, 0)]
        {
            let mut agent = Agent::default();
            agent.hear(weight(percent));
            assert_eq!(agent.weight(in_file), expected, "{percent} % of {in_file}");
        }
    }
}

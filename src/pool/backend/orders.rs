//! What is ordered of a backend: its admin state and its weight, by the operator or by its own agent.

use tokio::time::Instant;

use super::Backend;
use crate::config::Pace;
use crate::pool::agent::{Agent, AgentWord};
use crate::pool::condition::AdminState;
use crate::pool::drain::{Drain, DrainOrder, History};
use crate::telemetry::events::Event;

impl Backend {
    /// The operator's order. A drain goes at the usual pace; for another see [`Backend::order_drain`].
    pub fn set_admin_state(&self, admin: AdminState, deadline: Option<Instant>, now: Instant) {
        let order = DrainOrder { deadline, pace: Pace::DRAIN };
        self.obey(Voice::Operator(admin), |before| Drain::ordered(before, order, now), now);
    }

    /// The operator's order to drain it. Given again, the deadline and the pace may be new, the drain is not.
    pub fn order_drain(&self, order: DrainOrder, now: Instant) {
        self.obey(Voice::Operator(AdminState::Draining), |before| Drain::ordered(before, order, now), now);
    }

    /// Goes on with a drain that was ordered in an earlier life of this process.
    pub fn restore_drain(&self, order: DrainOrder, now: Instant) {
        let restored = |before| Drain::ordered(before, order, now).restored();
        self.obey(Voice::Operator(AdminState::Draining), restored, now);
    }

    /// What the backend's own agent says; a drain goes at this pace. Whether its weight is another one now.
    pub fn hear_agent(&self, word: AgentWord, pace: Pace, now: Instant) -> bool {
        let before = self.weight();
        let order = DrainOrder { deadline: None, pace };
        self.obey(Voice::Agent(Some(word)), |drain| Drain::ordered(drain, order, now), now);
        self.weight() != before
    }

    /// There is no agent any more: whatever it said ends. Whether the weight is another one now.
    pub fn forget_agent(&self, now: Instant) -> bool {
        let before = self.weight();
        let order = DrainOrder { deadline: None, pace: Pace::DRAIN };
        self.obey(Voice::Agent(None), |drain| Drain::ordered(drain, order, now), now);
        self.weight() != before
    }

    /// What the backend's own agent has said. Takes a lock: not for every request.
    pub fn agent(&self) -> Agent {
        self.lock().agent
    }

    /// The admin state that the operator ordered, whatever the agent says. Takes a lock: not for every request.
    pub fn ordered_admin_state(&self) -> AdminState {
        self.lock().ordered
    }

    fn obey(&self, voice: Voice, drain: impl FnOnce(Option<Drain>) -> Drain, now: Instant) {
        let (from, to) = {
            let mut inner = self.lock();
            let (from, was_ordered) = (inner.admin(), inner.ordered);
            let is_new_order = match voice {
                Voice::Operator(ordered) => {
                    inner.ordered = ordered;
                    if ordered == AdminState::Enabled {
                        inner.agent.overrule();
                    }
                    true
                }
                Voice::Agent(Some(word)) => {
                    inner.agent.hear(word);
                    false
                }
                Voice::Agent(None) => {
                    inner.agent = Agent::default();
                    false
                }
            };
            let to = inner.admin();
            if to != AdminState::Draining {
                inner.drain = None;
            } else if is_new_order || from != AdminState::Draining || was_ordered != inner.ordered {
                inner.drain = Some(drain(inner.drain));
            }
            if from != to {
                inner.history = History::new();
            }
            self.note_turn(&inner, now);
            self.note_weight(&inner, now);
            self.publish(&inner);
            self.note_availability(&inner, now);
            (from, to)
        };
        if from != to {
            let (from, to, by) = (from.as_str(), to.as_str(), voice.as_str());
            tracing::info!(pool = &*self.id.pool, backend = &*self.id.name, from, to, by, "admin state changed");
            let (pool, backend) = self.names();
            self.events.tell(|| Event::AdminState { pool, backend, from, to, by });
        }
        // An order may have changed what is left of a drain; an agent says the same with every probe.
        if from != to || matches!(voice, Voice::Operator(_)) {
            self.changed.notify_waiters();
            self.room.standing_changed();
        }
    }

    /// What the file says. A weight ordered by the operator holds until the file's own weight changes.
    pub fn set_file_weight(&self, weight: u32) {
        let mut inner = self.lock();
        if inner.file_weight != weight {
            inner.file_weight = weight;
            inner.weight_order = None;
        }
        self.publish(&inner);
    }

    /// The operator's order; `None` takes it back.
    pub fn order_weight(&self, weight: Option<u32>, now: Instant) {
        let mut inner = self.lock();
        inner.weight_order = weight;
        self.note_weight(&inner, now);
        self.publish(&inner);
    }

    /// What the file says, if an order or the agent's word stands in for it.
    pub fn stood_in_for_weight(&self) -> Option<u32> {
        let inner = self.lock();
        let is_stood_in_for = inner.weight_order.is_some() || inner.agent.said.weight_percent.is_some();
        is_stood_in_for.then_some(inner.file_weight)
    }

    /// The weight that the operator ordered, and the file's weight it stands in for.
    pub fn weight_order(&self) -> Option<(u32, u32)> {
        let inner = self.lock();
        inner.weight_order.map(|order| (order, inner.file_weight))
    }
}

/// Who says something about a backend's admin state.
#[derive(Clone, Copy)]
enum Voice {
    Operator(AdminState),
    /// `None`: there is none any more.
    Agent(Option<AgentWord>),
}

impl Voice {
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator(_) => "operator",
            Self::Agent(_) => "agent",
        }
    }
}

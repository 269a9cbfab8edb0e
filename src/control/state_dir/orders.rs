//! The operator's orders as written to disk, and their way from and to the backends. Pure: both clocks come in.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::Pace;
use crate::config::Weight;
use crate::pool::{AdminState, Backend, DrainOrder};

/// The same moment on two clocks: deadlines are kept on the one, and survive a restart on the other.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On the clock that never jumps.
    pub instant: Instant,
    /// On the wall.
    pub wall: SystemTime,
}

/// What the operator ordered, by pool and backend. Backends without an order are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Orders {
    pools: BTreeMap<String, BTreeMap<String, Order>>,
}

/// The orders for one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Order {
    #[serde(default, skip_serializing_if = "State::is_enabled")]
    admin_state: State,
    /// Seconds since 1970; only while draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain_deadline: Option<u64>,
    /// As in `5%/s`; only while draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain_pace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<WeightOrder>,
}

/// [`AdminState`] as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    #[default]
    Enabled,
    Draining,
    Disabled,
}

/// A weight holds only for as long as the file says what it said when the weight was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WeightOrder {
    ordered: u32,
    instead_of: u32,
}

impl Orders {
    /// The orders in force at these backends.
    pub fn collect<'a>(backends: impl IntoIterator<Item = &'a Backend>, now: Moment) -> Self {
        let mut orders = Self::default();
        for backend in backends {
            // What its agent says is not the operator's, and will be said again.
            let ordered = backend.ordered_admin_state();
            let drain = backend.drain().filter(|_| ordered == AdminState::Draining);
            let order = Order {
                admin_state: ordered.into(),
                drain_deadline: drain.and_then(|drain| drain.deadline).map(|due| to_wall(due, now)),
                drain_pace: drain.map(|drain| drain.pace.to_string()),
                weight: backend.weight_order().map(|(ordered, instead_of)| WeightOrder { ordered, instead_of }),
            };
            if order.admin_state != State::Enabled || order.weight.is_some() {
                let pool = orders.pools.entry(backend.id().pool.as_ref().to_owned()).or_default();
                pool.insert(backend.id().name.as_ref().to_owned(), order);
            }
        }
        orders
    }

    /// Gives these backends their orders again, after the weights of the file were set.
    ///
    /// A drain goes on with what is left of its time, and its pins take their turns from now on; one whose deadline passed
    /// meanwhile is due at once. A pace that is missing, or makes no sense, is the usual one. Orders for
    /// backends that are gone, and for weights that the file has changed since, are dropped.
    pub fn apply<'a>(&self, backends: impl IntoIterator<Item = &'a Backend>, now: Moment) {
        for backend in backends {
            let id = backend.id();
            let Some(order) = self.pools.get(&*id.pool).and_then(|pool| pool.get(&*id.name)) else { continue };
            match order.admin_state {
                State::Enabled => {}
                State::Draining => {
                    let deadline = order.drain_deadline.and_then(|due| from_wall(due, now));
                    let pace = order.drain_pace.as_ref().and_then(|pace| pace.parse().ok()).unwrap_or(Pace::DRAIN);
                    backend.restore_drain(DrainOrder { deadline, pace }, now.instant);
                }
                State::Disabled => backend.set_admin_state(AdminState::Disabled, None, now.instant),
            }
            let Some(weight) = order.weight else { continue };
            let in_file = backend.weight_order().map_or_else(|| backend.weight(), |(_, in_file)| in_file);
            if weight.instead_of == in_file && Weight::new(weight.ordered).is_some() {
                backend.order_weight(Some(weight.ordered), now.instant);
            } else {
                let (pool, backend, ordered) = (&*id.pool, &*id.name, weight.ordered);
                tracing::info!(pool, backend, ordered, in_file, "ordered weight dropped");
            }
        }
    }

    /// Whether nothing is ordered.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }
}

impl State {
    // serde hands over a reference.
    fn is_enabled(&self) -> bool {
        *self == Self::Enabled
    }
}

impl From<AdminState> for State {
    fn from(state: AdminState) -> Self {
        match state {
            AdminState::Enabled => Self::Enabled,
            AdminState::Draining => Self::Draining,
            AdminState::Disabled => Self::Disabled,
        }
    }
}

/// Rounded up: a restart gives a client a second more rather than less.
fn to_wall(due: Instant, now: Moment) -> u64 {
    let wall = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let due = wall.saturating_add(due.saturating_duration_since(now.instant));
    due.as_secs() + u64::from(due.subsec_nanos() > 0)
}

/// `None` when it is further away than the clock reaches.
fn from_wall(due: u64, now: Moment) -> Option<Instant> {
    let wall = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    now.instant.checked_add(Duration::from_secs(due).saturating_sub(wall))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::Registry;
    use crate::pool::backend::BackendId;

    /// A process of its own: nothing but the file connects two of them.
    struct Process {
        now: Moment,
        backends: Vec<Arc<Backend>>,
    }

    impl Process {
        fn start(unix: u64, backends: &[(&str, u32)]) -> Self {
            let now = Moment { instant: Instant::now(), wall: UNIX_EPOCH + Duration::from_secs(unix) };
            let registry = Registry::new(1);
            let make = |&(name, weight): &(&str, u32)| {
                let id = BackendId { pool: "shop".into(), name: name.into() };
                let backend = registry.backend(&id, now.instant);
                backend.set_file_weight(weight);
                backend
            };
            Self { now, backends: backends.iter().map(make).collect() }
        }

        fn orders(&self) -> Orders {
            Orders::collect(self.backends.iter().map(Arc::as_ref), self.now)
        }

        fn obey(&self, orders: &Orders) {
            orders.apply(self.backends.iter().map(Arc::as_ref), self.now);
        }

        fn backend(&self, name: &str) -> &Backend {
            self.backends.iter().find(|backend| &*backend.id().name == name).unwrap()
        }
    }

    #[test]
    fn only_what_was_ordered_is_written() {
        let process = Process::start(1_000_000, &[("app1", 1), ("app2", 100), ("app3", 1), ("app4", 1)]);
        assert!(process.orders().is_empty());
        let now = process.now.instant;
        let deadline = now + Duration::from_millis(600_500);
        process.backend("app1").set_admin_state(AdminState::Draining, Some(deadline), now);
        process.backend("app2").order_weight(Some(50), Instant::now());
        process.backend("app3").set_admin_state(AdminState::Disabled, None, now);
        let expected = serde_json::json!({ "shop": {
            "app1": { "admin_state": "draining", "drain_deadline": 1_000_601, "drain_pace": "5%/s" },
            "app2": { "weight": { "ordered": 50, "instead_of": 100 } },
            "app3": { "admin_state": "disabled" },
        }});
        assert_eq!(serde_json::to_value(process.orders()).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Orders>(expected).unwrap(), process.orders());
    }

    #[test]
    fn orders_outlive_the_process() {
        let all = [("app1", 1), ("app2", 100), ("app3", 1), ("app4", 1)];
        let before = Process::start(1_000_000, &all);
        let now = before.now.instant;
        before.backend("app1").set_admin_state(AdminState::Draining, Some(now + Duration::from_secs(600)), now);
        let slow = "1%/m".parse().unwrap();
        before.backend("app2").order_drain(DrainOrder { deadline: None, pace: slow }, now);
        before.backend("app2").order_weight(Some(0), Instant::now());
        before.backend("app3").set_admin_state(AdminState::Disabled, None, now);

        let after = Process::start(1_000_060, &all);
        after.obey(&before.orders());
        let drain = after.backend("app1").drain().unwrap();
        assert_eq!(drain.deadline, Some(after.now.instant + Duration::from_secs(540)));
        assert_eq!((drain.pace, drain.is_restored), (Pace::DRAIN, true));
        let drain = after.backend("app2").drain().unwrap();
        assert_eq!((drain.deadline, drain.pace), (None, slow));
        assert_eq!(after.backend("app2").weight(), 0);
        assert_eq!(after.backend("app3").standing().admin, AdminState::Disabled);
        assert_eq!(after.backend("app4").standing().admin, AdminState::Enabled);
        assert_eq!(after.orders(), before.orders());
        // Obeyed twice is obeyed once.
        after.obey(&before.orders());
        assert_eq!(after.orders(), before.orders());
    }

    #[test]
    fn a_drain_whose_deadline_passed_meanwhile_is_due_at_once() {
        let before = Process::start(1_000_000, &[("app1", 1)]);
        let now = before.now.instant;
        before.backend("app1").set_admin_state(AdminState::Draining, Some(now + Duration::from_secs(10)), now);
        let after = Process::start(2_000_000, &[("app1", 1)]);
        after.obey(&before.orders());
        assert_eq!(after.backend("app1").drain().unwrap().deadline, Some(after.now.instant));
    }

    #[test]
    fn a_weight_order_ends_when_the_file_changes_or_the_backend_goes() {
        let before = Process::start(0, &[("app1", 100), ("app2", 100)]);
        before.backend("app1").order_weight(Some(50), Instant::now());
        before.backend("app2").order_weight(Some(50), Instant::now());
        let after = Process::start(0, &[("app1", 80)]);
        after.obey(&before.orders());
        assert_eq!(after.backend("app1").weight(), 80);
        assert!(after.orders().is_empty());
    }

    #[test]
    fn what_no_operator_could_order_is_not_obeyed() {
        let orders: Orders = serde_json::from_value(serde_json::json!({ "shop": {
            "app1": { "weight": { "ordered": u32::MAX, "instead_of": 1 } },
            "app2": { "admin_state": "draining", "drain_deadline": u64::MAX },
            "app3": { "drain_deadline": 5, "written_by": "a later version" },
            "app4": { "admin_state": "draining", "drain_pace": "500%/s" },
        }}))
        .unwrap();
        let process = Process::start(1_000_000, &[("app1", 1), ("app2", 1), ("app3", 1), ("app4", 1)]);
        process.obey(&orders);
        assert_eq!(process.backend("app1").weight(), 1);
        assert_eq!(process.backend("app2").drain().unwrap().deadline, None);
        assert_eq!(process.backend("app2").drain().unwrap().pace, Pace::DRAIN, "written before paces were");
        assert_eq!(process.backend("app3").standing().admin, AdminState::Enabled);
        assert_eq!(process.backend("app4").drain().unwrap().pace, Pace::DRAIN);
    }
}

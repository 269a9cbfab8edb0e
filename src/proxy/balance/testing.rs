//! Pools in any state, for the tests of this folder.

use std::sync::Arc;

use fastrand::Rng;
use tokio::time::Instant;

use super::{Balancer, Tried};
use crate::config::Balance;
use crate::pool::{AdminState, BackendId, Evidence, Failure, Health, Member, Registry, Thresholds, testing};

/// Every algorithm.
pub(super) const ALL: [Balance; 6] = [
    Balance::LeastPins,
    Balance::LeastRequests,
    Balance::PeakEwma,
    Balance::RoundRobin,
    Balance::Random,
    Balance::TwoChoices,
];

/// What a backend is put into.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) health: Health,
    pub(super) admin: AdminState,
    pub(super) weight: u32,
    pub(super) tier: u8,
}

impl State {
    pub(super) const fn healthy(weight: u32) -> Self {
        Self { health: Health::Healthy, admin: AdminState::Enabled, weight, tier: 0 }
    }

    /// Health × admin state × weight 0 or 1.
    pub(super) const fn all() -> [Self; 24] {
        let admins = [AdminState::Enabled, AdminState::Draining, AdminState::Disabled];
        let mut all = [Self::healthy(0); 24];
        let mut at = 0;
        while at < all.len() {
            all[at] =
                Self { health: Health::ALL[at % 4], admin: admins[at / 4 % 3], weight: (at / 12) as u32, tier: 0 };
            at += 1;
        }
        all
    }
}

/// A pool of backends named `b0`, `b1`… in these states.
pub(super) fn pool(states: &[State]) -> Vec<Member> {
    let (registry, now) = (Registry::new(1), Instant::now());
    let thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };
    let member = |(index, state): (usize, &State)| {
        let id = BackendId { pool: Arc::from("shop"), name: Arc::from(format!("b{index}")) };
        let backend = registry.backend(&id, now);
        let evidence: &[Evidence] = match state.health {
            Health::Starting => &[],
            Health::Healthy => &[Evidence::ProbeOk],
            Health::Suspect => &[Evidence::ProbeOk, Evidence::TrafficFailed(Failure::Silent)],
            Health::Unhealthy => &[Evidence::ProbeFailed(Failure::Refused)],
        };
        for &evidence in evidence {
            backend.observe(evidence, thresholds, now);
        }
        backend.set_admin_state(state.admin, None, now);
        backend.set_file_weight(state.weight);
        assert_eq!((backend.standing().health, backend.standing().admin), (state.health, state.admin));
        Member { tier: state.tier, ..testing::member(backend) }
    };
    states.iter().enumerate().map(member).collect()
}

/// How often each member was picked; nothing is held, so all stay idle.
pub(super) fn counts(balance: Balance, members: &[Member], picks: u32, seed: u64) -> Vec<u32> {
    let (mut balancer, mut rng) = (Balancer::new(balance, members, 0), Rng::with_seed(seed));
    let mut counts = vec![0; members.len()];
    for _ in 0..picks {
        counts[balancer.pick(members, &Tried::default(), &mut rng, Instant::now()).expect("somebody is available")] +=
            1;
    }
    counts
}

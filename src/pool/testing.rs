//! Pools for tests of whatever is decided from a list of members.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Backend, BackendId, Member, Registry};

/// One without bounds, of the first tier, at an address that nobody connects to.
pub(crate) fn member(backend: Arc<Backend>) -> Member {
    Member {
        backend,
        address: ([127, 0, 0, 1], 9000).into(),
        probe_address: None,
        transport: Arc::default(),
        max_pins: None,
        tier: 0,
    }
}

/// `app0`, `app1`… of these weights, in a pool `shop`. None of them has been measured.
pub(crate) fn weighted(weights: &[u32]) -> Vec<Member> {
    let names: Vec<String> = (0..weights.len()).map(|index| format!("app{index}")).collect();
    pool("shop", names.iter().map(|name| &**name).zip(weights.iter().copied()))
}

/// A pool as the golden vectors have it: each backend as `NAME=WEIGHT`.
pub(crate) fn golden<'a>(name: &str, backends: impl IntoIterator<Item = &'a str>) -> Vec<Member> {
    let backend = |word: &'a str| {
        let (name, weight) = word.split_once('=').expect("name=weight");
        (name, weight.parse().expect("a weight"))
    };
    pool(name, backends.into_iter().map(backend))
}

fn pool<'a>(name: &str, backends: impl Iterator<Item = (&'a str, u32)>) -> Vec<Member> {
    let registry = Registry::new(1);
    let weighted = |(backend, weight): (&str, u32)| {
        let id = BackendId { pool: Arc::from(name), name: Arc::from(backend) };
        let backend = registry.backend(&id, Instant::now());
        backend.set_file_weight(weight);
        member(backend)
    };
    backends.map(weighted).collect()
}

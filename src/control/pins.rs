//! How many pins are active at each backend, and what follows from it: merges what the workers have noted, and says who
//! gives clients away where a pool is to be evened out.

use tokio::time::Instant;

use crate::pool::Health;
use crate::pool::rebalance::{Load, Role, roles};
use crate::proxy::snapshot::{Affinity, Pool, Snapshot};

/// Counts the active pins of every backend of pools with affinity, and follows drains. Some ten microseconds a backend and worker; where
/// pins are learned, some ten nanoseconds a pin.
pub(super) fn count(snapshot: &Snapshot, now: Instant, wall_seconds: u32) {
    for pool in &snapshot.pools {
        match &pool.affinity {
            Affinity::Off => {}
            // The store knows each of them.
            _ if pool.counts_in_store() => {
                let is_active = |refreshed: u32| wall_seconds.saturating_sub(refreshed) <= pool.limits.idle_timeout;
                let counts = pool.pin_store().map(|store| store.count_by_home(|record| is_active(record.refreshed)));
                let counts = counts.unwrap_or_default();
                for member in &pool.members {
                    member.backend.set_active_pins(counts.get(&member.backend.stable_hash()).copied().unwrap_or(0));
                }
            }
            Affinity::Cookie(_) | Affinity::AppSession(_) | Affinity::Hash(_) => {
                for member in &pool.members {
                    member.backend.count_active_pins(now, pool.idle_timeout);
                }
            }
        }
        // Without pins, requests under way are all there is to wait for.
        pool.members.iter().for_each(|member| member.backend.note_drain_progress(pool.active_for(), now));
        assign_roles(pool, wall_seconds);
    }
}

/// Says who gives clients away, and who takes them; logged when it begins and when it ends.
fn assign_roles(pool: &Pool, wall_seconds: u32) {
    let tier_in_use = pool.state.spread().tier;
    let loads: Vec<Load> = pool
        .members
        .iter()
        .map(|member| {
            let (backend, standing) = (&member.backend, member.backend.standing());
            let is_in_service = standing.is_available_for_new() && standing.health != Health::Starting;
            Load {
                active_pins: backend.active_pins(),
                weight: backend.weight(),
                is_in_service,
                is_of_later_tier: member.tier > tier_in_use,
                role: backend.role(),
            }
        })
        .collect();
    let roles = match &pool.settings.rebalance {
        Some(rebalance) => roles(&loads, rebalance.when_above),
        None => vec![Role::Settled; loads.len()],
    };
    let was_uneven = loads.iter().any(|load| load.role == Role::Sheds);
    let is_uneven = roles.contains(&Role::Sheds);
    for (member, role) in pool.members.iter().zip(roles) {
        member.backend.set_role(role, wall_seconds);
    }
    if was_uneven != is_uneven {
        let pins: Vec<_> = loads.iter().map(|load| load.active_pins).collect();
        let pool = &*pool.settings.name;
        if is_uneven {
            tracing::info!(pool, ?pins, "evening out: clients move, at the pace of the pool");
        } else {
            tracing::info!(pool, ?pins, "evened out");
        }
    }
}

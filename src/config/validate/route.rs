//! Routes, and what happens without them.

use std::collections::HashMap;
use std::sync::Arc;

use super::items;
use super::pool::Pools;
use crate::config::read::{Given, Report};
use crate::config::tree::Path;
use crate::config::units::PathPrefix;
use crate::config::{HostPattern, Route, yaml};

pub(super) fn routes(report: &Report<'_>, given: Given<Vec<Given<yaml::Route>>>, pools: &Pools) -> Vec<Route> {
    let path = Path::Root.key("routes");
    if given.is_wrong() {
        return Vec::new();
    }
    let items = items(report, &path, given, "a route");
    if items.is_empty() {
        if pools.count() > 1 {
            let names = pools.names().unwrap_or_default();
            report.expected(&path, format!("at least one route, because there are several pools{names}"));
        }
        return vec![Route { host: HostPattern::Any, path_prefix: "/".into(), pool: 0, affinity: true }];
    }
    let mut first_with: HashMap<(HostPattern, Arc<str>), usize> = HashMap::new();
    let mut routes = Vec::new();
    for (index, item) in items {
        let at = path.item(index);
        let Given::Is(yaml) = item else { continue };
        let readable = !yaml.host.is_wrong() && !yaml.path_prefix.is_wrong();
        let host = yaml.host.or(HostPattern::Any);
        let path_prefix = yaml.path_prefix.option().map_or_else(|| "/".into(), |PathPrefix(prefix)| prefix);
        let first = *first_with.entry((host.clone(), path_prefix.clone())).or_insert(index);
        if readable && first != index {
            report.wrong(&at, format!("expected a host and path_prefix of its own, found those of routes[{first}]"));
        }
        let Some(pool) = pool(report, &at.key("pool"), yaml.pool, pools) else { continue };
        let affinity = yaml.affinity.option().is_none();
        routes.push(Route { host, path_prefix, pool, affinity });
    }
    routes
}

fn pool(report: &Report<'_>, path: &Path<'_>, given: Given<String>, pools: &Pools) -> Option<usize> {
    let expected = format!("the name of a pool{}", pools.names().unwrap_or_default());
    let name = report.required(path, given, &expected)?;
    let place = pools.place(&name);
    // Without readable pools any name may be right.
    if place.is_none() && pools.count() > 0 {
        report.expected(path, expected);
    }
    place
}

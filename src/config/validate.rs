//! The file as written -> [`Config`]. Fills in the defaults, checks what values mean together, gathers every problem.
//!
//! A value that could not be read was reported by the reader; here its default stands in for it, so that the rest can be
//! checked. Nothing is returned unless nothing was reported.

mod affinity;

mod discovery;

mod front;

mod health;

mod pin_store;

mod pool;

mod route;

mod tls;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::read::{Given, Reader, Report};
use super::tree::{self, Node, Path, Value};
pub(super) use discovery::{list as backends, one as backend};

use super::units::{FilePath, NonZeroTime, Time, UserName};
use super::{Config, Problem, Problems, yaml};

/// Reads the text of a file.
pub(super) fn config(file: &str, text: &str) -> Result<Config, Problems> {
    let (root, problems) = tree::load(text).map_err(|problem| Problems::new(file, vec![problem]))?;
    if matches!(root.value, Value::Null) {
        let message = "expected listeners and pools, found an empty file".to_owned();
        return Err(Problems::new(file, vec![Problem { path: String::new(), line: None, message }]));
    }
    read(&root, problems).map_err(|problems| Problems::new(file, problems))
}

fn read(root: &Node, problems: Vec<Problem>) -> Result<Config, Vec<Problem>> {
    let report = Report::new(root, problems);
    let config = yaml::File::deserialize(Reader::new(root, &report)).ok().map(|file| check(&report, file));
    let problems = report.into_problems();
    config.filter(|_| problems.is_empty()).ok_or(problems)
}

fn check(report: &Report<'_>, file: yaml::File) -> Config {
    let top = Path::Root;
    let listeners = front::listeners(report, file.listeners);
    let pools = pool::pools(report, file.pools);
    let may_trust = file.trusted_proxies.is_wrong();
    let trusted_proxies = front::trusted_proxies(report, file.trusted_proxies);
    if !may_trust {
        front::trusted_where_needed(report, &listeners, &trusted_proxies);
    }
    Config {
        workers: file.workers.option().and_then(|workers| NonZeroUsize::new(workers.get() as usize)),
        state_dir: file.state_dir.option().map(|FilePath(path)| path),
        cookie_keys_file: file.cookie_keys_file.option().map(|FilePath(path)| path),
        pin_store: pin_store::pin_store(report, &top.key("pin_store"), file.pin_store.or(yaml::PinStore::default())),
        stop_deadline: time(file.stop_deadline, secs(30)),
        user: file.user.option().map(|UserName(user)| user),
        trusted_proxies: Arc::new(trusted_proxies),
        access_log: front::access_log(report, file.access_log),
        admin: front::admin(report, file.admin, &listeners),
        routes: route::routes(report, file.routes, &pools),
        listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
        pools: pools.into_found(),
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn time(given: Given<Time>, default: Duration) -> Duration {
    given.option().map_or(default, |Time(time)| time)
}

fn non_zero(given: Given<NonZeroTime>, default: Duration) -> Duration {
    given.option().map_or(default, |NonZeroTime(time)| time)
}

/// The items of a list with their places. An item without a value is reported.
fn items<T>(
    report: &Report<'_>,
    path: &Path<'_>,
    list: Given<Vec<Given<T>>>,
    expected: &str,
) -> Vec<(usize, Given<T>)> {
    let items: Vec<_> = list.option().unwrap_or_default().into_iter().enumerate().collect();
    for (index, _) in items.iter().filter(|(_, item)| item.is_missing()) {
        report.expected(&path.item(*index), expected);
    }
    items
}

/// Reports a list that must not be empty and is. One that could not be read may have had items.
fn not_empty<T>(report: &Report<'_>, path: &Path<'_>, list: &Given<Vec<Given<T>>>, expected: &str) {
    let empty = match list {
        Given::Is(items) => items.is_empty(),
        Given::Absent | Given::Empty => true,
        Given::Wrong => false,
    };
    if empty {
        report.expected(path, expected);
    }
}

//! Pools and their backends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;

use super::affinity::affinity;
use super::health::health;
use super::{items, non_zero, not_empty, secs, time};
use crate::config::read::{Entries, Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{
    BackendAddress, BackendName, CookieName, NonZeroTime, Pace, Percent, Ratio, RequestTarget, Weight, is_pool_name,
};
use crate::config::words::{LostWord, Off};
use crate::config::{
    Affinity, Backend, Balance, HomeBy, OnSessionLost, Pool, Rebalance, Rehome, Retry, Sessions, Timeouts, When,
    WhenUnavailable, yaml,
};

/// The pools by name, those included that could not be read.
pub(super) struct Pools {
    names: Vec<String>,
    places: HashMap<String, usize>,
    found: Vec<Pool>,
}

impl Pools {
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// ` (a, b)`, when there are few enough to be worth reading.
    pub(super) fn names(&self) -> Option<String> {
        (1..=8).contains(&self.names.len()).then(|| format!(" ({})", self.names.join(", ")))
    }

    /// The pools that could be read: all of them when nothing was reported.
    pub(super) fn into_found(self) -> Vec<Pool> {
        self.found
    }
}

pub(super) fn pools(report: &Report<'_>, given: Given<Entries<yaml::Pool>>) -> Pools {
    let path = Path::Root.key("pools");
    let none = match &given {
        Given::Is(Entries(pools)) => pools.is_empty(),
        Given::Absent | Given::Empty => true,
        Given::Wrong => false,
    };
    if none {
        report.expected(&path, "at least one pool");
    }
    let mut pools = Pools { names: Vec::new(), places: HashMap::new(), found: Vec::new() };
    for (name, yaml) in given.option().map_or_else(Vec::new, |Entries(pools)| pools) {
        let at = path.key(&name);
        if !is_pool_name(&name) {
            report.wrong(&at, format!("expected a name of 1 to 64 letters, digits, _, . and -, found {name:?}"));
        }
        match yaml {
            Given::Is(yaml) => pools.found.push(pool(report, &at, &name, yaml)),
            // An empty one has no backends, which is worth saying.
            Given::Absent | Given::Empty => pools.found.push(pool(report, &at, &name, yaml::Pool::default())),
            Given::Wrong => {}
        }
        pools.places.insert(name.clone(), pools.names.len());
        pools.names.push(name);
    }
    pools
}

fn pool(report: &Report<'_>, at: &Path<'_>, name: &str, yaml: yaml::Pool) -> Pool {
    let affinity = affinity(report, &at.key("affinity"), yaml.affinity);
    let balance = match affinity {
        Affinity::Cookie(_) | Affinity::AppSession(_) => Balance::LeastPins,
        Affinity::Hash(_) | Affinity::Off => Balance::TwoChoices,
    };
    let names_in_ids = NamesInIds::of(&affinity);
    let backends = backends(report, &at.key("backends"), yaml.backends, names_in_ids);
    if matches!(affinity, Affinity::Hash(_))
        && let Some(capped) = backends.iter().find(|backend| backend.max_pins.is_some())
    {
        let message =
            format!("expected no max_pins, because a key decides where a request goes; {} has one", capped.name);
        report.wrong(&at.key("backends"), message);
    }
    let rebalance = rebalance(report, &at.key("rebalance"), yaml.rebalance, &affinity);
    Pool {
        name: name.into(),
        sessions: yaml.sessions.or(Sessions::Local),
        session_cookie: yaml.session_cookie.option().map(|CookieName(name)| name),
        balance: yaml.balance.or(balance),
        affinity,
        rehome: rehome(report, &at.key("rehome"), yaml.rehome.or(yaml::Rehome::default())),
        rebalance,
        drain_pace: yaml.drain.or(yaml::Drain::default()).pace.or(Pace::DRAIN),
        health: health(report, &at.key("health"), yaml.health),
        retry: retry(yaml.retry.or(yaml::Retry::default())),
        timeouts: timeouts(yaml.timeouts.or(yaml::Timeouts::default())),
        backends,
    }
}

/// How names of backends stand in session ids, and so what they must not hold.
#[derive(Clone, Copy)]
enum NamesInIds {
    /// Not at all.
    None,
    /// The route, after this separator.
    Suffix(char),
    /// The name, in front of a `~` in a cookie.
    Prefix,
}

impl NamesInIds {
    fn of(affinity: &Affinity) -> Self {
        match affinity {
            Affinity::AppSession(session) => match session.home_by {
                HomeBy::Learn => Self::None,
                HomeBy::RouteSuffix(separator) => Self::Suffix(separator),
                HomeBy::Prefix => Self::Prefix,
            },
            Affinity::Cookie(_) | Affinity::Hash(_) | Affinity::Off => Self::None,
        }
    }

    /// What a name should be instead, when it could not be found again in a session id.
    fn problem(self, name: &str, route: &str) -> Option<String> {
        match self {
            Self::Suffix(separator) if route.contains(separator) => {
                Some(format!("a name or route without {separator}, which stands between the session id and the route"))
            }
            // The last three would end a value or its quotes for some readers of cookies.
            Self::Prefix if name.contains(['~', ';', ',', '"', '\\']) => {
                Some("a name without ~ ; , \" and \\, because it stands in the value of the app's cookie".to_owned())
            }
            Self::None | Self::Suffix(_) | Self::Prefix => None,
        }
    }
}

fn rehome(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Rehome) -> Rehome {
    Rehome {
        when_unavailable: yaml.when_unavailable.or(WhenUnavailable::Rehome),
        when: when(yaml.when.or(yaml::When::default())),
        wait: time(yaml.wait, secs(0)),
        gate: time(yaml.gate, secs(5)),
        hold_home: time(yaml.hold_home, secs(10 * 60)),
        on_session_lost: on_session_lost(report, &at.key("on_session_lost"), yaml.on_session_lost),
    }
}

fn when(yaml: yaml::When) -> When {
    When {
        busy: yaml.busy.option(),
        suspect: yaml.suspect.option(),
        connect_failed: yaml.connect_failed.option(),
        unreachable: yaml.unreachable.option(),
        disabled: yaml.disabled.option(),
        draining: yaml.draining.option(),
        gone: yaml.gone.option(),
        hold_over: yaml.hold_over.option(),
    }
}

fn on_session_lost(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<LostWord, yaml::OnSessionLost>>,
) -> OnSessionLost {
    let Some(Short::Full(yaml)) = given.option() else { return OnSessionLost::Forward };
    match (yaml.status.option(), yaml.redirect.option()) {
        (Some(status), None) => {
            let status = StatusCode::from_u16(status.get() as u16).expect("400 to 599 are status codes");
            OnSessionLost::Status(status)
        }
        (None, Some(RequestTarget(target))) => OnSessionLost::Redirect(target),
        (Some(_), Some(_)) => {
            report.wrong(at, "expected either status or redirect, found both".to_owned());
            OnSessionLost::Forward
        }
        (None, None) => OnSessionLost::Forward,
    }
}

fn rebalance(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<Off, yaml::Rebalance>>,
    affinity: &Affinity,
) -> Option<Rebalance> {
    let Some(Short::Full(yaml)) = given.option() else { return None };
    let why_not = match affinity {
        Affinity::Cookie(_) => None,
        Affinity::AppSession(session) if session.home_by == HomeBy::Learn => None,
        Affinity::AppSession(_) => Some("a session id that names its home does not tell when it was last used"),
        Affinity::Hash(_) => Some("a key has its home for ever"),
        Affinity::Off => Some("there are no pins to move"),
    };
    if let Some(why_not) = why_not {
        report.expected(at, format!("off, because {why_not}"));
    }
    Some(Rebalance {
        when_above: yaml.when_above.option().map_or(1.25, |Ratio(ratio)| ratio),
        pace: yaml.pace.or(Pace::percent_per(1, 'm')),
        idle_for: time(yaml.idle_for, secs(30)),
    })
}

fn retry(yaml: yaml::Retry) -> Retry {
    Retry {
        attempts: yaml.attempts.option().map_or(2, |attempts| attempts.get()),
        body_limit: yaml.body_limit.option().map_or(64 << 10, |limit| limit.bytes()),
        budget: yaml.budget.or(Percent::new(20.0).expect("20 is within 0 to 100")),
    }
}

fn timeouts(yaml: yaml::Timeouts) -> Timeouts {
    Timeouts {
        connect: non_zero(yaml.connect, secs(2)),
        first_byte: non_zero(yaml.first_byte, secs(30)),
        idle: non_zero(yaml.idle, secs(60)),
        request: yaml.request.option().map(|NonZeroTime(time)| time),
        tunnel_idle: non_zero(yaml.tunnel_idle, secs(10 * 60)),
    }
}

fn backends(
    report: &Report<'_>,
    path: &Path<'_>,
    given: Given<Vec<Given<Short<BackendAddress, yaml::Backend>>>>,
    names_in_ids: NamesInIds,
) -> Vec<Backend> {
    not_empty(report, path, &given, "at least one backend");
    let mut first_at: HashMap<SocketAddr, usize> = HashMap::new();
    let mut first_named: HashMap<Arc<str>, usize> = HashMap::new();
    let mut first_routed: HashMap<Arc<str>, usize> = HashMap::new();
    let mut backends = Vec::new();
    let mut all_known = true;
    for (index, item) in items(report, path, given, "a backend") {
        let at = path.item(index);
        let (address_path, yaml) = match item {
            Given::Is(Short::Short(address)) => {
                (at, yaml::Backend { address: Given::Is(address), ..yaml::Backend::default() })
            }
            Given::Is(Short::Full(yaml)) => (at.key("address"), yaml),
            Given::Absent | Given::Empty | Given::Wrong => {
                all_known = false;
                continue;
            }
        };
        all_known &= !yaml.weight.is_wrong();
        let address = report.required(&address_path, yaml.address, "the IP address and port of the backend");
        let given_name = yaml.name.option().map(|BackendName(name)| name);
        let first = address.map_or(index, |BackendAddress(address)| *first_at.entry(address).or_insert(index));
        if first != index {
            report.expected(&address_path, format!("an address of its own, not that of backends[{first}]"));
        }
        let given_route = yaml.route.option().map(|BackendName(route)| route);
        let name = given_name.clone().or_else(|| address.map(|BackendAddress(address)| address.to_string().into()));
        if let Some(name) = &name {
            let name_path = if given_name.is_some() { at.key("name") } else { address_path };
            let named = *first_named.entry(name.clone()).or_insert(index);
            // Without a name of its own, the address is to blame, and that was said.
            if named != index && (given_name.is_some() || first == index) {
                report.expected(&name_path, format!("a name of its own, not that of backends[{named}]"));
            }
            let route = given_route.clone().unwrap_or_else(|| name.clone());
            let route_path = if given_route.is_some() { at.key("route") } else { name_path };
            let routed = *first_routed.entry(route.clone()).or_insert(index);
            if routed != index && (given_route.is_some() || named == index) {
                report.expected(&route_path, format!("a route of its own, not that of backends[{routed}]"));
            }
            if let Some(expected) = names_in_ids.problem(name, &route) {
                let is_route = matches!(names_in_ids, NamesInIds::Suffix(_));
                report.expected(if is_route { &route_path } else { &name_path }, expected);
            }
        }
        let (Some(name), Some(BackendAddress(address))) = (name, address) else {
            all_known = false;
            continue;
        };
        backends.push(Backend {
            name,
            address,
            weight: yaml.weight.or(Weight::default()),
            route: given_route,
            max_pins: yaml.max_pins.option().map(|most| most.get().into()),
            probe_address: yaml.probe_address.option().map(|BackendAddress(address)| address),
        });
    }
    if all_known && !backends.is_empty() && backends.iter().all(|backend| backend.weight.get() == 0) {
        let message =
            "expected at least one backend with a weight above 0, found none; a new client would have no home";
        report.wrong(path, message.to_owned());
    }
    backends
}

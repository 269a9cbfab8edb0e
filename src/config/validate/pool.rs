//! Pools and their backends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::affinity::affinity;
use super::discovery::backends_from;
use super::health::health;
use super::{items, non_zero, not_empty, secs, time};
use crate::config::read::{Entries, Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{
    self, BackendAddress, BackendName, CookieName, NonZeroTime, Pace, Percent, Ratio, RequestTarget, Scalar as _, Tier,
    Weight, Whole, is_pool_name,
};
use crate::config::words::{BalanceWord, LostWord, Off};
use crate::config::{
    Address, Affinity, Backend, Balance, HomeBy, OnSessionLost, Pool, Queue, Rebalance, Rehome, Retry, RetryOn,
    SendProxyProtocol, Sessions, Source, Timeouts, When, WhenUnavailable, yaml,
};

/// Long enough to keep retries of many clients apart, and too short to be noticed.
const BACKOFF: Duration = Duration::from_millis(25);

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
    let affinity_known = !yaml.affinity.is_wrong();
    let mut affinity = affinity(report, &at.key("affinity"), yaml.affinity);
    let balance = balance(report, &at.key("balance"), yaml.balance, &mut affinity, affinity_known);
    let sessions = yaml.sessions.or(Sessions::Local);
    let names_in_ids = NamesInIds::of(&affinity);
    let backends_path = at.key("backends");
    let is_alone = yaml.backends_from.is_missing();
    if is_alone {
        not_empty(report, &backends_path, &yaml.backends, "at least one backend");
    }
    let listed = backends(report, &backends_path, yaml.backends, names_in_ids, Source::File);
    if is_alone {
        refuse_weightless(report, &backends_path, &listed);
    }
    refuse_caps(report, &backends_path, &affinity, &listed.backends);
    let backends_from = backends_from(report, &at.key("backends_from"), yaml.backends_from, &affinity);
    let rebalance = rebalance(report, &at.key("rebalance"), yaml.rebalance, &affinity);
    Pool {
        name: name.into(),
        sessions,
        session_cookie: yaml.session_cookie.option().map(|CookieName(name)| name),
        balance,
        affinity,
        rehome: rehome(report, &at.key("rehome"), yaml.rehome.or(yaml::Rehome::default())),
        rebalance,
        drain_pace: yaml.drain.or(yaml::Drain::default()).pace.or(Pace::DRAIN),
        health: health(report, &at.key("health"), yaml.health),
        retry: retry(report, &at.key("retry"), yaml.retry.or(yaml::Retry::default()), sessions),
        timeouts: timeouts(yaml.timeouts.or(yaml::Timeouts::default())),
        send_proxy_protocol: yaml.send_proxy_protocol.or(SendProxyProtocol::Off),
        slow_start: time(yaml.slow_start, secs(0)),
        panic_below: yaml.panic_below.or(Percent::new(30.0).expect("30 is within 0 to 100")),
        max_requests: yaml.max_requests.option().map(Whole::get),
        max_connections: yaml.max_connections.option().map(Whole::get),
        queue: queue(yaml.queue.or(yaml::Queue::default())),
        backends: listed.backends,
        backends_from,
    }
}

/// What one word says: how whoever has no pin is placed, and how a key finds its home.
fn balance(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<BalanceWord>,
    affinity: &mut Affinity,
    affinity_known: bool,
) -> Balance {
    let usual = match affinity {
        Affinity::Cookie(_) | Affinity::AppSession(_) => Balance::LeastPins,
        Affinity::Hash(_) | Affinity::Off => Balance::TwoChoices,
    };
    match (given.option(), affinity) {
        (None, _) => usual,
        (Some(BalanceWord::Pick(balance)), _) => balance,
        (Some(BalanceWord::Hash(home_hash)), Affinity::Hash(hash)) => {
            hash.home_hash = home_hash;
            usual
        }
        (Some(BalanceWord::Hash(_)), _) => {
            if affinity_known {
                report.expected(at, format!("{}, because affinity is not hash", Balance::expected()));
            }
            usual
        }
    }
}

/// How names of backends stand in session ids, and so what they must not hold.
#[derive(Clone, Copy)]
pub(super) enum NamesInIds {
    /// Not at all.
    None,
    /// The route, after this separator.
    Suffix(char),
    /// The name, in front of a `~` in a cookie.
    Prefix,
}

impl NamesInIds {
    pub(super) fn of(affinity: &Affinity) -> Self {
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

fn retry(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Retry, sessions: Sessions) -> Retry {
    let retry_on = match yaml.retry_on {
        Given::Is(list) => {
            let path = at.key("retry_on");
            let items = items(report, &path, Given::Is(list), "a word of what is tried again").into_iter();
            items.filter_map(|(_, word)| word.option()).collect()
        }
        Given::Absent | Given::Empty | Given::Wrong => {
            [RetryOn::Connect, RetryOn::ResetBeforeReply].into_iter().collect()
        }
    };
    let hedge_after = match yaml.hedge_after.option() {
        None | Some(units::HedgeAfter::Off) => None,
        Some(units::HedgeAfter::After(after)) => Some(after),
    };
    if hedge_after.is_some() && sessions != Sessions::External {
        let why = "off, because only where all backends share a store (sessions: external) may two serve one request";
        report.expected(&at.key("hedge_after"), why.to_owned());
    }
    Retry {
        retry_on,
        backoff: time(yaml.backoff, BACKOFF),
        hedge_after,
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
        attempt: yaml.attempt.option().map(|NonZeroTime(time)| time),
        request: yaml.request.option().map(|NonZeroTime(time)| time),
        tunnel_idle: non_zero(yaml.tunnel_idle, secs(10 * 60)),
    }
}

/// What a backend is called without a name of its own: its address, of a Unix socket the name of the file.
fn default_name(address: &Address) -> Option<Arc<str>> {
    match address {
        Address::Ip(address) => Some(address.to_string().into()),
        Address::Unix(path) => {
            let BackendName(name) = BackendName::from_text(path.file_name()?.to_str()?).ok()?;
            Some(name)
        }
    }
}

fn queue(yaml: yaml::Queue) -> Queue {
    Queue { length: yaml.length.option().map_or(100, Whole::get), timeout: non_zero(yaml.timeout, secs(5)) }
}

/// What the backends of one list have taken so far, by the place of the first one that took it.
#[derive(Default)]
pub(super) struct Taken {
    /// What the list is called in messages; empty where it is the whole file.
    list: &'static str,
    addresses: HashMap<Address, usize>,
    names: HashMap<Arc<str>, usize>,
    routes: HashMap<Arc<str>, usize>,
}

/// A list of backends as far as it could be read, and whether that is all of it.
pub(super) struct Listed {
    pub(super) backends: Vec<Backend>,
    is_whole: bool,
}

type GivenBackends = Given<Vec<Given<Short<BackendAddress, yaml::Backend>>>>;

/// Reads a list of backends.
pub(super) fn backends(
    report: &Report<'_>,
    path: &Path<'_>,
    given: GivenBackends,
    names_in_ids: NamesInIds,
    source: Source,
) -> Listed {
    let list = if matches!(path, Path::Root) { "" } else { "backends" };
    let mut taken = Taken { list, ..Taken::default() };
    let mut listed = Listed { backends: Vec::new(), is_whole: !given.is_wrong() };
    for (index, item) in items(report, path, given, "a backend") {
        let at = path.item(index);
        let (address_path, yaml) = match item {
            Given::Is(Short::Short(address)) => {
                (at, yaml::Backend { address: Given::Is(address), ..yaml::Backend::default() })
            }
            Given::Is(Short::Full(yaml)) => (at.key("address"), yaml),
            Given::Absent | Given::Empty | Given::Wrong => {
                listed.is_whole = false;
                continue;
            }
        };
        listed.is_whole &= !yaml.weight.is_wrong();
        let read = backend(report, (&at, &address_path), yaml, names_in_ids, (&mut taken, index));
        listed.is_whole &= read.is_some();
        listed.backends.extend(read.map(|backend| Backend { source, ..backend }));
    }
    listed
}

/// Reads one backend, number `index` of its list.
pub(super) fn backend(
    report: &Report<'_>,
    (at, address_path): (&Path<'_>, &Path<'_>),
    yaml: yaml::Backend,
    names_in_ids: NamesInIds,
    (taken, index): (&mut Taken, usize),
) -> Option<Backend> {
    let place = |index: usize| format!("{}[{index}]", taken.list);
    let address = report.required(address_path, yaml.address, "the IP address and port of the backend");
    let given_name = yaml.name.option().map(|BackendName(name)| name);
    let first = address
        .as_ref()
        .map_or(index, |BackendAddress(address)| *taken.addresses.entry(address.clone()).or_insert(index));
    if first != index {
        report.expected(address_path, format!("an address of its own, not that of {}", place(first)));
    }
    let given_route = yaml.route.option().map(|BackendName(route)| route);
    let default_name = || address.as_ref().and_then(|BackendAddress(address)| default_name(address));
    let name = given_name.clone().or_else(default_name);
    if name.is_none() && address.is_some() {
        report.expected(&at.key("name"), "a name, because that of the socket's file is none".to_owned());
    }
    if let Some(name) = &name {
        let name_path = if given_name.is_some() { at.key("name") } else { *address_path };
        let named = *taken.names.entry(name.clone()).or_insert(index);
        // Without a name of its own, the address is to blame, and that was said.
        if named != index && (given_name.is_some() || first == index) {
            report.expected(&name_path, format!("a name of its own, not that of {}", place(named)));
        }
        let route = given_route.clone().unwrap_or_else(|| name.clone());
        let route_path = if given_route.is_some() { at.key("route") } else { name_path };
        let routed = *taken.routes.entry(route.clone()).or_insert(index);
        if routed != index && (given_route.is_some() || named == index) {
            report.expected(&route_path, format!("a route of its own, not that of {}", place(routed)));
        }
        if let Some(expected) = names_in_ids.problem(name, &route) {
            let is_route = matches!(names_in_ids, NamesInIds::Suffix(_));
            report.expected(if is_route { &route_path } else { &name_path }, expected);
        }
    }
    let (Some(name), Some(BackendAddress(address))) = (name, address) else { return None };
    Some(Backend {
        name,
        address,
        weight: yaml.weight.or(Weight::default()),
        route: given_route,
        max_pins: yaml.max_pins.option().map(|most| most.get().into()),
        tier: yaml.tier.or(Tier::default()).get(),
        max_requests: yaml.max_requests.option().map(Whole::get),
        max_connections: yaml.max_connections.option().map(Whole::get),
        probe_address: yaml.probe_address.option().map(|BackendAddress(address)| address),
        source: Source::File,
    })
}

/// What a key that decides alone leaves no room for.
pub(super) fn refuse_caps(report: &Report<'_>, path: &Path<'_>, affinity: &Affinity, backends: &[Backend]) {
    if matches!(affinity, Affinity::Hash(_))
        && let Some(capped) = backends.iter().find(|backend| backend.max_pins.is_some())
    {
        let message =
            format!("expected no max_pins, because a key decides where a request goes; {} has one", capped.name);
        report.wrong(path, message);
    }
}

/// Reports a list that nobody new could be placed in, where there is nothing else to place them.
fn refuse_weightless(report: &Report<'_>, path: &Path<'_>, listed: &Listed) {
    let backends = &listed.backends;
    if listed.is_whole && !backends.is_empty() && backends.iter().all(|backend| backend.weight.get() == 0) {
        let message =
            "expected at least one backend with a weight above 0, found none; a new client would have no home";
        report.wrong(path, message.to_owned());
    }
}

//! Probes, and requests as evidence.

use http::{HeaderName, HeaderValue, header};

use super::backend_tls::backend_tls;
use super::{items, non_zero, secs};
use crate::config::read::{Entries, Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{
    Header, HeaderText, HostHeader, RequestTarget, ServiceName, Statuses, Text, Times, written,
};
use crate::config::words::{Off, ProbeMethod};
use crate::config::{Agent, BackendTls, GrpcProbe, Health, HttpProbe, Probe, Protocol, Traffic, yaml};

/// What requests to the pool's backends speak, which is what probes speak unless they are told otherwise.
#[derive(Clone, Copy)]
pub(super) struct Usual<'a> {
    pub(super) tls: Option<&'a BackendTls>,
    pub(super) protocol: Protocol,
}

pub(super) fn health(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<Off, yaml::Health>>,
    usual: Usual<'_>,
) -> Health {
    let default = || Health { tls: usual.tls.cloned(), ..Health::default() };
    let yaml = match given {
        Given::Is(Short::Full(yaml)) => yaml,
        Given::Is(Short::Short(_)) => return Health { probe: Probe::Off, ..default() },
        Given::Absent | Given::Empty | Given::Wrong => return default(),
    };
    let kinds = [("http", yaml.http.is_absent()), ("tcp", yaml.tcp.is_absent()), ("grpc", yaml.grpc.is_absent())];
    let given: Vec<_> = kinds.iter().filter(|(_, is_absent)| !is_absent).map(|(kind, _)| *kind).collect();
    match given.as_slice() {
        [] | [_] => {}
        [one, other] => report.wrong(at, format!("expected either {one} or {other}, found both")),
        _ => report.wrong(at, "expected one of http, tcp and grpc, found all of them".to_owned()),
    }
    let traffic = traffic(report, &at.key("traffic"), yaml.traffic);
    let health = if !yaml.http.is_absent() {
        let at = at.key("http");
        let (probe, rest) = http(report, &at, yaml.http.or(yaml::HttpHealth::default()), usual.protocol);
        schedule(report, &at, Probe::Http(probe), rest, usual)
    } else if !yaml.grpc.is_absent() {
        let at = at.key("grpc");
        let (probe, rest) = grpc(yaml.grpc.or(yaml::GrpcHealth::default()));
        schedule(report, &at, Probe::Grpc(probe), rest, usual)
    } else {
        schedule(report, &at.key("tcp"), Probe::Tcp, yaml.tcp.or(yaml::TcpHealth::default()), usual)
    };
    Health { traffic, ..health }
}

/// Splits the settings of an HTTP probe into what it asks, and what all kinds have.
fn http(
    report: &Report<'_>,
    at: &Path<'_>,
    yaml: yaml::HttpHealth,
    protocol: Protocol,
) -> (HttpProbe, yaml::TcpHealth) {
    let default = HttpProbe::default();
    let method = yaml.method.or(ProbeMethod::Get);
    let expected_body = yaml.expected_body.option().map(|Text(text)| text);
    let agent = agent(report, &at.key("agent"), yaml.agent.option());
    let needs_body = [("expected_body", expected_body.is_some()), ("agent", agent == Some(Agent::Body))];
    for (key, _) in needs_body.iter().filter(|(_, needs_body)| *needs_body && matches!(method, ProbeMethod::Head)) {
        report.wrong(&at.key(key), "expected none with method HEAD, whose replies have no body".to_owned());
    }
    if expected_body.is_some() && agent == Some(Agent::Body) {
        report.wrong(&at.key("expected_body"), "expected none where the body is the agent's".to_owned());
    }
    let probe = HttpProbe {
        path: yaml.path.option().map_or(default.path, |RequestTarget(path)| path),
        method: match method {
            ProbeMethod::Get => http::Method::GET,
            ProbeMethod::Head => http::Method::HEAD,
            ProbeMethod::Options => http::Method::OPTIONS,
        },
        host: yaml.host.option().map(|HostHeader(host)| host),
        headers: headers(report, &at.key("headers"), yaml.headers),
        http2: yaml.http2.or(protocol == Protocol::H2),
        expected_status: expected_status(report, &at.key("expected_status"), yaml.expected_status)
            .unwrap_or(default.expected_status),
        expected_body,
        instance_header: yaml.instance_header.option().map(|Header(name)| name),
        agent,
    };
    let rest = yaml::TcpHealth {
        port: yaml.port,
        tls: yaml.tls,
        interval: yaml.interval,
        timeout: yaml.timeout,
        suspect_interval: yaml.suspect_interval,
        unhealthy_interval: yaml.unhealthy_interval,
        healthy_after: yaml.healthy_after,
        unhealthy_after: yaml.unhealthy_after,
    };
    (probe, rest)
}

fn grpc(yaml: yaml::GrpcHealth) -> (GrpcProbe, yaml::TcpHealth) {
    let probe = GrpcProbe {
        service: yaml.service.option().map_or_else(|| "".into(), |ServiceName(service)| service),
        host: yaml.host.option().map(|HostHeader(host)| host),
    };
    let rest = yaml::TcpHealth {
        port: yaml.port,
        tls: yaml.tls,
        interval: yaml.interval,
        timeout: yaml.timeout,
        suspect_interval: yaml.suspect_interval,
        unhealthy_interval: yaml.unhealthy_interval,
        healthy_after: yaml.healthy_after,
        unhealthy_after: yaml.unhealthy_after,
    };
    (probe, rest)
}

/// Those that a probe has of its own, or that belong to the connection.
const OWN_HEADERS: [HeaderName; 6] =
    [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TE];

fn headers(report: &Report<'_>, at: &Path<'_>, given: Given<Entries<HeaderText>>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in given.option().map_or_else(Vec::new, |Entries(headers)| headers) {
        let at = at.key(&name);
        let Ok(parsed) = name.parse::<HeaderName>() else {
            report.wrong(&at, format!("expected the name of a header, found {name:?}"));
            continue;
        };
        if OWN_HEADERS.contains(&parsed) {
            let instead = if parsed == header::HOST { "; the key for it is host" } else { "" };
            report.wrong(&at, format!("expected another header, this one is not free to set{instead}"));
        }
        if headers.iter().any(|(known, _)| *known == parsed) {
            report.wrong(&at, "expected each header once".to_owned());
        }
        if value.is_missing() {
            report.expected(&at, "the value of the header");
        }
        if let Some(HeaderText(value)) = value.option() {
            headers.push((parsed, value));
        }
    }
    headers
}

fn agent(report: &Report<'_>, at: &Path<'_>, yaml: Option<yaml::Agent>) -> Option<Agent> {
    let yaml = yaml?;
    let is_wrong = yaml.header.is_wrong() || yaml.body.is_wrong();
    match (yaml.header.option(), yaml.body.or(false)) {
        (Some(Header(name)), false) => Some(Agent::Header(name)),
        (None, true) => Some(Agent::Body),
        (Some(_), true) => {
            report.wrong(at, "expected either header or body, found both".to_owned());
            None
        }
        (None, false) => {
            if !is_wrong {
                report.wrong(at, "expected the name of a header, or body: true".to_owned());
            }
            None
        }
    }
}

fn expected_status(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<Statuses, Vec<Given<Statuses>>>>,
) -> Option<Vec<(u16, u16)>> {
    match given.option()? {
        Short::Short(Statuses(first, last)) => Some(vec![(first, last)]),
        Short::Full(list) => {
            if list.is_empty() {
                report.expected(at, "at least one status code");
            }
            let statuses = items(report, at, Given::Is(list), "a status code").into_iter();
            let ranges = statuses.filter_map(|(_, status)| status.option()).map(|Statuses(first, last)| (first, last));
            Some(ranges.collect())
        }
    }
}

/// What all kinds of probes have.
fn schedule(report: &Report<'_>, at: &Path<'_>, probe: Probe, yaml: yaml::TcpHealth, usual: Usual<'_>) -> Health {
    let default = Health::default();
    let interval_known = !yaml.interval.is_wrong();
    let interval = non_zero(yaml.interval, default.interval);
    let suspect_interval = non_zero(yaml.suspect_interval, default.suspect_interval.min(interval));
    if interval_known && suspect_interval > interval {
        let most = written(interval);
        report.expected(&at.key("suspect_interval"), format!("at most interval, which is {most}"));
    }
    Health {
        probe,
        port: yaml.port.option().and_then(|port| u16::try_from(port.get()).ok()),
        tls: match yaml.tls.option() {
            None => usual.tls.cloned(),
            Some(Short::Short(Off::Off)) => None,
            Some(Short::Full(yaml)) => Some(backend_tls(report, &at.key("tls"), yaml)),
        },
        interval,
        suspect_interval,
        unhealthy_interval: non_zero(yaml.unhealthy_interval, interval),
        timeout: non_zero(yaml.timeout, default.timeout),
        healthy_after: yaml.healthy_after.option().map_or(default.healthy_after, |successes| successes.get()),
        unhealthy_after: yaml.unhealthy_after.option().map_or(default.unhealthy_after, |failures| failures.get()),
        traffic: default.traffic,
    }
}

fn traffic(report: &Report<'_>, at: &Path<'_>, given: Given<Short<Off, yaml::Traffic>>) -> Option<Traffic> {
    let yaml = match given {
        Given::Is(Short::Short(_)) => return None,
        Given::Is(Short::Full(yaml)) => yaml,
        Given::Absent | Given::Empty | Given::Wrong => yaml::Traffic::default(),
    };
    let default = Traffic::default();
    let window_known = !yaml.window.is_wrong();
    let window = non_zero(yaml.window, default.window);
    if window_known && !(secs(1)..=secs(600)).contains(&window) {
        report.expected(&at.key("window"), "1s to 10m");
    }
    Some(Traffic {
        window,
        connect_failures: yaml.connect_failures.option().map_or(default.connect_failures, |count| count.get()),
        errors: yaml.errors.option().map_or(default.errors, |count| count.get()),
        slow: yaml.slow.option().map_or(default.slow, |Times(times)| times),
        slow_floor: non_zero(yaml.slow_floor, default.slow_floor),
        bad_share: yaml.bad_share.or(default.bad_share),
        clients: yaml.clients.option().map_or(default.clients, |clients| clients.get()),
        max_out: yaml.max_out.or(default.max_out),
        out_for: non_zero(yaml.out_for, default.out_for),
    })
}

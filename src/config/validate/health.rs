//! Probes.

use std::time::Duration;

use super::{items, non_zero, secs};
use crate::config::read::{Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{Header, HostHeader, RequestTarget, Statuses, written};
use crate::config::words::{Off, ProbeMethod};
use crate::config::{Health, HttpProbe, Probe, yaml};

pub(super) fn health(report: &Report<'_>, at: &Path<'_>, given: Given<Short<Off, yaml::Health>>) -> Health {
    let yaml = match given {
        Given::Is(Short::Full(yaml)) => yaml,
        Given::Is(Short::Short(_)) => return schedule(report, at, Probe::Off, yaml::TcpHealth::default()),
        // Nothing said: nothing but an open port can be asked of a backend we know nothing of.
        Given::Absent | Given::Empty | Given::Wrong => {
            return schedule(report, at, Probe::Tcp, yaml::TcpHealth::default());
        }
    };
    if !yaml.http.is_absent() && !yaml.tcp.is_absent() {
        report.wrong(at, "expected either http or tcp, found both".to_owned());
    }
    if yaml.http.is_absent() {
        return schedule(report, &at.key("tcp"), Probe::Tcp, yaml.tcp.or(yaml::TcpHealth::default()));
    }
    let at = at.key("http");
    let (probe, times) = http(report, &at, yaml.http.or(yaml::HttpHealth::default()));
    schedule(report, &at, Probe::Http(probe), times)
}

/// Splits the settings of an HTTP probe into what it asks and when.
fn http(report: &Report<'_>, at: &Path<'_>, yaml: yaml::HttpHealth) -> (HttpProbe, yaml::TcpHealth) {
    let probe = HttpProbe {
        path: yaml.path.option().map_or_else(|| "/".into(), |RequestTarget(path)| path),
        method: match yaml.method.or(ProbeMethod::Get) {
            ProbeMethod::Get => http::Method::GET,
            ProbeMethod::Head => http::Method::HEAD,
            ProbeMethod::Options => http::Method::OPTIONS,
        },
        host: yaml.host.option().map(|HostHeader(host)| host),
        expected_status: expected_status(report, &at.key("expected_status"), yaml.expected_status),
        instance_header: yaml.instance_header.option().map(|Header(name)| name),
    };
    let times = yaml::TcpHealth {
        interval: yaml.interval,
        timeout: yaml.timeout,
        suspect_interval: yaml.suspect_interval,
        healthy_after: yaml.healthy_after,
        unhealthy_after: yaml.unhealthy_after,
    };
    (probe, times)
}

fn expected_status(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<Statuses, Vec<Given<Statuses>>>>,
) -> Vec<(u16, u16)> {
    match given.option() {
        None => vec![(200, 399)],
        Some(Short::Short(Statuses(first, last))) => vec![(first, last)],
        Some(Short::Full(list)) => {
            if list.is_empty() {
                report.expected(at, "at least one status code");
            }
            let statuses = items(report, at, Given::Is(list), "a status code").into_iter();
            statuses.filter_map(|(_, status)| status.option()).map(|Statuses(first, last)| (first, last)).collect()
        }
    }
}

fn schedule(report: &Report<'_>, at: &Path<'_>, probe: Probe, yaml: yaml::TcpHealth) -> Health {
    let interval_known = !yaml.interval.is_wrong();
    let interval = non_zero(yaml.interval, secs(2));
    let suspect_interval = non_zero(yaml.suspect_interval, Duration::from_millis(100).min(interval));
    if interval_known && suspect_interval > interval {
        let most = written(interval);
        report.expected(&at.key("suspect_interval"), format!("at most interval, which is {most}"));
    }
    Health {
        probe,
        interval,
        suspect_interval,
        timeout: non_zero(yaml.timeout, secs(1)),
        healthy_after: yaml.healthy_after.option().map_or(2, |successes| successes.get()),
        unhealthy_after: yaml.unhealthy_after.option().map_or(3, |failures| failures.get()),
    }
}

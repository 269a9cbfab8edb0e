//! Backends that do not stand in the configuration file: where they come from, and their lists.

use serde::Deserialize;

use super::pool::{NamesInIds, Taken, backend, backends, refuse_caps};
use super::{items, non_zero, secs};
use crate::config::read::{Given, Reader, Report, Short};
use crate::config::tree::{self, Node, Path, Value};
use crate::config::units::{DnsName, DnsRefresh, DnsServer, FilePath};
use crate::config::words::{ApiWord, RecordWord};
use crate::config::{Affinity, Backend, BackendsFrom, DnsRecord, DnsSource, HomeBy, Problem, Problems, Source, yaml};

pub(super) fn backends_from(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<ApiWord, yaml::BackendsFrom>>,
    affinity: &Affinity,
) -> BackendsFrom {
    let Some(Short::Full(yaml)) = given.option() else { return BackendsFrom::default() };
    if yaml.dns.is_missing() && yaml.file.is_missing() {
        report.expected(at, "dns, file or both; or the word api");
    }
    let dns_path = at.key("dns");
    let by_route =
        matches!(affinity, Affinity::AppSession(session) if matches!(session.home_by, HomeBy::RouteSuffix(_)));
    if by_route && !yaml.dns.is_missing() {
        report.expected(
            &dns_path,
            "no dns, because the app cannot know its address as its route (home_by: route_suffix)",
        );
    }
    BackendsFrom {
        dns: yaml.dns.option().and_then(|yaml| dns(report, &dns_path, yaml)),
        file: yaml.file.option().map(|FilePath(path)| path),
    }
}

fn dns(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Dns) -> Option<DnsSource> {
    let name = report.required(&at.key("name"), yaml.name, "the name to look up");
    let word = yaml.record.or(RecordWord::A);
    let port_path = at.key("port");
    let record = if word == RecordWord::Srv {
        if !yaml.port.is_missing() {
            report.expected(&port_path, "no port, because SRV records bring ports along");
        }
        Some(DnsRecord::Srv)
    } else {
        let port = report.required(&port_path, yaml.port, "the port of the backends");
        port.and_then(|port| u16::try_from(port.get()).ok()).map(|port| DnsRecord::Addresses {
            ipv4: word != RecordWord::Aaaa,
            ipv6: word != RecordWord::A,
            port,
        })
    };
    let servers = items(report, &at.key("servers"), yaml.servers, "a name server");
    Some(DnsSource {
        name: name.map(|DnsName(name)| name)?,
        record: record?,
        refresh: yaml
            .refresh
            .option()
            .map_or(crate::config::DnsRefresh::Every(secs(30)), |DnsRefresh(refresh)| refresh),
        timeout: non_zero(yaml.timeout, secs(5)),
        remove_after: yaml.remove_after.option().map_or(2, |answers| answers.get()),
        servers: servers.into_iter().filter_map(|(_, server)| server.option()).map(|DnsServer(it)| it).collect(),
    })
}

/// Reads the text of a list of backends.
pub(in crate::config) fn list(
    file: &str,
    text: &str,
    affinity: &Affinity,
    source: Source,
) -> Result<Vec<Backend>, Problems> {
    let read = || {
        let (root, problems) = tree::load(text).map_err(|problem| vec![problem])?;
        // A file that is being written is empty for a moment; a list of nobody is written `[]`.
        if matches!(root.value, Value::Null) {
            return Err(vec![whole_file("expected a list of backends, found an empty file")]);
        }
        let report = Report::new(&root, problems);
        let given = read_as(&root, &report);
        let listed = backends(&report, &Path::Root, given, NamesInIds::of(affinity), source);
        refuse_caps(&report, &Path::Root, affinity, &listed.backends);
        let problems = report.into_problems();
        if problems.is_empty() { Ok(listed.backends) } else { Err(problems) }
    };
    read().map_err(|problems| Problems::new(file, problems))
}

/// Reads one backend, spelled out.
pub(in crate::config) fn one(text: &str, affinity: &Affinity, source: Source) -> Result<Backend, Vec<Problem>> {
    let (root, problems) = tree::load(text).map_err(|problem| vec![problem])?;
    let report = Report::new(&root, problems);
    let read = match read_as::<yaml::Backend>(&root, &report) {
        Given::Is(yaml) => {
            let (at, taken) = (Path::Root, &mut Taken::default());
            backend(&report, (&at, &at.key("address")), yaml, NamesInIds::of(affinity), (taken, 0))
        }
        Given::Absent | Given::Empty | Given::Wrong => None,
    };
    refuse_caps(&report, &Path::Root, affinity, read.as_slice());
    let problems = report.into_problems();
    match read {
        Some(backend) if problems.is_empty() => Ok(Backend { source, ..backend }),
        Some(_) | None if problems.is_empty() => Err(vec![whole_file("expected a mapping, found nothing")]),
        Some(_) | None => Err(problems),
    }
}

fn read_as<'a, T: Deserialize<'a>>(root: &'a Node, report: &'a Report<'a>) -> Given<T> {
    T::deserialize(Reader::new(root, report)).map_or(Given::Wrong, Given::Is)
}

fn whole_file(message: &str) -> Problem {
    Problem { path: String::new(), line: None, message: message.to_owned() }
}

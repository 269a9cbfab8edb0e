//! Backends from DNS: addresses of a name, or the targets of its SRV records (RFC 2782).
//!
//! An answer is good when every part of it is: what could not be asked must not look like what is not there. Nothing is
//! cached here; the resolver is made anew for each lookup, so that a changed resolv.conf counts from the next one on.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use serde_json::{Value, json};
use siphasher::sip::SipHasher24;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::merge::MOST_DISCOVERED;
use super::{Answer, Found, Parse, dns_subject};
use crate::config::{DnsRecord, DnsRefresh, DnsSource, Source, Tier, Weight};

/// With `refresh: ttl`, no sooner and no later than this.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));

/// A failed lookup is made again no later than this.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest name of a backend.
const LONGEST_NAME: usize = 64;

/// Targets of SRV records that are looked up at once.
const TARGETS_AT_ONCE: usize = 32;

/// Looks a name up again and again, for as long as somebody takes the reports.
pub(super) async fn watch(
    pool: Arc<str>,
    source: DnsSource,
    parse: Parse,
    lookups: Arc<Semaphore>,
    finds: mpsc::Sender<Found>,
) {
    let subject = dns_subject(&source);
    let mut last: Option<Answer> = None;
    loop {
        let looked_up = {
            // Closed by nobody.
            let _turn = lookups.acquire().await;
            match tokio::time::timeout(source.timeout, lookup(&source)).await {
                Ok(looked_up) => looked_up,
                Err(_) => Err(format!("no whole answer within {:?}", source.timeout)),
            }
        };
        let ttl = looked_up.as_ref().ok().map(|(_, ttl)| *ttl);
        let outcome = looked_up.and_then(|(records, _)| {
            let text = text_of(&records);
            // Mostly nothing has changed, and needs not be read again.
            match &last {
                Some(answer) if *answer.text == *text => Ok(answer.clone()),
                Some(_) | None => {
                    let list = parse.list(&subject, &text, Source::Dns).map_err(|problems| problems.to_string());
                    list.map(|backends| Answer { backends, text: text.into(), remove_after: source.remove_after })
                }
            }
        });
        if let Ok(answer) = &outcome {
            last = Some(answer.clone());
        }
        let found = Found { pool: Arc::clone(&pool), source: Source::Dns, subject: subject.clone(), outcome };
        if finds.send(found).await.is_err() {
            return;
        }
        tokio::time::sleep(pause(source.refresh, ttl, fastrand::f64())).await;
    }
}

/// Time until the next lookup; `ttl` is `None` after a failure, and `jitter` 0 to 1. Up to a tenth longer than it says,
/// so that replicas that started together do not ask together, and a TTL is over.
fn pause(refresh: DnsRefresh, ttl: Option<Duration>, jitter: f64) -> Duration {
    let (shortest, longest) = TTL_BOUNDS;
    let pause = match (refresh, ttl) {
        (DnsRefresh::Every(every), Some(_)) => every,
        (DnsRefresh::Every(every), None) => every.min(RETRY_AFTER),
        (DnsRefresh::Ttl, Some(ttl)) => ttl.clamp(shortest, longest),
        (DnsRefresh::Ttl, None) => RETRY_AFTER,
    };
    pause.mul_f64(1.0 + jitter / 10.0)
}

/// One backend as DNS tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    /// 0 for the lowest priority number of the answer, 1 for the next one, and so on.
    tier: usize,
    name: String,
    address: SocketAddr,
    weight: u32,
}

impl Record {
    /// As an item of a list of backends.
    fn as_item(&self) -> Value {
        let tier = self.tier.min(usize::from(Tier::MAX));
        json!({ "name": self.name, "address": self.address.to_string(), "weight": self.weight, "tier": tier })
    }
}

fn text_of(records: &[Record]) -> String {
    Value::Array(records.iter().map(Record::as_item).collect()).to_string()
}

/// The records, sorted, and how long they may be believed.
async fn lookup(source: &DnsSource) -> Result<(Vec<Record>, Duration), String> {
    let resolver = resolver(source)?;
    let (mut records, ttl) = match source.record {
        DnsRecord::Addresses { ipv4, ipv6, port } => {
            let (addresses, ttl) = addresses(&resolver, &source.name, ipv4, ipv6).await?;
            (addresses.into_iter().map(|address| at_address(address, port)).collect(), ttl)
        }
        DnsRecord::Srv => targets(&resolver, &source.name).await?,
    };
    records.sort_unstable();
    records.dedup_by(|one, other| one.name == other.name || one.address == other.address);
    records.truncate(MOST_DISCOVERED + 1);
    if records.is_empty() { Err("the answer names nobody".to_owned()) } else { Ok((records, ttl)) }
}

fn resolver(source: &DnsSource) -> Result<TokioResolver, String> {
    let mut builder = if source.servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| format!("reading the system's resolv.conf: {error}"))?
    } else {
        let servers = source.servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    // Two tries within the bound of the whole.
    options.timeout = options.timeout.min(source.timeout / 2);
    options.attempts = 1;
    builder.build().map_err(|error| error.to_string())
}

/// Every address of a name. None of one kind is an answer, unless there is none of the other either.
async fn addresses(
    resolver: &TokioResolver,
    name: &str,
    ipv4: bool,
    ipv6: bool,
) -> Result<(Vec<IpAddr>, Duration), String> {
    let (of_ipv4, of_ipv6) = tokio::join!(
        asked(ipv4, records_of(resolver, name, RecordType::A)),
        asked(ipv6, records_of(resolver, name, RecordType::AAAA)),
    );
    let (of_ipv4, of_ipv6) = (of_ipv4?, of_ipv6?);
    let nothing = of_ipv4.nothing.or(of_ipv6.nothing);
    let ttl = of_ipv4.ttl.min(of_ipv6.ttl);
    let mut addresses: Vec<IpAddr> =
        of_ipv4.data.iter().chain(&of_ipv6.data).filter_map(address_in).filter(is_usable).collect();
    addresses.sort_unstable();
    addresses.dedup();
    match nothing {
        Some(nothing) if addresses.is_empty() => Err(nothing),
        Some(_) | None => Ok((addresses, ttl)),
    }
}

/// What was not asked for is an answer without records.
async fn asked(is_asked: bool, answer: impl Future<Output = Result<Records, String>>) -> Result<Records, String> {
    if is_asked { answer.await } else { Ok(Records { data: Vec::new(), ttl: Duration::MAX, nothing: None }) }
}

/// What an answer holds.
struct Records {
    data: Vec<RData>,
    /// The shortest one.
    ttl: Duration,
    /// Why there is nothing, when the server says so.
    nothing: Option<String>,
}

async fn records_of(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Records, String> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let records = || lookup.answers().iter().filter(|record| record.record_type() == kind);
            let ttl =
                records().map(|record| record.ttl).min().map_or(Duration::MAX, |ttl| Duration::from_secs(ttl.into()));
            let data = records().map(|record| record.data.clone()).collect();
            Ok(Records { data, ttl, nothing: None })
        }
        Err(error) if error.is_nx_domain() => {
            Ok(Records { data: Vec::new(), ttl: Duration::MAX, nothing: Some(format!("there is no name {name}")) })
        }
        Err(error) if error.is_no_records_found() => {
            let nothing = Some(format!("{name} has no {kind} records"));
            Ok(Records { data: Vec::new(), ttl: Duration::MAX, nothing })
        }
        Err(NetError::Timeout) => Err("no answer in time".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Every target of the name's SRV records that has an address.
async fn targets(resolver: &TokioResolver, name: &str) -> Result<(Vec<Record>, Duration), String> {
    let Records { data, mut ttl, nothing } = records_of(resolver, name, RecordType::SRV).await?;
    if let Some(nothing) = nothing {
        return Err(nothing);
    }
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    for data in data.into_iter().take(MOST_DISCOVERED) {
        let RData::SRV(srv) = data else { continue };
        // The root stands for "decidedly not available at this name", and port 0 for nobody.
        if srv.target.is_root() || srv.port == 0 {
            continue;
        }
        let Some(name) = backend_name(&srv.target, srv.port) else { continue };
        services.entry(name).or_insert(Service {
            target: srv.target.to_lowercase().to_ascii(),
            port: srv.port,
            priority: srv.priority,
            weight: srv.weight,
        });
    }
    let tiers: Vec<u16> = {
        let mut priorities: Vec<u16> = services.values().map(|service| service.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        priorities
    };
    let heaviest = services.values().map(|service| service.weight).max().unwrap_or_default();
    let mut records = Vec::new();
    let mut waiting = services.into_iter();
    let mut under_way = JoinSet::new();
    loop {
        for (name, service) in waiting.by_ref().take(TARGETS_AT_ONCE - under_way.len()) {
            let resolver = resolver.clone();
            under_way.spawn(async move {
                let address = target_address(&resolver, &service.target).await;
                (name, service, address)
            });
        }
        let Some(resolved) = under_way.join_next().await else { break };
        let (name, service, address) = resolved.map_err(|error| error.to_string())?;
        if let Some((address, target_ttl)) = address? {
            ttl = ttl.min(target_ttl);
            records.push(Record {
                tier: tiers.partition_point(|priority| *priority < service.priority),
                name,
                address: SocketAddr::new(address, service.port),
                weight: weight(service.weight, heaviest),
            });
        }
    }
    Ok((records, ttl))
}

/// A target of SRV records.
struct Service {
    target: String,
    port: u16,
    priority: u16,
    weight: u16,
}

/// The lowest address of a target, IPv4 before IPv6, so that it is the same one each time; `None` when the server knows of
/// none, as for a pod that has just gone.
async fn target_address(resolver: &TokioResolver, target: &str) -> Result<Option<(IpAddr, Duration)>, String> {
    for kind in [RecordType::A, RecordType::AAAA] {
        let Records { data, ttl, .. } = records_of(resolver, target, kind).await?;
        if let Some(address) = data.iter().filter_map(address_in).filter(is_usable).min() {
            return Ok(Some((address, ttl)));
        }
    }
    Ok(None)
}

fn address_in(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

/// Blocked names are sometimes answered with `0.0.0.0`, which would be this machine.
fn is_usable(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

fn at_address(address: IpAddr, port: u16) -> Record {
    let address = SocketAddr::new(address, port);
    Record { tier: 0, name: address.to_string(), address, weight: Weight::default().get() }
}

/// `target:port`; with a hash in place of what is too long for a name. `None` for what no name may hold.
fn backend_name(target: &Name, port: u16) -> Option<String> {
    let target = target.to_lowercase().to_ascii();
    let name = format!("{}:{port}", target.trim_end_matches('.'));
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':')) {
        return None;
    }
    if name.len() <= LONGEST_NAME {
        return Some(name);
    }
    let mut hasher = SipHasher24::new();
    hasher.write(name.as_bytes());
    let hash = format!("-{:016x}:{port}", hasher.finish());
    Some(format!("{}{hash}", &name[..LONGEST_NAME - hash.len()]))
}

/// Weights of an answer as ours: shares stay, but for those that get lost in the rounding where the heaviest is beyond our
/// bound. RFC 2782 gives 0 "a very small chance", where ours means none, so it is 1 at least.
fn weight(weight: u16, heaviest: u16) -> u32 {
    let (weight, heaviest) = (u32::from(weight), u32::from(heaviest).max(Weight::MAX));
    (weight * Weight::MAX / heaviest).max(1)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn a_lookup_is_made_again_in_its_rhythm_and_sooner_after_a_failure() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        for (refresh, ttl, jitter, expected) in [
            (DnsRefresh::Every(s(30)), Some(s(1)), 0.0, s(30)),
            (DnsRefresh::Every(s(30)), Some(s(1)), 1.0, s(33)),
            (DnsRefresh::Every(s(30)), None, 0.0, s(5)),
            (DnsRefresh::Every(s(1)), None, 0.5, ms(1050)),
            (DnsRefresh::Ttl, Some(s(60)), 0.0, s(60)),
            (DnsRefresh::Ttl, Some(s(0)), 0.0, s(1)),
            (DnsRefresh::Ttl, Some(Duration::MAX), 1.0, s(330)),
            (DnsRefresh::Ttl, None, 0.0, s(5)),
        ] {
            assert_eq!(pause(refresh, ttl, jitter), expected, "{refresh:?} {ttl:?} {jitter}");
        }
    }

    #[test]
    fn shares_of_an_answer_are_kept_within_our_bounds() {
        for (given, heaviest, expected) in
            [(0, 0, 1), (1, 1, 1), (0, 10, 1), (10, 10, 10), (1000, 1000, 1000), (500, 1000, 500)]
        {
            assert_eq!(weight(given, heaviest), expected, "{given} of {heaviest}");
        }
        assert_eq!([0, 1, 32768, 65535].map(|given| weight(given, 65535)), [1, 1, 500, 1000]);
    }

    #[test]
    fn a_target_and_its_port_are_a_name() {
        let name = |target: &str| backend_name(&Name::from_str(target).expect("a name"), 8080);
        assert_eq!(name("App-1.example.com.").as_deref(), Some("app-1.example.com:8080"));
        let long = |first: &str| name(&format!("{first}.{}.example.com.", "x".repeat(60))).expect("a name");
        assert_eq!(long("a").len(), LONGEST_NAME);
        assert_ne!(long("a"), long("b"));
        assert!(long("a").starts_with("a.xxx") && long("a").ends_with(":8080"), "{}", long("a"));
        let one = |end: &str| name(&format!("{}.{end}.", "x".repeat(60))).expect("a name");
        assert_ne!(one("de"), one("at"), "what differs at the end differs");
        let slash = Name::from_labels([&b"a/b"[..], b"example"]).expect("labels may hold anything");
        assert_eq!(backend_name(&slash, 8080), None, "a / would end a segment of a path");
    }
}

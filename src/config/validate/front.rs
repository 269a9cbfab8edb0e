//! What faces clients and operators: listeners, admin endpoint, access log.

use std::collections::HashMap;

use super::{items, non_zero, not_empty, secs, tls};
use crate::config::read::{Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{self, FileMode, FilePath, ListenerAddress, Percent, TrustedProxy};
use crate::config::words::{LogTarget, LogWord, On};
use crate::config::{
    AccessLog, AccessLogTarget, Address, Admin, Http2, ListenOn, Listener, ProxyProtocol, Tls, TrustedProxies, yaml,
};

/// Whoever shares the group of the socket's file may connect, and nobody else.
const SOCKET_MODE: u32 = 0o660;

/// The listeners that could be read, with their places in the list.
pub(super) fn listeners(
    report: &Report<'_>,
    given: Given<Vec<Given<Short<ListenerAddress, yaml::Listener>>>>,
) -> Vec<(usize, Listener)> {
    let path = Path::Root.key("listeners");
    not_empty(report, &path, &given, "at least one listener");
    let mut first_with: HashMap<ListenOn, usize> = HashMap::new();
    let mut listeners = Vec::new();
    for (index, item) in items(report, &path, given, "a listener") {
        let at = path.item(index);
        let (address_path, yaml) = match item {
            Given::Is(Short::Short(address)) => {
                (path.item(index), yaml::Listener { address: Given::Is(address), ..yaml::Listener::default() })
            }
            Given::Is(Short::Full(yaml)) => (at.key("address"), yaml),
            Given::Absent | Given::Empty | Given::Wrong => continue,
        };
        let Some(listener) = listener(report, &at, &address_path, yaml) else { continue };
        // Two of them would share the connections in silence: the sockets are opened with SO_REUSEPORT.
        let first = *first_with.entry(listener.address.clone()).or_insert(index);
        if first != index && !is_of_many(&listener.address) {
            report.expected(&address_path, format!("an address of its own, not that of listeners[{first}]"));
        }
        listeners.push((index, listener));
    }
    listeners
}

fn listener(report: &Report<'_>, at: &Path<'_>, address_path: &Path<'_>, yaml: yaml::Listener) -> Option<Listener> {
    let http2 = http2(report, &at.key("http2"), yaml.http2);
    let tls = yaml.tls.option().map(|yaml| tls::tls(report, &at.key("tls"), yaml));
    let tls = tls.map(|tls| Tls { offers_http2: http2.is_some(), ..tls });
    let redirect_path = at.key("redirect_to_https");
    let redirect_to_https = tls::redirect_to_https(report, &redirect_path, yaml.redirect_to_https, tls.is_some());
    let hsts = tls::hsts(report, &at.key("hsts"), yaml.hsts);
    let has_mode = !yaml.mode.is_missing();
    let ListenerAddress(address) = report.required(address_path, yaml.address, "an address to listen on")?;
    if has_mode && !matches!(&address, ListenOn::Bound(Address::Unix(_))) {
        report.expected(&at.key("mode"), format!("no mode, because {address} is no path"));
    }
    Some(Listener {
        address,
        mode: yaml.mode.option().map_or(SOCKET_MODE, |FileMode(mode)| mode),
        proxy_protocol: yaml.proxy_protocol.or(ProxyProtocol::Off),
        max_connections: yaml.max_connections.option().map_or(100_000, |most| most.get() as usize),
        head_limit: yaml.head_limit.option().map_or(64 << 10, |limit| limit.bytes()),
        header_timeout: non_zero(yaml.header_timeout, secs(10)),
        keep_alive_timeout: non_zero(yaml.keep_alive_timeout, secs(75)),
        http2,
        tls,
        redirect_to_https,
        hsts,
    })
}

fn http2(report: &Report<'_>, at: &Path<'_>, given: Given<Short<On, yaml::Http2>>) -> Option<Http2> {
    let yaml = match given.option() {
        None | Some(Short::Short(On::On)) => yaml::Http2::default(),
        Some(Short::Short(On::Off)) => return None,
        Some(Short::Full(yaml)) => yaml,
    };
    let connection_path = at.key("connection_window");
    // Both fit by the bounds of their types.
    let window = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX >> 1);
    let stream_window = yaml.stream_window.option().map_or(128 << 10, |size| window(size.bytes()));
    let given = yaml.connection_window.option().map(|size| window(size.bytes()));
    if given.is_some_and(|given| given < stream_window) {
        report.expected(&connection_path, "at least the stream_window".to_owned());
    }
    Some(Http2 {
        max_streams: yaml.max_streams.option().map_or(100, |most| most.get()),
        stream_window,
        connection_window: given.unwrap_or((1 << 20).max(stream_window)),
    })
}

/// Whether several listeners may be written alike: the system gives each a port of its own, or systemd has several
/// sockets of one name.
fn is_of_many(address: &ListenOn) -> bool {
    match address {
        ListenOn::Bound(address) => address.ip().is_some_and(|address| address.port() == 0),
        ListenOn::Inherited(_) => true,
    }
}

pub(super) fn trusted_proxies(report: &Report<'_>, given: Given<Vec<Given<TrustedProxy>>>) -> TrustedProxies {
    let mut trusted = TrustedProxies::default();
    for (_, item) in items(report, &Path::Root.key("trusted_proxies"), given, "a network, or unix") {
        match item.option() {
            Some(TrustedProxy::Network(network)) => trusted.networks.push(network),
            Some(TrustedProxy::Unix) => trusted.unix = true,
            None => {}
        }
    }
    trusted
}

/// A header of the PROXY protocol counts only if it comes from a trusted proxy: without any, a listener that needs one would
/// serve nobody, and one that may get one would take it for a bad request.
pub(super) fn trusted_where_needed(report: &Report<'_>, listeners: &[(usize, Listener)], trusted: &TrustedProxies) {
    if trusted.unix || !trusted.networks.is_empty() {
        return;
    }
    for (index, _) in listeners.iter().filter(|(_, listener)| listener.proxy_protocol != ProxyProtocol::Off) {
        let path = Path::Root.key("listeners");
        let expected = "off, because trusted_proxies names nobody who may send such a header";
        report.expected(&path.item(*index).key("proxy_protocol"), expected);
    }
}

pub(super) fn admin(report: &Report<'_>, given: Given<yaml::Admin>, listeners: &[(usize, Listener)]) -> Option<Admin> {
    let path = Path::Root.key("admin");
    let yaml = given.option()?;
    let token_given = !yaml.token_file.is_missing();
    let address_path = path.key("address");
    let units::Address(address) = report.required(&address_path, yaml.address, "an address to listen on")?;
    if !token_given && !address.ip().to_canonical().is_loopback() {
        let why = format!("a file with a token, because others can reach {address} (only loopback needs none)");
        report.expected(&path.key("token_file"), why);
    }
    if address.port() != 0
        && let Some((index, _)) =
            listeners.iter().find(|(_, listener)| listener.address == ListenOn::Bound(address.into()))
    {
        report.expected(&address_path, format!("an address of its own, not that of listeners[{index}]"));
    }
    Some(Admin { address, token_file: yaml.token_file.option().map(|FilePath(path)| path) })
}

pub(super) fn access_log(report: &Report<'_>, given: Given<Short<LogWord, yaml::AccessLog>>) -> AccessLog {
    let all = Percent::new(100.0).expect("100 is within 0 to 100");
    let whole = |target| AccessLog { target, sample: all };
    let yaml = match given.option() {
        None | Some(Short::Short(LogWord::Stdout)) => return whole(AccessLogTarget::Stdout),
        Some(Short::Short(LogWord::Off)) => return whole(AccessLogTarget::Off),
        Some(Short::Full(yaml)) => yaml,
    };
    let path = Path::Root.key("access_log");
    let file_path = path.key("path");
    let target_known = !yaml.target.is_wrong();
    let target = match yaml.target.or(LogTarget::Stdout) {
        LogTarget::File => {
            let file = report.required(&file_path, yaml.path, "the path of a file, because the target is file");
            file.map_or(AccessLogTarget::Stdout, |FilePath(path)| AccessLogTarget::File(path))
        }
        other => {
            if target_known && !yaml.path.is_missing() {
                report.expected(&file_path, format!("no path, because the target is {other}, not file"));
            }
            if matches!(other, LogTarget::Off) { AccessLogTarget::Off } else { AccessLogTarget::Stdout }
        }
    };
    AccessLog { target, sample: yaml.sample.or(all) }
}

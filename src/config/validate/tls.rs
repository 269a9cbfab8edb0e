//! TLS at a listener, and what it says about https.

use std::time::Duration;

use super::{items, non_zero, not_empty, secs};
use crate::config::read::{Given, Report, Short};
use crate::config::tree::Path;
use crate::config::units::{FilePath, Time};
use crate::config::words::{ClientCertificatesMode, Off, On, RedirectStatus};
use crate::config::{
    CertificateFiles, CipherSuite, ClientCertificates, Hsts, RedirectToHttps, SessionTickets, Tls, TlsVersion, yaml,
};

/// Keys are replaced twice a lifetime, and no key lives for less than half a minute.
const SHORTEST_TICKETS: Duration = secs(60);

/// RFC 8446 §4.6.1.
const LONGEST_TICKETS: Duration = secs(7 * 86_400);

/// What the lists that browsers ship ask for.
const PRELOAD_AGE: Duration = secs(365 * 86_400);

pub(super) fn tls(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Tls) -> Tls {
    let path = at.key("certificates");
    not_empty(report, &path, &yaml.certificates, "at least one certificate");
    let certificates = items(report, &path, yaml.certificates, "a certificate with its key");
    let certificates = certificates.into_iter().filter_map(|(index, files)| {
        let at = path.item(index);
        let files = files.option()?;
        let cert_file = report.required(&at.key("cert_file"), files.cert_file, "a PEM file with the certificate");
        let key_file = report.required(&at.key("key_file"), files.key_file, "a PEM file with its private key");
        let ocsp_file = files.ocsp_file.option().map(|FilePath(path)| path);
        Some(CertificateFiles { cert_file: cert_file?.0, key_file: key_file?.0, ocsp_file })
    });
    let certificates = certificates.collect();
    let min_version = yaml.min_version.or(TlsVersion::V1_2);
    Tls {
        offers_http2: true,
        certificates,
        min_version,
        cipher_suites: cipher_suites(report, &at.key("cipher_suites"), yaml.cipher_suites, min_version),
        handshake_timeout: non_zero(yaml.handshake_timeout, secs(10)),
        session_tickets: session_tickets(report, &at.key("session_tickets"), yaml.session_tickets),
        client_certificates: client_certificates(report, &at.key("client_certificates"), yaml.client_certificates),
    }
}

/// Leaving one of two versions without a suite would switch it off in passing.
fn cipher_suites(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Vec<Given<CipherSuite>>>,
    min_version: TlsVersion,
) -> Vec<CipherSuite> {
    if given.is_missing() {
        let fits = |suite: &CipherSuite| min_version == TlsVersion::V1_2 || suite.version() == TlsVersion::V1_3;
        return CipherSuite::ALL.iter().copied().filter(fits).collect();
    }
    let mut suites = Vec::new();
    let mut is_whole = !given.is_wrong();
    for (index, item) in items(report, at, given, "a cipher suite") {
        let Some(suite) = item.option() else {
            is_whole = false;
            continue;
        };
        if suites.contains(&suite) {
            report.expected(&at.item(index), "each cipher suite once");
        } else if suite.version() == TlsVersion::V1_2 && min_version == TlsVersion::V1_3 {
            report.expected(&at.item(index), "a cipher suite of TLS 1.3, because min_version is 1.3");
        }
        suites.push(suite);
    }
    let has = |version| suites.iter().any(|suite| suite.version() == version);
    if is_whole {
        if !has(TlsVersion::V1_3) {
            report.expected(at, "at least one cipher suite of TLS 1.3 (TLS_AES_…, TLS_CHACHA20_…)");
        }
        if min_version == TlsVersion::V1_2 && !has(TlsVersion::V1_2) {
            report.expected(at, "a cipher suite of TLS 1.2 (TLS_ECDHE_…) as well, or min_version: 1.3");
        }
    }
    suites
}

fn session_tickets(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<Off, yaml::SessionTickets>>,
) -> Option<SessionTickets> {
    let yaml = match given.option() {
        Some(Short::Short(Off::Off)) => return None,
        Some(Short::Full(yaml)) => yaml,
        None => yaml::SessionTickets::default(),
    };
    let lifetime = non_zero(yaml.lifetime, secs(12 * 3600));
    if !(SHORTEST_TICKETS..=LONGEST_TICKETS).contains(&lifetime) {
        report.expected(&at.key("lifetime"), "a duration from 1m to 7d");
    }
    Some(SessionTickets { lifetime, keys_file: yaml.keys_file.option().map(|FilePath(path)| path) })
}

fn client_certificates(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<Off, yaml::ClientCertificates>>,
) -> ClientCertificates {
    let Some(Short::Full(yaml)) = given.option() else { return ClientCertificates::Off };
    let mode = report.required(&at.key("mode"), yaml.mode, "off, optional or required");
    let Some(mode) = mode.filter(|mode| *mode != ClientCertificatesMode::Off) else { return ClientCertificates::Off };
    let expected = "a PEM file with those who may issue the clients' certificates";
    let Some(FilePath(ca_file)) = report.required(&at.key("ca_file"), yaml.ca_file, expected) else {
        return ClientCertificates::Off;
    };
    match mode {
        ClientCertificatesMode::Required => ClientCertificates::Required { ca_file },
        ClientCertificatesMode::Optional | ClientCertificatesMode::Off => ClientCertificates::Optional { ca_file },
    }
}

pub(super) fn redirect_to_https(
    report: &Report<'_>,
    at: &Path<'_>,
    given: Given<Short<On, yaml::RedirectToHttps>>,
    has_tls: bool,
) -> Option<RedirectToHttps> {
    let yaml = match given.option()? {
        Short::Short(On::Off) => return None,
        Short::Short(On::On) => yaml::RedirectToHttps::default(),
        Short::Full(yaml) => yaml,
    };
    if has_tls {
        report.wrong(at, "expected no redirect to https at a listener that speaks TLS itself".to_owned());
    }
    Some(RedirectToHttps {
        port: yaml.port.option().and_then(|port| u16::try_from(port.get()).ok()).unwrap_or(443),
        status: yaml.status.or(RedirectStatus::Permanent).code(),
    })
}

pub(super) fn hsts(report: &Report<'_>, at: &Path<'_>, given: Given<yaml::Hsts>) -> Option<Hsts> {
    let yaml = given.option()?;
    let path = at.key("max_age");
    let Time(max_age) = report.required(&path, yaml.max_age, "a duration such as 365d")?;
    let include_subdomains = yaml.include_subdomains.or(false);
    let preload = yaml.preload.or(false);
    if preload && !(include_subdomains && max_age >= PRELOAD_AGE) {
        let expected = "no preload without include_subdomains and a max_age of at least 365d, which the lists ask for";
        report.expected(&at.key("preload"), expected);
    }
    Some(Hsts { max_age, include_subdomains, preload })
}

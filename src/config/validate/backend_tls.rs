//! TLS towards backends.

use crate::config::read::{Given, Report};
use crate::config::tree::Path;
use crate::config::units::{FilePath, ServerName};
use crate::config::{BackendTls, ClientCertificate, yaml};

pub(super) fn backend_tls(report: &Report<'_>, at: &Path<'_>, yaml: yaml::BackendTls) -> BackendTls {
    let own = yaml.client_certificate.option().and_then(|own| {
        let at = at.key("client_certificate");
        let cert = report.required(&at.key("cert_file"), own.cert_file, "a PEM file with the certificate that we show");
        let key = report.required(&at.key("key_file"), own.key_file, "a PEM file with its private key");
        Some(ClientCertificate { cert: cert?.0.into(), key: key?.0.into() })
    });
    BackendTls {
        ca: yaml.ca_file.option().map(|FilePath(path)| path.into()),
        server_name: yaml.server_name.option().map(|ServerName(name)| name),
        client_certificate: own,
        verify: yaml.verify.or(true),
    }
}

/// Of a pool: `tls:` without anything below it means TLS as usual.
pub(super) fn of_pool(report: &Report<'_>, at: &Path<'_>, given: Given<yaml::BackendTls>) -> Option<BackendTls> {
    given.option().map(|yaml| backend_tls(report, at, yaml))
}

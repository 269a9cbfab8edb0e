//! TLS towards backends: whose certificates are trusted, and under which name.
//!
//! Settings become a [`ClientConfig`] of rustls, made once and shared by all connections under them. Opens no socket.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::{Certificate, CertificateError};
use super::provider::provider;
use super::{HTTP_1, HTTP_2};
use crate::config::{BackendTls, Protocol};
use crate::telemetry::with_causes;

/// Why settings for TLS cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// It is no PEM, or is cut off.
    Pem(pem::Error),
    /// There is not a single certificate in it.
    NoCertificate,
    /// One of them cannot be trusted as what it is.
    Certificate(rustls::Error),
    /// The system trusts nobody.
    NoSystemRoots,
    /// The certificate that we are to show, or its key.
    Own(CertificateError),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pem(_) => "expected certificates in PEM, found something else",
            Self::NoCertificate => "expected at least one certificate in PEM, found none",
            Self::Certificate(_) => "a certificate in it cannot be read",
            Self::NoSystemRoots => "the system has no certificates of authorities that it trusts; set ca_file",
            Self::Own(_) => "the certificate that backends are shown cannot be used",
        })
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pem(error) => Some(error),
            Self::Certificate(error) => Some(error),
            Self::Own(error) => Some(error),
            Self::NoCertificate | Self::NoSystemRoots => None,
        }
    }
}

/// The certificates of a file as roots.
///
/// # Errors
/// When it holds none, or one that cannot be read.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(TlsError::Pem)?).map_err(TlsError::Certificate)?;
    }
    if roots.is_empty() { Err(TlsError::NoCertificate) } else { Ok(roots) }
}

/// What connections under these settings have in common; `protocols` are offered by ALPN, the preferred one first.
///
/// Reads the system's roots when the settings name none: some milliseconds, and files are read.
///
/// # Errors
/// When there is nobody to trust.
pub fn client(settings: &BackendTls, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = if settings.verify {
        let roots = match &settings.ca {
            Some(ca) => roots(&ca.pem)?,
            None => system_roots()?,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        verifier.build().expect("there are roots, and no lists of revoked certificates that could be wrong")
    } else {
        Arc::new(TakesAny(Arc::clone(&provider)))
    };
    let own = settings.client_certificate.as_ref();
    let own = own.map(|own| Certificate::read(&own.cert.pem, &own.key.pem, &provider)).transpose();
    let own = own.map_err(TlsError::Own)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key))),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The name that the certificate must have: the one of the settings, else the host that is asked for (with a port or
/// without), else the IP address, which of a Unix socket is the one of this machine.
pub fn server_name(settings: &BackendTls, host: Option<&str>, address: Option<IpAddr>) -> ServerName<'static> {
    let host = || host.and_then(|host| host.parse::<http::uri::Authority>().ok()).map(|it| it.host().to_owned());
    let name = settings.server_name.as_deref().map(str::to_owned).or_else(host);
    // An IPv6 address stands in brackets in a host.
    let name = name.map(|name| name.trim_matches(['[', ']']).to_owned());
    let named = name.and_then(|name| ServerName::try_from(name).ok());
    named.or_else(|| address.map(ServerName::from)).unwrap_or_else(|| ServerName::from(Ipv4Addr::LOCALHOST))
}

/// What is offered by ALPN to agree on, the preferred one first.
pub fn protocols(protocol: Protocol) -> &'static [&'static [u8]] {
    match protocol {
        Protocol::H1 => &[HTTP_1],
        Protocol::H2 => &[HTTP_2],
        Protocol::Auto => &[HTTP_2, HTTP_1],
    }
}

/// Backends whose problem is remembered.
const MOST_TOLD: usize = 1024;

/// TLS under the settings of a pool: what its connections have in common, sessions that are resumed included, and what
/// was told of the backends that refuse it.
#[derive(Debug)]
pub struct TlsClient {
    settings: BackendTls,
    protocol: Protocol,
    /// `None` when there is nobody to trust any more: that was told.
    config: Option<Arc<ClientConfig>>,
    /// The same for connections that have to be of HTTP/1.1.
    http1: Option<Arc<ClientConfig>>,
    /// The problem of each backend, by its serial number, that was told already.
    told: Mutex<HashMap<u32, String>>,
    has_told: AtomicBool,
}

impl TlsClient {
    fn new(settings: &BackendTls, protocol: Protocol) -> Self {
        let config = match client(settings, protocols(protocol)) {
            Ok(config) => Some(config),
            Err(error) => {
                tracing::error!(error = with_causes(&error), "requests over TLS cannot be sent");
                None
            }
        };
        let http1 = config.as_ref().map(|config| {
            let protocols = protocols(Protocol::H1).iter().map(|protocol| protocol.to_vec()).collect();
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = protocols;
            Arc::new(config)
        });
        let has_told = AtomicBool::new(false);
        Self { settings: settings.clone(), protocol, config, http1, told: Mutex::default(), has_told }
    }

    /// For a connection.
    pub fn config(&self) -> Option<&Arc<ClientConfig>> {
        self.config.as_ref()
    }

    /// For a connection that has to be of HTTP/1.1, though the pool's protocol leaves the choice.
    pub fn http1_config(&self) -> Option<&Arc<ClientConfig>> {
        self.http1.as_ref()
    }

    /// The name that the certificate of a backend at this address must have.
    pub fn server_name(&self, address: Option<IpAddr>) -> ServerName<'static> {
        server_name(&self.settings, None, address)
    }

    /// Takes note of a handshake that failed for this reason, and says whether that is news.
    pub fn is_news(&self, serial: u32, problem: &str) -> bool {
        self.has_told.store(true, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST_TOLD {
            // Of backends that went. What is told twice does no harm.
            told.clear();
        }
        told.insert(serial, problem.to_owned()).is_none_or(|before| before != problem)
    }

    /// Takes note of a handshake that succeeded.
    pub fn is_well(&self, serial: u32) {
        // Relaxed: a problem that is told twice does no harm.
        if self.has_told.load(Ordering::Relaxed) {
            self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&serial);
        }
    }
}

/// One [`TlsClient`] for each kind of settings. They outlive snapshots, so that a reload ends neither idle connections nor
/// sessions that can be resumed.
#[derive(Debug, Default)]
pub struct TlsClients(Mutex<Vec<Arc<TlsClient>>>);

impl TlsClients {
    /// The one for these settings. Made when there is none; see [`client`].
    pub fn client(&self, settings: &BackendTls, protocol: Protocol) -> Arc<TlsClient> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clients.iter().find(|known| known.settings == *settings && known.protocol == protocol);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let made = Arc::new(TlsClient::new(settings, protocol));
        clients.push(Arc::clone(&made));
        made
    }

    /// Forgets all under other settings.
    pub fn retain(&self, is_used: impl Fn(&BackendTls) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|client| is_used(&client.settings));
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // Single files that cannot be read are not our business; nothing at all is.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(roots) }
}

/// Takes any certificate: what is sent is hidden from those who only listen, and from nobody else.
#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::config::PemFile;

    const CA: &[u8] = include_bytes!("../../tests/support/tls/ca.pem");

    fn settings(pem: &[u8]) -> BackendTls {
        let ca = Some(PemFile { path: "ca.pem".into(), pem: pem.into() });
        BackendTls { ca, server_name: None, client_certificate: None, verify: true }
    }

    #[test]
    fn a_file_without_certificates_is_of_no_use() {
        assert!(client(&settings(CA), &[HTTP_2]).is_ok());
        for (pem, expected) in [
            (&b""[..], "expected at least one certificate"),
            (b"hello", "expected at least one certificate"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "expected certificates in PEM"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "a certificate in it cannot be read"),
        ] {
            let error = client(&settings(pem), &[]).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(expected), "{error:?} for {:?}", pem.escape_ascii().to_string());
        }
        // Nobody is asked, so nobody needs to be trusted.
        assert!(client(&BackendTls { verify: false, ..settings(b"") }, &[]).is_ok());
    }

    #[test]
    fn the_name_is_the_one_set_or_asked_for_or_the_address() {
        let plain = settings(CA);
        let named = BackendTls { server_name: Some("inner.test".into()), ..settings(CA) };
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        for (settings, host, expected) in [
            (&plain, None, "127.0.0.1"),
            (&plain, Some("shop.example.com"), "shop.example.com"),
            (&plain, Some("shop.example.com:8443"), "shop.example.com"),
            (&plain, Some("[::1]:8443"), "::1"),
            (&named, Some("shop.example.com"), "inner.test"),
        ] {
            assert_eq!(server_name(settings, host, address).to_str(), expected);
        }
        assert_eq!(server_name(&plain, None, Some(Ipv6Addr::LOCALHOST.into())).to_str(), "::1");
        assert_eq!(server_name(&plain, None, None).to_str(), "127.0.0.1", "a path has none");
    }
}

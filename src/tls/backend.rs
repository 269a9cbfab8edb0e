//! TLS towards backends: whose certificates are trusted, and under which name.
//!
//! Settings become a [`ClientConfig`] of rustls, made once and shared by all connections under them. Opens no socket.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::provider::provider;
use crate::config::BackendTls;

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
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pem(_) => "expected certificates in PEM, found something else",
            Self::NoCertificate => "expected at least one certificate in PEM, found none",
            Self::Certificate(_) => "a certificate in it cannot be read",
            Self::NoSystemRoots => "the system has no certificates of authorities that it trusts; set ca_file",
        })
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pem(error) => Some(error),
            Self::Certificate(error) => Some(error),
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
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
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
    use crate::config::CaFile;

    const CA: &[u8] = include_bytes!("../../tests/support/tls/ca.pem");

    fn settings(pem: &[u8]) -> BackendTls {
        BackendTls { ca: Some(CaFile { path: "ca.pem".into(), pem: pem.into() }), server_name: None, verify: true }
    }

    #[test]
    fn a_file_without_certificates_is_of_no_use() {
        assert!(client(&settings(CA), &[b"h2"]).is_ok());
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

//! What connections to backends speak: TLS or not, and which version of HTTP.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// TLS towards a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// Who may have signed the backend's certificate; `None` for whomever the system trusts.
    pub ca: Option<PemFile>,
    /// The name that its certificate must have; `None` for the name it is asked by, else its IP address.
    pub server_name: Option<Arc<str>>,
    /// What we show to a backend that asks for a certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// `false`: any certificate will do, and anybody can pretend to be the backend.
    pub verify: bool,
}

/// A certificate of our own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The certificate first, then each issuer of the one before.
    pub cert: PemFile,
    /// Its private key.
    pub key: PemFile,
}

impl BackendTls {
    /// The files, each with its key below that of these settings.
    pub fn files_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut PemFile)> {
        let ca = self.ca.iter_mut().map(|ca| ("ca_file", ca));
        let own = self.client_certificate.iter_mut().flat_map(|own| {
            [("client_certificate.cert_file", &mut own.cert), ("client_certificate.key_file", &mut own.key)]
        });
        ca.chain(own)
    }
}

/// A file with certificates, or a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PemFile {
    /// As written; relative to the folder of the configuration file.
    pub path: PathBuf,
    /// What it held when the configuration took effect; empty before that.
    pub pem: Arc<[u8]>,
}

impl From<PathBuf> for PemFile {
    /// One that is yet to be read.
    fn from(path: PathBuf) -> Self {
        Self { path, pem: [].into() }
    }
}

impl fmt::Debug for PemFile {
    /// Without what it held, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PemFile").field(&self.path).finish()
    }
}

/// Which version of HTTP backends are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2: agreed on by ALPN within TLS, and known beforehand without.
    H2,
    /// What the backend prefers, within TLS; HTTP/1.1 without.
    Auto,
}

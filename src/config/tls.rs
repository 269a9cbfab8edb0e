//! TLS at a listener, and what a listener says about https.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

/// TLS at one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whether clients are offered HTTP/2, as the listener has it.
    pub offers_http2: bool,
    /// In file order; at least one. The first one is for clients that name no host, or one that no certificate has.
    pub certificates: Vec<CertificateFiles>,
    /// Older versions are refused.
    pub min_version: TlsVersion,
    /// The suites that are offered.
    pub cipher_suites: Vec<CipherSuite>,
    /// How long a client may take for the handshake.
    pub handshake_timeout: Duration,
    /// How clients come back without a full handshake; `None`: they do not.
    pub session_tickets: Option<SessionTickets>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
}

/// The files of one certificate; relative paths are relative to the configuration file's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the server's own certificate first, then each issuer of the one before.
    pub cert_file: PathBuf,
    /// PEM: its private key.
    pub key_file: PathBuf,
    /// DER: what the issuer's OCSP responder says of it.
    pub ocsp_file: Option<PathBuf>,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// Session tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTickets {
    /// A ticket older than this takes a full handshake. At most 7 days (RFC 8446 §4.6.1).
    pub lifetime: Duration,
    /// File with the ring of keys; `None`: keys of this process, replaced twice a lifetime.
    pub keys_file: Option<PathBuf>,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked; one that is shown has to be good.
    Optional {
        /// PEM: who may issue them.
        ca_file: PathBuf,
    },
    /// Nobody comes in without.
    Required {
        /// PEM: who may issue them.
        ca_file: PathBuf,
    },
}

impl ClientCertificates {
    /// The file with those who may issue them.
    pub fn ca_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Off => None,
            Self::Optional { ca_file } | Self::Required { ca_file } => Some(ca_file),
        }
    }
}

macro_rules! cipher_suites {
    ($($variant:ident = $word:literal: $version:ident),+ $(,)?) => {
        /// The cipher suites there are, by their IANA names. All of them authenticate what they encrypt, and agree on keys
        /// that nobody can work out later.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CipherSuite {
            $(
                #[doc = $word]
                $variant,
            )+
        }

        impl CipherSuite {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its IANA name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// The version it is for.
            pub fn version(self) -> TlsVersion {
                match self {
                    $(Self::$variant => TlsVersion::$version,)+
                }
            }
        }
    };
}

cipher_suites! {
    Aes256Gcm = "TLS_AES_256_GCM_SHA384": V1_3,
    Aes128Gcm = "TLS_AES_128_GCM_SHA256": V1_3,
    ChaCha20 = "TLS_CHACHA20_POLY1305_SHA256": V1_3,
    EcdsaAes256Gcm = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": V1_2,
    EcdsaAes128Gcm = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": V1_2,
    EcdsaChaCha20 = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": V1_2,
    RsaAes256Gcm = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": V1_2,
    RsaAes128Gcm = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": V1_2,
    RsaChaCha20 = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": V1_2,
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Sends clients from http to https.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectToHttps {
    /// The port of the https listener as clients see it; 443 is left out.
    pub port: u16,
    /// 301, 302, 307 or 308.
    pub status: StatusCode,
}

/// Tells browsers to come by https only (RFC 6797).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// For how long; zero takes it back.
    pub max_age: Duration,
    /// Hosts below this one, too.
    pub include_subdomains: bool,
    /// Consent to be on the lists that browsers ship.
    pub preload: bool,
}

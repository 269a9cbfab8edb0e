//! TLS at a listener, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::read::{Full, Given, Short};
use crate::config::units::{FilePath, NonZeroTime, Time, Whole};
use crate::config::words::{ClientCertificatesMode, Off, RedirectStatus};
use crate::config::{CipherSuite, TlsVersion};

/// TLS at one listener.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Tls {
    /// Certificates; which one a client sees goes by the name it asks for, and the first one is for all other names.
    /// At least one. Their files are watched.
    pub(in crate::config) certificates: Given<Vec<Given<CertificateFiles>>>,
    /// Oldest version of TLS: 1.2 or 1.3. Default: 1.2.
    pub(in crate::config) min_version: Given<TlsVersion>,
    /// Cipher suites that are offered, by their IANA names; the client's preference counts. Default: all there are.
    pub(in crate::config) cipher_suites: Given<Vec<Given<CipherSuite>>>,
    /// How long a client may take for the handshake. Default: 10s.
    pub(in crate::config) handshake_timeout: Given<NonZeroTime>,
    /// How clients come back without a full handshake; `off`: they do not. Default: by tickets.
    pub(in crate::config) session_tickets: Given<Short<Off, SessionTickets>>,
    /// Whether clients show certificates. Default: off.
    pub(in crate::config) client_certificates: Given<Short<Off, ClientCertificates>>,
}

/// The files of one certificate.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct CertificateFiles {
    /// PEM file with the server's certificate and then its issuers. Relative to the folder of the configuration file.
    /// Needed.
    pub(in crate::config) cert_file: Given<FilePath>,
    /// PEM file with its private key; may be the same file. Needed.
    pub(in crate::config) key_file: Given<FilePath>,
    /// DER file with the OCSP responder's word on it, which is passed on to clients. Default: none.
    pub(in crate::config) ocsp_file: Given<FilePath>,
}

/// Session tickets.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct SessionTickets {
    /// How long a ticket is good for, 1m to 7d. Default: 12h.
    pub(in crate::config) lifetime: Given<NonZeroTime>,
    /// File with the ring of ticket keys, shared by replicas; the first line encrypts. Default: none, keys of this process
    /// that are replaced twice a lifetime.
    pub(in crate::config) keys_file: Given<FilePath>,
}

impl Full for SessionTickets {}

/// Certificates of clients.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ClientCertificates {
    /// Whether clients are asked for one, and have to have it: off, optional or required. Needed.
    pub(in crate::config) mode: Given<ClientCertificatesMode>,
    /// PEM file with those who may issue them. Needed unless the mode is off.
    pub(in crate::config) ca_file: Given<FilePath>,
}

impl Full for ClientCertificates {}

/// Sends clients to https.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RedirectToHttps {
    /// Port of the https listener as clients see it. Default: 443.
    pub(in crate::config) port: Given<Whole<1, 65_535>>,
    /// Status of the redirect: 301, 302, 307 or 308. Default: 308.
    pub(in crate::config) status: Given<RedirectStatus>,
}

impl Full for RedirectToHttps {}

/// Tells browsers to come by https only.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Hsts {
    /// For how long; 0s takes it back. Needed.
    pub(in crate::config) max_age: Given<Time>,
    /// Whether it is for the hosts below the host, too. Default: false.
    pub(in crate::config) include_subdomains: Given<bool>,
    /// Consent to be on the lists that browsers ship. Default: false.
    pub(in crate::config) preload: Given<bool>,
}

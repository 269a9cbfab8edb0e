//! TLS towards backends, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::read::{Full, Given};
use crate::config::units::{FilePath, ServerName};

/// TLS towards a backend.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct BackendTls {
    /// File with the certificates (PEM) of those who may have signed the backend's. Relative to the folder of the
    /// configuration file. Default: whomever the system trusts.
    pub(in crate::config) ca_file: Given<FilePath>,
    /// Name that the backend's certificate must have. Default: the IP address; for a probe its `host` where there is one.
    pub(in crate::config) server_name: Given<ServerName>,
    /// What we show to a backend that asks for a certificate. Default: nothing.
    pub(in crate::config) client_certificate: Given<ClientCertificate>,
    /// `false`: any certificate will do, and anybody can pretend to be the backend. Default: true.
    pub(in crate::config) verify: Given<bool>,
}

impl Full for BackendTls {}

/// A certificate of our own.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ClientCertificate {
    /// PEM file with the certificate and then its issuers. Relative to the folder of the configuration file. Needed.
    pub(in crate::config) cert_file: Given<FilePath>,
    /// PEM file with its private key; may be the same file. Needed.
    pub(in crate::config) key_file: Given<FilePath>,
}

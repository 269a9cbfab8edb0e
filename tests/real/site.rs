//! One Stickpin with a plain and an https listener, for clients that nobody here wrote.

use std::net::SocketAddr;

use x509_cert::der::{Decode, Encode};

use crate::support::Stickpin;
use crate::support::made::{Ca, days};
use crate::support::tls::Files;

/// Its https listener has a certificate for `localhost`.
pub(crate) struct Site {
    stickpin: Stickpin,
    files: Files,
    key_hash: String,
}

impl Site {
    /// In front of these backends, as lines of YAML, with these settings of the pool, one each.
    pub(crate) fn start(backends: &[String], pool: &[&str]) -> Self {
        let (files, ca) = (Files::new(), Ca::new("a CA of a test"));
        let made = ca.server(&["localhost"], days(-1, 1));
        files.write(CA_FILE, ca.pem());
        let item = files.certificate("localhost", &made);
        let settings: String = pool.iter().map(|setting| format!("    {setting}\n")).collect();
        let stickpin = Stickpin::start(&format!(
            "workers: 2\naccess_log: off\nadmin: {{ address: \"127.0.0.1:0\" }}\nlisteners:\n  \
             - address: 127.0.0.1:0\n  - address: 127.0.0.1:0\n    tls: {{ certificates: [ {item} ] }}\n\
             pools:\n  shop:\n{settings}    backends: [ {} ]\n",
            backends.join(", ")
        ));
        let certificate = x509_cert::Certificate::from_der(&made.der).expect("a certificate");
        let key = certificate.tbs_certificate().subject_public_key_info().to_der().expect("a key");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key);
        let key_hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest);
        Self { stickpin, files, key_hash }
    }

    /// Where plain HTTP is spoken.
    pub(crate) fn plain(&self) -> SocketAddr {
        self.stickpin.listeners()[0]
    }

    /// Where TLS is spoken.
    pub(crate) fn secure(&self) -> SocketAddr {
        self.stickpin.listeners()[1]
    }

    /// A path here, by https.
    pub(crate) fn https(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.secure().port())
    }

    /// The file of the CA that signed its certificate.
    pub(crate) fn ca_file(&self) -> String {
        self.files.path(CA_FILE).to_str().expect("a plain path").to_owned()
    }

    /// Base64 of the SHA-256 of its certificate's public key.
    pub(crate) fn key_hash(&self) -> &str {
        &self.key_hash
    }
}

const CA_FILE: &str = "ca.pem";

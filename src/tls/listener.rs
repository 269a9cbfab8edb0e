//! What workers and the control plane share about TLS at one listener: the terms of its handshakes, and how those ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

use super::backend::{TlsError, roots};
use super::certificate::Certificate;
use super::names::Names;
use super::ocsp::Staple;
use super::provider::with_suites;
use super::tickets::{Binding, TicketRing, Ticketer};
use super::{HTTP_1, HTTP_2};
use crate::config::{ClientCertificates, Tls, TlsVersion};
use crate::telemetry::counters::Single;

/// The protocols that are offered within TLS, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP_2, HTTP_1];

/// What a handshake goes by. Immutable; replaced whole.
#[derive(Debug)]
pub struct Terms {
    /// rustls' part of it.
    pub config: Arc<ServerConfig>,
    /// How long it may take.
    pub handshake_timeout: Duration,
}

/// What terms are made from, beside the settings.
#[derive(Clone, Debug)]
pub struct Material {
    /// In the order of the settings.
    pub certificates: Vec<(Arc<Certificate>, Option<Staple>)>,
    /// Who may issue the clients' certificates; `None` when they are not asked.
    pub client_cas: Option<ClientCas>,
    /// The ticket keys; `None` for no tickets.
    pub tickets: Option<Arc<TicketRing>>,
}

/// Who may issue the clients' certificates.
#[derive(Clone, Debug)]
pub struct ClientCas {
    roots: Arc<RootCertStore>,
    /// Stands for the content of the file.
    digest: Binding,
}

impl ClientCas {
    /// Reads a PEM file.
    ///
    /// # Errors
    /// When there is none in it, or one that cannot be used.
    pub fn read(pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self { roots: Arc::new(roots(pem)?), digest: super::digest(&[pem]) })
    }
}

impl Terms {
    /// Puts them together.
    ///
    /// # Errors
    /// When rustls does not agree to them.
    pub fn new(settings: &Tls, material: &Material) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let provider = with_suites(&settings.cipher_suites);
        let versions = match settings.min_version {
            TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
        let builder = match &material.client_cas {
            None => builder.with_no_client_auth(),
            Some(cas) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&cas.roots), provider);
                let verifier = match &settings.client_certificates {
                    ClientCertificates::Optional { .. } => verifier.allow_unauthenticated(),
                    ClientCertificates::Required { .. } | ClientCertificates::Off => verifier,
                };
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let shown = material.certificates.iter().map(|(certificate, staple)| {
            let key = match staple {
                None => Arc::clone(&certificate.key),
                Some(staple) => Arc::new(CertifiedKey {
                    cert: certificate.key.cert.clone(),
                    key: Arc::clone(&certificate.key.key),
                    ocsp: Some(staple.der.clone()),
                }),
            };
            (&*certificate.names, key)
        });
        let mut config = builder.with_cert_resolver(Arc::new(Names::new(shown)));
        let offered = PROTOCOLS.iter().filter(|protocol| settings.offers_http2 || **protocol != HTTP_2);
        config.alpn_protocols = offered.map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match (&settings.session_tickets, &material.tickets) {
            (Some(tickets), Some(ring)) => {
                let binding = binding(&settings.client_certificates, material.client_cas.as_ref());
                config.ticketer = Arc::new(Ticketer { ring: Arc::clone(ring), lifetime: tickets.lifetime, binding });
            }
            _ => config.send_tls13_tickets = 0,
        }
        Ok(Self { config: Arc::new(config), handshake_timeout: settings.handshake_timeout })
    }
}

/// rustls does not verify a client that comes back with a ticket, so a ticket counts only where as much was asked for it.
fn binding(mode: &ClientCertificates, cas: Option<&ClientCas>) -> Binding {
    let mode: &[u8] = match mode {
        ClientCertificates::Off => b"off",
        ClientCertificates::Optional { .. } => b"optional",
        ClientCertificates::Required { .. } => b"required",
    };
    super::digest(&[mode, cas.map_or(&[], |cas| &cas.digest)])
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Well, with everything that belongs to one.
    Full,
    /// Well, by a ticket.
    Resumed,
    /// The client does not speak TLS as we do, or does not like our certificate.
    Failed,
    /// The client's certificate is missing or no good.
    ClientCertificate,
    /// It took too long.
    Timeout,
    /// The client speaks HTTP without TLS.
    PlainHttp,
    /// It had not ended when too many others came.
    Crowded,
}

impl Handshake {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Full,
        Self::Resumed,
        Self::Failed,
        Self::ClientCertificate,
        Self::Timeout,
        Self::PlainHttp,
        Self::Crowded,
    ];

    /// The word for it; [`Handshake::is_resumed`] is told beside it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full | Self::Resumed => "ok",
            Self::Failed => "failed",
            Self::ClientCertificate => "client_certificate",
            Self::Timeout => "timeout",
            Self::PlainHttp => "plain_http",
            Self::Crowded => "crowded",
        }
    }

    /// Whether it was shortened by a ticket.
    pub fn is_resumed(self) -> bool {
        self == Self::Resumed
    }
}

/// One worker's counters, alone on their cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([Single; Handshake::ALL.len()]);

/// TLS at one listener.
#[derive(Debug)]
pub struct TlsListener {
    terms: ArcSwap<Terms>,
    /// By worker.
    shards: Box<[Shard]>,
    /// Changes of files that took effect, and those that did not.
    files_taken: [AtomicU64; 2],
    /// Names of the certificates in force, and when each expires.
    expiries: Mutex<Vec<(String, SystemTime)>>,
}

impl TlsListener {
    /// Begins with these terms, for this many workers.
    pub fn new(terms: Terms, material: &Material, workers: usize) -> Self {
        Self {
            terms: ArcSwap::from_pointee(terms),
            shards: (0..workers).map(|_| Shard::default()).collect(),
            files_taken: Default::default(),
            expiries: Mutex::new(expiries(material)),
        }
    }

    /// For the next handshake. Those under way, and connections that are open, keep what they began with.
    pub fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Replaces the terms. Only the control plane calls it, from one thread.
    pub fn publish(&self, terms: Terms, material: &Material) {
        self.terms.store(Arc::new(terms));
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = expiries(material);
    }

    /// Counts a handshake of this worker, which alone may call it.
    pub fn ended(&self, worker: usize, handshake: Handshake) {
        self.shards[worker].0[handshake as usize].add(1);
    }

    /// How handshakes ended, in the order of [`Handshake::ALL`].
    pub fn handshakes(&self) -> [u64; Handshake::ALL.len()] {
        std::array::from_fn(|index| self.shards.iter().map(|shard| shard.0[index].value()).sum())
    }

    /// Counts a change of files: one that took effect, or one that could not.
    pub fn files_taken(&self, is_ok: bool) {
        self.files_taken[usize::from(!is_ok)].fetch_add(1, Ordering::Relaxed);
    }

    /// Changes of files that took effect, and those that could not.
    pub fn file_changes(&self) -> [u64; 2] {
        self.files_taken.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// The first name of each certificate in force, and when it expires; the earliest where a name has several.
    pub fn expiries(&self) -> Vec<(String, SystemTime)> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn expiries(material: &Material) -> Vec<(String, SystemTime)> {
    let mut found: Vec<(String, SystemTime)> = Vec::new();
    for (certificate, _) in &material.certificates {
        let name = certificate.names.first().map_or("", |name| name);
        match found.iter_mut().find(|(known, _)| known == name) {
            Some((_, expiry)) => *expiry = certificate.not_after.min(*expiry),
            None => found.push((name.to_owned(), certificate.not_after)),
        }
    }
    found
}

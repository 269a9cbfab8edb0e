//! Backends that speak TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::made::{Ca, Made};
use super::raw::{Heard, record};

/// What a backend saw of a handshake: how it came about, the name that was asked for, and the certificate it was shown.
#[derive(Clone, Debug)]
pub struct Shaken {
    pub kind: HandshakeKind,
    pub name: Option<String>,
    pub certificate: Option<CertificateDer<'static>>,
}

/// A recorder within TLS, which takes HTTP/1.1.
#[derive(Debug)]
pub struct TlsRecorder {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    shaken: Arc<Mutex<Vec<Shaken>>>,
    task: JoinHandle<()>,
}

/// TLS of a server that shows this certificate; with `asks`, clients have to show one of that CA.
pub fn server_config(made: &Made, asks: Option<&Ca>, protocols: &[&str]) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(made.chain.as_bytes()).collect::<Result<_, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them");
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).expect("PEM")).expect("a certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("there is a root"))
        }
    };
    let mut config = builder.with_single_cert(chain, key).expect("they belong together");
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    Arc::new(config)
}

impl TlsRecorder {
    /// Starts one on a free port.
    pub async fn start(made: &Made, asks: Option<&Ca>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("it is bound");
        let (heard, shaken) = (Arc::<Mutex<Heard>>::default(), Arc::<Mutex<Vec<Shaken>>>::default());
        let acceptor = TlsAcceptor::from(server_config(made, asks, &["http/1.1"]));
        let (hears, sees) = (Arc::clone(&heard), Arc::clone(&shaken));
        let task = tokio::spawn(async move {
            loop {
                let Ok((io, _)) = listener.accept().await else { return };
                let (acceptor, hears, sees) = (acceptor.clone(), Arc::clone(&hears), Arc::clone(&sees));
                tokio::spawn(async move {
                    let Ok(io) = acceptor.accept(io).await else { return };
                    let tls = io.get_ref().1;
                    let shown = tls.peer_certificates().map(|chain| chain[0].clone().into_owned());
                    sees.lock().expect("nobody panics with it").push(Shaken {
                        kind: tls.handshake_kind().expect("it is over"),
                        name: tls.server_name().map(str::to_owned),
                        certificate: shown,
                    });
                    record(io, hears, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                });
            }
        });
        Self { address, heard, shaken, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was sent so far.
    pub fn heard(&self) -> Heard {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    /// The handshakes so far.
    pub fn shaken(&self) -> Vec<Shaken> {
        self.shaken.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for TlsRecorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! Makes TLS handshakes with a server as fast as it can, for `benches/secure`: what Debian packages measures requests, or
//! starts a process for each connection.
//!
//! `cargo run --release --example handshakes -- --address 127.0.0.1:8443 --resumed`
//!
//! Each of the connections is opened, handshaken (TLS 1.3, X25519, AES-128) and kept until the server has sent a ticket,
//! which it does when it has seen the end of the handshake; then the next one takes its place. Resumed ones use each
//! ticket once, as browsers do. Certificates are not looked at, nor is what they sign, so that one core of clients can
//! keep one core of a server busy.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use clap::Parser;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Parser)]
#[command(about = "Makes TLS handshakes with a server as fast as it can")]
struct Command {
    /// Where the server listens.
    #[arg(long)]
    address: SocketAddr,
    /// The name that is asked for.
    #[arg(long, default_value = "localhost")]
    name: String,
    /// Resume sessions; the first handshake of each connection is a full one, and not counted.
    #[arg(long)]
    resumed: bool,
    /// How many connections there are at a time.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// For how long.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Command::parse();
    let Ok(name) = ServerName::try_from(command.name) else {
        eprintln!("handshakes: --name is no name");
        return ExitCode::FAILURE;
    };
    let kind = if command.resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    let began = Instant::now();
    let deadline = began + Duration::from_secs_f64(command.seconds.clamp(0.1, 600.0));
    let mut clients = JoinSet::new();
    for _ in 0..command.connections.clamp(1, 4096) {
        clients.spawn(shake_hands(command.address, name.clone(), kind, deadline));
    }
    let mut all = Tally::default();
    while let Some(tally) = clients.join_next().await {
        all.add(tally.expect("no client panics"));
    }
    println!("{}", all.report(began.elapsed()));
    ExitCode::SUCCESS
}

/// What one client, or all of them, saw.
#[derive(Default)]
struct Tally {
    /// How long each handshake took that was of the wanted kind.
    took: Vec<Duration>,
    other_kind: u64,
    failed: u64,
    first_failure: Option<io::Error>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.took.extend(other.took);
        self.other_kind += other.other_kind;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    fn report(mut self, elapsed: Duration) -> serde_json::Value {
        self.took.sort_unstable();
        let share = |percent: usize| self.took.get(self.took.len() * percent / 100).map_or(0, Duration::as_micros);
        json!({
            "handshakes": self.took.len(),
            "other_kind": self.other_kind,
            "failed": self.failed,
            "first_failure": self.first_failure.map(|error| error.to_string()),
            "duration_us": elapsed.as_micros(),
            "p50_us": share(50),
            "p99_us": share(99),
        })
    }
}

/// One client, which has tickets of its own.
async fn shake_hands(address: SocketAddr, name: ServerName<'static>, kind: HandshakeKind, deadline: Instant) -> Tally {
    let connector = TlsConnector::from(Arc::new(config(kind)));
    let mut tally = Tally::default();
    if kind == HandshakeKind::Resumed {
        // For its ticket. When it fails, so does what follows, and is counted there.
        let _ = timeout_at(deadline, shake_hands_once(address, &connector, &name)).await;
    }
    while tally.failed < MAX_FAILURES {
        let began = Instant::now();
        // Whatever is under way at the end does not count.
        let Ok(done) = timeout_at(deadline, shake_hands_once(address, &connector, &name)).await else { break };
        match done {
            Ok(seen) if seen == kind => tally.took.push(began.elapsed()),
            Ok(_) => tally.other_kind += 1,
            Err(error) => {
                tally.failed += 1;
                tally.first_failure.get_or_insert(error);
            }
        }
    }
    tally
}

/// A client that fails this often gives up.
const MAX_FAILURES: u64 = 10;

async fn shake_hands_once(
    address: SocketAddr,
    connector: &TlsConnector,
    name: &ServerName<'static>,
) -> io::Result<HandshakeKind> {
    let io = TcpStream::connect(address).await?;
    io.set_nodelay(true)?;
    let mut tls = connector.connect(name.clone(), io).await?;
    a_ticket(&mut tls).await?;
    let kind = tls.get_ref().1.handshake_kind().ok_or(io::ErrorKind::InvalidData)?;
    tls.shutdown().await?;
    Ok(kind)
}

/// Waits until the server has sent one.
async fn a_ticket(tls: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let mut buffer = [0; 256];
    poll_fn(|context| {
        let mut buffer = ReadBuf::new(&mut buffer);
        let read = Pin::new(&mut *tls).poll_read(context, &mut buffer);
        if tls.get_ref().1.tls13_tickets_received() > 0 {
            return Poll::Ready(Ok(()));
        }
        match read {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(())) => Poll::Ready(Err(io::Error::other("the server spoke first"))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn config(kind: HandshakeKind) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    // The same work for every server: not all of them know post-quantum groups.
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has a suite for it")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if kind == HandshakeKind::Full {
        config.resumption = Resumption::disabled();
    }
    config
}

/// Looks at nothing: what is measured is the server.
#[derive(Debug)]
struct Trusting(CryptoProvider);

impl ServerCertVerifier for Trusting {
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
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

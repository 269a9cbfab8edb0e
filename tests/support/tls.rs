//! Clients that speak TLS, and files of certificates.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme, SupportedProtocolVersion,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;
use super::made::Made;
use super::raw::Head;

/// A folder of certificates, keys and CAs.
#[derive(Debug)]
pub struct Files(TempDir);

impl Files {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for temporary files"))
    }

    /// Where.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces a file at once.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let (draft, path) = (self.path("draft"), self.path(name));
        fs::write(&draft, content).and_then(|()| fs::rename(&draft, &path)).expect("a writable folder");
        path
    }

    /// Writes a certificate and its key; gives the item of `certificates`.
    pub fn certificate(&self, name: &str, made: &Made) -> String {
        let cert_file = self.write(&format!("{name}.pem"), &made.chain);
        let key_file = self.write(&format!("{name}.key"), &made.key);
        format!("{{ cert_file: \"{}\", key_file: \"{}\" }}", cert_file.display(), key_file.display())
    }
}

/// A TLS client; its clones share tickets. It looks at any certificate, and trusts each.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: ClientConfig,
    seen: Arc<Sees>,
}

impl TlsClient {
    /// One that speaks both versions, and HTTP/1.1 within them.
    pub fn new() -> Self {
        Self::with(&aws_lc_rs::default_provider(), rustls::DEFAULT_VERSIONS, None)
    }

    /// One that speaks this version alone.
    pub fn speaking(version: &'static SupportedProtocolVersion) -> Self {
        Self::with(&aws_lc_rs::default_provider(), &[version], None)
    }

    /// One that shows a certificate when asked.
    pub fn showing(certificate: &Made) -> Self {
        Self::with(&aws_lc_rs::default_provider(), rustls::DEFAULT_VERSIONS, Some(certificate))
    }

    fn with(
        provider: &CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&Made>,
    ) -> Self {
        let seen = Arc::new(Sees { provider: provider.clone(), ocsp: Mutex::default() });
        let builder = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(versions)
            .expect("the provider has suites for them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&seen) as _);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(Made { chain, key, .. }) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("they belong together")
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config, seen }
    }

    /// Offers these protocols.
    #[must_use]
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        self
    }

    /// Names no host.
    #[must_use]
    pub fn without_name(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// Connects, and does the handshake.
    ///
    /// # Errors
    /// When the other side does not want it. With TLS 1.3, a certificate that it does not like is only told later.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsPeer> {
        let io = TcpStream::connect(address).await.expect("somebody listens");
        io.set_nodelay(true).expect("an open socket");
        self.over(io, name).await
    }

    /// Does the handshake over a connection.
    ///
    /// # Errors
    /// As [`TlsClient::connect`].
    pub async fn over(&self, io: TcpStream, name: &str) -> io::Result<TlsPeer> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let io = timeout(PATIENCE, connector.connect(name, io)).await.expect("a handshake ends")?;
        Ok(TlsPeer { io, read: Vec::new() })
    }

    /// The OCSP response of the latest handshake that was not resumed; empty when there was none.
    pub fn ocsp(&self) -> Vec<u8> {
        self.seen.ocsp.lock().expect("nobody panics with it").clone()
    }

    /// How a connection to there comes about, after a whole request on it.
    pub async fn visit(&self, address: SocketAddr, name: &str) -> HandshakeKind {
        let mut peer = self.connect(address, name).await.expect("a connection");
        let (head, _) = peer.get("/", "").await.expect("a reply");
        assert_eq!(head.status(), 200);
        peer.kind()
    }
}

/// A connection within TLS.
#[derive(Debug)]
pub struct TlsPeer {
    io: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl TlsPeer {
    /// The connection itself.
    pub fn into_io(self) -> TlsStream<TcpStream> {
        self.io
    }

    /// What the other side showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let shown = self.io.get_ref().1.peer_certificates().expect("a server shows one");
        shown[0].clone().into_owned()
    }

    /// Whether the handshake was a full one.
    pub fn kind(&self) -> HandshakeKind {
        self.io.get_ref().1.handshake_kind().expect("it is over")
    }

    /// The version that was agreed on.
    pub fn version(&self) -> ProtocolVersion {
        self.io.get_ref().1.protocol_version().expect("it is over")
    }

    /// The cipher suite that was agreed on.
    pub fn suite(&self) -> String {
        format!("{:?}", self.io.get_ref().1.negotiated_cipher_suite().expect("it is over").suite())
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.io.get_ref().1.alpn_protocol()
    }

    /// Asks for a path, with further lines, and reads the reply.
    ///
    /// # Errors
    /// When the connection ends instead.
    pub async fn get(&mut self, path: &str, lines: &str) -> io::Result<(Head, String)> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n")).await?;
        let head = self.head().await?;
        let length = head.value("content-length").map_or(0, |length| length.parse().expect("a length"));
        let body = self.exactly(length).await?;
        Ok((head, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let all = async {
            self.io.write_all(bytes.as_ref()).await?;
            self.io.flush().await
        };
        timeout(PATIENCE, all).await.expect("somebody reads what is sent")
    }

    /// The next head.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.read, b"\r\n\r\n") {
                return Ok(Head(String::from_utf8_lossy(&self.read.drain(..at + 4).collect::<Vec<_>>()).into_owned()));
            }
            self.more().await?;
        }
    }

    /// Exactly this many bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < count {
            self.more().await?;
        }
        Ok(self.read.drain(..count).collect())
    }

    /// Sends nothing more; the other direction stays open.
    pub async fn finish(&mut self) {
        self.io.shutdown().await.expect("an open connection");
    }

    /// Waits for the end; `Ok` when the other side ended TLS in order.
    ///
    /// # Errors
    /// When it did not.
    pub async fn end(&mut self) -> io::Result<()> {
        loop {
            match self.more().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WriteZero => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match timeout(PATIENCE, self.io.read_buf(&mut self.read)).await.expect("something comes")? {
            0 => Err(io::Error::new(io::ErrorKind::WriteZero, "the other side has ended")),
            _ => Ok(()),
        }
    }
}

/// Looks at what a server shows.
#[derive(Debug)]
struct Sees {
    provider: CryptoProvider,
    ocsp: Mutex<Vec<u8>>,
}

impl ServerCertVerifier for Sees {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.ocsp.lock().expect("nobody panics with it") = ocsp_response.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// An OCSP response that says that the certificate with this serial number is good until then (`YYYYMMDDHHMMSSZ`). Its
/// signature is none, which is for clients to see.
pub fn ocsp_response(serial: &[u8], next_update: &str) -> Vec<u8> {
    let sequence = |parts: &[Vec<u8>]| der(0x30, &parts.concat());
    let time = |text: &str| der(0x18, text.as_bytes());
    let sha1 = sequence(&[der(0x06, &[0x2b, 0x0e, 0x03, 0x02, 0x1a])]);
    let id = sequence(&[sha1.clone(), der(0x04, &[1; 20]), der(0x04, &[2; 20]), der(0x02, serial)]);
    let answer = sequence(&[id, der(0x80, &[]), time("20260101000000Z"), der(0xa0, &time(next_update))]);
    let data = sequence(&[der(0xa2, &der(0x04, &[3; 20])), time("20260101000000Z"), sequence(&[answer])]);
    let basic = sequence(&[data, sha1, der(0x03, &[0, 0])]);
    let basic_type = der(0x06, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01]);
    sequence(&[der(0x0a, &[0]), der(0xa0, &sequence(&[basic_type, der(0x04, &basic)]))])
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short");
    let mut out = vec![tag];
    match length {
        0..128 => out.push(length as u8),
        _ => out.extend_from_slice(&[0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    // DER wants the shortest form.
    if (128..256).contains(&length) {
        out.splice(1..4, [0x81, length as u8]);
    }
    out
}

/// Turns a link elsewhere, in one step.
pub fn turn(link: &Path, target: &str) {
    let draft = link.with_extension("draft");
    std::os::unix::fs::symlink(target, &draft).and_then(|()| fs::rename(&draft, link)).expect("a writable folder");
}

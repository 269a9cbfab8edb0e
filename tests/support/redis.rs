//! A real Redis of a test's own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use ::redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::shared::port::ReservedPort;
use super::shared::session_process::signal;
use super::until;

/// A `redis-server` on a port and in a folder of its own, which keeps nothing on disk. Dropping it kills it.
#[derive(Debug)]
pub struct RedisServer {
    port: ReservedPort,
    folder: TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one, and waits until it listens.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Self {
        let mut server = Self::prepare();
        server.options = vec!["--port".into(), server.address().port().to_string()];
        server.restart().await;
        server
    }

    /// Starts one that asks for this password.
    pub async fn start_with_password(password: &str) -> Self {
        let mut server = Self::prepare();
        server.options =
            ["--port", &server.address().port().to_string(), "--requirepass", password].map(String::from).into();
        server.restart().await;
        server
    }

    /// Starts one that speaks TLS only, with a certificate that it signed itself, for `localhost`.
    pub async fn start_with_tls() -> Self {
        let mut server = Self::prepare();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out", CERTIFICATE])
            .current_dir(server.folder.path())
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = server.address().port().to_string();
        server.options =
            ["--port", "0", "--tls-port", &port, "--tls-cert-file", CERTIFICATE, "--tls-key-file", "key.pem"]
                .into_iter()
                .chain(["--tls-ca-cert-file", CERTIFICATE, "--tls-auth-clients", "no"])
                .map(String::from)
                .collect();
        server.restart().await;
        server
    }

    fn prepare() -> Self {
        let port = ReservedPort::new().expect("a loopback port is free");
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        Self { port, folder, options: Vec::new(), child: None }
    }

    /// Starts it again on the same port, empty; waits until it listens.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(&self.options)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        let address = self.address();
        until("redis-server listens", async || TcpStream::connect(address).await).await;
    }

    /// `SIGKILL`
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either fails only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it in its tracks: connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        signal(child.id(), name).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The URL of one without TLS.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    /// The file with the certificate of one with TLS.
    pub fn certificate(&self) -> std::path::PathBuf {
        self.folder.path().join(CERTIFICATE)
    }

    /// A connection to one without TLS or password.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = ::redis::Client::open(self.url()).expect("a good URL");
        client.get_multiplexed_async_connection().await.expect("it answers")
    }

    /// Every key and value in it, one after the other.
    ///
    /// # Panics
    /// Without an answer.
    pub async fn dump(&self) -> String {
        let mut connection = self.connection().await;
        let keys: Vec<String> = ::redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("an answer");
        let mut dump = String::new();
        for key in keys {
            let value: String = ::redis::cmd("GET").arg(&key).query_async(&mut connection).await.unwrap_or_default();
            dump.push_str(&format!("{key} {value}\n"));
        }
        dump
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

const CERTIFICATE: &str = "certificate.pem";

//! Raw bytes over real sockets, on both sides of Stickpin: whatever a test says is sent as it stands, and what comes is
//! seen as it came. Every wait is bounded, and tells what had come when it is over.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use stickpin::config::Address;
use stickpin::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATIENCE, Stickpin};

/// One end of a connection.
#[derive(Debug)]
pub struct Peer {
    io: TcpStream,
    read: Vec<u8>,
}

/// How the other end finished a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    /// By a reset: whatever came before is not to be taken for complete.
    Reset,
}

impl Peer {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.expect("somebody listens"))
    }

    fn new(io: TcpStream) -> Self {
        io.set_nodelay(true).expect("an open socket");
        Self { io, read: Vec::new() }
    }

    /// Connects to whatever it names: a Unix socket, say.
    pub async fn at(address: &Address) -> Self {
        Self { io: socket::connect(address).await.expect("somebody listens"), read: Vec::new() }
    }

    /// Connects and sends.
    pub async fn sending(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut peer = Self::connect(address).await;
        peer.send(bytes).await;
        peer
    }

    /// Sends all of it.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap_or_else(|error| panic!("sending: {error}, after {}", self.seen()));
    }

    /// Sends all of it, unless the other end does not want it.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        timeout(PATIENCE, self.io.write_all(bytes.as_ref())).await.expect("somebody reads what is sent")
    }

    /// Sends nothing more; the other direction stays open.
    pub async fn finish(&mut self) {
        self.io.shutdown().await.expect("an open socket");
    }

    /// Ends both directions with a reset.
    pub fn reset(self) {
        SockRef::from(&self.io).set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    /// Makes the system take only a little of what the other end sends, before it is read here. Not less than a few
    /// segments of the loopback device, or its timers would decide when the next one comes.
    pub fn take_little(&self) {
        SockRef::from(&self.io).set_recv_buffer_size(256 * 1024).expect("an open socket");
    }

    /// The next head, through its empty line.
    pub async fn head(&mut self) -> Head {
        Head(String::from_utf8_lossy(&self.through(b"\r\n\r\n").await).into_owned())
    }

    /// Everything through the first `mark`.
    pub async fn through(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.read, mark) {
                return self.read.drain(..at + mark.len()).collect();
            }
            self.more(&format!("until {}", mark.escape_ascii())).await;
        }
    }

    /// Exactly this many bytes.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            self.more(&format!("for {count} bytes")).await;
        }
        self.read.drain(..count).collect()
    }

    /// A reply whose length its head tells, to anything but `HEAD`.
    pub async fn reply(&mut self) -> (Head, String) {
        let head = self.head().await;
        let length = head.value("content-length").unwrap_or_else(|| panic!("no length: {head:?}"));
        let body = self.exactly(length.parse().expect("a length")).await;
        (head, String::from_utf8_lossy(&body).into_owned())
    }

    /// The status of the reply to this.
    pub async fn reply_to(&mut self, request: &str) -> u16 {
        self.send(request).await;
        self.reply().await.0.status()
    }

    /// Waits until something has come, or the end.
    async fn says_anything(&mut self) -> bool {
        let read = timeout(PATIENCE, self.io.read_buf(&mut self.read)).await;
        matches!(read.expect("a connection is used or closed"), Ok(count) if count > 0)
    }

    /// What still comes, and how it ends.
    pub async fn end(&mut self) -> (Vec<u8>, End) {
        let how = loop {
            match timeout(PATIENCE, self.io.read_buf(&mut self.read)).await {
                Err(_) => panic!("waited for the end; {}", self.seen()),
                Ok(Ok(0)) => break End::Closed,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => break End::Reset,
                Ok(Err(error)) => panic!("{error}; {}", self.seen()),
            }
        };
        (std::mem::take(&mut self.read), how)
    }

    /// Waits for the end, in whatever way, with whatever before.
    pub async fn gone(&mut self) {
        self.end().await;
    }

    /// Sends nothing more, and waits for the end, in whatever way.
    pub async fn finish_and_end(&mut self) {
        // Fails only when the other end was faster.
        let _ = self.io.shutdown().await;
        self.end().await;
    }

    /// Whether nothing has come so far, the end included.
    pub fn is_silent(&self) -> bool {
        let mut byte = [0; 1];
        self.read.is_empty()
            && matches!(self.io.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn more(&mut self, what: &str) {
        match timeout(PATIENCE, self.io.read_buf(&mut self.read)).await {
            Ok(Ok(count)) if count > 0 => {}
            Ok(end) => panic!("waited {what}; the connection ended: {end:?}; {}", self.seen()),
            Err(_) => panic!("waited {what}; {}", self.seen()),
        }
    }

    fn seen(&self) -> String {
        let shown = &self.read[..self.read.len().min(500)];
        format!("{} bytes had come: {}", self.read.len(), shown.escape_ascii())
    }
}

/// A head as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head(pub String);

impl Head {
    /// Request line or status line.
    pub fn first_line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The status of a reply.
    pub fn status(&self) -> u16 {
        let status = self.0.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        status.unwrap_or_else(|| panic!("not the head of a reply: {self:?}"))
    }

    /// Every line's name, in lower case, and value.
    pub fn lines(&self) -> impl Iterator<Item = (String, &str)> {
        let pairs = self.0.lines().skip(1).filter_map(|line| line.split_once(':'));
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
    }

    /// All values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.lines().filter(|(other, _)| other == name).map(|(_, value)| value).collect()
    }

    /// The value of a header that may be there once.
    pub fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "{name} more than once: {self:?}");
        values.first().copied()
    }
}

/// A backend whose part the test plays itself, connection by connection.
#[derive(Debug)]
pub struct Backend {
    listener: TcpListener,
}

impl Backend {
    /// Listens on a free port.
    pub async fn start() -> Self {
        Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port is free") }
    }

    /// Where.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket")
    }

    /// The next connection.
    pub async fn accept(&self) -> Peer {
        let accepted = timeout(PATIENCE, self.listener.accept()).await.expect("Stickpin connects");
        Peer::new(accepted.expect("a connection").0)
    }

    /// The next connection with a request on it, and the head of that. A probe connects and says nothing.
    pub async fn request(&self) -> (Peer, Head) {
        loop {
            let mut peer = self.accept().await;
            if peer.says_anything().await {
                let head = peer.head().await;
                return (peer, head);
            }
        }
    }

    /// Whether nobody but probes has connected since the last connection was accepted.
    pub async fn is_untouched(&self) -> bool {
        while let Ok((socket, _)) = SockRef::from(&self.listener).accept() {
            socket.set_nonblocking(true).expect("an open socket");
            let mut peer = Peer::new(TcpStream::from_std(socket.into()).expect("an open socket"));
            if peer.says_anything().await {
                return false;
            }
        }
        true
    }
}

/// A backend that reads strictly, keeps what it read, and answers every request with `200` and `ok`.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

/// What a [`Recorder`] was sent.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Complete requests: head and body, chunk framing included.
    pub requests: Vec<(Head, Vec<u8>)>,
    /// What came on connections that ended within a request.
    pub unfinished: Vec<Vec<u8>>,
    /// Why a request could not be read.
    pub complaints: Vec<String>,
    /// How many complete requests came over each connection.
    pub by_connection: Vec<usize>,
}

impl Recorder {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
    }

    /// Starts one that answers with these bytes.
    pub async fn replying(reply: &'static str) -> Self {
        Self::of(Backend::start().await, reply)
    }

    /// Starts one at this address.
    pub async fn at(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self::of(Backend { listener }, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    }

    fn of(backend: Backend, reply: &'static str) -> Self {
        let address = backend.address();
        let heard = Arc::<Mutex<Heard>>::default();
        let shared = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            loop {
                let Ok((io, _)) = backend.listener.accept().await else { return };
                tokio::spawn(record(io, Arc::clone(&shared), reply));
            }
        });
        Self { address, heard, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was sent so far.
    pub fn heard(&self) -> Heard {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    /// The head of the latest request.
    pub fn last_head(&self) -> Head {
        self.heard().requests.pop().expect("a request came").0
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(mut io: TcpStream, heard: Arc<Mutex<Heard>>, reply: &'static str) {
    let mut read = Vec::new();
    let connection = {
        let mut heard = heard.lock().expect("nobody panics with it");
        heard.by_connection.push(0);
        heard.by_connection.len() - 1
    };
    loop {
        let length = match request_length(&read) {
            Ok(length) => length,
            Err(complaint) => {
                heard.lock().expect("nobody panics with it").complaints.push(complaint);
                return;
            }
        };
        if let Some((head, whole)) = length {
            let request: Vec<u8> = read.drain(..whole).collect();
            let (head, body) = request.split_at(head);
            let request = (Head(String::from_utf8_lossy(head).into_owned()), body.to_vec());
            {
                let mut heard = heard.lock().expect("nobody panics with it");
                heard.requests.push(request);
                heard.by_connection[connection] += 1;
            }
            if io.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        } else if !matches!(io.read_buf(&mut read).await, Ok(count) if count > 0) {
            if !read.is_empty() {
                heard.lock().expect("nobody panics with it").unfinished.push(read);
            }
            return;
        }
    }
}

/// The lengths of the head and of the whole request at the start of `read`; `None` when more has to come.
fn request_length(read: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let Some(end) = memchr::memmem::find(read, b"\r\n\r\n") else { return Ok(None) };
    let (head_length, text) = (end + 4, &read[..end + 4]);
    let complain = |what: &str| format!("{what}: {}", text.escape_ascii());
    let head = Head(String::from_utf8_lossy(text).into_owned());
    for line in text[..end].split(|byte| *byte == b'\n').skip(1) {
        let name_end = line.iter().position(|byte| *byte == b':').ok_or_else(|| complain("a line without a colon"))?;
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name_end == 0 || !line[..name_end].iter().all(is_token) {
            return Err(complain("a name that is none"));
        }
        if line[name_end..].strip_suffix(b"\r").unwrap_or(line).iter().any(|byte| matches!(byte, 0 | b'\r' | 0x0b)) {
            return Err(complain("a control character"));
        }
    }
    let (lengths, codings) = (head.values("content-length"), head.values("transfer-encoding"));
    if head.values("host").len() != 1 || lengths.len() + codings.len() > 1 {
        return Err(complain("not one host and at most one framing"));
    }
    let body = &read[head_length..];
    match (lengths.first(), codings.first()) {
        (Some(length), _) => {
            let length: usize = length.parse().map_err(|_| complain("a length that is none"))?;
            Ok((body.len() >= length).then_some((head_length, head_length + length)))
        }
        (None, Some(&"chunked")) => {
            let length = chunked_length(body).map_err(complain)?;
            Ok(length.map(|length| (head_length, head_length + length)))
        }
        (None, Some(_)) => Err(complain("a coding other than chunked")),
        (None, None) => Ok(Some((head_length, head_length))),
    }
}

fn chunked_length(body: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    loop {
        let Some(line) = memchr::memmem::find(&body[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&body[at..at + line]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or("a chunk size that is none")?;
        at += line + 2;
        if size == 0 {
            let rest = &body[at..];
            let end = if rest.starts_with(b"\r\n") {
                Some(2)
            } else {
                memchr::memmem::find(rest, b"\r\n\r\n").map(|at| at + 4)
            };
            return Ok(end.map(|end| at + end));
        }
        if body.len() < at + size + 2 {
            return Ok(None);
        }
        at += size + 2;
    }
}

/// A [`Recorder`] at a Unix socket.
#[derive(Debug)]
pub struct UnixRecorder {
    address: Address,
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl UnixRecorder {
    /// Starts one at this path, where there must be no file.
    pub fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a free path");
        let heard = Arc::<Mutex<Heard>>::default();
        let shared = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            loop {
                let Ok((io, _)) = listener.accept().await else { return };
                let io = socket::carried(io.into_std().expect("an open socket"));
                let io = TcpStream::from_std(io).expect("an open socket");
                tokio::spawn(record(io, Arc::clone(&shared), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
            }
        });
        Self { address: Address::Unix(path.into()), heard, task }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it was sent so far.
    pub fn heard(&self) -> Heard {
        self.heard.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for UnixRecorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One pool, `app`, of this backend, `app1`, which is not probed; one worker, so that idle connections are met again.
/// `listener` and `pool` are further settings, one each.
pub fn config(backend: impl std::fmt::Display, listener: &[&str], pool: &[&str]) -> String {
    let lines = |settings: &[&str]| settings.iter().map(|setting| format!("    {setting}\n")).collect::<String>();
    format!(
        "workers: 1\naccess_log: off\nadmin:\n  address: 127.0.0.1:0\nlisteners:\n  - address: 127.0.0.1:0\n{}pools:\n  \
         app:\n    health: off\n    backends: [ {{ name: app1, address: \"{backend}\" }} ]\n{}",
        lines(listener),
        lines(pool)
    )
}

/// Stickpin in front of this backend.
pub fn front(backend: impl std::fmt::Display) -> Stickpin {
    Stickpin::start(&config(backend, &[], &[]))
}

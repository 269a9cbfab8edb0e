//! Clients of HTTP/2: h2's, which keeps to the rules, and bare frames, which need not.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;

/// One connection of a client that keeps to the rules.
#[derive(Debug)]
pub struct Http2Client {
    requests: SendRequest<Bytes>,
    task: JoinHandle<Result<(), h2::Error>>,
}

/// A reply to its end.
#[derive(Debug)]
pub struct Http2Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Http2Reply {
    /// The value of a header, if it is there.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// The value of a trailer.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name).map(|value| value.to_str().expect("ASCII"))
    }
}

impl Http2Client {
    /// Connects without TLS, knowing that HTTP/2 is spoken.
    pub async fn connect(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).await.expect("somebody listens");
        io.set_nodelay(true).expect("an open socket");
        Self::over(io, &mut h2::client::Builder::new()).await
    }

    /// One with these settings, over whatever was opened.
    pub async fn over(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        builder: &mut h2::client::Builder,
    ) -> Self {
        let handshake = timeout(PATIENCE, builder.handshake(io)).await.expect("a handshake ends");
        let (requests, connection) = handshake.expect("HTTP/2 is spoken");
        Self { requests, task: tokio::spawn(connection) }
    }

    /// Sends the head of a request; `ends` when there is no body.
    pub async fn begin(&mut self, request: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let requests = self.requests.clone();
        self.requests = timeout(PATIENCE, requests.ready()).await.expect("room for a stream").expect("a connection");
        self.requests.send_request(request, ends).expect("a request that can be sent")
    }

    /// A whole request, and the reply to it.
    ///
    /// # Errors
    /// When the stream or the connection ends before the reply does.
    pub async fn ask(&mut self, request: Request<()>) -> Result<Http2Reply, h2::Error> {
        let requests = self.requests.clone();
        self.requests = timeout(PATIENCE, requests.ready()).await.expect("room for a stream")?;
        let (reply, _) = self.requests.send_request(request, true)?;
        whole(reply).await
    }

    /// The reply to a `GET`.
    pub async fn get(&mut self, path: &str) -> Http2Reply {
        self.ask(get(path)).await.expect("a reply")
    }

    /// Whether the other side has said that it knows extended `CONNECT`.
    pub fn may_connect(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// Waits until there is room for a stream.
    pub async fn ready(&mut self) {
        let requests = self.requests.clone();
        self.requests = timeout(PATIENCE, requests.ready()).await.expect("room for a stream").expect("a connection");
    }

    /// Waits for the end of the connection.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.requests);
        timeout(PATIENCE, self.task).await.expect("the connection ends").expect("no panic")
    }

    /// Whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

/// A `GET` by the host `x`.
pub fn get(path: &str) -> Request<()> {
    Request::builder().uri(format!("http://x{path}")).body(()).expect("a request")
}

/// The head of a reply.
///
/// # Errors
/// When the stream or the connection ends before.
pub async fn head(reply: ResponseFuture) -> Result<Response<RecvStream>, h2::Error> {
    timeout(PATIENCE, reply).await.expect("a reply begins")
}

/// All of a reply.
///
/// # Errors
/// When the stream or the connection ends before the reply does.
pub async fn whole(reply: ResponseFuture) -> Result<Http2Reply, h2::Error> {
    let (head, mut stream) = head(reply).await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = timeout(PATIENCE, stream.data()).await.expect("a reply goes on") {
        let data = data?;
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let trailers = timeout(PATIENCE, stream.trailers()).await.expect("a reply ends")?;
    Ok(Http2Reply { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

/// Kinds of frames (RFC 9113 §6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// `END_STREAM`, and `ACK`.
pub const END_STREAM: u8 = 1;

/// `END_HEADERS`.
pub const END_HEADERS: u8 = 4;

/// `ENHANCE_YOUR_CALM`.
pub const CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The block of a head, with nothing compressed. Pseudo-headers come first.
pub fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        // Lengths from 127 on take more bytes.
        match text.len() {
            length @ ..127 => out.push(length as u8),
            length => {
                out.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    out.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                out.push(rest as u8);
            }
        }
        out.extend_from_slice(text.as_bytes());
    };
    let mut out = Vec::new();
    for (name, value) in lines {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// The head of a `GET`, which is all of the request.
pub fn get_frame(stream: u32, path: &str) -> Vec<u8> {
    let lines = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", path)];
    frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &block(&lines))
}

/// One connection of somebody who sends whatever frames a test wants.
#[derive(Debug)]
pub struct Frames {
    io: TcpStream,
    read: Vec<u8>,
}

impl Frames {
    /// Connects, sends the preface and empty settings.
    pub async fn connect(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).await.expect("somebody listens");
        io.set_nodelay(true).expect("an open socket");
        let mut frames = Self { io, read: Vec::new() };
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("an open connection");
        frames.send(&frame(kind::SETTINGS, 0, 0, &[])).await.expect("an open connection");
        frames
    }

    /// Sends these bytes, unless the other end has closed or does not read.
    ///
    /// # Errors
    /// When it has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(PATIENCE, self.io.write_all(bytes)).await.map_err(|_| std::io::ErrorKind::TimedOut)?
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame comes, or the end")
    }

    /// The next frame of a kind; `None` at the end.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Frames that come within this time.
    pub async fn within(&mut self, time: Duration) -> Vec<Frame> {
        let mut frames = Vec::new();
        let _ = timeout(time, async {
            while let Some(frame) = self.read_frame().await {
                frames.push(frame);
            }
        })
        .await;
        frames
    }

    /// Sends `flood` again and again until the connection ends; the error that `GOAWAY` told, if that was still heard.
    pub async fn until_ended(mut self, mut flood: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
        let (mut reader, mut writer) = self.io.split();
        let read = async {
            let mut read = std::mem::take(&mut self.read);
            while matches!(reader.read_buf(&mut read).await, Ok(count) if count > 0) {}
            read
        };
        let write = async {
            for count in 0.. {
                if writer.write_all(&flood(count)).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let read = timeout(PATIENCE, async {
            tokio::select! {
                read = read => read,
                () = write => unreachable!("it waits for ever"),
            }
        });
        let mut read = read.await.expect("a flood is ended");
        std::iter::from_fn(|| take(&mut read))
            .filter(|frame| frame.kind == kind::GOAWAY)
            .map(|frame| u32::from_be_bytes(frame.payload[4..8].try_into().expect("four bytes")))
            .last()
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take(&mut self.read) {
                return Some(frame);
            }
            if !matches!(self.io.read_buf(&mut self.read).await, Ok(count) if count > 0) {
                return None;
            }
        }
    }
}

/// The first whole frame of what was read.
fn take(read: &mut Vec<u8>) -> Option<Frame> {
    let head = read.get(..9)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (kind, flags) = (head[3], head[4]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let payload = read.get(9..9 + length)?.to_vec();
    read.drain(..9 + length);
    Some(Frame { kind, flags, stream, payload })
}

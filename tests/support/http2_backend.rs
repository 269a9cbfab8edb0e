//! A backend that speaks HTTP/2, each of whose streams is the test's to answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::PATIENCE;

/// See the module.
#[derive(Debug)]
pub struct Http2Backend {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Asked>,
    connections: Arc<AtomicUsize>,
    go_away: watch::Sender<usize>,
    hangs: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What it allows.
#[derive(Clone, Debug, Default)]
pub struct Allows {
    pub streams: Option<u32>,
    pub websockets: bool,
    pub tls: Option<Arc<ServerConfig>>,
}

/// A request that waits for an answer.
#[derive(Debug)]
pub struct Asked {
    pub request: Request<RecvStream>,
    pub reply: SendResponse<Bytes>,
    /// Of which connection, counted from 1.
    pub connection: usize,
}

impl Http2Backend {
    /// Starts one on a free port.
    pub async fn start(allows: Allows) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("it is bound");
        let (sender, requests) = mpsc::unbounded_channel();
        let (connections, go_away) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(0));
        let (counts, told, hangs) = (Arc::clone(&connections), go_away.clone(), watch::Sender::new(false));
        let hanging = hangs.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((io, _)) = listener.accept().await else { return };
                io.set_nodelay(true).expect("an open socket");
                let number = counts.fetch_add(1, Ordering::SeqCst) + 1;
                let (allows, sender, told) = (allows.clone(), sender.clone(), (told.subscribe(), hanging.subscribe()));
                tokio::spawn(async move {
                    match allows.tls.clone() {
                        None => serve(io, number, &allows, sender, told).await,
                        Some(tls) => {
                            if let Ok(io) = TlsAcceptor::from(tls).accept(io).await {
                                serve(io, number, &allows, sender, told).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, requests, connections, go_away, hangs, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Says goodbye on this connection: what is under way goes on.
    pub fn go_away(&self, connection: usize) {
        self.go_away.send_replace(connection);
    }

    /// Does nothing any more; connections stay open.
    pub fn hang(&self) {
        self.hangs.send_replace(true);
    }

    /// Goes on.
    pub fn wake(&self) {
        self.hangs.send_replace(false);
    }

    /// The next request.
    pub async fn next(&mut self) -> Asked {
        timeout(PATIENCE, self.requests.recv()).await.expect("a request comes").expect("it listens")
    }
}

impl Drop for Http2Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    number: usize,
    allows: &Allows,
    sender: mpsc::UnboundedSender<Asked>,
    (mut go_away, mut hangs): (watch::Receiver<usize>, watch::Receiver<bool>),
) {
    let mut builder = Builder::new();
    if let Some(streams) = allows.streams {
        builder.max_concurrent_streams(streams);
    }
    if allows.websockets {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, reply))) = accepted else { return };
                let _ = sender.send(Asked { request, reply, connection: number });
            }
            Ok(()) = hangs.changed() => {
                let _ = hangs.wait_for(|hangs| !hangs).await;
            }
            Ok(()) = go_away.changed() => {
                if *go_away.borrow() == number {
                    connection.graceful_shutdown();
                }
            }
        }
    }
}

impl Asked {
    /// Everything of the request's body, and its trailers.
    pub async fn body(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let body = self.request.body_mut();
        let mut all = Vec::new();
        while let Some(data) = timeout(PATIENCE, body.data()).await.expect("something comes") {
            let data = data.expect("the stream is whole");
            body.flow_control().release_capacity(data.len()).expect("it was received");
            all.extend_from_slice(&data);
        }
        (all, body.trailers().await.expect("the stream is whole"))
    }

    /// The next piece of the request's body.
    pub async fn piece(&mut self) -> Bytes {
        let body = self.request.body_mut();
        let data =
            timeout(PATIENCE, body.data()).await.expect("something comes").expect("a piece").expect("it is whole");
        body.flow_control().release_capacity(data.len()).expect("it was received");
        data
    }

    /// Answers with this status; what follows is the caller's.
    pub fn begin(&mut self, status: u16, lines: &[(&str, &str)]) -> SendStream<Bytes> {
        let mut reply = Response::builder().status(status);
        for (name, value) in lines {
            reply = reply.header(*name, *value);
        }
        self.reply.send_response(reply.body(()).expect("a head"), false).expect("the stream is open")
    }

    /// Answers with `200` and this text.
    pub fn answer(mut self, text: &str) {
        let length = text.len().to_string();
        let mut body = self.begin(200, &[("content-length", &length)]);
        body.send_data(Bytes::copy_from_slice(text.as_bytes()), true).expect("the stream is open");
    }

    /// The value of a header, if there is one.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).and_then(|value| value.to_str().ok())
    }
}

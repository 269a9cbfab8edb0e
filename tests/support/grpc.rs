//! A gRPC server and a client of tonic's, whose messages are plain bytes.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::{self, Stream, StreamExt};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;
use tonic::server::{StreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use super::PATIENCE;

/// A server on a free port: HTTP/2 by prior knowledge. Stops when dropped.
#[derive(Debug)]
pub struct GrpcServer {
    name: &'static str,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl GrpcServer {
    /// Starts one.
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port is free");
        let address = listener.local_addr().expect("it is bound");
        let serve = Server::builder().serve_with_incoming(Peer { name }, TcpIncoming::from(listener));
        let task = tokio::spawn(async move { serve.await.expect("it serves until it is dropped") });
        Self { name, address, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its line in a pool's `backends`.
    pub fn yaml(&self) -> String {
        format!("{{ name: {}, address: \"{}\" }}", self.name, self.address)
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What it serves:
/// `/peer/Echo` the message; `/peer/Join` one of all messages; `/peer/Count` as many messages
/// as asked for; `/peer/Shout` each message in capitals; `/peer/Fail` the status with the number that is asked for;
/// `/peer/Hang` never.
#[derive(Clone, Debug)]
struct Peer {
    name: &'static str,
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl Service<http::Request<Body>> for Peer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method { name: self.name, path: request.uri().path().to_owned() };
        let mut server = tonic::server::Grpc::new(Plain);
        Box::pin(async move {
            Ok(match &*method.path {
                "/peer/Echo" | "/peer/Fail" | "/peer/Hang" => server.unary(method, request).await,
                _ => server.streaming(method, request).await,
            })
        })
    }
}

/// One method of one server.
struct Method {
    name: &'static str,
    path: String,
}

impl Method {
    fn reply<T>(name: &'static str, message: T) -> Response<T> {
        let mut reply = Response::new(message);
        reply.metadata_mut().insert("served-by", name.parse().expect("a plain name"));
        reply
    }
}

impl UnaryService<Bytes> for Method {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (name, path) = (self.name, self.path.clone());
        Box::pin(async move {
            let message = request.into_inner();
            match &*path {
                "/peer/Echo" => Ok(Self::reply(name, message)),
                "/peer/Fail" => {
                    let mut trailers = MetadataMap::new();
                    trailers.insert("served-by", name.parse().expect("a plain name"));
                    trailers.insert_bin("detail-bin", tonic::metadata::MetadataValue::from_bytes(&message));
                    let code = Code::from_bytes(&message);
                    Err(Status::with_metadata(code, "as asked: nicht möglich, 100 %", trailers))
                }
                _ => std::future::pending().await,
            }
        })
    }
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = BoxFuture<Response<Messages>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (name, path) = (self.name, self.path.clone());
        Box::pin(async move {
            let mut asked = request.into_inner();
            let messages: Messages = match &*path {
                "/peer/Join" => {
                    let mut all = Vec::new();
                    while let Some(message) = asked.message().await? {
                        all.extend_from_slice(&message);
                    }
                    Box::pin(tokio_stream::once(Ok(all.into())))
                }
                "/peer/Count" => {
                    let count = asked.message().await?.map(|text| String::from_utf8_lossy(&text).parse::<u32>());
                    let Some(Ok(count)) = count else { return Err(Status::invalid_argument("not a number")) };
                    Box::pin(tokio_stream::iter((0..count).map(|number| Ok(number.to_string().into()))))
                }
                "/peer/Shout" => {
                    Box::pin(asked.map(|message| message.map(|message| message.to_ascii_uppercase().into())))
                }
                _ => return Err(Status::unimplemented(path)),
            };
            Ok(Self::reply(name, messages))
        })
    }
}

/// A client, which keeps its pin as it would a token.
#[derive(Debug)]
pub struct GrpcClient {
    grpc: tonic::client::Grpc<Channel>,
    cookie: Option<String>,
    /// Who served each call.
    pub servers: Vec<String>,
}

impl GrpcClient {
    /// Connects: HTTP/2 by prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a good URL");
        let channel = endpoint.connect_timeout(PATIENCE).connect().await.expect("somebody listens");
        Self { grpc: tonic::client::Grpc::new(channel), cookie: None, servers: Vec::new() }
    }

    /// One message for one.
    ///
    /// # Errors
    /// With the status, when it is not OK.
    pub async fn unary(&mut self, path: &'static str, message: impl Into<Bytes>) -> Result<Bytes, Status> {
        self.unary_within(PATIENCE, path, message).await
    }

    /// One message for one, within this time, which the other side is told.
    ///
    /// # Errors
    /// With the status, when it is not OK.
    pub async fn unary_within(
        &mut self,
        deadline: Duration,
        path: &'static str,
        message: impl Into<Bytes>,
    ) -> Result<Bytes, Status> {
        let mut request = self.request(message.into());
        request.set_timeout(deadline);
        self.ready().await;
        let reply = self.grpc.unary(request, PathAndQuery::from_static(path), Plain).await;
        self.saw(match &reply {
            Ok(reply) => reply.metadata(),
            Err(status) => status.metadata(),
        });
        Ok(reply?.into_inner())
    }

    /// All messages of a reply to all these.
    ///
    /// # Errors
    /// With the status, when it is not OK.
    pub async fn streaming(&mut self, path: &'static str, messages: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        let mut reply = self.call(path, tokio_stream::iter(messages)).await?;
        let all = async {
            let mut all = Vec::new();
            while let Some(message) = reply.message().await? {
                all.push(message);
            }
            Ok(all)
        };
        timeout(PATIENCE, all).await.expect("a reply ends")
    }

    /// A message at a time, each only once the one before is answered: nothing on the way may wait for more.
    ///
    /// # Errors
    /// With the status, when it is not OK.
    pub async fn in_turn(&mut self, path: &'static str, messages: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let (first, others) = messages.split_first().expect("at least one");
        sender.send(first.clone()).await.expect("it is kept");
        let mut reply = self.call(path, Turns(receiver)).await?;
        let mut next = async || timeout(PATIENCE, reply.message()).await.expect("an answer");
        let mut seen: Vec<_> = next().await?.into_iter().collect();
        for message in others {
            sender.send(message.clone()).await.expect("somebody reads what is sent");
            seen.extend(next().await?);
        }
        drop(sender);
        seen.extend(next().await?);
        Ok(seen)
    }

    async fn call(
        &mut self,
        path: &'static str,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        let request = self.request(messages);
        self.ready().await;
        let call = self.grpc.streaming(request, PathAndQuery::from_static(path), Plain);
        let reply = timeout(PATIENCE, call).await.expect("a reply begins")?;
        self.saw(reply.metadata());
        Ok(reply.into_inner())
    }

    async fn ready(&mut self) {
        timeout(PATIENCE, self.grpc.ready()).await.expect("a connection").expect("a connection");
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(cookie) = &self.cookie {
            request.metadata_mut().insert("cookie", cookie.parse().expect("it came like that"));
        }
        request
    }

    fn saw(&mut self, metadata: &MetadataMap) {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        self.servers.extend(text("served-by").map(str::to_owned));
        if let Some(cookie) = text("set-cookie").and_then(|cookie| cookie.split(';').next()) {
            self.cookie = Some(cookie.to_owned());
        }
    }
}

struct Turns(mpsc::Receiver<Bytes>);

impl Stream for Turns {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.poll_recv(context)
    }
}

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

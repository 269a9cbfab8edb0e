//! A small app server that keeps logins: what Stickpin stands in front of in the demo and the tests.
//!
//! | Request | Reply |
//! |---|---|
//! | `GET /` | a page for a browser: who am I, which server answered, a form to log in |
//! | `POST /login?user=NAME` | begins a session, its id in the cookie `APPSESSION`; `copied_to` as below |
//! | `POST /logout` | ends the session wherever it is kept, takes the cookie back, and says `Stickpin-Pin: release` |
//! | `GET /whoami` | `user` or null, `visits` of the session, `session` `none`, `known` or `unknown` here, `heir` as the request's `Stickpin-Heir` says or null, `copied_to` the peer that has a copy of this very state or null; 200, or 503 when a shared store does not answer |
//! | `GET /health` | 200, or what [`SessionApp::answer_health_with`] said; `X-Instance` names this life of the server |
//! | `GET /echo` (any method) | the request's head as it arrived here, and the length of its body |
//! | `POST /upload` | length and [`Checksum`] of the body |
//! | `GET /bytes?n=N` | N bytes, with `Content-Length` |
//! | `GET /chunks?n=N&delay_ms=D` | N chunks, D milliseconds apart |
//! | `GET /broken?n=N` | announces N bytes and breaks off half way |
//! | `GET /slow?ms=D` | a reply after D milliseconds |
//! | `GET /_census` | `sessions` in this server's memory, copies for others among them, and `peer_bytes` exchanged with its peers in this life, both ways, on the connections that it opened: the sum over all servers counts each byte once; not through a proxy |
//! | `PUT /_flaw?kind=KIND` | from now on something is wrong with it, see [`Flaw`]; not through a proxy |
//!
//! JSON replies say which server they are from: `served_by`. It runs on a thread of its own, so that a test may block
//! while it answers.
//!
//! Sessions are kept in one of four ways, [`Keeping`], named as a pool's `sessions`:
//!
//! | | a login or visit is | a server that starts | a server that is asked for one it did not begin |
//! |---|---|---|---|
//! | `local` | in this server's memory | knows none | `unknown` |
//! | `replicated` | copied to every peer before the reply | fetches all from its peers before it answers | `known` |
//! | `backup` | copied to the peer that `Stickpin-Heir` names before the reply | knows none | adopts it if it has a copy: tells all others to drop it; two that do so at once lose it |
//! | `external` | in Redis | knows all | `known` |
//!
//! A peer that does not answer costs one time-out of a second and is left out, until it answers again. Peers talk under
//! `/_sessions` on the same port; for requests that came through a proxy there is no such page.
//!
//! An id is read from the cookie, or else from `;jsessionid=ID` in the path or `?sid=ID`. [`Ids`] can name another
//! cookie, a header instead of it, and a route: `ID.NAME` or `ID!NAME!HEIR`. Sessions are looked up by the bare id, and
//! a client whose id names another server than the one that answers is given the right one.

mod settings;

mod handle;

mod flaw;

mod visit;

mod ids;

mod sessions;

mod logins;

mod copies;

mod census;

mod page;

mod parameters;

mod reply;

mod body;

mod counts;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use body::{Checksum, pattern};
pub use flaw::Flaw;
use flaw::{FlawedStream, Flaws};
use handle::{App, handle};
pub use ids::{COOKIE, Carrier, Ids, Route, Separator};
pub use settings::{Keeping, PeerAddress, Settings};

/// A running session app. Dropping it stops it at once.
#[derive(Debug)]
pub struct SessionApp {
    address: SocketAddr,
    app: Arc<App>,
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    stop: oneshot::Sender<Stop>,
    thread: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
enum Stop {
    AtOnce,
    Finish(Duration),
}

impl SessionApp {
    /// Listens on `address`, port 0 for any, and answers when this returns. Its sessions are in its own memory.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(name: &str, address: SocketAddr) -> io::Result<Self> {
        Self::start_with(Settings::local(name), address)
    }

    /// As [`SessionApp::start`], with its sessions where the settings say. It answers once it has met its peers.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start_with(settings: Settings, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let app = Arc::new(App::new(settings));
        let life = Some(Life::begin(listener, Arc::clone(&app))?);
        Ok(Self { address, app, life })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.app.name()
    }

    /// Where it listens, or did before it was stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests begun in this life, probes of `/health` left out.
    pub fn requests(&self) -> u64 {
        self.app.counts.requests()
    }

    /// Requests whose reply has not begun; a client that leaves takes its request with it.
    pub fn in_flight(&self) -> u64 {
        self.app.counts.in_flight()
    }

    /// Connections open now.
    pub fn connections(&self) -> u64 {
        self.app.counts.open()
    }

    /// Connections accepted in this life.
    pub fn accepted(&self) -> u64 {
        self.app.counts.accepted()
    }

    /// From now on `/health` is answered with this status.
    pub fn answer_health_with(&self, status: StatusCode) {
        self.app.set_health(status);
    }

    /// From now on this is wrong with it.
    pub fn set_flaw(&self, flaw: Flaw) {
        self.app.flaws.set(flaw);
    }

    /// Closes the listener and every connection, as they are. When this returns, connecting is refused.
    pub fn stop(&mut self) {
        self.end(Stop::AtOnce);
    }

    /// Closes the listener, lets requests finish for at most `timeout`, then stops.
    pub fn finish(&mut self, timeout: Duration) {
        self.end(Stop::Finish(timeout));
    }

    /// Stops it, and begins another life on the same address: all logins are forgotten, the counts begin at 0.
    ///
    /// # Errors
    /// The address was taken meanwhile.
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop();
        let listener = TcpListener::bind(self.address)?;
        self.app = Arc::new(App::new(self.app.settings.clone()));
        self.life = Some(Life::begin(listener, Arc::clone(&self.app))?);
        Ok(())
    }

    fn end(&mut self, stop: Stop) {
        let Some(life) = self.life.take() else { return };
        // Either may fail only because the thread has ended already.
        let _ = life.stop.send(stop);
        let _ = life.thread.join();
    }
}

impl Drop for SessionApp {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Life {
    fn begin(listener: TcpListener, app: Arc<App>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        // The runtime ends with the thread, and with it every task and its socket.
        let thread = thread::Builder::new().name(app.name().to_owned()).spawn(move || {
            runtime.block_on(async {
                if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                    serve(listener, app, stopped).await;
                }
            });
        })?;
        Ok(Self { stop, thread })
    }
}

async fn serve(listener: tokio::net::TcpListener, app: Arc<App>, mut stopped: oneshot::Receiver<Stop>) {
    let mut connections = JoinSet::new();
    connections.spawn(join(Arc::clone(&app)));
    let (finish, finishing) = watch::channel(());
    let stop = loop {
        tokio::select! {
            stop = &mut stopped => break stop.unwrap_or(Stop::AtOnce),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&app), finishing.clone()));
                }
                // Out of descriptors, most likely: trying again at once would spin.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    };
    drop(listener);
    if let Stop::Finish(within) = stop {
        drop(finish);
        let _ = timeout(within, async { while connections.join_next().await.is_some() {} }).await;
    }
}

/// A peer that nobody asks anything has to be met too: it gets copies.
async fn join(app: Arc<App>) {
    app.join().await;
}

/// Until `finishing` has lost its sender, or the connection ends.
async fn connection(stream: TcpStream, app: Arc<App>, mut finishing: watch::Receiver<()>) {
    let _open = app.counts.open_one();
    let _ = stream.set_nodelay(true);
    let is_ill = Flaws::default();
    let stream = FlawedStream::new(stream, is_ill.clone(), app.flaws.clone());
    let service = service_fn(|request| handle(Arc::clone(&app), is_ill.clone(), request));
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = finishing.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

//! An app server of your own that survives the death of any one server without a shared store: before each reply it
//! copies the session to the backend that Stickpin names in `Stickpin-Heir`. Pool: `sessions: backup`.
//!
//! ```text
//! cargo run --example copy_to_heir -- --name app1 --listen 127.0.0.1:9101 --peers-listen 127.0.0.1:9201 \
//!     --peer app2=127.0.0.1:9202 --peer app3=127.0.0.1:9203
//! ```
//!
//! `POST /login/NAME`, `GET /whoami`, `POST /logout`. Names are those of the pool's `backends`, addresses of peers their
//! `--peers-listen`: copies are believed, so they come on a port of their own, where clients and proxies cannot knock; bind
//! it to a network of the servers alone. (A secret on the public port would be read by whoever can read the sessions.)
//!
//! - Every change makes a session's version greater, and of two copies the greater one stays, in whatever order they come.
//! - The client carries the version that it has seen. A server whose copy is older, or that has none (it was restarted, it
//!   hung, the heir was another one a moment ago), asks its peers before it answers, and goes on from the newest.
//! - A peer that does not answer costs [`PATIENCE`]. The reply is sent all the same, and says that nothing was copied; the
//!   next request copies the whole session, to whoever is the heir by then.
//!
//! What it cannot: keep what was changed while no heir answered if the home dies, too, before the next request.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval, sleep, timeout};

/// How long a peer may take to answer; a client waits for it.
const PATIENCE: Duration = Duration::from_millis(250);

/// A session that nobody has used for so long is forgotten, here and, since it is not copied any more, at its heir.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// Beyond it nobody can log in until others have been forgotten.
const MOST_SESSIONS: usize = 100_000;

#[derive(Parser)]
#[command(about = "An app server that copies each session to the backend that Stickpin-Heir names")]
struct Options {
    /// Its name in the pool's `backends`.
    #[arg(long)]
    name: String,
    /// Where clients come in.
    #[arg(long)]
    listen: SocketAddr,
    /// Where copies come in: for peers only.
    #[arg(long)]
    peers_listen: SocketAddr,
    /// Another server, and where it takes copies; once for each.
    #[arg(long = "peer", value_name = "NAME=ADDRESS", value_parser = peer)]
    peers: Vec<(String, SocketAddr)>,
}

/// What is kept of a client. Small and whole: it is what travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session {
    version: u64,
    /// Nobody after a logout, which has to be known to be newer than the login that others remember.
    user: Option<String>,
    visits: u64,
}

/// One line between peers: "this is what I have of it", answered by what the other has then.
#[derive(Serialize, Deserialize)]
struct Told {
    id: String,
    session: Option<Session>,
}

struct App {
    name: String,
    /// With the time of their last use.
    sessions: Mutex<HashMap<String, (Session, Instant)>>,
    peers: Vec<Arc<Peer>>,
}

struct Peer {
    name: String,
    address: SocketAddr,
    /// Connections that nobody uses now.
    idle: Mutex<Vec<BufReader<TcpStream>>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Options { name, listen, peers_listen, peers } = Options::parse();
    let peer = |(name, address)| Arc::new(Peer { name, address, idle: Mutex::default() });
    let peers = peers.into_iter().map(peer).collect();
    let app = Arc::new(App { name, sessions: Mutex::default(), peers });
    tokio::spawn(serve_peers(TcpListener::bind(peers_listen).await?, Arc::clone(&app)));
    tokio::spawn(forget_idle(Arc::clone(&app)));
    let clients = TcpListener::bind(listen).await?;
    println!("listening on {listen}");
    let router = Router::new()
        .route("/whoami", get(who_am_i))
        .route("/login/{user}", post(log_in))
        .route("/logout", post(log_out))
        .route("/health", get("well\n"));
    Ok(axum::serve(clients, router.with_state(app)).await?)
}

// --- What clients see ------------------------------------------------------------------------------------------------

async fn log_in(State(app): State<Arc<App>>, Path(user): Path<String>, headers: HeaderMap) -> Response {
    if user.len() > 100 || locked(&app.sessions).len() >= MOST_SESSIONS {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("the system has random bits");
    // A new id with each login: one that somebody else may have slipped to the client is worth nothing.
    let id = format!("{:032x}", u128::from_ne_bytes(bits));
    let session = Session { version: 1, user: Some(user), visits: 0 };
    app.take(&id, Some(session.clone()));
    reply(&app, &id, &session, app.copy_to_heir(&id, &session, &headers).await)
}

async fn who_am_i(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match app.change(&headers, |session| session.visits += 1).await {
        Some((id, session)) => reply(&app, &id, &session, app.copy_to_heir(&id, &session, &headers).await),
        None => Json(json!({ "served_by": app.name, "user": null })).into_response(),
    }
}

/// All are told, not the heir alone: whoever keeps an older copy would let a stolen cookie in.
async fn log_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if let Some((id, session)) = app.change(&headers, |session| session.user = None).await {
        app.exchange_with_all(&id, Some(session)).await;
    }
    let gone = [(SET_COOKIE, "SESSION=; Path=/; Max-Age=0"), (SET_COOKIE, "SESSION_VERSION=; Path=/; Max-Age=0")];
    let body = Json(json!({ "served_by": app.name, "user": null }));
    ([("stickpin-pin", "release")], AppendHeaders(gone), body).into_response()
}

/// The version is a cookie of its own: another value of the session's would look like another session.
fn reply(app: &App, id: &str, Session { version, user, visits }: &Session, copied_to: Option<&str>) -> Response {
    let attributes = "Path=/; HttpOnly; SameSite=Lax";
    let cookies = [format!("SESSION={id}; {attributes}"), format!("SESSION_VERSION={version}; {attributes}")];
    let body = json!({ "served_by": app.name, "user": user, "visits": visits, "copied_to": copied_to });
    (AppendHeaders(cookies.map(|cookie| (SET_COOKIE, cookie))), Json(body)).into_response()
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

// --- Sessions and their copies ---------------------------------------------------------------------------------------

impl App {
    /// Changes the session of a request, from its newest state on. `None` when nobody is logged in.
    async fn change(
        self: &Arc<Self>,
        headers: &HeaderMap,
        change: impl FnOnce(&mut Session),
    ) -> Option<(String, Session)> {
        let id = cookie(headers, "SESSION").filter(|id| id.len() == 32)?;
        let seen = cookie(headers, "SESSION_VERSION").and_then(|version| version.parse().ok()).unwrap_or(0);
        if self.take(id, None).is_none_or(|session| session.version < seen) {
            self.exchange_with_all(id, None).await;
        }
        let mut sessions = locked(&self.sessions);
        let (session, used) = sessions.get_mut(id).filter(|(session, _)| session.user.is_some())?;
        // Greater than what the client has seen, too, which may be lost: it must not come back from a server that hung.
        session.version = seen.max(session.version).saturating_add(1);
        change(session);
        *used = Instant::now();
        Some((id.to_owned(), session.clone()))
    }

    /// Takes what a peer has if it is newer, and gives what is known then.
    fn take(&self, id: &str, theirs: Option<Session>) -> Option<Session> {
        let mut sessions = locked(&self.sessions);
        let own = sessions.get(id).map_or(0, |(session, _)| session.version);
        if let Some(newer) = theirs.filter(|theirs| theirs.version > own) {
            sessions.insert(id.to_owned(), (newer, Instant::now()));
        }
        sessions.get(id).map(|(session, _)| session.clone())
    }

    /// Gives the name of the peer that has a copy now; `None` when nobody has.
    async fn copy_to_heir(&self, id: &str, session: &Session, headers: &HeaderMap) -> Option<&str> {
        let heir = headers.get("stickpin-heir")?;
        let peer = self.peers.iter().find(|peer| peer.name.as_bytes() == heir.as_bytes())?;
        let told = Told { id: id.to_owned(), session: Some(session.clone()) };
        self.exchange(peer, told).await.map(|()| &*peer.name)
    }

    /// With all at the same time, so that several which do not answer cost no more than one; to its end even if the client
    /// leaves.
    async fn exchange_with_all(self: &Arc<Self>, id: &str, session: Option<Session>) {
        let exchange = |peer: &Arc<Peer>| {
            let (app, peer) = (Arc::clone(self), Arc::clone(peer));
            let told = Told { id: id.to_owned(), session: session.clone() };
            tokio::spawn(async move { app.exchange(&peer, told).await })
        };
        let exchanges: Vec<_> = self.peers.iter().map(exchange).collect();
        for exchange in exchanges {
            let _ = exchange.await;
        }
    }

    /// `None` when it does not answer in time.
    async fn exchange(&self, peer: &Peer, told: Told) -> Option<()> {
        let theirs = timeout(PATIENCE, peer.tell(&told)).await.ok()?.ok()?;
        self.take(&told.id, theirs);
        Some(())
    }
}

impl Peer {
    async fn tell(&self, told: &Told) -> io::Result<Option<Session>> {
        let line = serde_json::to_string(told)? + "\n";
        let kept = locked(&self.idle).pop();
        // One that was kept may lead to a former life of the peer. What is told twice changes nothing.
        if let Some(connection) = kept
            && let Ok(session) = self.tell_on(connection, &line).await
        {
            return Ok(session);
        }
        self.tell_on(BufReader::new(TcpStream::connect(self.address).await?), &line).await
    }

    /// Keeps the connection after the answer: one that was given up in between is dropped.
    async fn tell_on(&self, mut connection: BufReader<TcpStream>, line: &str) -> io::Result<Option<Session>> {
        connection.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_line(&mut answer).await?;
        let session = serde_json::from_str(&answer)?;
        locked(&self.idle).push(connection);
        Ok(session)
    }
}

async fn serve_peers(listener: TcpListener, app: Arc<App>) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => drop(tokio::spawn(answer(BufReader::new(connection), Arc::clone(&app)))),
            // Out of descriptors, most likely: trying again at once would spin.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer(mut connection: BufReader<TcpStream>, app: Arc<App>) -> io::Result<()> {
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        let Told { id, session } = serde_json::from_str(&line)?;
        let known = serde_json::to_string(&app.take(&id, session))? + "\n";
        connection.write_all(known.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

async fn forget_idle(app: Arc<App>) {
    let mut tick = interval(Duration::from_secs(60));
    loop {
        tick.tick().await;
        locked(&app.sessions).retain(|_, (_, used)| used.elapsed() < IDLE);
    }
}

fn peer(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    Ok((name.to_owned(), address.parse().map_err(|error| format!("{address}: {error}"))?))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}

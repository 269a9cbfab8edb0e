//! The admin listener: a bounded number of connections, and a bounded patience with each.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::auth::Access;
use super::events::LISTENERS;
use super::{Shared, router};
use crate::drain;

/// Open connections; beyond it, accepting pauses. Those who listen to events keep theirs, and must not keep others out.
pub(super) const CONNECTIONS: usize = 64 + LISTENERS;

/// For a request's head, and so also between two requests of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Holds a request's head.
const BUFFER: usize = 64 * 1024;

/// Between two attempts to accept when the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin endpoint until the drain's deadline, so that a drain can be watched. Dropping the future closes
/// every connection.
///
/// Holds `drain` until then: an owner that waits for its watchers to be gone drops this future first.
///
/// # Errors
/// The address is not loopback and there is no token: anybody could give orders.
pub async fn serve(
    listener: TcpListener,
    token: Option<String>,
    shared: Arc<Shared>,
    mut drain: drain::Watcher,
) -> io::Result<()> {
    let access = match token {
        Some(token) => Access::Token(token),
        None if listener.local_addr()?.ip().to_canonical().is_loopback() => Access::Local,
        None => {
            let message = "an admin address that is not loopback needs a token";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
    };
    let router = router(access, shared, drain.clone());
    let mut connections = JoinSet::new();
    let mut acceptor = Acceptor { listener, slots: Arc::new(Semaphore::new(CONNECTIONS)), failing: false };
    loop {
        tokio::select! {
            () = drain.stopped() => return Ok(()),
            Some(_) = connections.join_next() => {}
            (stream, slot) = acceptor.accept() => {
                connections.spawn(connection(stream, slot, router.clone()));
            }
        }
    }
}

struct Acceptor {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    /// Whether the last attempt failed, so that a lasting failure is logged once.
    failing: bool,
}

impl Acceptor {
    /// Safe to cancel: a slot that was taken is free again.
    async fn accept(&mut self) -> (TcpStream, OwnedSemaphorePermit) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.failing = false;
                    return (stream, slot);
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "no connection to the admin endpoint can be accepted");
                    }
                    // Without a pause this loop would spin until somebody closes a socket.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, slot: OwnedSemaphorePermit, router: Router) {
    // Replies are small and written at once; a failure only makes them slower.
    let _ = stream.set_nodelay(true);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
    drop(slot);
}

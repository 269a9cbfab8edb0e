//! A backend that answers as it is told, request by request.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How it answers one request.
#[derive(Clone, Debug)]
pub(crate) enum Mood {
    /// With this status.
    Status(u16),
    /// With 503 and `Retry-After`.
    Later,
    /// Not before it is told to.
    Waits,
}

/// In good mood, it answers 200 with its name and what it got. Probes ask for `/health`, and always find it well.
#[derive(Debug)]
pub(crate) struct Moody {
    name: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    moods: Mutex<VecDeque<Mood>>,
    /// Method, target and body of what was asked.
    asked: Mutex<Vec<String>>,
    go_on: Notify,
}

impl Moody {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { name, moods: Mutex::default(), asked: Mutex::default(), go_on: Notify::new() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { name, address, shared, server }
    }

    pub(crate) fn yaml(&self) -> String {
        format!("{{ name: {}, address: \"{}\" }}", self.name, self.address)
    }

    /// Answers the next requests so, one each; then it is in good mood again.
    pub(crate) fn will(&self, moods: impl IntoIterator<Item = Mood>) {
        self.shared.moods.lock().unwrap().extend(moods);
    }

    /// What it was asked since this was called last, probes left out.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }

    /// Whoever waits gets an answer.
    pub(crate) fn go_on(&self) {
        self.shared.go_on.notify_waiters();
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, method: Method, uri: Uri, body: Bytes) -> Response {
    if uri.path() == "/health" {
        return StatusCode::OK.into_response();
    }
    let go_on = shared.go_on.notified();
    shared.asked.lock().unwrap().push(format!("{method} {uri} {}", String::from_utf8_lossy(&body)));
    let mood = shared.moods.lock().unwrap().pop_front();
    match mood {
        Some(Mood::Status(status)) => (StatusCode::from_u16(status).unwrap(), "in a mood").into_response(),
        Some(Mood::Later) => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")], "later").into_response(),
        Some(Mood::Waits) => {
            go_on.await;
            good(&shared, &body)
        }
        None => good(&shared, &body),
    }
}

fn good(shared: &Shared, body: &Bytes) -> Response {
    axum::Json(serde_json::json!({ "served_by": shared.name, "body_length": body.len() })).into_response()
}

//! The admin endpoint as the tests read it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::shared::client::{Client, Reply};
use super::until;

/// A client of the admin endpoint of one Stickpin.
#[derive(Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Connects with its first request.
    pub fn new(address: SocketAddr) -> Self {
        Self { client: Client::new(address) }
    }

    /// Any `GET`.
    ///
    /// # Panics
    /// Without an answer.
    pub async fn get(&mut self, path: &str) -> Reply {
        self.client.get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// Any `PUT` of JSON.
    ///
    /// # Panics
    /// Without an answer.
    pub async fn put(&mut self, path: &str, value: &Value) -> Reply {
        self.client.put_json(path, value).await.unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    /// Any `POST` of JSON.
    ///
    /// # Panics
    /// Without an answer.
    pub async fn post(&mut self, path: &str, value: &Value) -> Reply {
        self.client.post_json(path, value).await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Any `DELETE`.
    ///
    /// # Panics
    /// Without an answer.
    pub async fn delete(&mut self, path: &str) -> Reply {
        let request = http::Request::delete(path).body(bytes::Bytes::new()).expect("a path");
        self.client.send(request).await.unwrap_or_else(|error| panic!("DELETE {path}: {error}"))
    }

    /// The view of a pool.
    pub async fn pool(&mut self, pool: &str) -> Value {
        self.get(&format!("/api/v1/pools/{pool}")).await.json()
    }

    /// Waits until the names of a pool's backends are these, sorted.
    pub async fn until_backends(&mut self, pool: &str, names: &[&str]) {
        let mut expected: Vec<&str> = names.to_vec();
        expected.sort_unstable();
        until(&format!("the backends of {pool} are {expected:?}"), async || {
            let view = self.pool(pool).await;
            let mut names: Vec<&str> =
                view["backends"].as_array().into_iter().flatten().filter_map(|it| it["name"].as_str()).collect();
            names.sort_unstable();
            if names == expected { Ok(()) } else { Err(view.clone()) }
        })
        .await;
    }

    /// `POST /api/v1/reload`
    ///
    /// # Panics
    /// Without an answer.
    pub async fn reload(&mut self) -> Reply {
        let path = "/api/v1/reload";
        self.client.post(path, "").await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// The view of one backend.
    pub async fn backend(&mut self, pool: &str, backend: &str) -> Value {
        self.get(&format!("/api/v1/pools/{pool}/backends/{backend}")).await.json()
    }

    /// Orders an admin state.
    ///
    /// # Panics
    /// When the order is refused.
    pub async fn set_state(&mut self, pool: &str, backend: &str, state: &str) {
        let path = format!("/api/v1/pools/{pool}/backends/{backend}/state");
        let reply = self.put(&path, &json!({ "state": state })).await;
        assert!(reply.status.is_success(), "PUT {path} {state}: {} {}", reply.status, reply.text());
    }

    /// Waits until a backend's health is this.
    pub async fn until_health(&mut self, pool: &str, backend: &str, health: &str) {
        until(&format!("{backend} is {health}"), async || {
            let view = self.backend(pool, backend).await;
            if view["health"] == health { Ok(()) } else { Err(view) }
        })
        .await;
    }

    /// The sum of a metric's samples whose labels contain each of `labels`, written as in `pool="shop"`; 0 when there
    /// is none.
    pub async fn metric(&mut self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").await.text();
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        samples
            .filter(|(labelled, _)| labelled.is_empty() || labelled.starts_with('{'))
            .filter(|(labelled, _)| labels.iter().all(|label| labelled.contains(label)))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }
}

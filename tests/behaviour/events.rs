//! Whoever listens to `/api/v1/events` hears what happens.

use serde_json::{Value, json};

use crate::shop::{Shop, processes};
use crate::support::StickpinProcess;
use crate::support::raw::Peer;

/// A client of `/api/v1/events`.
pub(crate) struct Listener(Peer);

impl Listener {
    /// Listens from now on.
    pub(crate) async fn of(stickpin: &StickpinProcess) -> Self {
        let address = stickpin.admin_address();
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let mut peer = Peer::sending(address, request).await;
        assert_eq!(peer.head().await.value("content-type"), Some("text/event-stream"));
        peer.through(b": listening\n\n").await;
        Self(peer)
    }

    /// What comes with the next event of this name; others are passed over.
    pub(crate) async fn next(&mut self, name: &str) -> Value {
        self.0.through(format!("event: {name}\ndata: ").as_bytes()).await;
        let data = self.0.through(b"\n\n").await;
        serde_json::from_slice(&data).expect("valid JSON")
    }
}

#[tokio::test]
async fn a_change_of_health_an_order_and_a_reload_are_told() {
    let mut backends = processes(["app1", "app2"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml()));
    let stickpin = shop.open().await;
    let (mut events, mut admin) = (Listener::of(&stickpin).await, stickpin.admin());

    admin.set_state("shop", "app2", "disabled").await;
    let event = events.next("admin_state").await;
    assert_eq!(
        (&event["backend"], &event["from"], &event["to"]),
        (&json!("app2"), &json!("enabled"), &json!("disabled"))
    );

    backends[0].kill();
    for (from, to) in [("healthy", "suspect"), ("suspect", "unhealthy")] {
        let event = events.next("health").await;
        assert_eq!((&event["pool"], &event["backend"]), (&json!("shop"), &json!("app1")));
        assert_eq!((&event["from"], &event["to"], &event["cause"]), (&json!(from), &json!(to), &json!("refused")));
        assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
    }

    shop.write_to(&stickpin);
    let generation = admin.reload().await.json()["generation"].clone();
    let event = events.next("reload").await;
    assert_eq!((&event["result"], &event["generation"]), (&json!("ok"), &generation));
    stickpin.write_config("pools: [");
    stickpin.reload();
    let event = events.next("reload").await;
    assert!(event["result"] == "failed" && event["error"].as_str().is_some_and(|error| !error.is_empty()), "{event}");
}

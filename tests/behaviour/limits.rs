//! A backend gets as many requests and connections at a time as it may have, and never one more, over all workers.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::shop::{Shop, assert_placed};
use crate::support::raw::Peer;
use crate::support::{Client, StickpinProcess, until};
use crate::turnstile::Turnstile;

/// So many clients at once, each with so many requests, which all have to be answered with 200. Gives, for each client, how
/// many of its requests each backend served.
async fn rush(stickpin: &StickpinProcess, clients: usize, requests: usize) -> Vec<Vec<String>> {
    let mut rush = JoinSet::new();
    for _ in 0..clients {
        let mut client = stickpin.client();
        rush.spawn(async move {
            let mut served_by = Vec::new();
            for _ in 0..requests {
                let reply = client.get("/").await.unwrap_or_else(|error| panic!("GET /: {error}"));
                assert_eq!(reply.status, 200, "{}", reply.text());
                served_by.push(reply.served_by());
            }
            served_by
        });
    }
    rush.join_all().await
}

async fn view(stickpin: &StickpinProcess, backend: &str, field: &str) -> serde_json::Value {
    stickpin.admin().backend("shop", backend).await[field].clone()
}

#[tokio::test]
async fn a_backend_never_has_more_requests_than_it_may_from_any_number_of_workers() {
    let pace = Duration::from_millis(2);
    let (red, green) = (Turnstile::taking("red", pace).await, Turnstile::taking("green", pace).await);
    let shop = Shop::of([red.yaml("max_requests: 3"), green.yaml("max_requests: 5")]);
    let stickpin = shop.pool("affinity: off").pool("queue: { length: 1000, timeout: 20s }").open().await;
    rush(&stickpin, 40, 25).await;
    assert_eq!((red.most_in_flight(), green.most_in_flight()), (3, 5), "both bounds were reached and none exceeded");
    assert_eq!(red.served() + green.served(), 1_000);
    assert_eq!(view(&stickpin, "red", "max_requests").await, 3);
    until("nobody is counted any more", async || {
        let seen = (view(&stickpin, "red", "in_flight").await, view(&stickpin, "red", "queued").await);
        if seen == (0.into(), 0.into()) { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn pinned_clients_are_bound_too_and_all_of_them_get_home() {
    let pace = Duration::from_millis(2);
    let (red, green) = (Turnstile::taking("red", pace).await, Turnstile::taking("green", pace).await);
    let shop = Shop::of([red.yaml(""), green.yaml("")]).pool("max_requests: 2");
    let stickpin = shop.pool("queue: { length: 1000, timeout: 20s }").open().await;
    for homes in rush(&stickpin, 30, 20).await {
        assert!(homes.iter().all(|home| *home == homes[0]), "waiting moves nobody: {homes:?}");
    }
    assert_eq!((red.most_in_flight(), green.most_in_flight()), (2, 2));
    assert_placed(&stickpin, "kept", "", 30 * 19).await;
}

#[tokio::test]
async fn a_tunnel_takes_the_place_of_a_request_until_it_is_closed() {
    let red = Turnstile::holding("red").await;
    red.open();
    let stickpin =
        Shop::of([red.yaml("max_requests: 1")]).pool("affinity: off").pool("queue: { length: 0 }").open().await;
    let upgrade = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let mut tunnel = Peer::sending(stickpin.front(), upgrade).await;
    assert_eq!(tunnel.head().await.status(), 101);
    assert_eq!(stickpin.client().get("/").await.unwrap().status, 503);
    tunnel.finish().await;
    tunnel.gone().await;
    until("there is room", async || {
        let status = stickpin.client().get("/").await.unwrap().status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn no_more_connections_are_open_than_there_may_be_and_idle_ones_elsewhere_starve_nobody() {
    let red = Turnstile::taking("red", Duration::from_millis(1)).await;
    let shop = Shop::of([red.yaml("max_connections: 3")]).workers(4);
    let stickpin = shop.pool("affinity: off").pool("queue: { length: 1000, timeout: 20s }").open().await;
    // All at once, then few clients at a time, so that the workers that need one have none, and others have idle ones.
    rush(&stickpin, 24, 20).await;
    for _ in 0..40 {
        rush(&stickpin, 1, 1).await;
    }
    for _ in 0..10 {
        rush(&stickpin, 3, 2).await;
    }
    assert_eq!((red.most_open(), red.most_in_flight()), (3, 3));
    assert_eq!(view(&stickpin, "red", "max_connections").await, 3);
    let mut admin = stickpin.admin();
    let connections = admin.metric("stickpin_backend_open_connections", &["backend=\"red\""]).await;
    assert!((1.0..=3.0).contains(&connections), "{connections}");
    assert_eq!(admin.metric("stickpin_retries_total", &[]).await, 0.0, "nobody went without");
}

#[tokio::test]
async fn one_connection_is_enough_for_many_workers() {
    let red = Turnstile::taking("red", Duration::ZERO).await;
    let shop = Shop::of([red.yaml("max_connections: 1")]).workers(4);
    let stickpin = shop.pool("affinity: off").pool("queue: { length: 1000, timeout: 20s }").open().await;
    let mut clients: Vec<Client> = (0..8).map(|_| stickpin.client()).collect();
    // In turns, over connections to all workers: each finds the only connection idle at another.
    for turn in 0..200 {
        assert_eq!(clients[turn % 8].get("/").await.unwrap().status, 200);
    }
    assert_eq!((red.most_open(), red.served()), (1, 200));
}

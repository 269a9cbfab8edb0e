//! Affinity by hash: no cookie, no state, the same place for the same key on every replica.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use serde_json::json;

use crate::shop::{Shop, assert_placed, processes, until_gone};
use crate::support::{Client, Reply, StickpinProcess, until};

async fn ask(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send(request.body(Bytes::new()).unwrap()).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// Where each of a hundred users is served, each asked about over a connection of its own.
async fn places(stickpin: &StickpinProcess) -> BTreeMap<String, String> {
    let mut places = BTreeMap::new();
    for number in 0..100 {
        let user = format!("user-{number}");
        let reply = ask(&mut stickpin.client(), "/whoami", &[("x-user", &user)]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("set-cookie"), "", "nothing is stored at the client");
        places.insert(user, reply.served_by());
    }
    places
}

#[tokio::test]
async fn a_key_finds_its_home_through_every_replica_and_comes_back_to_it_after_a_death() {
    let mut backends = processes(["red", "green", "blue"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml()))
        .pool("affinity: { hash: { keys: [{ header: X-User }] } }");
    let (stickpin, replica) = (shop.open().await, shop.open().await);
    let before = places(&stickpin).await;
    assert_eq!(before.values().collect::<HashSet<_>>().len(), 3, "everybody has some");
    assert_eq!(places(&replica).await, before);
    assert_placed(&stickpin, "kept", "", 100).await;

    backends[0].kill();
    until_gone(&mut stickpin.admin(), "red").await;
    let meanwhile = places(&stickpin).await;
    for (user, place) in &before {
        if place == "red" {
            assert_ne!(meanwhile[user], "red");
        } else {
            assert_eq!(meanwhile[user], *place, "only red's move: {user}");
        }
    }
    backends[0].restart().unwrap();
    stickpin.admin().until_health("shop", "red", "healthy").await;
    assert_eq!(places(&stickpin).await, before);
}

#[tokio::test]
async fn a_draining_backend_keeps_its_keys_where_sessions_are_local_and_a_disabled_one_does_not() {
    let backends = processes(["red", "green", "blue"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml()))
        .pool("affinity: { hash: { keys: [{ header: X-User }] } }");
    let stickpin = shop.open().await;
    let before = places(&stickpin).await;
    let mut admin = stickpin.admin();
    admin.set_state("shop", "red", "draining").await;
    assert_eq!(places(&stickpin).await, before);
    admin.set_state("shop", "red", "disabled").await;
    assert!(places(&stickpin).await.values().all(|place| place != "red"));
    admin.set_state("shop", "red", "enabled").await;
    assert_eq!(places(&stickpin).await, before);
}

#[tokio::test]
async fn the_first_key_that_is_present_wins_and_what_is_no_key_is_passed_over() {
    let backends = processes(["red", "green", "blue"]);
    let keys = "affinity: { hash: { keys: [{ jwt_claim: sub }, { header: X-User }, { cookie: uid }, { query_parameter: user }, path] } }";
    let stickpin = Shop::of(backends.iter().map(|backend| backend.yaml())).pool(keys).open().await;
    let token = |claims: &str| format!("Bearer {}.{}.x", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims));
    let (ann, numeric) = (token(r#"{"sub":"ann"}"#), token(r#"{"sub":7}"#));
    let mut client = stickpin.client();
    // The place of a key does not depend on whatever else the request carries.
    for number in 0..30 {
        let other = format!("other-{number}");
        for authorization in [&ann, &numeric] {
            let alone = ask(&mut client, "/whoami", &[("authorization", authorization)]).await.served_by();
            let beside =
                ask(&mut client, "/whoami?user=x", &[("authorization", authorization), ("x-user", &other)]).await;
            assert_eq!(beside.served_by(), alone);
        }
        let alone = ask(&mut client, "/whoami", &[("x-user", &other)]).await.served_by();
        for nonsense in ["Bearer x", "Bearer a.b.c", "Basic Zm9v", "Bearer ..", &token("[]"), &token(r#"{"sub":null}"#)]
        {
            let reply = ask(&mut client, "/whoami", &[("authorization", nonsense), ("x-user", &other)]).await;
            assert_eq!(reply.served_by(), alone, "{nonsense}");
        }
        let cookie = format!("a=b; uid={other}");
        let alone = ask(&mut client, "/whoami", &[("cookie", &cookie)]).await.served_by();
        assert_eq!(ask(&mut client, "/whoami?user=x", &[("cookie", &cookie)]).await.served_by(), alone);
        let query = format!("/whoami?a=b&user={other}");
        let alone = ask(&mut client, &query, &[]).await.served_by();
        assert_eq!(ask(&mut client, &query, &[("x-user", "")]).await.served_by(), alone, "an empty header is none");
    }
}

#[tokio::test]
async fn without_a_key_the_pool_says_whether_to_balance_to_take_the_address_or_to_reject() {
    let backends = processes(["red", "green", "blue"]);
    let of = |without_key: &str| {
        let keys = format!("affinity: {{ hash: {{ keys: [{{ header: X-User }}], without_key: {without_key} }} }}");
        Shop::of(backends.iter().map(|backend| backend.yaml())).pool(&keys)
    };

    let balancing = of("balance").open().await;
    let mut seen = HashSet::new();
    for _ in 0..60 {
        seen.insert(ask(&mut balancing.client(), "/whoami", &[]).await.served_by());
    }
    assert_eq!(seen.len(), 3);
    assert_placed(&balancing, "unpinned", "", 60).await;

    let by_address = of("client_address").open().await;
    let mut seen = HashSet::new();
    for _ in 0..30 {
        seen.insert(ask(&mut by_address.client(), "/whoami", &[]).await.served_by());
    }
    assert_eq!(seen.len(), 1, "all come from one address");

    let rejecting = of("reject").open().await;
    let mut client = rejecting.client();
    assert_eq!(ask(&mut client, "/whoami", &[]).await.status, 400);
    assert_eq!(ask(&mut client, "/whoami", &[("x-user", "ann")]).await.status, 200, "the connection goes on");
    assert_placed(&rejecting, "refused", "", 1).await;
}

#[tokio::test]
async fn clients_of_one_network_share_a_place_when_the_prefix_says_so() {
    let backends = processes(["red", "green", "blue"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml()))
        .top("trusted_proxies: [127.0.0.1]")
        .pool("affinity: { hash: { keys: [{ client_address: { ipv4_prefix: 24, ipv6_prefix: 48 } }] } }");
    let stickpin = shop.open().await;
    let mut client = stickpin.client();
    let mut networks = HashSet::new();
    for network in 0..40 {
        let mut places = HashSet::new();
        for host in [1, 77, 254] {
            let address = format!("10.9.{network}.{host}");
            places.insert(ask(&mut client, "/whoami", &[("x-forwarded-for", &address)]).await.served_by());
        }
        assert_eq!(places.len(), 1, "network {network}");
        networks.extend(places);
    }
    assert_eq!(networks.len(), 3);
}

#[tokio::test]
async fn by_a_table_too_all_replicas_agree_and_a_weight_order_moves_keys_and_outlives_a_restart() {
    let backends = processes(["red", "green", "blue"]);
    for balance in ["maglev", "ring"] {
        let state = tempfile::tempdir().unwrap();
        let settings = format!("balance: {balance}\n    affinity: {{ hash: {{ keys: [{{ header: X-User }}] }} }}");
        let shop = |lines: Vec<String>| Shop::of(lines).pool(&settings);
        let lines = || backends.iter().map(|backend| backend.yaml());
        let kept = shop(lines().collect()).top(&format!("state_dir: {}", state.path().display()));
        let mut stickpin = kept.open().await;
        // The same backends in another order.
        let replica = shop(lines().rev().collect()).open().await;
        let before = places(&stickpin).await;
        assert_eq!(before.values().collect::<HashSet<_>>().len(), 3, "{balance}: everybody has some");
        assert_eq!(places(&replica).await, before, "{balance}");
        let view = stickpin.admin().get("/api/v1/pools/shop").await.json();
        assert_eq!(view["balance"], balance);

        let of_red = |places: &BTreeMap<String, String>| places.values().filter(|place| *place == "red").count();
        for admin in [&mut stickpin.admin(), &mut replica.admin()] {
            admin.put("/api/v1/pools/shop/backends/red/weight", &json!({ "weight": 8 })).await;
        }
        let after = places(&stickpin).await;
        assert!(of_red(&after) > 60, "{balance}: {} of 100 for a weight of 8 in 10", of_red(&after));
        assert_eq!(places(&replica).await, after, "{balance}");
        assert!(stickpin.terminate().await.success());
        assert_eq!(places(&kept.open().await).await, after, "{balance}: after a restart");
    }
}

/// Bound: 1.05 times the average, and one key.
#[tokio::test]
async fn with_a_bound_no_backend_gets_more_than_its_part_and_no_key_in_use_is_taken_away() {
    let backends = processes(["red", "green", "blue", "late"]);
    let lines: Vec<String> = backends.iter().map(|backend| backend.yaml()).collect();
    let of = |lines: &[String], bounded_load: &str| {
        let hash = format!("affinity: {{ hash: {{ keys: [{{ header: X-User }}], bounded_load: {bounded_load} }} }}");
        Shop::of(lines.iter().cloned()).pool(&format!("balance: maglev\n    {hash}"))
    };
    let count = |places: &BTreeMap<String, String>| {
        let mut counts = BTreeMap::<String, u64>::new();
        places.values().for_each(|place| *counts.entry(place.clone()).or_default() += 1);
        counts
    };
    let unbounded = places(&of(&lines[..3], "off").open().await).await;
    assert!(count(&unbounded).values().any(|keys| *keys > 36), "by chance one has more: {:?}", count(&unbounded));

    let stickpin = of(&lines[..3], "1.05").open().await;
    let before = places(&stickpin).await;
    assert!(count(&before).values().all(|keys| *keys <= 36), "{:?}", count(&before));
    let mut admin = stickpin.admin();
    for (backend, keys) in count(&before) {
        until(&format!("{keys} keys are in use at {backend}"), async || {
            let view = admin.backend("shop", &backend).await;
            if view["active_pins"] == keys { Ok(()) } else { Err(view["active_pins"].clone()) }
        })
        .await;
    }
    assert!((admin.metric("stickpin_pin_store_pins", &["pool=\"shop\""]).await - 100.0).abs() < 0.5);

    // Load shifts: another backend, another weight. Whoever is in use stays; a new key sees the new one.
    of(&lines, "1.05").write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    admin.until_health("shop", "late", "healthy").await;
    admin.put("/api/v1/pools/shop/backends/green/weight", &json!({ "weight": 9 })).await;
    assert_eq!(places(&stickpin).await, before);
    let mut newcomers = HashSet::new();
    for number in 0..100 {
        let user = format!("newcomer-{number}");
        newcomers.insert(ask(&mut stickpin.client(), "/whoami", &[("x-user", &user)]).await.served_by());
    }
    assert!(newcomers.contains("late"), "{newcomers:?}");
    assert_eq!(places(&stickpin).await, before);
}

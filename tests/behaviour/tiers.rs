//! Tiers: who stands in when a tier is lost, and who comes back when it is not any more.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use http::Request;

use crate::shop::{Shop, log_in, processes, until_gone, who_am_i};
use crate::support::{Admin, BackendProcess, StickpinProcess, until};

fn of_tier(backend: &BackendProcess, tier: u32) -> String {
    format!("{{ name: {}, address: \"{}\", tier: {tier} }}", backend.name(), backend.address())
}

/// Where this many new clients log in.
async fn arrivals(stickpin: &StickpinProcess, count: usize) -> HashSet<String> {
    let mut seen = HashSet::new();
    for _ in 0..count {
        seen.insert(log_in(&mut stickpin.client()).await);
    }
    seen
}

async fn until_tier(admin: &mut Admin, tier: u32) {
    until(&format!("tier {tier} is in use"), async || {
        let view = admin.get("/api/v1/pools/shop").await.json();
        if view["tier_in_use"] == tier { Ok(()) } else { Err(view) }
    })
    .await;
}

#[tokio::test]
async fn a_later_tier_stands_in_when_the_one_before_is_lost_and_keeps_whom_it_has() {
    let mut backends = processes(["first", "second", "standby"]);
    let lines = [of_tier(&backends[0], 0), of_tier(&backends[1], 0), of_tier(&backends[2], 3)];
    let stickpin = Shop::of(lines).open().await;
    let mut admin = stickpin.admin();
    assert_eq!(arrivals(&stickpin, 30).await, ["first", "second"].map(str::to_owned).into());
    assert_eq!(admin.backend("shop", "standby").await["tier"], 3);
    let mut clients: Vec<_> = (0..12).map(|_| stickpin.client()).collect();
    for client in &mut clients {
        log_in(client).await;
    }

    backends[0].kill();
    until_gone(&mut admin, "first").await;
    for client in &mut clients {
        assert_eq!(who_am_i(client).await.served_by(), "second", "as long as there is one of the first tier");
    }
    assert_eq!(arrivals(&stickpin, 10).await, ["second".to_owned()].into());

    backends[1].kill();
    until_gone(&mut admin, "second").await;
    until_tier(&mut admin, 3).await;
    assert_eq!(arrivals(&stickpin, 10).await, ["standby".to_owned()].into());
    for client in &mut clients {
        assert_eq!(who_am_i(client).await.served_by(), "standby");
        assert_eq!(log_in(client).await, "standby");
    }

    backends[0].restart().unwrap();
    admin.until_health("shop", "first", "healthy").await;
    until_tier(&mut admin, 0).await;
    assert_eq!(arrivals(&stickpin, 10).await, ["first".to_owned()].into());
    for client in &mut clients {
        let reply = who_am_i(client).await;
        assert_eq!((reply.served_by(), reply.field("user")), ("standby".into(), "ann".into()), "its session is there");
    }
}

#[tokio::test]
async fn sessions_that_may_move_come_back_from_a_stand_in() {
    let mut backends = BackendProcess::cluster(["first", "second", "standby"], &["--sessions", "replicated"]);
    let lines = [of_tier(&backends[0], 0), of_tier(&backends[1], 0), of_tier(&backends[2], 1)];
    let shop = Shop::of(lines).pool("sessions: replicated").pool("rebalance: { pace: 50%/s, idle_for: 0s }");
    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();
    for (index, name) in ["first", "second"].into_iter().enumerate() {
        backends[index].kill();
        until_gone(&mut admin, name).await;
    }
    let mut clients: Vec<_> = (0..12).map(|_| stickpin.client()).collect();
    for client in &mut clients {
        assert_eq!(log_in(client).await, "standby");
    }
    for backend in &mut backends[..2] {
        backend.restart().unwrap();
        admin.until_health("shop", backend.name(), "healthy").await;
    }
    // The servers have the sessions again when they have caught up with the standby.
    until("nobody is left at the stand-in", async || {
        let mut left = 0;
        for client in &mut clients {
            left += usize::from(who_am_i(client).await.served_by() == "standby");
        }
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(admin.metric("stickpin_rehomes_total", &["reason=\"rebalanced\""]).await, 12.0);
}

#[tokio::test]
async fn the_keys_of_a_hash_pool_live_in_the_first_tier() {
    let mut backends = processes(["red", "green", "standby"]);
    let lines = [of_tier(&backends[0], 0), of_tier(&backends[1], 0), of_tier(&backends[2], 1)];
    let stickpin = Shop::of(lines).pool("affinity: { hash: { keys: [{ header: X-User }] } }").open().await;
    let places = async || {
        let mut places = BTreeMap::new();
        for number in 0..60 {
            let request = Request::get("/whoami").header("x-user", format!("user-{number}"));
            let reply = stickpin.client().send(request.body(Bytes::new()).unwrap()).await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            places.insert(number, reply.served_by());
        }
        places
    };
    let served_by = |places: &BTreeMap<i32, String>| places.values().cloned().collect::<HashSet<_>>();
    let before = places().await;
    assert_eq!(served_by(&before), ["red", "green"].map(str::to_owned).into());
    let mut admin = stickpin.admin();
    for (index, name) in ["red", "green"].into_iter().enumerate() {
        backends[index].kill();
        until_gone(&mut admin, name).await;
        let expected = ["green", "standby"][index];
        assert_eq!(served_by(&places().await), [expected.to_owned()].into());
    }
    for backend in &mut backends[..2] {
        backend.restart().unwrap();
        admin.until_health("shop", backend.name(), "healthy").await;
    }
    assert_eq!(places().await, before);
}

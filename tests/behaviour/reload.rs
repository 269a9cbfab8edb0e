//! Reloads: nothing that goes on is disturbed, and a file that is wrong changes nothing.

use serde_json::json;

use crate::crowd::{Crowd, Customer, customers};
use crate::shop::{Shop, assert_placed, client_at, is_logged_in_at, log_in, told, weighing, who_am_i};
use crate::support::{Backend, until};

const RELOADS: u32 = 1000;

#[tokio::test]
async fn a_thousand_reloads_under_load_disturb_nobody() {
    let backends = ["red", "green", "blue"].map(Backend::start);
    let weights = |n: u32| {
        let weighed = |(index, it): (u32, &Backend)| weighing(it.name(), it.address(), 1 + (n * (index + 1)) % 100);
        Shop::of((0..).zip(&backends).map(weighed))
    };
    let stickpin = weights(0).open().await;
    let mut admin = stickpin.admin();
    let everybody = customers(&stickpin, 40).await;
    admin.set_state("shop", "green", "draining").await;
    let crowd = Crowd::start(everybody);
    for n in 1..=RELOADS {
        weights(n).write_to(&stickpin);
        if n % 10 == 0 {
            stickpin.reload();
        } else {
            let reply = admin.reload().await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        if n % 50 == 0 {
            for backend in &backends {
                let view = admin.backend("shop", backend.name()).await;
                assert_eq!(view["health"], "healthy", "{view}");
                let ordered = if backend.name() == "green" { "draining" } else { "enabled" };
                assert_eq!(view["admin_state"], ordered, "{view}");
            }
            assert_ne!(log_in(&mut stickpin.client()).await, "green", "the drain goes on");
        }
    }
    crowd.rounds(2).await;
    let everybody = crowd.stop().await;
    assert!(everybody.iter().any(|customer| customer.home == "green"));
    everybody.iter().for_each(Customer::assert_undisturbed);
    assert!(everybody.iter().all(|customer| customer.client.connects() == 1), "connections are kept");

    // Two signals may count as one when the second comes before the first was looked at.
    let expected = f64::from(RELOADS) * 0.9 + 1.0..=f64::from(RELOADS);
    until("the last signal has been obeyed", async || {
        let view = admin.backend("shop", "red").await;
        if view["weight"] == 1 + RELOADS % 100 { Ok(()) } else { Err(view) }
    })
    .await;
    let (ok, failed) = ("result=\"ok\"", "result=\"failed\"");
    assert!(expected.contains(&admin.metric("stickpin_reloads_total", &[ok]).await));
    assert_eq!(admin.metric("stickpin_reloads_total", &[failed]).await, 0.0);
    assert_placed(&stickpin, "new", "", 40 + RELOADS / 50).await;
    for placement in ["detour", "rehomed", "refused"] {
        assert_placed(&stickpin, placement, "", 0).await;
    }
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_says_why() {
    let (one, other) = (Backend::start("one"), Backend::start("other"));
    let shop = Shop::of([weighing("one", one.address(), 7), other.yaml()]);
    let stickpin = shop.open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "one").await, stickpin.admin());
    let before = admin.get("/api/v1/pools").await.json()["generation"].clone();

    shop.clone().pool("sessions: everywhere\n    balence: random").write_to(&stickpin);
    let reply = admin.reload().await;
    assert_eq!(reply.status, 422, "{}", reply.text());
    let problems = reply.json()["problems"].clone();
    let paths: Vec<&str> = problems.as_array().unwrap().iter().filter_map(|it| it["path"].as_str()).collect();
    assert_eq!(paths, ["pools.shop.sessions", "pools.shop.balence"], "every problem: {problems}");
    assert!(problems.as_array().unwrap().iter().all(|it| it["line"].is_u64()), "{problems}");

    // By signal as well.
    stickpin.reload();
    until("the signal has been obeyed", async || {
        match admin.metric("stickpin_reloads_total", &["result=\"failed\""]).await {
            2.0 => Ok(()),
            failed => Err(failed),
        }
    })
    .await;
    assert!(stickpin.stderr().contains("pools.shop.sessions"), "{}", stickpin.stderr());

    stickpin.write_config("pools: [");
    assert_eq!(admin.reload().await.status, 422);
    std::fs::remove_file(stickpin.config_file()).unwrap();
    assert_eq!(admin.reload().await.status, 422);

    assert_eq!(admin.get("/api/v1/pools").await.json()["generation"], before);
    assert_eq!(admin.backend("shop", "one").await["weight"], 7);
    assert!(is_logged_in_at(&who_am_i(&mut client).await, "one"));
    shop.write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200, "and mended it works again");
}

#[tokio::test]
async fn an_ordered_weight_holds_until_the_file_says_something_new() {
    let (one, other) = (Backend::start("one"), Backend::start("other"));
    let file = |weight| Shop::of([weighing("one", one.address(), weight), other.yaml()]);
    let stickpin = file(10).open().await;
    let mut admin = stickpin.admin();
    let order = admin.put("/api/v1/pools/shop/backends/one/weight", &json!({ "weight": 50 })).await;
    assert_eq!((order.status.as_u16(), &order.json()["weight"]), (200, &json!(50)));
    for (in_file, in_force) in [(10, 50), (10, 50), (20, 20), (10, 10)] {
        file(in_file).write_to(&stickpin);
        assert_eq!(admin.reload().await.status, 200);
        assert_eq!(admin.backend("shop", "one").await["weight"], in_force, "{in_file} in the file");
    }
}

#[tokio::test]
async fn an_added_backend_moves_nobody_and_a_removed_one_its_own_clients() {
    let backends = ["red", "green", "blue"].map(Backend::start);
    let [red, green, blue] = &backends;
    let stickpin = Shop::of([red.yaml(), green.yaml()]).open().await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers(&stickpin, 30).await);
    Shop::of([red.yaml(), green.yaml(), blue.yaml()]).write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    admin.until_health("shop", "blue", "healthy").await;
    crowd.rounds(2).await;
    let mut at_blue = client_at(&stickpin, "blue").await;
    let everybody = crowd.stop().await;
    everybody.iter().for_each(Customer::assert_undisturbed);
    for name in ["red", "green"] {
        assert_eq!(admin.backend("shop", name).await["health"], "healthy", "what was known is still known");
    }

    let mut at_red = client_at(&stickpin, "red").await;
    let slow = tokio::spawn(async move { at_red.get("/slow?ms=1000").await.unwrap().served_by() });
    until("the slow request is at red", async || match red.in_flight() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
    let crowd = Crowd::start(everybody);
    crowd.rounds(2).await;
    Shop::of([green.yaml(), blue.yaml()]).write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    crowd.rounds(3).await;
    let (orphans, others): (Vec<_>, Vec<_>) = crowd.stop().await.into_iter().partition(|it| it.home == "red");
    others.iter().for_each(Customer::assert_undisturbed);
    for orphan in &orphans {
        assert!(orphan.failures().is_empty() && orphan.path().len() == 2, "{orphan:?}");
        let [told] = orphan.told()[..] else { panic!("told more or less than once: {orphan:?}") };
        assert_eq!((&told["rehome_reason"], &told["session_lost"]), (&json!("removed"), &json!("removed")));
    }
    assert!(is_logged_in_at(&who_am_i(&mut at_blue).await, "blue"));
    assert_eq!(slow.await.unwrap(), "red", "what was under way is finished");
    assert_eq!(admin.metric("stickpin_rehomes_total", &["reason=\"removed\""]).await, orphans.len() as f64);
    assert_eq!(admin.get("/api/v1/pools/shop/backends/red").await.status, 404);
}

/// A backend is its name: it may move.
#[tokio::test]
async fn a_backend_at_another_address_keeps_its_clients() {
    let (before, after, other) = (Backend::start("app"), Backend::start("app"), Backend::start("other"));
    let stickpin = Shop::of([before.yaml(), other.yaml()]).open().await;
    let mut client = client_at(&stickpin, "app").await;
    Shop::of([after.yaml(), other.yaml()]).write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    let served = before.requests();
    let reply = who_am_i(&mut client).await;
    assert_eq!((reply.served_by(), told(&reply)), ("app".into(), [""; 3].map(str::to_owned)));
    assert_eq!((before.requests(), after.requests()), (served, 1), "no connection to where it was is used");
}

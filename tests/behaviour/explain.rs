//! What a pin says, where a request with it would go now, and why: the same as what happens then.

use serde_json::{Value, json};

use crate::shop::{IMPATIENT, Shop, client_at, processes, until_gone, who_am_i};
use crate::support::{Admin, Backend, BackendProcess};

async fn explain(admin: &mut Admin, question: Value) -> Value {
    let reply = admin.post("/api/v1/explain", &question).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_pin_is_explained_through_the_life_and_death_of_its_home() {
    let (mut home, other) = (BackendProcess::start("home"), Backend::start("other"));
    let stickpin = Shop::of([home.yaml(), other.yaml()]).probed(IMPATIENT).open().await;
    let (mut client, mut admin) = (client_at(&stickpin, "home").await, stickpin.admin());
    let token = client.cookies.value("stickpin").unwrap().to_owned();
    let question = json!({ "pool": "shop", "cookie": token });

    let told = explain(&mut admin, question.clone()).await;
    assert_eq!([&told["verdict"], &told["placement"], &told["to"], &told["heir"]], ["valid", "kept", "home", "other"]);
    assert_eq!([&told["pin"]["home"], &told["pin"]["home_state"]], ["home", "is available"]);
    let summary = told["summary"].as_str().unwrap();
    for said in ["valid", "lives at home", "other takes over", "goes home to home", "ago"] {
        assert!(summary.contains(said), "{said}: {summary}");
    }
    assert!(!summary.contains(&token), "a token is never shown");

    home.pause().await.unwrap();
    admin.until_health("shop", "home", "unhealthy").await;
    let told = explain(&mut admin, question.clone()).await;
    assert_eq!([&told["placement"], &told["reason"], &told["to"]], ["detour", "unreachable", "other"]);
    assert!(told["summary"].as_str().unwrap().contains("is out of reach"), "{told}");
    assert_eq!(who_am_i(&mut client).await.served_by(), "other");
    home.resume().unwrap();
    admin.until_health("shop", "home", "healthy").await;

    home.kill();
    until_gone(&mut admin, "home").await;
    let told = explain(&mut admin, question).await;
    assert_eq!([&told["placement"], &told["reason"], &told["session_lost"]], ["rehomed", "gone", "gone"]);
    // Asking changes nothing.
    assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, 0.0);
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
}

#[tokio::test]
async fn what_is_no_pin_is_explained_too() {
    let backends = processes(["red", "green"]);
    let stickpin = Shop::of(backends.iter().map(|backend| backend.yaml())).open().await;
    let mut admin = stickpin.admin();
    for (cookie, verdict) in [("", "none"), ("nonsense", "forged"), ("a=b; stickpin=AQ", "forged")] {
        let question = if cookie.is_empty() { json!({}) } else { json!({ "cookie": cookie }) };
        let told = explain(&mut admin, question).await;
        assert_eq!([&told["verdict"], &told["to"]], [&json!(verdict), &Value::Null]);
        assert!(told["summary"].as_str().unwrap().contains("least_pins"), "{told}");
    }
    for (question, status) in [
        (json!({ "pool": "nowhere" }), 404),
        (json!({ "pool": "shop", "session_id": "x" }), 422),
        (json!({ "pool": "shop", "key": "x" }), 422),
        (json!({ "pool": "shop", "path": "x" }), 422),
        (json!({ "pool": "shop", "cookie": "a\nb" }), 422),
        (json!({ "pin": "x" }), 422),
    ] {
        assert_eq!(admin.post("/api/v1/explain", &question).await.status, status, "{question}");
    }
}

#[tokio::test]
async fn an_affinity_key_is_explained() {
    let backends = processes(["red", "green", "blue"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml()));
    let stickpin = shop.pool("affinity: { hash: { keys: [{ header: X-User }], without_key: reject } }").open().await;
    let (mut admin, mut client) = (stickpin.admin(), stickpin.client());
    for user in ["ann", "bob", "cleo"] {
        let told = explain(&mut admin, json!({ "key": user })).await;
        let request = http::Request::get("/whoami").header("x-user", user).body(Default::default()).unwrap();
        assert_eq!(told["to"], client.send(request).await.unwrap().served_by(), "{told}");
    }
    assert_eq!(explain(&mut admin, json!({})).await["placement"], "refused");
}

#[tokio::test]
async fn the_text_of_a_claim_is_explained_as_one() {
    let backends = processes(["red", "green", "blue"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml()));
    let keys = "affinity: { hash: { keys: [{ jwt_claim: sub }, client_address] } }";
    let stickpin = shop.pool(keys).open().await;
    let mut admin = stickpin.admin();
    let mut places = std::collections::HashSet::new();
    for user in 0..20 {
        let told = explain(&mut admin, json!({ "key": format!("user{user}") })).await;
        assert_eq!(told["pin"]["age_seconds"], Value::Null, "a key has no age: {told}");
        places.insert(told["to"].as_str().unwrap().to_owned());
    }
    assert_eq!(places.len(), 3, "each by its own claim, not by the address");
}

#[tokio::test]
async fn a_full_pool_and_a_policy_that_refuses_are_explained() {
    let mut backends = processes(["red"]);
    let capped = format!("{{ name: red, address: \"{}\", max_pins: 1 }}", backends[0].address());
    let shop = Shop::of([capped]).pool("rehome: { when: { gone: refuse } }");
    let stickpin = shop.open().await;
    let mut client = client_at(&stickpin, "red").await;
    let mut admin = stickpin.admin();
    let told = explain(&mut admin, json!({})).await;
    assert!(told["summary"].as_str().unwrap().contains("max_pins"), "{told}");
    assert_eq!(admin.backend("shop", "red").await["max_pins"], 1);

    backends[0].kill();
    until_gone(&mut admin, "red").await;
    let token = client.cookies.value("stickpin").unwrap().to_owned();
    let told = explain(&mut admin, json!({ "cookie": token })).await;
    assert_eq!(told["placement"], "refused", "{told}");
    assert!(!told["summary"].as_str().unwrap().contains("takes over"), "{told}");
    assert_eq!(client.get("/whoami").await.unwrap().status, 503);
}

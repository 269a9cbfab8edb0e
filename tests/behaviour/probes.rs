//! What probes bring: the agent's words, and files that they need.

use serde_json::{Value, json};

use crate::sickly::{Sickly, ask, config};
use crate::support::{Admin, StickpinProcess, until};

const AGENT: &str = "health: { http: { path: /health, interval: 50ms, timeout: 10s, agent: { header: X-Load } } }";

async fn until_blue(admin: &mut Admin, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(what, async || {
        let view = admin.backend("shop", "blue").await;
        if is_so(&view) { Ok(view) } else { Err(view) }
    })
    .await
}

#[tokio::test]
async fn an_agent_drains_disables_and_weighs_its_backend_unless_the_operator_orders_otherwise() {
    let (blue, green) = (Sickly::start("blue").await, Sickly::start("green").await);
    let backends = [&blue, &green];
    let stickpin =
        StickpinProcess::start(|front, admin| config(&front.to_string(), &admin.to_string(), AGENT, &backends)).await;
    let mut admin = stickpin.admin();
    let view = admin.backend("shop", "blue").await;
    assert_eq!((&view["admin_state"], view.get("agent")), (&json!("enabled"), None));

    blue.feels(|mood| mood.agent = "draining, gibberish");
    let view = until_blue(&mut admin, "it drains", |view| view["admin_state"] == "draining").await;
    assert_eq!(view["agent"], json!({ "admin_state": "draining", "weight_percent": null, "overruled": false }));
    assert!(view["drain"].is_object(), "{view}");
    for number in 1..10 {
        let reply = ask(&mut stickpin.client(), number, "/").await;
        assert_eq!(reply.header("x-name"), "green", "a drained backend gets no new client");
    }

    // The operator's word against the agent's, until it says something else.
    admin.set_state("shop", "blue", "enabled").await;
    let view = admin.backend("shop", "blue").await;
    assert_eq!((&view["admin_state"], &view["agent"]["overruled"]), (&json!("enabled"), &json!(true)));
    blue.feels(|mood| mood.agent = "disabled");
    until_blue(&mut admin, "it is disabled", |view| view["admin_state"] == "disabled").await;
    admin.set_state("shop", "blue", "draining").await;
    assert_eq!(admin.backend("shop", "blue").await["admin_state"], "draining", "an order wins");
    admin.set_state("shop", "blue", "enabled").await;

    blue.feels(|mood| mood.agent = "up, weight: 50%");
    let view = until_blue(&mut admin, "it has half its weight", |view| view["weight"] == 50).await;
    assert_eq!((&view["file_weight"], &view["admin_state"]), (&json!(100), &json!("enabled")));
    blue.feels(|mood| mood.agent = "more gibberish");
    let path = "/api/v1/pools/shop/backends/blue/weight";
    admin.put(path, &json!({ "weight": 70 })).await;
    assert_eq!(admin.backend("shop", "blue").await["weight"], 70);
    admin.put(path, &json!({ "weight": null })).await;
    assert_eq!(admin.backend("shop", "blue").await["weight"], 50, "silence takes nothing back");

    // Without the setting, nobody listens to it any more.
    let (front, address) = (stickpin.front().to_string(), stickpin.admin_address().to_string());
    let plain = AGENT.replace(", agent: { header: X-Load }", "");
    stickpin.write_config(&config(&front, &address, &plain, &backends));
    assert_eq!(admin.reload().await.status, 200);
    let view = until_blue(&mut admin, "it has its weight again", |view| view["weight"] == 100).await;
    assert_eq!((view.get("agent"), view.get("file_weight")), (None, None));
    let log = stickpin.stderr();
    assert!(log.contains("gibberish"), "{log}");
    // Said once each time, though dozens of probes hear it.
    assert!(log.matches("a word that is not known").count() <= 2, "{log}");
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_a_reason_not_to_reload() {
    let blue = Sickly::start("blue").await;
    let stickpin = StickpinProcess::start(|front, admin| {
        config(&front.to_string(), &admin.to_string(), "affinity: off", &[&blue])
    })
    .await;
    let (front, address) = (stickpin.front().to_string(), stickpin.admin_address().to_string());
    let tls = "health: { tcp: { tls: { ca_file: ca.pem } } }";
    stickpin.write_config(&config(&front, &address, tls, &[&blue]));
    let ca = stickpin.config_file().with_file_name("ca.pem");
    let mut admin = stickpin.admin();
    for (text, expected) in [(None, "ca.pem"), (Some("hello"), "at least one certificate")] {
        if let Some(text) = text {
            std::fs::write(&ca, text).expect("a writable folder");
        }
        let reply = admin.reload().await;
        assert!(reply.status == 422 && reply.text().contains(expected), "{} {}", reply.status, reply.text());
        assert_eq!(admin.get("/api/v1/pools").await.json()["generation"], 1, "nothing was changed");
    }
    std::fs::write(&ca, include_bytes!("../support/tls/ca.pem")).expect("a writable folder");
    assert_eq!(admin.reload().await.status, 200);
    // Blue speaks no TLS, so from now on its probes fail.
    admin.until_health("shop", "blue", "unhealthy").await;
}

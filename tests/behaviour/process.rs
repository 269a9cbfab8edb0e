//! The real program: it starts, serves, reloads on a signal, and ends on another.

use std::net::SocketAddr;

use crate::shop::until_gone;
use crate::support::{Backend, BackendProcess, StickpinProcess, until};

fn yaml(front: SocketAddr, admin: SocketAddr, backends: &str) -> String {
    format!(
        "listeners: [{{ address: {front} }}]
admin: {{ address: {admin} }}
pools:
  shop:
    balance: round_robin
    health: {{ http: {{ path: /health, interval: 1s, suspect_interval: 50ms }} }}
    backends: {backends}
"
    )
}

#[tokio::test]
async fn sighup_reloads_and_sigterm_ends_it() {
    let app = Backend::start("app");
    let mut stickpin = StickpinProcess::start(|front, admin| yaml(front, admin, &format!("[{}]", app.yaml()))).await;
    let (mut client, mut admin) = (stickpin.client(), stickpin.admin());
    admin.until_health("shop", "app", "healthy").await;
    client.post("/login?user=ann", "").await.unwrap();

    let heavier = format!("[{{ name: app, address: \"{}\", weight: 50 }}]", app.address());
    stickpin.write_config(&yaml(stickpin.front(), stickpin.admin_address(), &heavier));
    stickpin.reload();
    until("the weight is the new one", async || {
        let view = admin.backend("shop", "app").await;
        if view["weight"] == 50 { Ok(()) } else { Err(view) }
    })
    .await;
    assert_eq!(client.get("/whoami").await.unwrap().field("user"), "ann");
    assert_eq!(client.connects(), 1, "a reload keeps connections");

    assert!(stickpin.terminate().await.success(), "{}", stickpin.stderr());
    assert_eq!(stickpin.stdout().lines().count(), 2, "one line a request:\n{}", stickpin.stdout());
}

#[tokio::test]
async fn a_killed_backend_is_known_to_be_gone_and_its_client_is_rehomed_once() {
    let mut backends = [BackendProcess::start("blue"), BackendProcess::start("green")];
    let list = format!("[{}, {}]", backends[0].yaml(), backends[1].yaml());
    let stickpin = StickpinProcess::start(|front, admin| yaml(front, admin, &list)).await;
    let (mut client, mut admin) = (stickpin.client(), stickpin.admin());
    for backend in &backends {
        admin.until_health("shop", backend.name(), "healthy").await;
    }
    let home = client.post("/login?user=ann", "").await.unwrap().served_by();
    backends.iter_mut().find(|backend| backend.name() == home).unwrap().kill();
    until_gone(&mut admin, &home).await;

    let told = client.get("/whoami").await.unwrap();
    assert_ne!(told.served_by(), home);
    assert_eq!(told.field("rehomed_from"), home);
    assert_eq!(client.get("/whoami").await.unwrap().field("rehomed_from"), "");
    assert_eq!(admin.metric("stickpin_rehomes_total", &[&format!("from=\"{home}\"")]).await, 1.0);
}

//! A backend that has as many clients as it may: pinned ones stay, new ones go elsewhere, or are told that there is no room.

use crate::shop::{Shop, assert_placed, log_in, processes, who_am_i};
use crate::support::{BackendProcess, until};

fn capped(backend: &BackendProcess, most: u32) -> String {
    format!("{{ name: {}, address: \"{}\", max_pins: {most} }}", backend.name(), backend.address())
}

#[tokio::test]
async fn new_clients_fill_every_backend_up_to_its_bound_and_pinned_ones_always_get_in() {
    let backends = processes(["red", "green"]);
    // Each client is one that another is not taken for: parallel first requests of one browser get one home.
    let stickpin = Shop::of([capped(&backends[0], 3), capped(&backends[1], 5)]).open().await;
    let mut clients = Vec::new();
    let mut counts = [0, 0];
    for _ in 0..8 {
        let mut client = stickpin.client();
        counts[usize::from(log_in(&mut client).await == "green")] += 1;
        clients.push(client);
    }
    assert_eq!(counts, [3, 5]);
    let refused = stickpin.client().post("/login?user=ann", "").await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_placed(&stickpin, "refused", "", 1).await;
    until("the log says that there is no room", async || {
        let log = stickpin.stderr();
        if log.matches("as many clients as it may").count() == 1 { Ok(()) } else { Err(log) }
    })
    .await;
    for client in &mut clients {
        assert_eq!(who_am_i(client).await.field("user"), "ann");
    }
    assert_placed(&stickpin, "kept", "", 8).await;

    // Requests without a pin are no clients, and are served.
    let shop = Shop::of([capped(&backends[0], 3), capped(&backends[1], 5)]);
    shop.top("routes: [{ pool: shop }, { path_prefix: /echo, pool: shop, affinity: off }]").write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    assert_eq!(stickpin.client().get("/echo").await.unwrap().status, 200);

    // An operator who raises the bound lets the next one in.
    Shop::of([capped(&backends[0], 4), capped(&backends[1], 5)]).write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    assert_eq!(log_in(&mut stickpin.client()).await, "red");
}

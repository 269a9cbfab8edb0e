//! Slow start: whoever comes back gets a little first, and its share in the end.

use serde_json::Value;

use crate::shop::{Shop, client_at, log_in, processes, until_gone, who_am_i};
use crate::support::{Admin, BackendProcess, StickpinProcess, until};

/// Seconds that a slow start goes on; none is 0.
async fn left(admin: &mut Admin, backend: &str) -> u64 {
    let view = admin.backend("shop", backend).await;
    let left = &view["slow_start_seconds_left"];
    if *left == Value::Null { 0 } else { left.as_u64().unwrap_or_else(|| panic!("{view}")) }
}

async fn until_warm(admin: &mut Admin, backends: &[BackendProcess]) {
    until("everybody is warm", async || {
        let mut sum = 0;
        for backend in backends {
            sum += left(admin, backend.name()).await;
        }
        if sum == 0 { Ok(()) } else { Err(sum) }
    })
    .await;
}

/// Of up to `count` new clients, those that come to `backend`, and how many came before its slow start has less than
/// `until_left` seconds left.
async fn arrivals(stickpin: &StickpinProcess, backend: &str, count: u32, until_left: u64) -> (u32, u32) {
    let (mut admin, mut there, mut all) = (stickpin.admin(), 0, 0);
    while all < count && left(&mut admin, backend).await >= until_left {
        for _ in 0..5 {
            there += u32::from(log_in(&mut stickpin.client()).await == backend);
        }
        all += 5;
    }
    (there, all)
}

#[tokio::test]
async fn a_backend_that_comes_back_gets_few_new_clients_at_first_and_its_share_in_the_end() {
    let mut backends = processes(["red", "green", "blue"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml())).pool("balance: random").pool("slow_start: 8s");
    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();
    assert!(left(&mut admin, "red").await > 0, "at the first start, too");
    log_in(&mut stickpin.client()).await;
    until_warm(&mut admin, &backends).await;

    backends[0].kill();
    until_gone(&mut admin, "red").await;
    assert_eq!(left(&mut admin, "red").await, 0, "it is not there");
    backends[0].restart().unwrap();
    admin.until_health("shop", "red", "healthy").await;
    // A third is its share. In the first two seconds it gets up to a third of that, and the bound is twice as much.
    let (there, all) = arrivals(&stickpin, "red", 150, 6).await;
    assert!(all >= 40, "only {all} clients in two seconds");
    assert!(there * 100 <= all * 22, "{there} of {all} at the backend that has just come back");

    until_warm(&mut admin, &backends).await;
    let (there, all) = arrivals(&stickpin, "red", 150, 0).await;
    assert!(there * 100 >= all * 20, "{there} of {all} at the backend that is warm");
}

#[tokio::test]
async fn nobody_waits_for_a_backend_to_be_warm_when_there_is_no_other() {
    let mut backends = processes(["only", "other"]);
    let shop = Shop::of(backends.iter().map(|backend| backend.yaml())).pool("slow_start: 10m");
    let stickpin = shop.open().await;
    let mut admin = stickpin.admin();
    let mut client = client_at(&stickpin, "only").await;
    backends[1].kill();
    until_gone(&mut admin, "other").await;
    for _ in 0..20 {
        assert_eq!(log_in(&mut stickpin.client()).await, "only");
    }
    assert_eq!(who_am_i(&mut client).await.field("user"), "ann");
}

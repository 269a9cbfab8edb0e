//! Backends that are well by their probes, and not by what clients meet.

use std::time::Duration;

use serde_json::json;

use crate::sickly::{Sickly, ask, config};
use crate::support::{Client, Stickpin, StickpinProcess, until};

const ANY: &str = "127.0.0.1:0";

/// Probed so that a probe is never the reason for a change.
fn pool(affinity: &str, traffic: &str) -> String {
    format!(
        "affinity: {affinity}, balance: round_robin, health: {{ http: {{ path: /health, timeout: 10s }}, traffic: {{ {traffic} }} }}"
    )
}

fn start(affinity: &str, traffic: &str, backends: &[&Sickly]) -> Stickpin {
    Stickpin::start(&config(ANY, ANY, &pool(affinity, traffic), backends))
}

/// Asks as one client after the other, each once a round, until a backend is out for this reason.
async fn until_out(stickpin: &Stickpin, name: &str, cause: &str) {
    let (mut admin, mut client) = (stickpin.admin(), stickpin.client());
    until(&format!("{name} is out: {cause}"), async || {
        for number in 1..=6 {
            client.cookies = Default::default();
            ask(&mut client, number, "/").await;
        }
        let view = admin.backend("shop", name).await;
        if view["outlier"]["cause"] == cause { Ok(view) } else { Err(view) }
    })
    .await;
}

async fn outs(stickpin: &Stickpin, labels: &[&str]) -> f64 {
    stickpin.admin().metric("stickpin_outliers_total", labels).await
}

#[tokio::test]
async fn a_backend_that_answers_many_clients_with_errors_is_out_and_comes_back_through_one_request() {
    let (blue, green) = (Sickly::start("blue").await, Sickly::start("green").await);
    let stickpin = start("off", "errors: 6, out_for: 3s", &[&blue, &green]);
    let (mut admin, mut client) = (stickpin.admin(), stickpin.client());
    for name in ["blue", "green"] {
        admin.until_health("shop", name, "healthy").await;
    }
    blue.feels(|mood| mood.status = 503);
    until_out(&stickpin, "blue", "errors").await;
    let view = admin.backend("shop", "blue").await;
    assert_eq!(view["health"], "suspect", "its probes succeed: {view}");
    assert_eq!(outs(&stickpin, &["backend=\"blue\"", "cause=\"errors\""]).await, 1.0);
    blue.feels(|mood| mood.status = 200);
    let met = blue.requests();
    until("blue is back", async || {
        ask(&mut client, 1, "/").await;
        let view = admin.backend("shop", "blue").await;
        if view["health"] == "healthy" { Ok(()) } else { Err(view) }
    })
    .await;
    // Between its coming back and our seeing that it is, one more may have gone there.
    assert!((1..=2).contains(&(blue.requests() - met)), "{} were let through", blue.requests() - met);
    assert_eq!(outs(&stickpin, &[]).await, 1.0);
}

#[tokio::test]
async fn a_backend_that_is_still_ill_meets_one_client_and_is_out_for_longer() {
    let (blue, green) = (Sickly::start("blue").await, Sickly::start("green").await);
    let stickpin = start("off", "errors: 6, out_for: 500ms", &[&blue, &green]);
    blue.feels(|mood| mood.status = 500);
    until_out(&stickpin, "blue", "errors").await;
    let (met, mut client) = (blue.requests(), stickpin.client());
    until("blue is out again", async || {
        ask(&mut client, 1, "/").await;
        let count = outs(&stickpin, &["cause=\"errors\""]).await;
        if count >= 2.0 { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(blue.requests() - met, 1);
}

#[tokio::test]
async fn pinned_clients_keep_coming_to_a_backend_that_is_out_and_new_ones_go_elsewhere() {
    let (blue, green) = (Sickly::start("blue").await, Sickly::start("green").await);
    let stickpin = start("{ cookie: {} }", "errors: 6, out_for: 10m", &[&blue, &green]);
    let mut admin = stickpin.admin();
    admin.until_health("shop", "blue", "healthy").await;
    let mut pinned = until("a client is pinned to blue", async || {
        let mut client = stickpin.client();
        let reply = ask(&mut client, 50, "/").await;
        if reply.header("x-name") == "blue" { Ok(client) } else { Err(()) }
    })
    .await;
    blue.feels(|mood| mood.status = 503);
    until_out(&stickpin, "blue", "errors").await;
    for number in 60..70 {
        assert_eq!(ask(&mut pinned, 50, "/").await.header("x-name"), "blue", "its session may be there");
        assert_eq!(ask(&mut stickpin.client(), number, "/").await.header("x-name"), "green");
    }
}

#[tokio::test]
async fn one_clients_bad_requests_take_nobody_out() {
    let (blue, green) = (Sickly::start("blue").await, Sickly::start("green").await);
    let stickpin = start("off", "errors: 6, out_for: 10m", &[&blue, &green]);
    let mut client = stickpin.client();
    let mut errors = 0;
    for _ in 0..100 {
        errors += usize::from(ask(&mut client, 1, "/bad").await.status == 500);
    }
    assert!(errors >= 40, "{errors} of 100, where every other one goes to blue");
    // Each backend meets two others, who have bad luck once.
    for number in [2, 2, 3, 3] {
        ask(&mut client, number, "/bad").await;
    }
    // That somebody is out for a good reason shows that the replies above were looked at, too.
    green.feels(|mood| mood.status = 500);
    until_out(&stickpin, "green", "errors").await;
    assert_eq!(outs(&stickpin, &["backend=\"blue\""]).await, 0.0);
}

#[tokio::test]
async fn a_backend_that_is_far_slower_than_the_others_is_out() {
    let (blue, green, red) = (Sickly::start("blue").await, Sickly::start("green").await, Sickly::start("red").await);
    let stickpin = start("off", "errors: 6, slow: 2, out_for: 10m", &[&blue, &green, &red]);
    let mut admin = stickpin.admin();
    blue.feels(|mood| mood.delay = Duration::from_millis(1500));
    let mut clients: Vec<Client> = (0..12).map(|_| stickpin.client()).collect();
    until("blue is out for being slow", async || {
        let asking = clients.iter_mut().enumerate().map(|(number, client)| ask(client, number, "/"));
        for reply in futures(asking).await {
            assert_eq!(reply.status, 200);
        }
        let view = admin.backend("shop", "blue").await;
        if view["outlier"]["cause"] == "slow" { Ok(()) } else { Err(view) }
    })
    .await;
    assert_eq!(outs(&stickpin, &[]).await, 1.0, "nobody else is");
}

/// Waits for all of them, at once.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, value) in all.iter_mut().filter(|(_, value)| value.is_none()) {
            if let std::task::Poll::Ready(done) = future.as_mut().poll(cx) {
                *value = Some(done);
            }
        }
        let is_done = all.iter().all(|(_, value)| value.is_some());
        if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, value)| value).collect()
}

#[tokio::test]
async fn no_more_backends_are_out_than_the_file_allows() {
    let (blue, green, red) = (Sickly::start("blue").await, Sickly::start("green").await, Sickly::start("red").await);
    let backends = [&blue, &green, &red, &Sickly::start("grey").await];
    let traffic = |max_out| pool("off", &format!("errors: 6, out_for: 10m, max_out: {max_out}"));
    let write = |front: &str, admin: &str, max_out| config(front, admin, &traffic(max_out), &backends);
    let stickpin = StickpinProcess::start(|front, admin| write(&front.to_string(), &admin.to_string(), "25%")).await;
    let (mut admin, mut client) = (stickpin.admin(), stickpin.client());
    for backend in [&blue, &green] {
        backend.feels(|mood| mood.status = 500);
    }
    let mut ask_until = async |count: f64| {
        until(&format!("{count} are out"), async || {
            // No multiple of the backends, or each would only ever meet the same few.
            for number in 1..=9 {
                ask(&mut client, number, "/").await;
            }
            let outs = stickpin.admin().metric("stickpin_outliers_total", &[]).await;
            if outs >= count { Ok(outs) } else { Err(outs) }
        })
        .await
    };
    ask_until(1.0).await;
    // The other one is as ill, and goes out as soon as it may.
    let before = blue.requests().min(green.requests());
    for _ in 0..10 {
        assert_eq!(ask_until(1.0).await, 1.0);
    }
    assert!(blue.requests().max(green.requests()) >= before + 10);
    stickpin.write_config(&write(&stickpin.front().to_string(), &stickpin.admin_address().to_string(), "50%"));
    assert_eq!(admin.reload().await.status, 200);
    assert_eq!(ask_until(2.0).await, 2.0);
}

#[tokio::test]
async fn without_the_setting_replies_are_no_evidence() {
    let (blue, green) = (Sickly::start("blue").await, Sickly::start("green").await);
    let backends = [&blue, &green];
    let write = |front: &str, admin: &str, traffic: &str| {
        let pool = format!("affinity: off, balance: round_robin, health: {{ traffic: {traffic} }}");
        config(front, admin, &pool, &backends)
    };
    let stickpin = StickpinProcess::start(|front, admin| {
        write(&front.to_string(), &admin.to_string(), "{ errors: 6, out_for: 10m }")
    })
    .await;
    let (mut admin, mut client) = (stickpin.admin(), stickpin.client());
    blue.feels(|mood| mood.status = 500);
    until("blue is out", async || {
        for number in 1..=6 {
            ask(&mut client, number, "/").await;
        }
        let view = admin.backend("shop", "blue").await;
        if view["health"] == "suspect" { Ok(()) } else { Err(view) }
    })
    .await;
    stickpin.write_config(&write(&stickpin.front().to_string(), &stickpin.admin_address().to_string(), "off"));
    assert_eq!(admin.reload().await.status, 200);
    admin.until_health("shop", "blue", "healthy").await;
    assert_eq!(admin.backend("shop", "blue").await.get("outlier"), None);
}

#[tokio::test]
async fn a_request_that_provokes_malformed_replies_makes_nobody_suspect() {
    let (blue, green, red) = (Sickly::start("blue").await, Sickly::start("green").await, Sickly::start("red").await);
    let backends = [&blue, &green, &red];
    let stickpin = StickpinProcess::start(|front, admin| {
        let yaml = config(&front.to_string(), &admin.to_string(), "affinity: off", &backends);
        yaml.replace("attempts: 0", "attempts: 2, budget: 100%")
    })
    .await;
    let mut client = stickpin.client();
    for _ in 0..5 {
        assert_eq!(ask(&mut client, 1, "/garbage").await.status, 502);
    }
    assert!(blue.requests() > 0 && green.requests() > 0 && red.requests() > 0, "it went around the pool");
    assert_eq!(stickpin.admin().backend("shop", "red").await["health"], json!("healthy"));
    assert!(!stickpin.stderr().contains("suspect"), "{}", stickpin.stderr());
}

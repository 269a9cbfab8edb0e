//! A cookie that does not open is no pin: counted, and of no further consequence.

use crate::support::raw::{Peer, Recorder};
use crate::support::{Admin, StickpinProcess, until};

/// Two pools that use the same name for their cookie; `/b` leads to the second. The second's pins expire at once.
async fn start(backend: &Recorder) -> StickpinProcess {
    let address = backend.address();
    StickpinProcess::start(|front, admin| {
        format!(
            "workers: 1\nadmin: {{ address: \"{admin}\" }}\nlisteners:\n  - address: \"{front}\"\n    head_limit: 256KiB\n\
             pools:\n  a:\n    health: off\n    backends: [ \"{address}\" ]\n  b:\n    health: off\n    \
             affinity: {{ cookie: {{ idle_timeout: 1s }} }}\n    backends: [ \"{address}\" ]\nroutes:\n  \
             - {{ pool: a }}\n  - {{ path_prefix: /b, pool: b }}\n"
        )
    })
    .await
}

/// Asks with this `Cookie` line; gives the cookie that the reply sets.
async fn ask(client: &mut Peer, path: &str, cookies: &str) -> Option<String> {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookies}\r\n\r\n")).await;
    let (head, body) = client.reply().await;
    assert_eq!((head.status(), &*body), (200, "ok"), "{}", &cookies[..cookies.len().min(300)]);
    let set = head.value("set-cookie")?;
    Some(set.split(';').next().expect("the cookie").strip_prefix("stickpin=").expect("our cookie").to_owned())
}

async fn verdicts(admin: &mut Admin, pool: &str, verdict: &str) -> f64 {
    let labels = [format!("pool=\"{pool}\""), format!("verdict=\"{verdict}\"")];
    admin.metric("stickpin_pin_verdicts_total", &[&labels[0], &labels[1]]).await
}

/// Like [`verdicts`], once it is this many: a request is counted a moment after its reply.
async fn until_verdicts(admin: &mut Admin, pool: &str, verdict: &str, count: usize) {
    until(&format!("{count} {verdict} in {pool}"), async || {
        let found = verdicts(admin, pool, verdict).await;
        if found == count as f64 { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test]
async fn forged_cookies_make_new_clients_and_no_noise() {
    let backend = Recorder::start().await;
    let stickpin = start(&backend).await;
    let mut admin = stickpin.admin();
    let mut client = Peer::connect(stickpin.front()).await;
    let token = ask(&mut client, "/", "other=1").await.expect("a new client is pinned");
    until_verdicts(&mut admin, "a", "none", 1).await;
    assert_eq!(ask(&mut client, "/", &format!("stickpin={token}")).await, None, "a valid pin is kept");
    until_verdicts(&mut admin, "a", "valid", 1).await;

    let mut forged = Vec::new();
    for at in 0..token.len() {
        // Cut off, changed, and prolonged at every place.
        let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        forged.push(token[..at].to_owned());
        forged.push(format!("{}{other}{}", &token[..at], &token[at + 1..]));
        forged.push(format!("{}{other}{}", &token[..at], &token[at..]));
    }
    forged.extend(["A".repeat(64 * 1024), "=".to_owned(), "\"".to_owned(), "%00".to_owned(), "é".to_owned()]);
    forged.push(format!("{token}{token}"));
    let noise = stickpin.stderr();
    for value in &forged {
        let set = ask(&mut client, "/", &format!("stickpin={value}")).await;
        assert!(set.is_some_and(|set| set != token), "{value} is a pin");
    }
    until_verdicts(&mut admin, "a", "forged", forged.len()).await;

    // A pin of one pool is none in another.
    assert!(ask(&mut client, "/b", &format!("stickpin={token}")).await.is_some());
    until_verdicts(&mut admin, "b", "forged", 1).await;
    assert_eq!(stickpin.stderr(), noise, "not a line in the log");
    assert!(backend.heard().requests.iter().all(|(head, _)| !head.0.contains("stickpin=")));
}

#[tokio::test]
async fn an_expired_pin_is_no_pin() {
    let backend = Recorder::start().await;
    let stickpin = start(&backend).await;
    let mut client = Peer::connect(stickpin.front()).await;
    let mut admin = stickpin.admin();
    let token = ask(&mut client, "/b", "other=1").await.expect("a new client is pinned");
    until("the pin has expired", async || {
        let set = ask(&mut client, "/b", &format!("stickpin={token}")).await;
        let expired = verdicts(&mut admin, "b", "expired").await;
        if expired > 0.0 && set.is_some() { Ok(()) } else { Err(expired) }
    })
    .await;
    assert_eq!(verdicts(&mut admin, "b", "forged").await, 0.0);
}

#[tokio::test]
async fn the_first_valid_one_of_several_counts() {
    let backend = Recorder::start().await;
    let stickpin = start(&backend).await;
    let mut client = Peer::connect(stickpin.front()).await;
    let token = ask(&mut client, "/", "other=1").await.expect("a new client is pinned");
    for cookies in [
        format!("stickpin=forged; stickpin={token}"),
        format!("stickpin={token}; stickpin=forged"),
        format!("a=1; stickpin=; b=2; stickpin=\"x\"; stickpin={token}; stickpin={token}"),
        format!("stickpin=forged\r\nCookie: stickpin={token}"),
    ] {
        assert_eq!(ask(&mut client, "/", &cookies).await, None, "{cookies}");
    }
    let head = backend.last_head();
    assert_eq!(head.value("cookie"), None, "{head:?}");
    let mut admin = stickpin.admin();
    until_verdicts(&mut admin, "a", "valid", 4).await;
    assert_eq!(verdicts(&mut admin, "a", "forged").await, 0.0);
}

#[tokio::test]
async fn thousands_of_cookies_do_no_harm() {
    let backend = Recorder::start().await;
    let stickpin = start(&backend).await;
    let mut client = Peer::connect(stickpin.front()).await;
    let token = ask(&mut client, "/", "other=1").await.expect("a new client is pinned");
    let others: Vec<_> = (0..5000).map(|n| format!("cookie{n}={n}")).collect();
    let others = others.join("; ");
    assert_eq!(ask(&mut client, "/", &format!("{others}; stickpin={token}")).await, None);
    assert_eq!(backend.last_head().value("cookie"), Some(&*others));
    let forged = "stickpin=x; ".repeat(5000);
    assert!(ask(&mut client, "/", &format!("{forged}a=1")).await.is_some());
    assert_eq!(backend.last_head().value("cookie"), Some("a=1"));
    let noise = stickpin.stderr();
    for _ in 0..200 {
        ask(&mut client, "/", &forged).await;
    }
    assert_eq!(stickpin.stderr(), noise);
}

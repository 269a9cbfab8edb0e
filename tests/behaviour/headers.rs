//! What the other side sees of a head: ends what concerns only one hop, adds who asked, and reveals nothing.

use crate::support::raw::{Backend, Head, Peer, Recorder, config, front};
use crate::support::{ReservedPort, Stickpin, until};

/// What a backend is sent when a client sends these lines, and the port that the client came to. `settings` are further
/// ones of the whole file.
async fn seen_by_backend(settings: &str, lines: &str) -> (Head, u16) {
    let backend = Recorder::start().await;
    let stickpin = Stickpin::start(&format!("{}{settings}", config(backend.address(), &[], &[])));
    let request = format!("GET /a%2F?b=c&d HTTP/1.1\r\nHost: shop.example:8080\r\n{lines}\r\n");
    let mut client = Peer::sending(stickpin.front(), request).await;
    assert_eq!(client.reply().await.0.status(), 200);
    (backend.last_head(), stickpin.front().port())
}

#[tokio::test]
async fn a_backend_sees_the_request_and_where_it_came_from() {
    let lines = "Accept: */*\r\nX-Odd:  blanks \tkept inside \r\nX-Empty:\r\nx-twice: 1\r\nX-Twice: 2\r\n";
    let (head, port) = seen_by_backend("", lines).await;
    assert_eq!(head.first_line(), "GET /a%2F?b=c&d HTTP/1.1");
    let mut lines: Vec<_> = head.0.lines().skip(1).collect();
    lines.sort_unstable();
    let port = format!("x-forwarded-port: {port}");
    let expected = [
        "",
        "accept: */*",
        "forwarded: for=127.0.0.1;proto=http;host=\"shop.example:8080\"",
        "host: shop.example:8080",
        "via: 1.1 stickpin",
        "x-empty: ",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: shop.example:8080",
        &port,
        "x-forwarded-proto: http",
        "x-odd: blanks \tkept inside",
        "x-twice: 1",
        "x-twice: 2",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn what_concerns_only_the_hop_from_the_client_ends_there() {
    let lines = "Connection: keep-alive, X-Hop\r\nConnection: x-other-hop , Close\r\nX-Hop: 1\r\nX-Other-Hop: 1\r\n\
                 Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\nTE: gzip\r\n\
                 Upgrade: h2c\r\nX-End: 1\r\n";
    let (head, _) = seen_by_backend("", lines).await;
    for name in
        ["connection", "x-hop", "x-other-hop", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"]
    {
        assert_eq!(head.value(name), None, "{name}");
    }
    assert_eq!(head.value("x-end"), Some("1"));
}

#[tokio::test]
async fn naming_what_we_add_in_connection_does_not_take_it_away() {
    let lines = "Connection: X-Forwarded-For, Forwarded, Host, Via, Cookie, Content-Length\r\nCookie: a=b\r\n";
    let (head, _) = seen_by_backend("", lines).await;
    assert_eq!(head.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.value("host"), Some("shop.example:8080"));
    assert!(head.value("forwarded").is_some() && head.value("via").is_some());
}

#[tokio::test]
async fn a_stranger_cannot_claim_to_be_somebody_else() {
    let lines = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=10.0.0.1\r\n\
                 x_forwarded_for: 10.0.0.1\r\nStickpin-Rehomed-From: evil\r\nStickpin-Session-Lost: evil\r\n\
                 Stickpin-Anything: evil\r\nSTICKPIN-HEIR: evil\r\nstickpin_heir: evil\r\n";
    let (head, port) = seen_by_backend("", lines).await;
    assert_eq!(head.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.values("x-forwarded-proto"), ["http"]);
    assert_eq!(head.values("x-forwarded-host"), ["shop.example:8080"]);
    assert_eq!(head.values("x-forwarded-port"), [port.to_string()]);
    assert_eq!(head.values("forwarded").len(), 1);
    let text = head.0.to_ascii_lowercase();
    assert!(!text.contains("10.0.0") && !text.contains("evil") && !text.contains("stickpin-"), "{text}");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_added_to() {
    let lines = "X-Forwarded-For: 192.0.2.7, 192.0.2.8\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: front.example\r\nX-Forwarded-Port: 443\r\nForwarded: for=192.0.2.9;proto=https\r\n\
                 Via: 1.1 edge\r\nStickpin-Rehomed-From: evil\r\n";
    let (head, _) = seen_by_backend("trusted_proxies: [ 127.0.0.0/8 ]\n", lines).await;
    assert_eq!(head.value("x-forwarded-for"), Some("192.0.2.7, 192.0.2.8, 192.0.2.9, 127.0.0.1"));
    assert_eq!(head.value("x-forwarded-proto"), Some("https"));
    assert_eq!(head.value("x-forwarded-host"), Some("front.example"));
    assert_eq!(head.value("x-forwarded-port"), Some("443"));
    let forwarded = "for=192.0.2.9;proto=https, for=127.0.0.1;proto=http;host=\"shop.example:8080\"";
    assert_eq!(head.value("forwarded"), Some(forwarded));
    assert_eq!(head.value("via"), Some("1.1 edge, 1.1 stickpin"));
    assert_eq!(head.value("stickpin-rehomed-from"), None, "our words are ours, whoever is in front");
}

#[tokio::test]
async fn our_cookie_is_taken_out_and_the_others_stay_as_they_were() {
    let (head, _) = seen_by_backend("", "Cookie: a=\"1 2\"; stickpin=x; b=%20=; c\r\nCookie: stickpin=y\r\n").await;
    assert_eq!(head.values("cookie"), ["a=\"1 2\"; b=%20=; c"]);
    let (head, _) = seen_by_backend("", "Cookie: stickpin=x\r\n").await;
    assert!(!head.0.to_ascii_lowercase().contains("cookie"), "{head:?}");
    let (head, _) = seen_by_backend("", "Cookie: a=1;b=2 ;  stickpinned=3; STICKPIN=4\r\n").await;
    assert_eq!(head.values("cookie"), ["a=1;b=2 ;  stickpinned=3; STICKPIN=4"], "nothing of ours: byte for byte");
}

#[tokio::test]
async fn a_reply_loses_what_concerns_only_the_hop_and_gains_a_date_at_most() {
    let backend = Recorder::replying(
        "HTTP/1.1 203 Non-Authoritative Information\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\n\
         X-Hop: 1\r\nProxy-Connection: keep-alive\r\nStickpin-Pin: release\r\nStickpin-Other: x\r\nServer: app/1.0\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2; Path=/x\r\nContent-Length: 2\r\nX-Kept: yes\r\n\r\nok",
    )
    .await;
    let pool = ["affinity: off"];
    let stickpin = Stickpin::start(&config(backend.address(), &[], &pool));
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, _) = client.reply().await;
    assert_eq!(head.status(), 203);
    let mut names: Vec<_> = head.lines().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["content-length", "date", "server", "set-cookie", "set-cookie", "x-kept"]);
    assert_eq!(head.values("set-cookie"), ["a=1", "b=2; Path=/x"]);
    assert_eq!(head.value("server"), Some("app/1.0"));
}

#[tokio::test]
async fn a_backends_own_date_stays() {
    let backend =
        Recorder::replying("HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 0\r\n\r\n").await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.head().await.value("date"), Some("Tue, 15 Nov 1994 08:12:31 GMT"));
}

#[tokio::test]
async fn the_cookie_is_set_once_and_again_only_when_it_needs_refreshing() {
    let backend = Recorder::start().await;
    let cookie = ["affinity: { cookie: { idle_timeout: 16s } }"];
    let stickpin = Stickpin::start(&config(backend.address(), &[], &cookie));
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, _) = client.reply().await;
    let set = head.value("set-cookie").expect("a new client is pinned");
    assert!(set.starts_with("stickpin=") && set.ends_with("; HttpOnly; SameSite=Lax; Path=/"), "{set}");
    assert_eq!(head.value("cache-control"), Some("private"));
    let pair = set.split(';').next().expect("the cookie").to_owned();
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {pair}\r\n\r\n");
    client.send(&request).await;
    let (head, _) = client.reply().await;
    assert_eq!((head.value("set-cookie"), head.value("cache-control")), (None, None));
    // An eighth of the idle time later it is due.
    let refreshed = until("the cookie is refreshed", async || {
        client.send(&request).await;
        let (head, _) = client.reply().await;
        head.value("set-cookie").map(str::to_owned).ok_or(head)
    })
    .await;
    assert!(refreshed.starts_with("stickpin=") && !refreshed.starts_with(&pair));
}

#[tokio::test]
async fn a_reply_that_sets_the_cookie_is_kept_out_of_shared_caches() {
    let reply = "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Length: 2\r\n\r\nok";
    let backend = Recorder::replying(reply).await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, _) = client.reply().await;
    assert_eq!(head.value("cache-control"), Some("private, max-age=60"));
    let cookie = head.value("set-cookie").and_then(|set| set.split(';').next()).expect("a new client is pinned");
    client.send(format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n")).await;
    assert_eq!(client.reply().await.0.value("cache-control"), Some("public, max-age=60"));
}

#[tokio::test]
async fn a_backend_cannot_set_our_cookie() {
    let backend = Recorder::replying(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: stickpin=evil; Path=/\r\nSet-Cookie: stickpinned=2\r\n\
         Content-Length: 0\r\n\r\n",
    )
    .await;
    let stickpin = front(backend.address());
    let mut client = Peer::sending(stickpin.front(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = client.head().await;
    let cookies = head.values("set-cookie");
    assert_eq!((cookies.len(), &cookies[..2]), (3, &["a=1", "stickpinned=2"][..]));
    let ours = cookies[2].split(';').next().expect("the cookie");
    client.send(format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {ours}\r\n\r\n")).await;
    assert_eq!(client.head().await.values("set-cookie"), ["a=1", "stickpinned=2"]);
}

#[tokio::test]
async fn pages_of_our_own_reveal_nothing() {
    let (backend, nobody) = (Backend::start().await, ReservedPort::new().expect("a loopback port is free"));
    let (address, gone) = (backend.address(), nobody.address());
    let stickpin = Stickpin::start(&format!(
        "{}  gone:\n    backends: [ \"{gone}\" ]\nroutes:\n  - {{ path_prefix: /app, pool: app }}\n  \
         - {{ path_prefix: /gone, pool: gone }}\n",
        config(address, &[], &["retry: { attempts: 0 }", "timeouts: { first_byte: 200ms }"])
    ));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut client = Peer::sending(stickpin.front(), get("/none")).await;
    let mut pages = vec![client.reply().await];
    client.send(get("/app")).await;
    let silent = backend.request().await;
    pages.push(client.reply().await);
    drop(silent);
    client.send(get("/app")).await;
    let (mut at_backend, _) = backend.request().await;
    at_backend.send("garbage\r\n\r\n").await;
    pages.push(client.reply().await);
    client.send(get("/gone")).await;
    pages.push(client.reply().await);
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    pages.push(client.reply().await);
    let statuses: Vec<_> = pages.iter().map(|(head, _)| head.status()).collect();
    assert_eq!(statuses, [404, 504, 502, 503, 400]);
    let allowed = ["cache-control", "connection", "content-length", "content-type", "date", "retry-after"];
    let ports = [address, gone].map(|address| address.port().to_string());
    for (head, body) in &pages {
        assert!(head.lines().all(|(name, _)| allowed.contains(&&*name)), "{head:?}");
        assert_eq!(body, &format!("{}\n", &head.first_line()["HTTP/1.1 ".len()..]));
        for secret in ["stickpin", "hyper", "127.0.0.1", &ports[0], &ports[1], "app1"] {
            assert!(!head.0.to_ascii_lowercase().contains(secret), "{secret}: {head:?}");
        }
    }
}

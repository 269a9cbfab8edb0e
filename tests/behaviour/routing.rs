//! Which pool gets a request.

use crate::support::raw::{Peer, Recorder, config};
use crate::support::{ReservedPort, Stickpin};

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// The body a backend answers with tells its pool.
async fn pools() -> (String, Vec<Recorder>) {
    let replies = [
        ("exact", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nexact"),
        ("deep", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndeep"),
        ("wild", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwild"),
        ("any", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nany"),
    ];
    let (mut yaml, mut backends) = (String::from("pools:\n"), Vec::new());
    for (pool, reply) in replies {
        let backend = Recorder::replying(reply).await;
        yaml.push_str(&format!("  {pool}:\n    health: off\n    backends: [ \"{}\" ]\n", backend.address()));
        backends.push(backend);
    }
    (yaml, backends)
}

#[tokio::test]
async fn the_most_exact_host_and_the_longest_path_win() {
    let (pools, _backends) = pools().await;
    let stickpin = Stickpin::start(&format!(
        "workers: 1\naccess_log: off\nlisteners: [ 127.0.0.1:0 ]\n{pools}routes:\n  \
         - {{ host: \"*.example.com\", pool: wild }}\n  \
         - {{ host: Shop.example.com, path_prefix: /, pool: exact }}\n  \
         - {{ host: shop.example.com, path_prefix: /deep, pool: deep }}\n  \
         - {{ path_prefix: /any, pool: any }}\n"
    ));
    let mut client = Peer::connect(stickpin.front()).await;
    for (host, path, pool) in [
        ("shop.example.com", "/", "exact"),
        ("SHOP.Example.COM", "/x", "exact"),
        ("shop.example.com:8443", "/", "exact"),
        ("shop.example.com.", "/", "exact"),
        ("shop.example.com", "/deep", "deep"),
        ("shop.example.com", "/deep/er?x", "deep"),
        ("shop.example.com", "/deeper", "exact"),
        ("shop.example.com", "/any", "exact"),
        ("other.example.com", "/deep", "wild"),
        ("a.b.example.com:80", "/", "wild"),
        ("elsewhere.org", "/any/thing", "any"),
    ] {
        client.send(get(host, path)).await;
        assert_eq!(client.reply().await.1, pool, "{host} {path}");
    }
    for (host, path) in [("elsewhere.org", "/"), ("example.com", "/"), ("xshop.example.com.evil", "/"), ("", "/anyone")]
    {
        client.send(get(host, path)).await;
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), &*body), (404, "404 Not Found\n"), "{host} {path}");
    }
}

#[tokio::test]
async fn an_absolute_target_is_routed_by_its_own_host() {
    let (pools, _backends) = pools().await;
    let stickpin = Stickpin::start(&format!(
        "workers: 1\naccess_log: off\nlisteners: [ 127.0.0.1:0 ]\n{pools}routes:\n  \
         - {{ host: shop.example.com, pool: exact }}\n  - {{ pool: any }}\n"
    ));
    let request = "GET http://SHOP.example.com/ HTTP/1.1\r\nHost: elsewhere.org\r\n\r\n";
    assert_eq!(Peer::sending(stickpin.front(), request).await.reply().await.1, "exact");
    let request = "GET http://elsewhere.org/ HTTP/1.1\r\nHost: shop.example.com\r\n\r\n";
    assert_eq!(Peer::sending(stickpin.front(), request).await.reply().await.1, "any");
}

#[tokio::test]
async fn every_listener_serves_all_routes() {
    let backend = Recorder::start().await;
    let address = backend.address();
    let stickpin = Stickpin::start(&format!(
        "workers: 2\naccess_log: off\nlisteners:\n  - 127.0.0.1:0\n  - 127.0.0.1:0\n  - \"[::1]:0\"\n\
         pools:\n  app:\n    health: off\n    backends: [ \"{address}\" ]\n"
    ));
    assert_eq!(stickpin.listeners().len(), 3);
    for listener in stickpin.listeners() {
        let mut client = Peer::sending(*listener, get("x", "/")).await;
        assert_eq!(client.reply().await.0.status(), 200);
        let head = backend.last_head();
        assert_eq!(head.value("x-forwarded-for"), Some(&*listener.ip().to_string()));
        assert_eq!(head.value("x-forwarded-port"), Some(&*listener.port().to_string()));
    }
}

#[tokio::test]
async fn without_an_available_backend_the_answer_is_503() {
    let nobody = ReservedPort::new().expect("a loopback port is free");
    let stickpin = Stickpin::start(&config(nobody.address(), &[], &[]));
    let mut client = Peer::connect(stickpin.front()).await;
    for _ in 0..3 {
        client.send(get("x", "/")).await;
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), &*body), (503, "503 Service Unavailable\n"));
        assert_eq!((head.value("retry-after"), head.value("cache-control")), (Some("1"), Some("no-store")));
        assert_eq!(head.value("set-cookie"), None, "nobody is pinned to nobody");
    }
    let mut admin = stickpin.admin();
    admin.set_state("app", "app1", "disabled").await;
    client.send(get("x", "/")).await;
    assert_eq!(client.reply().await.0.status(), 503);
}

/// Idle connections to backends belong to a worker, so a backend sees how many workers serve its clients.
#[tokio::test]
async fn a_few_connections_are_spread_over_all_workers() {
    let backend = Recorder::start().await;
    let stickpin = Stickpin::start(&config(backend.address(), &[], &[]).replace("workers: 1", "workers: 2"));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Peer::sending(stickpin.front(), get("x", "/")).await;
        assert_eq!(client.reply().await.0.status(), 200);
        clients.push(client);
    }
    assert_eq!(backend.heard().by_connection, [2, 2]);
}

//! A browser. It says of everything that a page is made of by which protocol it came, and who served it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, Uri};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use crate::program::{Server, run};
use crate::site::Site;

/// A page with two more in frames, each with a style sheet, scripts and pictures. Behind the last of them it writes down
/// what the browser knows of their transport.
const PAGE: &str = r#"<!doctype html><html lang=en><meta charset=utf-8><title>page</title><link rel=icon href=data:,>
<link rel=stylesheet href=/style.css><script src=/one.js></script><script src=/two.js></script>
<img src=/one.svg><img src=/two.svg><img src=/three.svg>
FRAMES
<pre id=seen></pre>
<script>
  const entries = of => [...of.getEntriesByType("navigation"), ...of.getEntriesByType("resource")].map(it => ({
    path: new URL(it.name).pathname, protocol: it.nextHopProtocol, server: it.serverTiming.map(it => it.description).join(),
  }));
  addEventListener("load", () => {
    const windows = [window, ...[...document.querySelectorAll("iframe")].map(it => it.contentWindow)];
    document.getElementById("seen").textContent = JSON.stringify(windows.flatMap(it => entries(it.performance)));
  });
</script></html>
"#;

/// How many of them: the page, twice in a frame, each with six things. Frames are things of the first page, too.
const THINGS: usize = 3 * (1 + 6) + 2;

async fn serve(State(name): State<&'static str>, uri: Uri) -> impl IntoResponse {
    let frames = "<iframe src=/frame/one></iframe><iframe src=/frame/two></iframe>";
    let (kind, body) = match uri.path() {
        "/" => ("text/html", PAGE.replace("FRAMES", frames)),
        path if path.starts_with("/frame/") => ("text/html", PAGE.replace("FRAMES", "")),
        path if path.ends_with(".css") => ("text/css", "body { color: #333 }".to_owned()),
        path if path.ends_with(".js") => ("text/javascript", "window.loaded = true".to_owned()),
        _ => ("image/svg+xml", r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>"#.to_owned()),
    };
    let server_timing = HeaderName::from_static("server-timing");
    let headers = [
        (CONTENT_TYPE, kind.to_owned()),
        // Everything is fetched anew.
        (CACHE_CONTROL, "no-store".to_owned()),
        (server_timing, format!("backend;desc={name}")),
    ];
    (headers, body)
}

/// Backends with that page.
async fn pages(names: &[&'static str]) -> Vec<String> {
    let mut lines = Vec::new();
    for name in names {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let app = Router::new().fallback(serve).with_state(*name);
        tokio::spawn(async move { axum::serve(listener, app).await });
        lines.push(format!("{{ name: {name}, address: \"{address}\" }}"));
    }
    lines
}

/// What a browser knows of one thing.
#[derive(Debug, Deserialize)]
struct Seen {
    path: String,
    protocol: String,
    server: String,
}

/// Starts a browser with this profile, has it load a page and keep a log of its network there, and ends it. Gives what the
/// page has written down.
fn load<T: DeserializeOwned>(profile: &Path, site: &Site, path: &str, speaking: Speaking) -> T {
    let log = format!("--log-net-log={}", profile.join(NETWORK_LOG).display());
    let profile = format!("--user-data-dir={}", profile.display());
    let key = format!("--ignore-certificate-errors-spki-list={}", site.key_hash());
    let page = site.https(path);
    let quiet = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"];
    // What it would ask of its maker does not even leave for a name server.
    let nobody_else = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost";
    // Its sandbox does not work for root.
    let rest = ["--disable-background-networking", "--disable-component-update", "--no-sandbox", "--dump-dom"];
    let arguments = quiet.iter().copied().chain(rest).chain([nobody_else, &*profile, &log, &key, &page]);
    let http2_or_not = match speaking {
        Speaking::Http2 => None,
        Speaking::Http1 => Some("--disable-http2"),
    };
    let (page, complaints) = run("chromium", arguments.chain(http2_or_not));
    let seen = page.split_once("<pre id=\"seen\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (seen, _) = seen.unwrap_or_else(|| panic!("not the page:\n{page}\n{complaints}"));
    serde_json::from_str(seen).unwrap_or_else(|error| panic!("{error}: {seen}\n{page}\n{complaints}"))
}

/// What a browser is let speak.
#[derive(Clone, Copy)]
enum Speaking {
    Http1,
    /// If the other side does.
    Http2,
}

const NETWORK_LOG: &str = "network.json";

/// Loads the page by several browsers, each started twice with its profile.
async fn visits(speaking: Speaking, protocol: &'static str) {
    let site = Site::start(
        &pages(&["red", "green", "blue", "black"]).await,
        // It outlives the browser.
        &["affinity: { cookie: { persistent: true } }", "health: { tcp: { interval: 1s } }"],
    );
    let checks = move || {
        for _ in 0..2 {
            let profile = TempDir::new().expect("a folder for temporary files");
            let seen: Vec<Seen> =
                (0..2).flat_map(|_| load::<Vec<Seen>>(profile.path(), &site, "/", speaking)).collect();
            assert_eq!(seen.len(), 2 * THINGS, "{seen:#?}");
            for thing in &seen {
                assert_eq!((&*thing.protocol, &thing.server), (protocol, &seen[0].server), "{}: {seen:#?}", thing.path);
            }
        }
    };
    spawn_blocking(checks).await.expect("it does not panic");
}

#[tokio::test]
async fn a_browser_loads_a_page_by_http_1_1_and_keeps_its_pin_over_a_restart() {
    visits(Speaking::Http1, "http/1.1").await;
}

#[tokio::test]
async fn a_browser_loads_a_page_by_http_2_and_keeps_its_pin_over_a_restart() {
    visits(Speaking::Http2, "h2").await;
}

/// A page that opens a WebSocket, at the same backend as itself; gives how the browser asked for it.
fn chat(speaking: Speaking) -> BTreeSet<String> {
    let servers = ["red", "green", "blue"].map(|name| Server::start(name, "websocket_server.py"));
    let site = Site::start(&servers.each_ref().map(Server::yaml), &["health: { tcp: { interval: 1s } }"]);
    let profile = TempDir::new().expect("a folder for temporary files");
    let seen: Value = load(profile.path(), &site, "/page", speaking);
    assert_eq!(seen, json!([seen[0], "echo", "echo", "echo", 4321, "enough"]));
    let log = std::fs::read_to_string(profile.path().join(NETWORK_LOG)).expect("the browser has written it");
    let headers = log.lines().flat_map(|line| line.split('"')).map(str::to_lowercase);
    headers.filter(|it| it.ends_with(": websocket")).collect()
}

#[test]
fn a_browser_opens_a_websocket_within_tls() {
    assert_eq!(chat(Speaking::Http1), ["upgrade: websocket".to_owned()].into());
}

#[test]
fn a_browser_opens_a_websocket_over_http_2() {
    assert_eq!(chat(Speaking::Http2), [":protocol: websocket".to_owned()].into());
}

//! The admin endpoint over a real socket.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::config::{Config, Problem, Problems};
use crate::control::reload::ReloadError;
use crate::pool::{AdminState, Evidence, Failure, Registry, Thresholds};
use crate::proxy::affinity::KeyRing;
use crate::proxy::snapshot::Lasting;
use crate::telemetry::events::{Event, Events};
use crate::telemetry::words::{DetourReason, Placement};

const EVENTS: &str = "/api/v1/events";

const BLUE: &str = "/api/v1/pools/shop/backends/blue";

#[tokio::test]
async fn every_endpoint_of_the_list_is_there_and_nothing_else() {
    let admin = Admin::start().await;
    admin.settle.send_replace(true);
    for endpoint in &openapi::ENDPOINTS {
        let path = endpoint.path.replace("{pool}", "shop").replace("{backend}", "blue");
        // A method that none has: the path is known, and says which methods it has.
        let reply = admin.send("PATCH", &path, "", "").await;
        assert_eq!(reply.status, 405, "{path}");
        assert!(reply.header("allow").contains(&endpoint.method.to_uppercase()), "{path}: {:?}", reply.head);
        assert!(reply.json()["error"].is_string(), "{path}");
        // The events have no end to wait for.
        if endpoint.method == "get" && path != EVENTS {
            assert_eq!(admin.get(&path).await.status, 200, "{path}");
        }
    }
    let reply = admin.get("/api/v1/nothing").await;
    assert_eq!((reply.status, reply.json()), (404, json!({ "error": "no such endpoint; GET / lists them" })));
}

#[tokio::test]
async fn live_always_answers() {
    let admin = Admin::start().await;
    let reply = admin.get("/live").await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "live": true })));
    assert_eq!(reply.header("cache-control"), "no-store");
}

#[tokio::test]
async fn ready_waits_until_settled_and_ends_with_the_drain() {
    let admin = Admin::start().await;
    let reply = admin.get("/ready").await;
    assert_eq!((reply.status, reply.json()["reason"].clone()), (503, json!("starting")));
    admin.settle.send_replace(true);
    assert_eq!(admin.get("/ready").await.status, 200);
    admin.trigger.drain(Duration::from_secs(60), Instant::now());
    let reply = admin.get("/ready").await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json(), json!({ "error": "not ready: draining", "reason": "draining" }));
    assert_eq!(admin.get("/live").await.status, 200);
}

#[tokio::test]
async fn serving_ends_when_the_drain_does() {
    let admin = Admin::start().await;
    admin.trigger.stop();
    admin.serving.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn the_index_lists_every_endpoint_as_text() {
    let admin = Admin::start().await;
    let reply = admin.get("/").await;
    assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
    assert!(reply.body.contains("PUT    /api/v1/pools/{pool}/backends/{backend}/state"), "{}", reply.body);
}

#[tokio::test]
async fn metrics_show_what_was_counted() {
    let admin = Admin::start().await;
    let snapshot = admin.shared.published.load();
    snapshot.pools[0].counters.shard(0).placed(Placement::Kept);
    snapshot.pools[0].members[0].backend.counters().shard(0).replied(200);
    snapshot.pools[0].members[0].backend.begin_request();
    admin.shared.connections[0].1.fetch_add(3, Ordering::Relaxed);
    admin.shared.reloads.failed.fetch_add(1, Ordering::Relaxed);
    let reply = admin.get("/metrics").await;
    assert_eq!(reply.header("content-type"), metrics::CONTENT_TYPE);
    for line in [
        r#"stickpin_requests_total{pool="shop",backend="blue",code="200"} 1"#,
        r#"stickpin_placements_total{pool="shop",placement="kept",reason=""} 1"#,
        r#"stickpin_backend_in_flight{pool="shop",backend="blue"} 1"#,
        r#"stickpin_backend_health{pool="shop",backend="green",state="starting"} 1"#,
        r#"stickpin_connections{listener="127.0.0.1:8080"} 3"#,
        r#"stickpin_reloads_total{result="failed"} 1"#,
    ] {
        assert!(reply.body.lines().any(|given| given == line), "missing {line} in {}", reply.body);
    }
}

#[tokio::test]
async fn a_pool_is_shown_with_its_backends_and_placements() {
    let admin = Admin::start().await;
    let snapshot = admin.shared.published.load();
    snapshot.pools[0].counters.shard(0).placed(Placement::Detour(DetourReason::Busy));
    let pool = admin.get("/api/v1/pools/shop").await.json();
    assert_eq!(
        (&pool["name"], &pool["sessions"], &pool["balance"], &pool["affinity"]),
        (&json!("shop"), &json!("local"), &json!("round_robin"), &json!("off"))
    );
    assert_eq!(pool["placements"], json!([{ "placement": "detour", "reason": "busy", "requests": 1 }]));
    assert_eq!(pool["backends"][1]["name"], "green");

    let pools = admin.get("/api/v1/pools").await.json();
    assert_eq!((&pools["generation"], &pools["pools"][0]), (&json!(1), &pool));
}

#[tokio::test]
async fn a_backend_is_shown_with_its_state() {
    let admin = Admin::start().await;
    assert_eq!(
        admin.get(BLUE).await.json(),
        json!({
            "name": "blue", "address": "127.0.0.1:9101", "source": "file", "weight": 100, "tier": 0, "health": "starting",
            "admin_state": "enabled", "active_pins": 0, "in_flight": 0, "queued": 0, "connections": 0,
            "changed_seconds_ago": 0,
        })
    );
    let backend = admin.backend();
    let thresholds = Thresholds { healthy_after: 1, unhealthy_after: 1 };
    backend.observe(Evidence::ProbeFailed(Failure::Silent), thresholds, Instant::now());
    let view = admin.get(BLUE).await.json();
    assert_eq!((&view["health"], &view["memory"]), (&json!("unhealthy"), &json!("may_hold")));
    backend.observe(Evidence::ProbeFailed(Failure::Refused), thresholds, Instant::now());
    assert_eq!(admin.get(BLUE).await.json()["memory"], "gone");
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_the_known_ones() {
    let admin = Admin::start().await;
    for (path, error, known) in [
        ("/api/v1/pools/shpo", "there is no pool \"shpo\"", json!(["shop"])),
        ("/api/v1/pools/shpo/backends/blue", "there is no pool \"shpo\"", json!(["shop"])),
        ("/api/v1/pools/shop/backends/red", "there is no backend \"red\"", json!(["blue", "green"])),
    ] {
        let reply = admin.get(path).await;
        assert_eq!((reply.status, reply.json()), (404, json!({ "error": error, "known": known })), "{path}");
    }
    assert_eq!(admin.put("/api/v1/pools/shop/backends/red/weight", "{").await.status, 404);
    assert_eq!(admin.get("/api/v1/pools/%ff").await.status, 400);
}

#[tokio::test]
async fn a_drain_is_ordered_shown_and_taken_back() {
    let admin = Admin::start().await;
    admin.backend().set_active_pins(41);
    let path = format!("{BLUE}/state");
    let view = admin.put(&path, r#"{"state":"draining","deadline":"10m"}"#).await.json();
    assert_eq!(view["admin_state"], "draining");
    assert_eq!(view["drain"]["pins_left"], 41);
    for date in ["deadline", "eta"] {
        assert!(view["drain"][date].as_str().is_some_and(|date| date.ends_with('Z')), "{view}");
    }
    let drain = admin.backend().drain().expect("a drain");
    assert_eq!(drain.deadline.expect("a deadline") - drain.since, Duration::from_secs(600));

    assert_eq!((&view["drain"]["pace"], &view["drain"]["drained"]), (&json!("5%/s"), &json!(false)));

    let view = admin.put(&path, r#"{"state":"draining","pace":"1%/m"}"#).await.json();
    assert_eq!((&view["drain"]["deadline"], &view["drain"]["pace"]), (&Value::Null, &json!("1%/m")));
    assert_eq!((&view["drain"]["eta"], &view["drain"]["drained_since"]), (&Value::Null, &Value::Null));
    admin.backend().set_active_pins(0);
    admin.backend().note_drain_progress(Duration::ZERO, Instant::now());
    let view = admin.get(BLUE).await.json();
    assert_eq!((&view["admin_state"], &view["drain"]["drained"]), (&json!("draining"), &json!(true)));
    assert!(view["drain"]["drained_since"].as_str().is_some_and(|date| date.ends_with('Z')), "{view}");

    let view = admin.put(&path, r#"{"state":"enabled"}"#).await.json();
    assert_eq!((&view["admin_state"], view.get("drain")), (&json!("enabled"), None));
    admin.put(&path, r#"{"state":"disabled","deadline":null}"#).await;
    assert_eq!(admin.backend().standing().admin, AdminState::Disabled);
}

#[tokio::test]
async fn a_weight_is_ordered_shown_and_taken_back() {
    let admin = Admin::start().await;
    let path = format!("{BLUE}/weight");
    let view = admin.put(&path, r#"{"weight":0}"#).await.json();
    assert_eq!((&view["weight"], &view["file_weight"]), (&json!(0), &json!(100)));
    let view = admin.put(&path, r#"{"weight":null}"#).await.json();
    assert_eq!((&view["weight"], view.get("file_weight")), (&json!(100), None));
}

#[tokio::test]
async fn an_order_that_could_not_be_kept_is_said_to_be_in_force_only() {
    let (mut shared, settle, reloads) = shared();
    let (order, mut ordered) = mpsc::channel::<OrderNotice>(1);
    shared.ordered = order;
    let admin = Admin::start_sharing(None, shared, settle, reloads).await;
    tokio::spawn(async move {
        while let Some(notice) = ordered.recv().await {
            let _ = notice.send(Err("no space".to_owned()));
        }
    });
    let reply = admin.put(&format!("{BLUE}/state"), r#"{"state":"disabled"}"#).await;
    assert_eq!(reply.status, 500);
    assert!(reply.body.contains("in force") && reply.body.contains("no space"), "{}", reply.body);
    assert_eq!(admin.backend().standing().admin, AdminState::Disabled);
}

#[tokio::test]
async fn an_order_that_is_wrong_changes_nothing_and_says_what_was_expected() {
    let admin = Admin::start().await;
    for (path, body, status, error) in [
        ("state", "", 400, "EOF while parsing"),
        ("state", "{\"state\":", 400, "EOF while parsing"),
        ("state", "{\"state\":\"disabled\"} x", 400, "trailing characters"),
        ("state", "{}", 422, "missing field `state`"),
        ("state", "[]", 422, "invalid length 0"),
        ("state", r#"{"state":"drain"}"#, 422, "state: unknown variant `drain`, expected one of `enabled`, `draining`"),
        (
            "state",
            r#"{"state":"disabled","force":1}"#,
            422,
            "unknown field `force`, expected one of `state`, `deadline`",
        ),
        ("state", r#"{"state":"draining","deadline":"10"}"#, 422, "deadline: expected a duration with its unit"),
        ("state", r#"{"state":"draining","deadline":10}"#, 422, "deadline: invalid type: integer `10`"),
        ("state", r#"{"state":"disabled","deadline":"10m"}"#, 422, "deadline: only a drain has one"),
        ("state", r#"{"state":"draining","pace":"5%"}"#, 422, "pace: expected a share for each s, m or h"),
        ("state", r#"{"state":"draining","pace":"0%/s"}"#, 422, "pace: expected a pace above 0%/s"),
        ("state", r#"{"state":"enabled","pace":"5%/s"}"#, 422, "pace: only a drain has one"),
        ("weight", "{}", 422, "missing field `weight`"),
        ("weight", r#"{"weight":1001}"#, 422, "weight: expected 0 to 1000 or null, found 1001"),
        ("weight", r#"{"weight":-1}"#, 422, "weight: expected 0 to 1000 or null, found -1"),
        ("weight", r#"{"weight":"50"}"#, 422, "weight: expected 0 to 1000 or null, found \"50\""),
    ] {
        let reply = admin.put(&format!("{BLUE}/{path}"), body).await;
        let given = reply.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(reply.status == status && given.contains(error), "{body}: {} {given}", reply.status);
    }
    let large = format!("{{\"weight\":{}1}}", " ".repeat(BODY_LIMIT));
    assert_eq!(admin.put(&format!("{BLUE}/weight"), &large).await.status, 413);
    assert_eq!((admin.backend().standing().admin, admin.backend().weight()), (AdminState::Enabled, 100));
}

#[tokio::test]
async fn a_reload_is_passed_on_and_its_answer_passed_back() {
    let mut admin = Admin::start().await;
    let reply = admin.reload_answered(Ok(7)).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "generation": 7 })));
}

#[tokio::test]
async fn a_failed_reload_says_why() {
    let problem = Problem { path: "pools.shop".to_owned(), line: Some(3), message: "expected a mapping".to_owned() };
    let invalid = ReloadError::Invalid(Problems { file: "stickpin.yaml".to_owned(), list: vec![problem] });
    let missing = ReloadError::Failed {
        what: "reading stickpin.yaml".to_owned(),
        source: std::io::Error::other("no such file").into(),
    };
    let of_invalid = json!({
        "error": "stickpin.yaml is wrong, nothing was changed",
        "problems": [{ "path": "pools.shop", "line": 3, "message": "expected a mapping" }],
    });
    let of_missing = json!({ "error": "reading stickpin.yaml: no such file" });
    for (error, expected) in [(invalid, of_invalid), (missing, of_missing)] {
        let mut admin = Admin::start().await;
        let reply = admin.reload_answered(Err(error)).await;
        assert_eq!((reply.status, reply.json()), (422, expected));
    }
    let mut admin = Admin::start().await;
    admin.orders.close();
    assert_eq!(admin.send("POST", "/api/v1/reload", "", "").await.status, 503);
}

#[tokio::test]
async fn who_listens_hears_what_happens() {
    let admin = Admin::start().await;
    let mut listener = admin.listen().await;
    assert!(listener.piece().await.starts_with(": "), "a sign of life");
    let of =
        |to| Event::AdminState { pool: "shop".into(), backend: "blue".into(), from: "enabled", to, by: "operator" };
    admin.shared.events.tell(|| of("draining"));
    admin.shared.events.tell(|| of("disabled"));
    for (id, to) in [(1, "draining"), (2, "disabled")] {
        let piece = listener.piece().await;
        let start = format!("id: {id}\nevent: admin_state\ndata: ");
        let data = piece.strip_prefix(&start).unwrap_or_else(|| panic!("{piece}"));
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!((&data["pool"], &data["from"], &data["to"]), (&json!("shop"), &json!("enabled"), &json!(to)));
        assert!(data["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{data}");
    }
}

#[tokio::test]
async fn one_listener_too_many_is_refused_until_another_has_gone() {
    let admin = Admin::start().await;
    let mut listeners = Vec::new();
    for _ in 0..events::LISTENERS {
        let mut listener = admin.listen().await;
        listener.piece().await;
        listeners.push(listener);
    }
    let reply = admin.get(EVENTS).await;
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert_eq!(admin.get("/live").await.status, 200, "others are not kept out");
    listeners.pop();
    let deadline = Instant::now() + Duration::from_secs(10);
    while admin.listen().await.status != 200 {
        assert!(Instant::now() < deadline, "the place was not freed");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn with_a_token_only_live_and_ready_are_open() {
    let admin = Admin::start_with(Some("s3cret".to_owned())).await;
    assert_eq!(admin.get("/live").await.status, 200);
    assert_eq!(admin.get("/ready").await.status, 503);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/pools"),
        ("PUT", "/api/v1/pools/shop/backends/blue/weight"),
        ("POST", "/api/v1/reload"),
        ("GET", "/nothing"),
        ("DELETE", "/metrics"),
    ] {
        for given in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic s3cret\r\n"] {
            let reply = admin.send(method, path, given, "").await;
            assert_eq!((reply.status, reply.header("www-authenticate")), (401, "Bearer"), "{method} {path}");
        }
    }
    // A token is proof enough: the name in `Host` may be any.
    let headers = "Authorization: bearer s3cret\r\nHost: admin.example.com\r\n";
    assert_eq!(admin.send("GET", "/metrics", headers, "").await.status, 200);
}

#[tokio::test]
async fn without_a_token_no_foreign_page_gets_through() {
    let admin = Admin::start().await;
    // A name that was made to resolve to 127.0.0.1.
    for host in ["evil.example", "evil.example:9900", "127.0.0.1.evil.example"] {
        let reply = admin.send("GET", "/api/v1/pools", &format!("Host: {host}\r\n"), "").await;
        assert_eq!(reply.status, 403, "{host}");
    }
    assert_eq!(admin.send("GET", "/metrics", "Host: localhost:1\r\n", "").await.status, 200);

    // A script or form on another site.
    let json = "Content-Type: application/json\r\n";
    for (headers, status) in [
        ("Origin: https://evil.example\r\n".to_owned(), 403),
        ("Origin: null\r\n".to_owned(), 403),
        ("Origin: http://127.0.0.1:1\r\n".to_owned(), 403),
        (format!("Origin: http://{}\r\n", admin.address), 200),
    ] {
        let path = format!("{BLUE}/weight");
        let reply = admin.send("PUT", &path, &format!("{headers}{json}"), r#"{"weight":5}"#).await;
        assert_eq!(reply.status, status, "{headers}");
        if status != 200 {
            assert_eq!(admin.send("POST", "/api/v1/reload", &headers, "").await.status, status, "{headers}");
            assert_eq!(admin.backend().weight(), 100);
        }
    }
    for media_type in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let reply = admin.send("PUT", &format!("{BLUE}/weight"), media_type, r#"{"weight":6}"#).await;
        assert_eq!(reply.status, 415, "{media_type}");
    }
    assert_eq!(admin.backend().weight(), 5);
}

#[tokio::test]
async fn an_open_address_without_a_token_is_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("bound");
    let (shared, _settle, _orders) = shared();
    let (_trigger, watcher) = drain::new();
    let error = serve(listener, None, Arc::new(shared), watcher).await.expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_its_turn() {
    let admin = Admin::start().await;
    let mut idle = Vec::new();
    for _ in 0..server::CONNECTIONS {
        idle.push(TcpStream::connect(admin.address).await.expect("connected"));
    }
    let mut request = Box::pin(admin.get("/live"));
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut request).await;
    assert!(waited.is_err(), "answered beyond the limit");
    idle.pop();
    assert_eq!(request.await.status, 200);
}

/// The endpoint, started, and everything it talks to.
struct Admin {
    address: SocketAddr,
    shared: Arc<Shared>,
    trigger: drain::Trigger,
    settle: watch::Sender<bool>,
    orders: mpsc::Receiver<ReloadRequest>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Admin {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(token: Option<String>) -> Self {
        let (shared, settle, orders) = shared();
        Self::start_sharing(token, shared, settle, orders).await
    }

    async fn start_sharing(
        token: Option<String>,
        shared: Shared,
        settle: watch::Sender<bool>,
        orders: mpsc::Receiver<ReloadRequest>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(shared);
        let (trigger, watcher) = drain::new();
        let serving = tokio::spawn(serve(listener, token, Arc::clone(&shared), watcher));
        Self { address, shared, trigger, settle, orders, serving }
    }

    fn backend(&self) -> Arc<crate::pool::Backend> {
        Arc::clone(&self.shared.published.load().pools[0].members[0].backend)
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "").await
    }

    async fn put(&self, path: &str, body: &str) -> Reply {
        self.send("PUT", path, "Content-Type: application/json\r\n", body).await
    }

    async fn reload_answered(&mut self, answer: Result<u64, ReloadError>) -> Reply {
        let request = self.send("POST", "/api/v1/reload", "", "");
        let answering = async { self.orders.recv().await.expect("an order").send(answer).expect("somebody waits") };
        tokio::join!(request, answering).0
    }

    /// Begins to listen to events.
    async fn listen(&self) -> EventStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        let request = format!("GET {EVENTS} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut listener = EventStream { stream, read: Vec::new(), status: 0 };
        let head = listener.through("\r\n\r\n").await;
        listener.status = head[9..12].parse().expect("a status");
        listener
    }

    /// Sends one request on a connection of its own. `headers` may name another `Host`.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> impl Future<Output = Reply> + use<> {
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{host}{headers}{length}\r\n{body}");
        let address = self.address;
        async move {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            // An error here is a server that has answered before it read everything.
            let _ = stream.write_all(request.as_bytes()).await;
            let mut reply = Vec::new();
            let _ = stream.read_to_end(&mut reply).await;
            Reply::read(&String::from_utf8(reply).expect("text"))
        }
    }
}

/// Events as they come, chunk by chunk.
struct EventStream {
    stream: TcpStream,
    read: Vec<u8>,
    status: u16,
}

impl EventStream {
    /// The next event or comment, without the empty line at its end.
    async fn piece(&mut self) -> String {
        let size = self.through("\r\n").await;
        assert!(usize::from_str_radix(&size, 16).is_ok_and(|size| size > 0), "{size}");
        let piece = self.through("\r\n").await;
        piece.strip_suffix("\n\n").unwrap_or_else(|| panic!("no whole event: {piece}")).to_owned()
    }

    async fn through(&mut self, mark: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if let Some((before, _)) = text.split_once(mark) {
                self.read.drain(..before.len() + mark.len());
                return before.to_owned();
            }
            let more = tokio::time::timeout(Duration::from_secs(10), self.stream.read_buf(&mut self.read)).await;
            assert!(more.is_ok_and(|read| read.is_ok_and(|count| count > 0)), "nothing more came after {text}");
        }
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

fn shared() -> (Shared, watch::Sender<bool>, mpsc::Receiver<ReloadRequest>) {
    let (settle, settled) = watch::channel(false);
    let (reload, orders) = mpsc::channel(1);
    let shared = Shared {
        published: Arc::new(Published::new(snapshot())),
        reload,
        connections: vec![("127.0.0.1:8080".to_owned(), Arc::default(), Arc::default())],
        tls: Arc::new([None]),
        reloads: Arc::default(),
        settled,
        ordered: keeps_orders(),
        change: mpsc::channel(1).0,
        standings: Standings::default(),
        events: Events::default(),
        access_log_dropped: Arc::default(),
        started: SystemTime::UNIX_EPOCH,
    };
    (shared, settle, orders)
}

/// Whoever keeps orders, and says that it did.
fn keeps_orders() -> mpsc::Sender<OrderNotice> {
    let (order, mut ordered) = mpsc::channel::<OrderNotice>(1);
    tokio::spawn(async move {
        while let Some(notice) = ordered.recv().await {
            let _ = notice.send(Ok(()));
        }
    });
    order
}

/// One pool with two backends.
fn snapshot() -> Snapshot {
    let text = "listeners: [127.0.0.1:0]\npools:\n  shop:\n    balance: round_robin\n    affinity: off\n    \
                backends:\n      - { name: blue, address: 127.0.0.1:9101, weight: 100 }\n      \
                - { name: green, address: 127.0.0.1:9102, weight: 100 }";
    let config = Config::parse("test.yaml", text).expect("a good file");
    let registry = Arc::new(Registry::new(1));
    Snapshot::new(&config, &KeyRing::from_random([1; 16]), &Lasting::for_tests(&registry), 1, Instant::now())
}

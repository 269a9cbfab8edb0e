//! The example `copy_to_heir`: what an app of one's own has to do to lose nothing with `sessions: backup`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use http::Request;
use serde_json::{Value, json};

use crate::crowd::{Crowd, Customer, customers_by};
use crate::shop::{IMPATIENT, Shop, until_gone};
use crate::support::{BackendProcess, Client, Reply, ReservedPort, StickpinProcess, until};

const NAMES: [&str; 3] = ["red", "green", "blue"];

/// Servers that know one another.
struct Cluster {
    servers: [BackendProcess; 3],
    /// Where each takes copies.
    peers: [ReservedPort; 3],
}

impl Cluster {
    fn start() -> Self {
        let peers = NAMES.map(|_| ReservedPort::new().unwrap());
        let addresses: Vec<String> = peers.iter().map(|port| port.address().to_string()).collect();
        let start = |own: usize| {
            let port = ReservedPort::new().unwrap();
            let others = (0..NAMES.len()).filter(|peer| *peer != own);
            let others: Vec<String> =
                others.map(|peer| format!("--peer={}={}", NAMES[peer], addresses[peer])).collect();
            let listen = port.address().to_string();
            let mut arguments = vec!["--name", NAMES[own], "--listen", &listen, "--peers-listen", &addresses[own]];
            arguments.extend(others.iter().map(String::as_str));
            BackendProcess::start_other("copy_to_heir", &arguments, NAMES[own], port)
        };
        Self { servers: [start(0), start(1), start(2)], peers }
    }

    fn shop(&self) -> Shop {
        Shop::of(self.servers.iter().map(BackendProcess::yaml)).pool("sessions: backup")
    }
}

/// Panics unless each was answered every time, as themselves, and by a state that is newer than the one before.
fn assert_nothing_lost(customers: &[Customer]) {
    for customer in customers {
        assert!(customer.failures().is_empty(), "{}: {:?}", customer.user, customer.failures());
        let answers: Vec<&Value> = customer.seen.iter().filter_map(|seen| seen.answer()).collect();
        assert!(answers.iter().all(|answer| answer["user"] == *customer.user), "{}: {answers:?}", customer.user);
        let visits: Vec<_> = answers.iter().map(|answer| answer["visits"].as_u64()).collect();
        assert!(visits.is_sorted_by(|earlier, later| earlier < later), "{}: {answers:?}", customer.user);
    }
}

/// Three requests of each at once.
async fn volley(stickpin: &StickpinProcess, clients: &[Client]) {
    let requests: Vec<_> = clients
        .iter()
        .flat_map(|client| [client; 3])
        .map(|client| {
            let mut twin = stickpin.client();
            twin.cookies = client.cookies.clone();
            tokio::spawn(async move { twin.get("/whoami").await.unwrap() })
        })
        .collect();
    for request in requests {
        let reply = request.await.unwrap();
        assert_eq!((reply.status.as_u16(), &*reply.field("user")), (200, "twin"), "{}", reply.text());
    }
}

#[tokio::test]
async fn nobody_loses_a_login_when_servers_die_one_after_another() {
    let mut cluster = Cluster::start();
    let stickpin = cluster.shop().open().await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers_by(&stickpin, "/login/", 30).await);
    let mut pages = Vec::new();
    for _ in 0..12 {
        let mut client = stickpin.client();
        client.post("/login/twin", "").await.unwrap();
        pages.push(client);
    }
    for (killed, name) in NAMES.into_iter().enumerate().take(2) {
        // Every session has a copy at the heir of the moment.
        crowd.rounds(3).await;
        volley(&stickpin, &pages).await;
        cluster.servers[killed].kill();
        volley(&stickpin, &pages).await;
        until_gone(&mut admin, name).await;
        volley(&stickpin, &pages).await;
        crowd.rounds(3).await;
        cluster.servers[killed].restart().unwrap();
        admin.until_health("shop", name, "healthy").await;
    }
    crowd.rounds(3).await;
    let customers = crowd.stop().await;
    for killed in &NAMES[..2] {
        assert!(customers.iter().any(|customer| customer.path().contains(killed)), "somebody was at {killed}");
    }
    assert_nothing_lost(&customers);
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_server_that_hangs_costs_copies_and_no_request() {
    let mut cluster = Cluster::start();
    let stickpin = cluster.shop().probed(IMPATIENT).pool("timeouts: { attempt: 1s }").open().await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers_by(&stickpin, "/login/", 30).await);
    crowd.rounds(3).await;
    cluster.servers[0].pause().await.unwrap();
    admin.until_health("shop", "red", "unhealthy").await;
    // Another heir is named, and gets whole sessions; what waits at the home is asked again elsewhere.
    crowd.rounds(3).await;
    cluster.servers[0].resume().unwrap();
    admin.until_health("shop", "red", "healthy").await;
    // What it remembers of before is old, and it may be the heir again.
    crowd.rounds(3).await;
    cluster.servers[1].kill();
    until_gone(&mut admin, "green").await;
    crowd.rounds(3).await;
    let customers = crowd.stop().await;
    assert_nothing_lost(&customers);
    let answers = || customers.iter().flat_map(|customer| &customer.seen).filter_map(|seen| seen.answer());
    assert!(answers().any(|answer| answer["copied_to"].is_null()), "the reply said when there was no copy");
    let last = customers.iter().filter_map(|customer| customer.seen.last()?.answer());
    last.for_each(|answer| assert!(answer["copied_to"].is_string(), "{answer}"));
}

#[tokio::test]
async fn whoever_has_an_old_copy_or_none_finds_the_newest() {
    let mut cluster = Cluster::start();
    let [red, green, blue] = &mut cluster.servers;
    let mut ann = Client::new(red.address());
    assert_eq!(send(&mut ann, Request::post("/login/ann"), "green").await.field("copied_to"), "green");
    assert_eq!(send(&mut ann, Request::get("/whoami"), "green").await.json()["visits"], 1);
    // The heir changes: what green has grows old.
    let reply = send(&mut ann, Request::get("/whoami"), "blue").await;
    assert_eq!((&reply.json()["visits"], &*reply.field("copied_to")), (&json!(2), "blue"));
    red.kill();
    let mut ann = at(green, &ann);
    let reply = send(&mut ann, Request::get("/whoami"), "red").await;
    assert_eq!(reply.json(), json!({ "served_by": "green", "user": "ann", "visits": 3, "copied_to": null }));
    red.restart().unwrap();
    // It knows nobody, and asks.
    let mut ann = at(red, &ann);
    assert_eq!(send(&mut ann, Request::get("/whoami"), "blue").await.json()["visits"], 4);
    let before = at(blue, &ann);
    send(&mut ann, Request::post("/logout"), "green").await;
    assert_eq!(ann.cookies.names().count(), 0);
    for server in [&*red, green, blue] {
        let reply = send(&mut at(server, &before), Request::get("/whoami"), "green").await;
        assert!(reply.json()["user"].is_null(), "a session that has ended stays so: {}", reply.text());
    }
}

#[tokio::test]
async fn an_older_copy_that_comes_late_replaces_nothing_and_strangers_cannot_send_any() {
    let cluster = Cluster::start();
    let mut ann = Client::new(cluster.servers[0].address());
    send(&mut ann, Request::post("/login/ann"), "green").await;
    send(&mut ann, Request::get("/whoami"), "green").await;
    let id = ann.cookies.value("SESSION").unwrap().to_owned();
    let late = json!({ "id": id, "session": { "version": 1, "user": "eve", "visits": 0 } });
    let newest = json!({ "version": 2, "user": "ann", "visits": 1 });
    let kept: Value = serde_json::from_str(&tell(cluster.peers[1].address(), &late)).unwrap();
    assert_eq!(kept, newest);

    let newer = json!({ "id": id, "session": { "version": 3, "user": "eve", "visits": 0 } });
    let refused = tell(cluster.servers[0].address(), &newer);
    assert!(refused.starts_with("HTTP/1.1 400"), "the clients' port takes none: {refused}");
    assert_eq!(send(&mut ann, Request::get("/whoami"), "green").await.field("user"), "ann");
}

#[tokio::test]
async fn without_an_answer_from_the_heir_the_reply_says_that_there_is_no_copy() {
    let mut cluster = Cluster::start();
    let mut ann = Client::new(cluster.servers[0].address());
    let mut copied_to =
        async |heir| send(&mut ann, Request::post("/login/ann"), heir).await.json()["copied_to"].clone();
    assert_eq!(copied_to("green").await, "green");
    cluster.servers[1].pause().await.unwrap();
    assert_eq!(copied_to("green").await, Value::Null);
    assert_eq!(copied_to("blue").await, "blue");
    cluster.servers[1].resume().unwrap();
    until("green takes copies again", async || match copied_to("green").await {
        Value::String(_) => Ok(()),
        none => Err(none),
    })
    .await;
    cluster.servers[1].kill();
    for heir in ["green", "nobody", "red"] {
        assert_eq!(copied_to(heir).await, Value::Null, "{heir}");
    }
}

/// The same browser, as if sent to that server.
fn at(server: &BackendProcess, client: &Client) -> Client {
    let mut elsewhere = Client::new(server.address());
    elsewhere.cookies = client.cookies.clone();
    elsewhere
}

async fn send(client: &mut Client, request: http::request::Builder, heir: &str) -> Reply {
    let reply = client.send(request.header("Stickpin-Heir", heir).body("".into()).unwrap()).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

/// One line, and the first that comes back.
fn tell(address: SocketAddr, told: &Value) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    // In one piece: whoever refuses it may close after the first.
    connection.write_all(format!("{told}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

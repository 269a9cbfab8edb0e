//! A backend on a host of its own, and the network between them cut: packets vanish, nobody refuses anything. What the
//! backend has in memory is still there when the network is back, and so are its clients.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::crowd::{Crowd, Customer, customers};
use crate::support::{Backend, Client, StickpinProcess, example, until};
use crate::verdict::{assert_nothing_failed, ends_logged_in_at, parted};

/// A host made of a network namespace, and a cable to it. Removed when dropped.
struct Host {
    name: String,
    link: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

impl Host {
    fn new() -> Self {
        // Several in one process, and the processes of several checkouts beside one another.
        static HOSTS: AtomicU32 = AtomicU32::new(0);
        let id = std::process::id() * 10 + HOSTS.fetch_add(1, Ordering::Relaxed);
        let network = [10, 213, (id % 251) as u8];
        let address = |last| Ipv4Addr::new(network[0], network[1], network[2], last);
        let host = Self { name: format!("sp{id}"), link: format!("sp{id}"), here: address(1), there: address(2) };
        let Self { name, link, here, there } = &host;
        ip(&["netns", "add", name]);
        ip(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name]);
        ip(&["addr", "add", &format!("{here}/30"), "dev", link]);
        ip(&["link", "set", link, "up"]);
        ip(&["-n", name, "addr", "add", &format!("{there}/30"), "dev", "eth0"]);
        ip(&["-n", name, "link", "set", "eth0", "up"]);
        host
    }

    /// From now on whatever is sent there goes to a network card that does not exist.
    fn cut(&self) {
        let nobody = "02:00:00:00:00:99";
        ip(&["neigh", "replace", &self.there.to_string(), "lladdr", nobody, "dev", &self.link, "nud", "permanent"]);
    }

    fn mend(&self) {
        ip(&["neigh", "del", &self.there.to_string(), "dev", &self.link]);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The cable goes with its other end.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {errors} (network namespaces need root)", arguments.join(" "));
}

/// A session server on that host. Killed when dropped.
struct Server(Child);

impl Server {
    fn start(host: &Host, name: &str, port: u16) -> Self {
        let (address, port) = (host.there.to_string(), port.to_string());
        let mut child = Command::new("ip")
            .args(["netns", "exec", &host.name])
            .arg(example("session_server"))
            .args(["--name", name, "--address", &address, "--port", &port, "--stop-with-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        assert!(line.starts_with("listening on "), "{line}");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The deadline of a connect.
const CONNECT: Duration = Duration::from_millis(500);

/// On a host of its own, nobody else has it.
const PORT: u16 = 8080;

/// Stickpin in front of these backends, with these keys of the pool.
async fn open(backends: &[String], keys: &str) -> StickpinProcess {
    StickpinProcess::start(|front, admin| {
        format!(
            "listeners: [{{ address: \"{front}\" }}]\nadmin: {{ address: \"{admin}\" }}\npools:\n  shop:\n    \
             sessions: local\n    {keys}\n    \
             health: {{ http: {{ path: /health, interval: 200ms, suspect_interval: 50ms, timeout: 500ms }} }}\n    \
             backends: [{}]\n",
            backends.join(", ")
        )
    })
    .await
}

async fn who_am_i(client: &mut Client) -> (String, String) {
    let reply = client.get("/whoami").await.unwrap_or_else(|error| panic!("GET /whoami: {error}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    (reply.served_by(), reply.field("user"))
}

/// Packets are repeated until the network is back: whoever waits is served then, however it is at home elsewhere.
#[tokio::test]
async fn a_network_that_is_cut_for_a_moment_costs_nobody_anything_but_time() {
    let host = Host::new();
    let _server = Server::start(&host, "far", PORT);
    let near = Backend::start("near");
    let far = format!("{{ name: far, address: \"{}:{PORT}\" }}", host.there);
    let stickpin = open(&[far, near.yaml()], "timeouts: { connect: 500ms }").await;
    let crowd = Crowd::start(customers(&stickpin, 30).await);
    crowd.rounds(3).await;
    host.cut();
    sleep(Duration::from_millis(700)).await;
    host.mend();
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (waited, others) = parted(everybody, "far");
    others.iter().for_each(Customer::assert_undisturbed);
    for customer in &waited {
        assert!(ends_logged_in_at(customer, "far"), "{}: {:?}", customer.user, customer.seen);
        assert!(customer.told().is_empty(), "{}: {:?}", customer.user, customer.told());
    }
}

/// As long as it lasts, under load, and with connections that were open: every request is answered near after one attempt's
/// time. Needs `timeouts.attempt` and `retry.retry_on`.
#[tokio::test]
async fn a_network_that_stays_cut_fails_no_request_and_everybody_comes_home_logged_in() {
    let host = Host::new();
    let _server = Server::start(&host, "far", PORT);
    let near = Backend::start("near");
    let far = format!("{{ name: far, address: \"{}:{PORT}\" }}", host.there);
    let retry = "retry: { budget: 100%, retry_on: [connect, reset_before_reply, 504] }";
    let stickpin =
        open(&[far, near.yaml()], &format!("timeouts: {{ connect: 500ms, attempt: 1s }}\n    {retry}")).await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers(&stickpin, 30).await);
    crowd.rounds(3).await;
    host.cut();
    admin.until_health("shop", "far", "unhealthy").await;
    crowd.rounds(5).await;
    host.mend();
    admin.until_health("shop", "far", "healthy").await;
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (cut_off, others) = parted(everybody, "far");
    others.iter().for_each(Customer::assert_undisturbed);
    for customer in &cut_off {
        assert!(ends_logged_in_at(customer, "far"), "{}: {:?}", customer.user, customer.seen);
        assert!(customer.told().is_empty(), "{}: {:?}", customer.user, customer.told());
        // An attempt that was under way, and a connect or another one, with a busy machine's slack of three.
        assert!(customer.longest_wait < Duration::from_secs(2 * 3), "{}: {:?}", customer.user, customer.longest_wait);
    }
}

/// 503 within the deadline of a connect for each backend that is tried, at once when it is known, and service when one is
/// back.
#[tokio::test]
async fn with_every_backend_cut_off_the_answer_is_503_within_the_connect_deadline() {
    let (one, other) = (Host::new(), Host::new());
    let _servers = [Server::start(&one, "one", PORT), Server::start(&other, "other", PORT)];
    let line = |name: &str, host: &Host| format!("{{ name: {name}, address: \"{}:{PORT}\" }}", host.there);
    let stickpin = open(&[line("one", &one), line("other", &other)], "timeouts: { connect: 500ms }").await;
    let mut admin = stickpin.admin();
    for is_known in [false, true] {
        if is_known {
            admin.until_health("shop", "one", "unhealthy").await;
            admin.until_health("shop", "other", "unhealthy").await;
        } else {
            one.cut();
            other.cut();
        }
        let begun = Instant::now();
        let reply = stickpin.client().get("/whoami").await.unwrap();
        assert_eq!(reply.status, 503, "{}", reply.text());
        let tried = if is_known { 1 } else { 2 };
        assert!(begun.elapsed() < CONNECT * tried * 3, "known: {is_known}, after {:?}", begun.elapsed());
    }
    other.mend();
    let mut client = stickpin.client();
    let reply = until("somebody serves", async || match client.get("/whoami").await.unwrap() {
        reply if reply.status == 200 => Ok(reply),
        reply => Err(reply.text()),
    })
    .await;
    assert_eq!(reply.served_by(), "other");
}

#[tokio::test]
async fn clients_behind_a_cut_network_take_detours_and_come_home_logged_in() {
    let host = Host::new();
    let _server = Server::start(&host, "far", PORT);
    let near = Backend::start("near");
    let far = format!("{{ name: far, address: \"{}:{PORT}\" }}", host.there);
    let stickpin = open(&[far, near.yaml()], "timeouts: { connect: 500ms, first_byte: 2s }").await;
    let mut admin = stickpin.admin();
    let mut clients = Vec::new();
    while clients.len() < 20 {
        let mut client = stickpin.client();
        let login = client.post("/login?user=ann", "").await.unwrap();
        if login.served_by() == "far" {
            clients.push(client);
        }
    }

    host.cut();
    admin.until_health("shop", "far", "unhealthy").await;
    let view = admin.backend("shop", "far").await;
    assert_eq!(view["memory"], "may_hold", "silence is no death: {view}");
    for client in &mut clients {
        assert_eq!(who_am_i(client).await, ("near".to_owned(), String::new()));
    }

    host.mend();
    admin.until_health("shop", "far", "healthy").await;
    for client in &mut clients {
        assert_eq!(who_am_i(client).await, ("far".to_owned(), "ann".to_owned()), "home, and still logged in");
    }
    until("every detour was counted", async || {
        let detours = admin.metric("stickpin_placements_total", &["placement=\"detour\"", "unreachable"]).await;
        if detours == 20.0 { Ok(()) } else { Err(detours) }
    })
    .await;
    assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, 0.0);
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
}

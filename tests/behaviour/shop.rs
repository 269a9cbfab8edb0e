//! A configuration with one pool, `shop`, and the real program running it.

use std::net::SocketAddr;

use crate::support::{Admin, BackendProcess, Client, Reply, StickpinProcess, until};

/// What differs from test to test. Texts are YAML in flow style.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    /// Keys of the pool, as in `"sessions: external, rehome: { wait: 3s }"`.
    pub(crate) pool: String,
    /// Keys at the top level, a line each.
    pub(crate) top: String,
    /// `health` of the pool.
    pub(crate) health: &'static str,
    /// Lines of `backends`.
    pub(crate) backends: Vec<String>,
    /// Threads that serve requests.
    pub(crate) workers: u32,
}

/// A backend is known to be dead or alive soon, and is not taken for dead because this machine is busy.
pub(crate) const QUICK: &str = "{ http: { path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 5s } }";

/// One that does not answer is known to hang soon.
pub(crate) const IMPATIENT: &str =
    "{ http: { path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 500ms } }";

/// A backend that fails is suspect for as long as it does, and healthy soon after.
pub(crate) const SUSPECTING: &str =
    "{ http: { path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 5s, unhealthy_after: 1000 } }";

impl Shop {
    /// A pool of these backends, probed as in [`QUICK`].
    pub(crate) fn of(backends: impl IntoIterator<Item = String>) -> Self {
        let backends = backends.into_iter().collect();
        Self { pool: String::new(), top: String::new(), health: QUICK, backends, workers: 2 }
    }

    /// Adds keys to the pool.
    pub(crate) fn pool(mut self, keys: &str) -> Self {
        self.pool = format!("{}    {keys}\n", self.pool);
        self
    }

    /// Adds keys at the top level.
    pub(crate) fn top(mut self, keys: &str) -> Self {
        self.top = format!("{}{keys}\n", self.top);
        self
    }

    /// How backends are probed.
    pub(crate) fn probed(mut self, health: &'static str) -> Self {
        self.health = health;
        self
    }

    /// With so many threads.
    pub(crate) fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// The file.
    pub(crate) fn yaml(&self, front: SocketAddr, admin: SocketAddr) -> String {
        let Self { pool, top, health, backends, workers } = self;
        let backends: String = backends.iter().map(|line| format!("\n      - {line}")).collect();
        let backends = if backends.is_empty() { " []".to_owned() } else { backends };
        format!(
            "workers: {workers}\nlisteners: [{{ address: \"{front}\" }}]\nadmin: {{ address: \"{admin}\" }}\n{top}pools:\n  \
             shop:\n{pool}    health: {health}\n    backends:{backends}\n"
        )
    }

    /// Starts the program, which is ready when this returns: every backend has been measured.
    pub(crate) async fn open(&self) -> StickpinProcess {
        StickpinProcess::start(|front, admin| self.yaml(front, admin)).await
    }

    /// Makes this the file of a program that runs; nothing is read until a reload.
    pub(crate) fn write_to(&self, stickpin: &StickpinProcess) {
        stickpin.write_config(&self.yaml(stickpin.front(), stickpin.admin_address()));
    }
}

/// Session servers as processes.
pub(crate) fn processes<const N: usize>(names: [&str; N]) -> [BackendProcess; N] {
    names.map(BackendProcess::start)
}

/// A backend's line with a weight.
pub(crate) fn weighing(name: &str, address: SocketAddr, weight: u32) -> String {
    format!("{{ name: {name}, address: \"{address}\", weight: {weight} }}")
}

/// `GET /whoami`, which has to succeed.
pub(crate) async fn who_am_i(client: &mut Client) -> Reply {
    let reply = client.get("/whoami").await.unwrap_or_else(|error| panic!("GET /whoami: {error}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

/// Logs in, and gives the name of the server that keeps the login.
pub(crate) async fn log_in(client: &mut Client) -> String {
    let reply = client.post("/login?user=ann", "").await.unwrap_or_else(|error| panic!("POST /login: {error}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.served_by()
}

/// New clients until one has its home there, logged in.
pub(crate) async fn client_at(stickpin: &StickpinProcess, home: &str) -> Client {
    for _ in 0..1000 {
        let mut client = stickpin.client();
        if log_in(&mut client).await == home {
            return client;
        }
    }
    panic!("of 1000 clients none was placed at {home}");
}

/// Whether the reply is from the client's login at this server.
pub(crate) fn is_logged_in_at(reply: &Reply, home: &str) -> bool {
    (reply.served_by(), reply.field("user")) == (home.to_owned(), "ann".to_owned())
}

/// Waits until a backend's process is known to be gone, and its sessions with it.
pub(crate) async fn until_gone(admin: &mut Admin, backend: &str) {
    until(&format!("{backend} is gone"), async || {
        let view = admin.backend("shop", backend).await;
        if view["memory"] == "gone" { Ok(()) } else { Err(view) }
    })
    .await;
}

/// What a reply says that its server was told: former home, reason, loss.
pub(crate) fn told(reply: &Reply) -> [String; 3] {
    ["rehomed_from", "rehome_reason", "session_lost"].map(|field| reply.field(field))
}

/// This many requests got this placement, for this reason, or for any when it is empty. Bounded waiting: a request is
/// counted when its reply has been passed on, which may be a moment after the client has it.
pub(crate) async fn assert_placed(stickpin: &StickpinProcess, placement: &str, reason: &str, expected: u32) {
    let mut admin = stickpin.admin();
    let labels = [format!("placement=\"{placement}\""), format!("reason=\"{reason}")];
    until(&format!("{expected} requests were placed as {placement} {reason}"), async || {
        let counted = admin.metric("stickpin_placements_total", &[&labels[0], &labels[1]]).await;
        if counted == f64::from(expected) { Ok(()) } else { Err(counted) }
    })
    .await;
}

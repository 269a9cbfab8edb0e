//! Several Stickpins in front of the same servers, with one Redis between them; and servers that keep their sessions in
//! one.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{BackendProcess, Client, RedisServer, StickpinProcess, until};

const KEYS: &str = "000102030405060708090a0b0c0d0e0f\n";

/// How long a request may wait for Redis.
const LOOKUP: Duration = Duration::from_millis(20);

struct Site {
    backends: Vec<BackendProcess>,
    keys: tempfile::NamedTempFile,
    redis: RedisServer,
    pool: String,
}

impl Site {
    async fn new(arguments: &[&str], pool: &str) -> Self {
        let keys = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(keys.path(), KEYS).unwrap();
        let redis = RedisServer::start().await;
        let url = redis.url();
        let arguments: Vec<&str> =
            arguments.iter().map(|argument| if *argument == "REDIS" { &*url } else { argument }).collect();
        let backends = ["red", "green", "blue"].map(|name| BackendProcess::start_with(name, &arguments));
        Self { backends: backends.into(), keys, redis, pool: pool.to_owned() }
    }

    async fn open(&self) -> StickpinProcess {
        let backends: Vec<_> = self.backends.iter().map(BackendProcess::yaml).collect();
        let stickpin = StickpinProcess::start(|front, admin| {
            format!(
                "workers: 2\nlisteners: [{{ address: \"{front}\" }}]\nadmin: {{ address: \"{admin}\" }}\naccess_log: off\n\
                 cookie_keys_file: {}\npin_store: {{ redis: {{ url: \"{}\", lookup_timeout: 20ms }} }}\npools:\n  shop:\n    {}\n    \
                 health: {{ http: {{ path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 500ms }} }}\n    \
                 backends: [{}]\n",
                self.keys.path().display(),
                self.redis.url(),
                self.pool,
                backends.join(", ")
            )
        })
        .await;
        stickpin.admin().until_health("shop", "red", "healthy").await;
        stickpin
    }

    fn backend(&mut self, name: &str) -> &mut BackendProcess {
        self.backends.iter_mut().find(|backend| backend.name() == name).expect("it is there")
    }
}

async fn until_connected(stickpin: &StickpinProcess, expected: f64) {
    let mut admin = stickpin.admin();
    until(&format!("the store is connected: {expected}"), async || {
        let connected = admin.metric("stickpin_pin_store_connected", &[]).await;
        if connected == expected { Ok(()) } else { Err(connected) }
    })
    .await;
}

async fn until_written(stickpin: &StickpinProcess) {
    let mut admin = stickpin.admin();
    until("everything is written", async || {
        let pending = admin.metric("stickpin_pin_store_pending", &[]).await;
        if pending == 0.0 { Ok(()) } else { Err(pending) }
    })
    .await;
}

async fn until_red_is_gone(stickpins: [&StickpinProcess; 2]) {
    for stickpin in stickpins {
        let mut admin = stickpin.admin();
        until("red is gone", async || {
            let view = admin.backend("shop", "red").await;
            if view["memory"] == "gone" { Ok(()) } else { Err(view) }
        })
        .await;
    }
}

async fn log_in(stickpin: &StickpinProcess, count: usize) -> Vec<(Client, String)> {
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = stickpin.client();
        let reply = client.post(&format!("/login?user=user{number}"), "").await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        clients.push((client, reply.served_by()));
    }
    clients
}

/// The same clients as another Stickpin sees them.
fn at(stickpin: &StickpinProcess, clients: &[(Client, String)]) -> Vec<(Client, String)> {
    let twin = |(client, home): &(Client, String)| {
        let mut twin = stickpin.client();
        twin.cookies = client.cookies.clone();
        (twin, home.clone())
    };
    clients.iter().map(twin).collect()
}

async fn assert_at_home(clients: &mut [(Client, String)]) {
    for (number, (client, home)) in clients.iter_mut().enumerate() {
        let reply = client.get("/whoami").await.unwrap();
        assert_eq!(
            (reply.served_by(), reply.field("user")),
            (home.clone(), format!("user{number}")),
            "{}",
            reply.text()
        );
    }
}

const LEARN: &str = "affinity: { app_session: { cookie: APPSESSION } }";

#[tokio::test]
async fn what_one_stickpin_learns_the_others_know_and_a_restarted_one_too() {
    let site = Site::new(&[], LEARN).await;
    let (mut one, two) = (site.open().await, site.open().await);
    until_connected(&one, 1.0).await;
    until_connected(&two, 1.0).await;
    let mut clients = log_in(&one, 40).await;
    until_written(&one).await;
    assert_at_home(&mut clients).await;
    assert_at_home(&mut at(&two, &clients)).await;
    assert!(one.terminate().await.success());
    let anew = site.open().await;
    until_connected(&anew, 1.0).await;
    assert_at_home(&mut at(&anew, &clients)).await;
    let ids = clients.iter().map(|(client, _)| client.cookies.value("APPSESSION").unwrap());
    let stored = site.redis.dump().await;
    for id in ids {
        assert!(!stored.contains(id), "no session id is in Redis");
        assert!(!anew.stderr().contains(id), "nor in the log");
    }
}

async fn place_of(stickpin: &StickpinProcess, user: &str) -> String {
    let request = http::Request::get("/whoami").header("x-user", user).body(bytes::Bytes::new()).unwrap();
    let reply = stickpin.client().send(request).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.served_by()
}

/// Each of them counts for itself, so by their own counts they would not always agree.
#[tokio::test]
async fn with_a_bound_on_the_load_all_agree_where_a_new_key_lives_and_a_restarted_one_too() {
    let hash = "affinity: { hash: { keys: [{ header: X-User }], bounded_load: 1.05 } }";
    let site = Site::new(&[], &format!("balance: maglev\n    {hash}")).await;
    let (mut one, two) = (site.open().await, site.open().await);
    until_connected(&one, 1.0).await;
    until_connected(&two, 1.0).await;
    let user = |number: u32| format!("user-{number}");
    // Some come through the second one only, so that its counts are others.
    for number in 0..30 {
        place_of(&two, &user(number)).await;
    }
    let mut places = Vec::new();
    for number in 30..90 {
        let user = user(number);
        // At the same moment, so that both of them look for a home.
        tokio::join!(place_of(&one, &user), place_of(&two, &user));
        // One that had no answer in time hears of the other's a moment later.
        let place = until(&format!("all agree where {user} lives"), async || {
            let places = [place_of(&one, &user).await, place_of(&two, &user).await];
            if places[0] == places[1] { Ok(places[0].clone()) } else { Err(places) }
        })
        .await;
        places.push(place);
    }
    assert!(one.terminate().await.success());
    until_written(&two).await;
    let anew = site.open().await;
    until_connected(&anew, 1.0).await;
    for (place, number) in places.iter().zip(30..) {
        assert_eq!(place_of(&anew, &user(number)).await, *place, "user {number}");
    }
    assert!(!site.redis.dump().await.contains("user-"), "no key is in Redis");
}

/// Clients that ask all the time, and the longest that any of them waited.
fn crowd(clients: Vec<(Client, String)>, stop: &tokio::sync::watch::Sender<bool>) -> Vec<JoinHandle<Duration>> {
    let ask = |(mut client, home): (Client, String)| {
        let stopped = stop.subscribe();
        tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !*stopped.borrow() {
                let begun = Instant::now();
                let reply = client.get("/whoami").await.unwrap_or_else(|error| panic!("{error}"));
                longest = longest.max(begun.elapsed());
                assert_eq!((reply.status.as_u16(), reply.served_by()), (200, home.clone()), "{}", reply.text());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            longest
        })
    };
    clients.into_iter().map(ask).collect()
}

#[tokio::test]
async fn redis_dies_under_load_and_nobody_fails_or_waits_and_what_was_learned_meanwhile_is_there_when_it_is_back() {
    let mut site = Site::new(&[], LEARN).await;
    let (one, two) = (site.open().await, site.open().await);
    until_connected(&one, 1.0).await;
    let (stop, _) = tokio::sync::watch::channel(false);
    let crowd = crowd(log_in(&one, 30).await, &stop);
    tokio::time::sleep(Duration::from_millis(300)).await;
    site.redis.kill();
    until_connected(&one, 0.0).await;
    // New sessions are learned without it, and known here at once.
    let mut meanwhile = log_in(&one, 20).await;
    assert_at_home(&mut meanwhile).await;
    // A client that nobody here knows waits no longer than the lookup may take: not at all, since Redis is known to be away.
    let mut stray = two.client();
    until_connected(&two, 0.0).await;
    stray.cookies.set("APPSESSION", "nobody-knows-me");
    stray.get("/whoami").await.unwrap();
    let mut waits = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        stray.get("/whoami").await.unwrap();
        waits.push(begun.elapsed());
    }
    waits.sort();
    assert!(waits[10] < LOOKUP, "half of them took {:?}", waits[10]);

    site.redis.restart().await;
    until_connected(&one, 1.0).await;
    until_connected(&two, 1.0).await;
    until_written(&one).await;
    assert_at_home(&mut at(&two, &meanwhile)).await;
    stop.send_replace(true);
    let mut longest = Duration::ZERO;
    for client in crowd {
        longest = longest.max(client.await.expect("no pinned request failed or went astray"));
    }
    println!("the longest wait of a pinned client: {longest:?}");
}

#[tokio::test]
async fn replicas_that_rehome_the_same_sessions_at_once_agree() {
    let mut site = Site::new(&[], LEARN).await;
    let (one, two) = (site.open().await, site.open().await);
    until_connected(&one, 1.0).await;
    until_connected(&two, 1.0).await;
    let clients = log_in(&one, 60).await;
    until_written(&one).await;
    // Both know them from here on, so that no lookup has to be in time on a busy machine.
    assert_at_home(&mut at(&two, &clients)).await;
    site.backend("red").kill();
    until_red_is_gone([&one, &two]).await;
    let mut pairs = Vec::new();
    for (mut here, mut there) in at(&one, &clients).into_iter().zip(at(&two, &clients)) {
        pairs.push(tokio::spawn(async move {
            let (one, two) = tokio::join!(here.0.get("/whoami"), there.0.get("/whoami"));
            (here.1, one.unwrap().served_by(), two.unwrap().served_by())
        }));
    }
    let mut moved = 0;
    for pair in pairs {
        let (home, one, two) = pair.await.unwrap();
        assert_eq!(one, two, "at home at {home}");
        assert_eq!(one != home, home == "red", "red's clients move, and no others: {home} -> {one}");
        moved += u32::from(one != home);
    }
    assert!(moved > 5, "{moved} of 60 lived at red");
}

/// Every row of the table for sessions that live in a store that all servers share.
#[tokio::test]
async fn external_sessions_survive_whatever_happens_to_their_home_and_stay_where_they_went() {
    let pool = "sessions: external\n    affinity: { cookie: { name: stickpin } }";
    let mut site = Site::new(&["--sessions", "external", "--redis", "REDIS"], pool).await;
    let stickpin = site.open().await;
    let mut admin = stickpin.admin();
    let mut clients = log_in(&stickpin, 60).await;
    assert_at_home(&mut clients).await;
    for (number, row) in ["killed", "paused", "disabled", "drained"].into_iter().enumerate() {
        let name = ["red", "green", "blue", "red"][number];
        match row {
            "killed" => site.backend(name).kill(),
            "paused" => site.backend(name).pause().await.unwrap(),
            "disabled" => admin.set_state("shop", name, "disabled").await,
            _ => {
                let path = format!("/api/v1/pools/shop/backends/{name}/state");
                let order = serde_json::json!({ "state": "draining", "pace": "100%/s" });
                assert_eq!(admin.put(&path, &order).await.status, 200);
                // Its turn has come for everybody.
                tokio::time::sleep(Duration::from_millis(1100)).await;
            }
        }
        if matches!(row, "killed" | "paused") {
            admin.until_health("shop", name, "unhealthy").await;
        }
        for (user, (client, home)) in clients.iter_mut().enumerate() {
            let reply = client.get("/whoami").await.unwrap();
            assert_eq!(reply.field("user"), format!("user{user}"), "{row}: {}", reply.text());
            assert_eq!(reply.served_by() != *home, home == name, "{row}: {home} -> {}", reply.served_by());
            *home = reply.served_by();
        }
        match row {
            "killed" => site.backend(name).restart().unwrap(),
            "paused" => site.backend(name).resume().unwrap(),
            _ => admin.set_state("shop", name, "enabled").await,
        }
        admin.until_health("shop", name, "healthy").await;
        assert_at_home(&mut clients).await;
    }
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
}

/// One replica rehomes a session whose id names its home, and the app sets no cookie. The other one has to know it
/// when the old home is back.
#[tokio::test]
async fn replicas_agree_on_where_a_session_went_whose_id_names_its_old_home() {
    let mut site =
        Site::new(&["--sessions", "local"], "affinity: { app_session: { cookie: APPSESSION, home_by: prefix } }").await;
    let (one, two) = (site.open().await, site.open().await);
    until_connected(&one, 1.0).await;
    until_connected(&two, 1.0).await;
    let mut clients = log_in(&one, 30).await;
    clients.retain(|(_, home)| home == "red");
    assert!(!clients.is_empty());
    site.backend("red").kill();
    until_red_is_gone([&one, &two]).await;
    for (client, home) in &mut clients {
        *home = client.get("/whoami").await.unwrap().served_by();
        assert_ne!(home, "red");
    }
    until_written(&one).await;
    site.backend("red").restart().unwrap();
    for stickpin in [&one, &two] {
        stickpin.admin().until_health("shop", "red", "healthy").await;
    }
    for (number, front) in [&one, &two].into_iter().enumerate() {
        for (client, home) in &mut at(front, &clients) {
            let reply = client.get("/whoami").await.unwrap();
            assert_eq!(reply.served_by(), *home, "replica {number}: {}", reply.text());
        }
    }
}

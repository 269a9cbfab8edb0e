//! The pin store that replicas share, against a real Redis.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use stickpin::config;
use stickpin::pins::store::{Limits, PinStore, SharedStanding, Stores};
use stickpin::pins::{Owner, PinKey, Record};
use tokio::time::Instant;

use crate::support::{RedisServer, until};

#[tokio::test]
async fn what_one_replica_learns_another_one_finds() {
    let redis = RedisServer::start().await;
    let (one, two) = (Replica::of(&redis).await, Replica::of(&redis).await);
    one.put(KEY, record(7));
    one.written().await;
    assert_eq!(two.pins.get(KEY), None, "nobody has asked for it yet");
    assert_eq!(two.fetch(KEY).await, Some(record(7)));
    assert_eq!(two.pins.get(KEY), Some(record(7)), "and it is kept");
    assert_eq!(two.fetch(PinKey(99)).await, None);
}

#[tokio::test]
async fn pools_are_apart() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    one.put(KEY, record(7));
    one.written().await;
    let other = one.stores.pool(&"cart".into(), &settings(&redis.url()));
    assert_eq!(other.fetch(KEY, OWNER, LIMITS).await, None);
}

#[tokio::test]
async fn a_replica_that_starts_anew_finds_what_it_had_written_before_it_stopped() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    for number in 0..2000 {
        one.put(PinKey(number), record(number as u64));
    }
    one.stores.stop(Duration::from_secs(10)).await;
    assert_eq!(one.standing().pending, 0, "a stop writes what is pending");
    let again = Replica::of(&redis).await;
    for number in [0, 1, 1000, 1999] {
        assert_eq!(again.fetch(PinKey(number)).await, Some(record(number as u64)));
    }
}

#[tokio::test]
async fn without_its_store_a_replica_goes_on_and_writes_everything_when_it_is_back() {
    let mut redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    let before = PinKey(1);
    one.put(before, record(1));
    one.written().await;

    redis.kill();
    one.away().await;
    assert_eq!(one.pins.get(before), Some(record(1)));
    let asked = Instant::now();
    for number in 0..1000 {
        assert_eq!(one.fetch(PinKey(1000 + number)).await, None);
    }
    assert!(asked.elapsed() < Duration::from_millis(500), "nothing is waited for: {:?}", asked.elapsed());
    one.put(PinKey(2), record(2));
    one.put(PinKey(2), Record { refreshed: NOW.get() + 1, ..record(2) });
    one.put(PinKey(3), record(3));
    let moved = one.rehome(before, 1, record(4)).await;
    assert_eq!((moved, one.pins.get(before)), (record(4), Some(record(4))));
    one.put(PinKey(5), record(5));
    one.pins.remove(PinKey(5));
    until("four pins are pending", async || match one.standing().pending {
        4 => Ok(()),
        other => Err(other),
    })
    .await;

    redis.restart().await;
    one.connected().await;
    one.written().await;
    let two = Replica::of(&redis).await;
    assert_eq!(two.fetch(PinKey(2)).await.map(|pin| (pin.home, pin.refreshed)), Some((2, NOW.get() + 1)));
    assert_eq!(two.fetch(PinKey(3)).await, Some(record(3)));
    assert_eq!(two.fetch(before).await, Some(record(4)));
    assert_eq!(two.fetch(PinKey(5)).await, None);
    assert_eq!(one.standing().dropped, 0);
}

#[tokio::test]
async fn a_store_that_comes_back_empty_is_given_what_is_known() {
    let mut redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    for number in 0..1000 {
        one.put(PinKey(number), record(number as u64));
    }
    one.written().await;
    redis.kill();
    one.away().await;
    redis.restart().await;
    let mut connection = redis.connection().await;
    until("the store has every pin again", async || match pin_keys(&mut connection).await.len() {
        1000 => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_no_longer_than_the_lookup_time_out() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    one.put(KEY, record(1));
    one.written().await;
    redis.pause();

    let asked = Instant::now();
    assert_eq!(one.fetch(PinKey(2)).await, None);
    let waited = asked.elapsed();
    assert!(waited >= LOOKUP_TIMEOUT && waited < SLACK, "{waited:?}");
    assert_eq!(one.standing().lookups_timed_out, 1);
    let asked = Instant::now();
    assert_eq!(one.rehome(KEY, 1, record(2)).await, record(2));
    assert!(asked.elapsed() < SLACK, "{:?}", asked.elapsed());
    assert_eq!(one.pins.get(KEY), Some(record(2)), "its own decision stands");
    one.away().await;
    let asked = Instant::now();
    for number in 0..1000 {
        assert_eq!(one.fetch(PinKey(1000 + number)).await, None);
    }
    assert!(asked.elapsed() < SLACK, "once it is known to hang, nothing is waited for: {:?}", asked.elapsed());

    redis.go_on();
    one.connected().await;
    one.written().await;
    assert_eq!(Replica::of(&redis).await.fetch(KEY).await, Some(record(2)));
}

#[tokio::test]
async fn a_store_that_hangs_idle_is_noticed_before_anybody_asks() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    redis.pause();
    one.away().await;
    assert_eq!(one.standing().lookups_timed_out, 0);
}

#[tokio::test]
async fn two_replicas_that_rehome_a_pin_at_once_end_with_the_same_home() {
    let redis = RedisServer::start().await;
    let (one, two) = (Replica::of(&redis).await, Replica::of(&redis).await);
    let mut wins = [0, 0];
    for round in 0..300 {
        let key = PinKey(round);
        one.put(key, record(1));
        one.written().await;
        assert_eq!(two.fetch(key).await, Some(record(1)));
        // Whoever is polled first mostly wins, so they take turns.
        let (a, b) = if round % 2 == 0 {
            tokio::join!(one.rehome(key, 1, record(10)), two.rehome(key, 1, record(20)))
        } else {
            let (b, a) = tokio::join!(two.rehome(key, 1, record(20)), one.rehome(key, 1, record(10)));
            (a, b)
        };
        assert_eq!(a, b, "round {round}");
        wins[usize::from(a.home == 20)] += 1;
        for replica in [&one, &two] {
            until("memory agrees", async || match replica.pins.get(key) {
                Some(known) if known == a => Ok(()),
                other => Err(other),
            })
            .await;
        }
        let late = if round % 2 == 0 { one.fetch(key).await } else { two.fetch(key).await };
        assert_eq!(late, Some(a), "the store agrees in round {round}");
    }
    assert!(wins.iter().all(|wins| *wins > 50), "there was no race: {wins:?}");
}

#[tokio::test]
async fn two_replicas_that_learn_a_pin_at_once_end_with_the_same_home() {
    let redis = RedisServer::start().await;
    let (one, two) = (Replica::of(&redis).await, Replica::of(&redis).await);
    for round in 0..100 {
        let key = PinKey(round);
        one.put(key, record(10));
        two.put(key, record(20));
        one.written().await;
        two.written().await;
        until("both have the same home", async || match (one.pins.get(key), two.pins.get(key)) {
            (one, two) if one == two => Ok(()),
            other => Err(other),
        })
        .await;
    }
}

#[tokio::test]
async fn replicas_that_decided_apart_while_the_store_was_away_agree_when_it_is_back() {
    let mut redis = RedisServer::start().await;
    let (one, two) = (Replica::of(&redis).await, Replica::of(&redis).await);
    one.put(KEY, record(1));
    one.written().await;
    assert_eq!(two.fetch(KEY).await, Some(record(1)));
    redis.kill();
    one.away().await;
    two.away().await;
    assert_eq!(one.rehome(KEY, 1, record(10)).await, record(10));
    assert_eq!(two.rehome(KEY, 1, record(20)).await, record(20));
    redis.restart().await;
    one.connected().await;
    two.connected().await;
    let agreed = until("both have the same home", async || match (one.pins.get(KEY), two.pins.get(KEY)) {
        (Some(one), Some(two)) if one == two => Ok(one),
        other => Err(other),
    })
    .await;
    assert_eq!(Replica::of(&redis).await.fetch(KEY).await, Some(agreed));
}

#[tokio::test]
async fn a_move_and_a_removal_reach_the_memory_of_other_replicas() {
    let redis = RedisServer::start().await;
    let (one, two) = (Replica::of(&redis).await, Replica::of(&redis).await);
    one.put(KEY, record(1));
    one.written().await;
    assert_eq!(two.fetch(KEY).await, Some(record(1)));

    assert_eq!(one.rehome(KEY, 1, record(2)).await, record(2));
    two.knows(KEY, Some(record(2))).await;
    let detoured = Record { detour: Some((3, NOW.get())), ..record(2) };
    two.put(KEY, detoured);
    one.knows(KEY, Some(detoured)).await;
    one.pins.remove(KEY);
    two.knows(KEY, None).await;
    assert_eq!(two.fetch(KEY).await, None);
}

#[tokio::test]
async fn a_refresh_does_not_undo_a_move_that_was_not_heard_of() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    one.put(KEY, record(1));
    one.written().await;
    // Another replica, whose message got lost.
    let mut connection = redis.connection().await;
    let () = connection.set(KEY_TEXT, text(&record(2))).await.expect("it is written");
    one.put(KEY, Record { refreshed: NOW.get() + 1, ..record(1) });
    one.knows(KEY, Some(record(2))).await;
    assert_eq!(connection.get::<_, String>(KEY_TEXT).await.as_deref(), Ok(&*text(&record(2))));
}

#[tokio::test]
async fn moves_that_were_missed_while_the_connection_was_broken_are_made_up_for() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    for number in 0..1000 {
        one.put(PinKey(number), record(1));
    }
    one.put(KEY, record(1));
    one.written().await;
    let mut connection = redis.connection().await;
    let () = connection.set(KEY_TEXT, text(&record(2))).await.expect("it is written");
    let killed: u32 = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .query_async(&mut connection)
        .await
        .expect("connections can be cut");
    assert_eq!(killed, 1);
    one.knows(KEY, Some(record(2))).await;
}

#[tokio::test]
async fn what_is_stored_lives_as_long_as_the_pin() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    let mut connection = redis.connection().await;
    let now = NOW.get();
    let cases = [
        ("just used", Record { issued: now, refreshed: now, ..record(1) }, LIMITS.idle_timeout),
        (
            "idle for a while",
            Record { issued: now - 500, refreshed: now - 500, ..record(1) },
            LIMITS.idle_timeout - 500,
        ),
        ("near its end", Record { issued: now - LIMITS.max_lifetime + 100, refreshed: now, ..record(1) }, 100),
    ];
    for (number, (what, record, expected)) in (1000..).zip(cases) {
        one.put(PinKey(number), record);
        one.written().await;
        let key = format!("stickpin:1:{{shop}}:{number:032x}");
        let lives: u32 = connection.ttl(&key).await.expect("it answers");
        assert!((expected - 60..=expected).contains(&lives), "{what}: {lives} and not {expected}");
    }
    one.put(KEY, Record { issued: now - 5000, refreshed: now - 5000, ..record(1) });
    one.written().await;
    assert!(!connection.exists::<_, bool>(KEY_TEXT).await.expect("it answers"), "an expired one is not written");

    one.put(KEY, Record { refreshed: now - 1000, ..record(1) });
    one.written().await;
    one.put(KEY, record(1));
    one.written().await;
    let lives: u32 = connection.ttl(KEY_TEXT).await.expect("it answers");
    assert!(lives > LIMITS.idle_timeout - 60, "a refresh renews it: {lives}");
}

#[tokio::test]
async fn nothing_but_hashes_and_times_is_stored() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    one.put(KEY, Record { detour: Some((5, NOW.get())), ..record(1) });
    one.put(PinKey(2), record(2));
    one.written().await;
    let mut connection = redis.connection().await;
    let mut keys: Vec<String> = connection.keys("*").await.expect("it answers");
    keys.sort();
    assert_eq!(keys, ["stickpin:1:check", KEY_TEXT_OF_2, KEY_TEXT]);
    for key in keys {
        let value: String = connection.get(key).await.expect("it answers");
        assert!(value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':')), "{value}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_unknown_and_written_over() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    let mut connection = redis.connection().await;
    let () = connection.set(KEY_TEXT, "2:something new").await.expect("it is written");
    assert_eq!(one.fetch(KEY).await, None);
    one.put(KEY, record(1));
    one.written().await;
    assert_eq!(connection.get::<_, String>(KEY_TEXT).await.as_deref(), Ok(&*text(&record(1))));

    let () = connection.lpush(KEY_TEXT_OF_2, "a list").await.expect("it is written");
    assert_eq!(one.fetch(PinKey(2)).await, None);
    one.put(PinKey(2), record(2));
    one.written().await;
    assert_eq!(
        (one.standing().connected, one.standing().dropped),
        (true, 1),
        "one bad key does not end the connection"
    );
}

#[tokio::test]
async fn scripts_that_are_flushed_are_loaded_again() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    let mut connection = redis.connection().await;
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.expect("scripts can be flushed");
    one.put(KEY, record(1));
    one.written().await;
    assert_eq!(connection.get::<_, String>(KEY_TEXT).await.as_deref(), Ok(&*text(&record(1))));
    let standing = one.standing();
    assert_eq!((standing.connected, standing.dropped), (true, 0));
}

#[tokio::test]
async fn a_store_that_takes_no_writes_is_away_until_it_does() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    let mut connection = redis.connection().await;
    let () = redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).exec_async(&mut connection).await.expect("it can follow");
    one.put(KEY, record(1));
    one.away().await;
    let () = redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec_async(&mut connection).await.expect("it can lead");
    one.connected().await;
    one.written().await;
    assert_eq!(connection.get::<_, String>(KEY_TEXT).await.as_deref(), Ok(&*text(&record(1))));
}

#[tokio::test]
async fn a_change_that_was_under_way_when_the_connection_was_given_up_is_written_again() {
    let redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    one.put(KEY, record(1));
    one.written().await;
    let mut connection = redis.connection().await;
    let pause = redis::cmd("CLIENT").arg(&["PAUSE", "60000", "WRITE"]).exec_async(&mut connection).await;
    pause.expect("writes can be held up");
    assert_eq!(one.rehome(KEY, 1, record(2)).await, record(2));
    one.away().await;
    redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut connection).await.expect("and let go");
    one.connected().await;
    one.written().await;
    assert_eq!(connection.get::<_, String>(KEY_TEXT).await.as_deref(), Ok(&*text(&record(2))));
    assert_eq!(one.pins.get(KEY), Some(record(2)));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_store_that_is_away() {
    let mut redis = RedisServer::start().await;
    let one = Replica::of(&redis).await;
    redis.kill();
    one.away().await;
    one.put(KEY, record(1));
    let asked = Instant::now();
    one.stores.stop(Duration::from_millis(300)).await;
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(one.pins.get(KEY), Some(record(1)));
}

#[tokio::test]
async fn a_wrong_password_is_logged_once_and_put_right_without_a_reload() {
    let log = log();
    let redis = RedisServer::start_with_password("correct-horse").await;
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let password_file = folder.path().join("redis.password");
    fs::write(&password_file, "battery-staple\n").expect("a writable folder");
    let one = Replica::start(&settings_with_password(&redis.url(), Some(password_file.clone())));
    let said = async || {
        let text = String::from_utf8_lossy(&log.lock().expect("no test panics in here")).into_owned();
        let address = redis.address().to_string();
        text.lines().filter(|line| line.contains(&address)).map(String::from).collect::<Vec<_>>()
    };
    let lines = until("the log says so", async || match said().await {
        lines if lines.is_empty() => Err(()),
        lines => Ok(lines),
    })
    .await;
    assert!(
        lines[0].contains("authentication") && lines[0].contains("does not accept the user and password"),
        "{lines:?}"
    );
    one.put(KEY, record(1));
    assert_eq!(one.pins.get(KEY), Some(record(1)), "the process goes on");
    assert_eq!(one.fetch(PinKey(2)).await, None);

    fs::write(&password_file, "correct-horse\n").expect("a writable folder");
    one.connected().await;
    one.written().await;
    let lines = said().await;
    assert_eq!(lines.len(), 2, "away once, back once: {lines:?}");
    assert!(!lines.concat().contains("battery") && !lines.concat().contains("horse"), "{lines:?}");
}

#[tokio::test]
async fn the_store_can_change_at_a_reload() {
    let (first, second) = (RedisServer::start().await, RedisServer::start().await);
    let one = Replica::of(&first).await;
    one.put(KEY, record(1));
    one.written().await;
    one.stores.configure(&settings(&second.url())).expect("threads can be started");
    let two = Replica::of(&second).await;
    until("the second one has the pin", async || two.fetch(KEY).await.ok_or(())).await;
    one.stores.configure(&config::PinStore { redis: None, ..settings(&second.url()) }).expect("nothing is started");
    assert!(!one.pins.is_shared() && one.pins.standing().shared.is_none());
    assert_eq!(one.pins.get(KEY), Some(record(1)));
}

/// Trust comes from the environment, and a process has only one: so this runs [`with_tls`] in another one.
#[tokio::test]
async fn tls_is_spoken_and_the_certificate_checked() {
    let redis = RedisServer::start_with_tls().await;
    let run = |trusted: PathBuf, expected: &str| {
        let output = Command::new(std::env::current_exe().expect("this program has a name"))
            .args(["pin_store::with_tls", "--exact", "--ignored", "--nocapture"])
            .env("SSL_CERT_FILE", trusted)
            .env_remove("SSL_CERT_DIR")
            .env("STORE_URL", format!("rediss://localhost:{}/0", redis.address().port()))
            .env("STORE_EXPECTED", expected)
            .output()
            .expect("this program runs");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{expected}: {text}");
    };
    run(redis.certificate(), "connected");
    let stranger = RedisServer::start_with_tls().await;
    run(stranger.certificate(), "refused");
}

#[tokio::test]
#[ignore = "run by tls_is_spoken_and_the_certificate_checked, in processes that trust other certificates"]
async fn with_tls() {
    let (url, expected) = (std::env::var("STORE_URL"), std::env::var("STORE_EXPECTED"));
    let (Ok(url), Ok(expected)) = (url, expected) else { return };
    let log = log();
    let one = Replica::start(&settings(&url));
    one.put(KEY, record(1));
    if expected == "connected" {
        one.connected().await;
        one.written().await;
        let two = Replica::start(&settings(&url));
        two.connected().await;
        assert_eq!(two.fetch(KEY).await, Some(record(1)));
    } else {
        until("the certificate is refused", async || {
            let text = String::from_utf8_lossy(&log.lock().expect("no test panics in here")).into_owned();
            if text.contains("certificate") { Ok(()) } else { Err(text) }
        })
        .await;
        assert!(!one.standing().connected);
    }
}

/// One process with one pool, in this process.
struct Replica {
    stores: Stores,
    pins: Arc<PinStore>,
}

impl Replica {
    async fn of(redis: &RedisServer) -> Self {
        let replica = Self::start(&settings(&redis.url()));
        replica.connected().await;
        replica
    }

    fn start(settings: &config::PinStore) -> Self {
        let stores = Stores::start(settings).expect("threads can be started");
        let pins = stores.pool(&"shop".into(), settings);
        assert!(pins.is_shared());
        Self { stores, pins }
    }

    fn put(&self, key: PinKey, record: Record) {
        self.pins.put(key, record, OWNER, LIMITS);
    }

    async fn fetch(&self, key: PinKey) -> Option<Record> {
        self.pins.fetch(key, OWNER, LIMITS).await
    }

    async fn rehome(&self, key: PinKey, from: u64, to: Record) -> Record {
        self.pins.rehome(key, from, to, OWNER, LIMITS).await
    }

    fn standing(&self) -> SharedStanding {
        self.pins.standing().shared.expect("it is shared")
    }

    async fn connected(&self) {
        self.stands("connected", |standing| standing.connected).await;
    }

    async fn away(&self) {
        self.stands("away", |standing| !standing.connected).await;
    }

    async fn written(&self) {
        self.stands("everything is written", |standing| standing.pending == 0).await;
    }

    async fn stands(&self, what: &str, condition: impl Fn(&SharedStanding) -> bool) {
        until(what, async || match self.standing() {
            standing if condition(&standing) => Ok(()),
            standing => Err(standing),
        })
        .await;
    }

    async fn knows(&self, key: PinKey, expected: Option<Record>) {
        until("memory has it", async || match self.pins.get(key) {
            known if known == expected => Ok(()),
            known => Err(known),
        })
        .await;
    }
}

fn settings(url: &str) -> config::PinStore {
    settings_with_password(url, None)
}

fn settings_with_password(url: &str, password_file: Option<PathBuf>) -> config::PinStore {
    let redis = config::RedisStore { url: url.into(), password_file, lookup_timeout: LOOKUP_TIMEOUT };
    config::PinStore { max_pins: 100_000, max_pins_per_client: 100_000, redis: Some(redis) }
}

fn record(home: u64) -> Record {
    Record { home, pin: 0, instance: 0, issued: NOW.get(), refreshed: NOW.get(), detour: None }
}

fn text(record: &Record) -> String {
    let Record { home, pin, instance, issued, refreshed, .. } = record;
    format!("1:{home:016x}:{pin:016x}:{instance:08x}:{issued:08x}:{refreshed:08x}")
}

async fn pin_keys(connection: &mut MultiplexedConnection) -> Vec<String> {
    connection.keys("stickpin:1:{*").await.expect("it answers")
}

/// The seconds in which the tests began.
struct Now(OnceLock<u32>);

impl Now {
    fn get(&self) -> u32 {
        *self.0.get_or_init(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
            u32::try_from(since.as_secs()).expect("it is earlier than 2106")
        })
    }
}

static NOW: Now = Now(OnceLock::new());

/// What has been logged by all tests.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let to = LogWriter(Arc::clone(&log));
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).init();
        log
    });
    Arc::clone(log)
}

#[derive(Clone)]
struct LogWriter(Arc<Mutex<Vec<u8>>>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics in here").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const OWNER: Owner = Owner(1);
const LIMITS: Limits = Limits { idle_timeout: 1800, max_lifetime: 43_200 };

/// Longer than by default: the machine may be busy with other tests.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(200);
/// A wait of the lookup time-out is over by then, on a busy machine too; a store that hangs is noticed later.
const SLACK: Duration = Duration::from_millis(450);

const KEY: PinKey = PinKey(0xabcd << 100);
const KEY_TEXT: &str = "stickpin:1:{shop}:000abcd0000000000000000000000000";
const KEY_TEXT_OF_2: &str = "stickpin:1:{shop}:00000000000000000000000000000002";

//! The wall clock is set back while the program runs, as by an operator or a time server that corrects an error. Deadlines
//! count on the monotonic clock; pins, lives of backends and the log's dates are by the wall clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::crowd::{Crowd, Customer, customers};
use crate::support::{Admin, BackendProcess, StickpinProcess, until};
use crate::verdict::{assert_lost_once, assert_nothing_failed, parted};

/// A clock for one process, which shows the true time and what was last said beside it.
struct Clock {
    folder: TempDir,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { folder: tempfile::tempdir().expect("a folder for temporary files") };
        clock.set("+0");
        clock
    }

    /// At once, as libfaketime reads it: `-1h`.
    fn set(&self, offset: &str) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, offset).and_then(|()| fs::rename(&draft, self.file())).expect("a writable folder");
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    async fn start(&self, backends: &[BackendProcess]) -> StickpinProcess {
        let (file, library) = (self.file(), library());
        let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
        let (file, library) = (text(&file), text(&library));
        let variables = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME_TIMESTAMP_FILE", &*file),
            ("FAKETIME_NO_CACHE", "1"),
            // A clock that is set back is the wall clock only.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        let lines: Vec<_> = backends.iter().map(BackendProcess::yaml).collect();
        StickpinProcess::start_with_environment(&variables, |front, admin| {
            format!(
                "workers: 2\nlisteners: [{{ address: \"{front}\" }}]\nadmin: {{ address: \"{admin}\" }}\npools:\n  shop:\n    \
                 affinity: {{ cookie: {{ idle_timeout: 10m, max_lifetime: 30m }} }}\n    \
                 health: {{ http: {{ path: /health, interval: 100ms, suspect_interval: 50ms, timeout: 5s }} }}\n    \
                 backends: [{}]\n",
                lines.join(", ")
            )
        })
        .await
    }
}

/// libfaketime, where Debian's package `faketime` puts it.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("it is there").flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("faketime is installed")
}

async fn until_gone(admin: &mut Admin) {
    until("red is gone", async || {
        let view = admin.backend("shop", "red").await;
        if view["memory"] == "gone" { Ok(()) } else { Err(view) }
    })
    .await;
}

/// Longer than pins live, so that whoever took a time of the future for a long idle time would show.
#[tokio::test]
async fn a_clock_that_is_set_back_disturbs_nobody_and_a_death_after_it_is_told_to_everybody() {
    let clock = Clock::new();
    let mut backends = ["red", "green", "blue"].map(BackendProcess::start);
    let stickpin = clock.start(&backends).await;
    let mut admin = stickpin.admin();
    let crowd = Crowd::start(customers(&stickpin, 45).await);
    // One who is away while it all happens.
    let (away, _) = parted(customers(&stickpin, 15).await, "red");
    crowd.rounds(3).await;
    // Probes have seen the second in which the pins were sealed.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    clock.set("-1h");
    crowd.rounds(10).await;
    assert!(shows_an_hour_ago(&stickpin), "the program did not see it:\n{}", stickpin.stdout());

    backends[0].kill();
    until_gone(&mut admin).await;
    crowd.rounds(5).await;
    backends[0].restart().unwrap();
    admin.until_health("shop", "red", "healthy").await;
    for mut customer in away {
        let reply = customer.client.get("/whoami").await.unwrap();
        assert_eq!((reply.served_by(), reply.field("session_lost")), ("red".into(), "gone".into()), "{}", reply.text());
        let again = customer.client.get("/whoami").await.unwrap();
        assert_eq!((again.served_by(), again.field("session_lost")), ("red".into(), String::new()), "told once");
    }
    // And corrected once more, in the other direction.
    clock.set("-59m");
    crowd.rounds(5).await;

    let everybody = crowd.stop().await;
    assert_nothing_failed(&everybody);
    let (orphans, others) = parted(everybody, "red");
    others.iter().for_each(Customer::assert_undisturbed);
    orphans.iter().for_each(assert_lost_once);
}

/// By the date of the last request in the access log.
fn shows_an_hour_ago(stickpin: &StickpinProcess) -> bool {
    let ago = SystemTime::now() - Duration::from_secs(3600);
    let hour = ago.duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs() / 3600 % 24;
    let log = stickpin.stdout();
    log.lines().last().is_some_and(|line| line.contains(&format!("T{hour:02}:")))
}

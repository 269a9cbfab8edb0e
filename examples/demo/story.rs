//! The problem and its answer, step by step, each checked.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{Method, Request};
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::settings::{Affinity, Settings};
use crate::site::{self, Stickpin};
use crate::support::client::{Client, Reply};
use crate::support::session_process::SessionProcess;
use crate::terminal::Terminal;

/// How long a killed process may take to be known as gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two requests of somebody who waits.
const PAUSE: Duration = Duration::from_millis(50);

/// Plays it. Ends at the first step that does not hold, because the next ones build on it.
///
/// # Errors
/// What did not hold, or could not be started.
pub(crate) async fn play(terminal: Terminal, show_config: bool) -> Result<(), Failure> {
    let mut story = Story { terminal, backends: site::start_backends()?, show_config };
    let servers: Vec<String> = story
        .backends
        .iter()
        .map(|backend| format!("{} (pid {})", backend.name(), backend.pid().unwrap_or_default()))
        .collect();
    story.terminal.plain(&format!("Three app servers keep logins in their own memory: {}.", servers.join(", ")));

    story.without_affinity().await?;
    story.with_affinity().await?;
    story.terminal.plain("\nEvery step held.");
    Ok(())
}

struct Story {
    terminal: Terminal,
    backends: Vec<SessionProcess>,
    show_config: bool,
}

/// Somebody with a cookie jar.
struct Person {
    name: &'static str,
    client: Client,
    /// The server that last logged them in.
    home: String,
}

impl Story {
    async fn without_affinity(&mut self) -> Result<(), Failure> {
        self.terminal.heading("1. Without affinity, each request goes to the next server");
        let stickpin = self.start(Affinity::Off).await?;
        let mut ann = Person::new("ann", &stickpin);
        self.log_in(&mut ann).await?;
        let reply = self.who_am_i(&mut ann).await?;
        let lost = reply.served_by() != ann.home && reply.field("user").is_empty();
        self.check(lost, &format!("the login is lost: {} has never heard of it", reply.served_by()))?;
        drop(ann);
        stickpin.stop();
        Ok(())
    }

    async fn with_affinity(&mut self) -> Result<(), Failure> {
        self.terminal.heading("2. With affinity, a client keeps coming back to the server that knows it");
        let stickpin = self.start(Affinity::Cookie).await?;
        let mut ann = Person::new("ann", &stickpin);
        self.login_holds(&mut ann).await?;

        self.terminal.heading("3. Other clients get other servers");
        let (mut bob, mut cho) = (Person::new("bob", &stickpin), Person::new("cho", &stickpin));
        self.log_in(&mut bob).await?;
        self.log_in(&mut cho).await?;
        let apart = ann.home != bob.home && ann.home != cho.home && bob.home != cho.home;
        self.check(apart, "each of the three is at home elsewhere")?;

        self.terminal.heading(&format!("4. {}, the home of ann, is killed", ann.home));
        let killed = ann.home.clone();
        self.kill(&killed)?;
        self.rehomed(&mut ann, &mut [&mut bob, &mut cho]).await?;

        self.terminal.heading(&format!("5. {killed} comes back"));
        self.nobody_moves(&stickpin, &killed, &mut [&mut ann, &mut bob, &mut cho]).await?;

        self.terminal.heading(&format!("6. {}, the home of bob, is drained", bob.home));
        self.drained(&stickpin, &mut bob).await?;

        self.terminal.plain("\nWhat Stickpin counted (GET /metrics):");
        for line in stickpin.decisions().await? {
            self.terminal.plain(&format!("   {line}"));
        }
        drop((ann, bob, cho));
        stickpin.stop();
        Ok(())
    }

    async fn login_holds(&mut self, ann: &mut Person) -> Result<(), Failure> {
        self.log_in(ann).await?;
        let mut holds = true;
        for _ in 0..10 {
            let reply = self.who_am_i(ann).await?;
            holds &= reply.served_by() == ann.home && reply.field("user") == ann.name;
        }
        self.check(holds, &format!("ten requests, all served by {}, and ann is still logged in", ann.home))
    }

    /// From the first request after the kill to the next login.
    async fn rehomed(&mut self, ann: &mut Person, others: &mut [&mut Person]) -> Result<(), Failure> {
        let lost_home = ann.home.clone();
        let first = self.who_am_i(ann).await?;
        self.check(first.status == 200 && first.served_by() != lost_home, "the first request after it is no error")?;
        self.all_at_home(others, "the clients of the others notice nothing").await?;

        let told = self.until_told(ann, first).await?;
        let heir = told.served_by();
        self.check(told.field("rehomed_from") == lost_home, &format!("ann has a new home, and {heir} was told so"))?;
        let next = self.who_am_i(ann).await?;
        let once = next.served_by() == heir && next.field("rehomed_from").is_empty();
        self.check(once, "it was told once, and ann stays there")?;
        self.log_in(ann).await?;
        let again = self.who_am_i(ann).await?;
        let holds = ann.home == heir && again.served_by() == heir && again.field("user") == ann.name;
        self.check(holds, &format!("her login died with {lost_home}; a new one holds at {heir}"))?;
        self.all_at_home(others, "the clients of the others have still noticed nothing").await
    }

    /// Detours until the process is known to be gone; each of them has to be answered.
    async fn until_told(&mut self, ann: &mut Person, first: Reply) -> Result<Reply, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut reply = first;
        while reply.field("rehomed_from").is_empty() {
            if reply.status != 200 || Instant::now() >= deadline {
                self.check(false, "every request is answered, and soon the home moves")?;
            }
            sleep(PAUSE).await;
            reply = self.who_am_i(ann).await?;
        }
        Ok(reply)
    }

    async fn nobody_moves(
        &mut self,
        stickpin: &Stickpin,
        killed: &str,
        people: &mut [&mut Person],
    ) -> Result<(), Failure> {
        self.backend(killed)?.restart()?;
        stickpin.until_healthy(killed).await?;
        self.terminal.action(&format!("{killed} runs again on its port, with an empty memory, and is healthy"));
        self.all_at_home(people, "nobody moves").await
    }

    async fn drained(&mut self, stickpin: &Stickpin, bob: &mut Person) -> Result<(), Failure> {
        let reply = stickpin.drain(&bob.home).await?;
        let order = format!("PUT {} draining -> {}", site::state_path(&bob.home), reply.status.as_u16());
        self.terminal.action(&order);
        self.check(reply.status.is_success(), "the order is taken")?;
        let mut avoided = true;
        for name in ["dee", "eli", "fay", "gil", "hal", "ida"] {
            let mut newcomer = Person::new(name, stickpin);
            self.log_in(&mut newcomer).await?;
            avoided &= newcomer.home != bob.home;
        }
        self.check(avoided, &format!("six new clients, none at {}", bob.home))?;
        let home = bob.home.clone();
        self.all_at_home(&mut [bob], &format!("bob stays at {home}, logged in")).await
    }

    async fn all_at_home(&mut self, people: &mut [&mut Person], statement: &str) -> Result<(), Failure> {
        let mut holds = true;
        for person in people {
            let reply = self.who_am_i(person).await?;
            holds &= reply.status == 200 && reply.served_by() == person.home && reply.field("user") == person.name;
        }
        self.check(holds, statement)
    }

    /// One worker, so that its turn order is the turn order of all.
    async fn start(&mut self, affinity: Affinity) -> Result<Stickpin, Failure> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let yaml = Settings { front: any, admin: any, affinity, workers: Some(1) }.yaml(&self.backends);
        if self.show_config {
            self.terminal.plain(&yaml);
        }
        let stickpin = Stickpin::start(&yaml)?;
        for backend in &self.backends {
            stickpin.until_healthy(backend.name()).await?;
        }
        Ok(stickpin)
    }

    fn kill(&mut self, name: &str) -> Result<(), Failure> {
        let backend = self.backend(name)?;
        let pid = backend.pid().unwrap_or_default();
        backend.kill();
        self.terminal.action(&format!("kill -9 {pid}"));
        Ok(())
    }

    fn backend(&mut self, name: &str) -> Result<&mut SessionProcess, Failure> {
        let found = self.backends.iter_mut().find(|backend| backend.name() == name);
        found.ok_or_else(|| format!("no app server is called {name:?}").into())
    }

    async fn log_in(&mut self, person: &mut Person) -> Result<(), Failure> {
        let reply = self.send(person, Method::POST, &format!("/login?user={}", person.name)).await?;
        person.home = reply.served_by();
        if reply.status != 200 || person.home.is_empty() {
            self.check(false, &format!("{} can log in", person.name))?;
        }
        Ok(())
    }

    async fn who_am_i(&mut self, person: &mut Person) -> Result<Reply, Failure> {
        self.send(person, Method::GET, "/whoami").await
    }

    /// Sends a request, and prints it with its reply.
    async fn send(&mut self, person: &mut Person, method: Method, path: &str) -> Result<Reply, Failure> {
        let cookies: Vec<&str> = person.client.cookies.names().collect();
        let jar = format!("[{}]", cookies.join(" "));
        let sent = format!("{}  {:<4} {path:<15}  {jar:<21}", person.name, method.as_str());
        let request = Request::builder().method(method).uri(path).header("User-Agent", person.name);
        match person.client.send(request.body(bytes::Bytes::new())?).await {
            Ok(reply) => {
                self.terminal.exchange(&format!("{sent} -> {}", told(&reply)));
                Ok(reply)
            }
            Err(error) => {
                self.terminal.exchange(&format!("{sent} -> {error}"));
                Err(format!("a request was not answered: {error}").into())
            }
        }
    }

    fn check(&mut self, holds: bool, statement: &str) -> Result<(), Failure> {
        if holds {
            self.terminal.holds(statement);
            Ok(())
        } else {
            self.terminal.fails(statement);
            Err(format!("does not hold: {statement}").into())
        }
    }
}

impl Person {
    fn new(name: &'static str, stickpin: &Stickpin) -> Self {
        Self { name, client: Client::new(stickpin.front), home: String::new() }
    }
}

/// Status, server, and what the server said.
fn told(reply: &Reply) -> String {
    let mut told = format!("{} {:<4}", reply.status.as_u16(), reply.served_by());
    let _ = match (reply.field("user").as_str(), reply.field("session").as_str()) {
        ("", "") => Ok(()),
        ("", "unknown") => write!(told, "  user: nobody, the session is unknown here"),
        ("", _) => write!(told, "  user: nobody"),
        (user, _) => write!(told, "  user: {user}"),
    };
    for (field, words) in [("rehomed_from", "rehomed from"), ("session_lost", "session lost:")] {
        if !reply.field(field).is_empty() {
            let _ = write!(told, "  ({words} {})", reply.field(field));
        }
    }
    told
}

//! What happens to servers, and what that may cost their clients: the table of `DESIGN.md` §1, row by row, for whichever
//! way the pool's servers keep their sessions.
//!
//! Whatever happens: no request fails, nobody is served another's session (each visitor looks at that with every answer),
//! none falls back to an older state, and clients of the other servers notice nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::server::Make;
use super::stage::{Front, NAMES, Probes, Stage};
use super::visitors::{Asked, Crowd, Seen, Told, Visitor, Wrong, text};
use crate::support::until;

/// What it costs the clients of one server that something happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// They do not notice.
    Nothing,
    /// They look logged out for a while, and come home logged in. Nobody is told anything.
    Absence,
    /// They do not notice, though this machine may be too busy to answer an impatient probe.
    NothingOrDetours,
    /// They move, once, for this reason, with their sessions. Where a session's id names its home, a server that it is
    /// brought to by a detour, before the death of its home is known, gives it another id: then that is the move, and
    /// there is nothing to tell.
    Move(&'static str),
    /// The same, but who was waiting at the server while it stood still may be there again when it goes on.
    MoveUnlessWaiting(&'static str),
    /// Whose turn it is moves; the others do not notice.
    MoveOrNothing(&'static str),
    /// They lose their sessions, once, for this reason, which is told; and stay where that was.
    Loss(&'static str),
    /// The same, at their home, or at another server; for whatever reason.
    LossAnywhere,
}

/// All of it, in one go.
pub(crate) async fn play(stage: &mut Stage, sessions: &str) {
    steady(stage).await;
    disabled(stage, "app1", sessions).await;
    drained(stage, "app2", sessions).await;
    killed(stage, "app1", sessions).await;
    if matches!(stage.make, Make::Express | Make::Flask) {
        // Where nobody has lost a session before: the third loss of a client, at the server of the first one and within ten
        // seconds of it, is taken for that one.
        restarted(stage, "app3", sessions).await;
    }
    joined(stage).await;
    // The last: a Tomcat that hung is to be started again, and so are those that it has told of sessions as they were.
    if stage.make != Make::TomcatBackup {
        hung(stage, "app2", sessions).await;
    }
}

/// A server that hangs, by itself. For Tomcat's BackupManager that has to be another cluster than one in which a server has
/// died: there a survivor's session may have no copy any more, or only the one of that moment.
pub(crate) async fn play_a_hang(stage: &mut Stage, sessions: &str) {
    steady(stage).await;
    hung(stage, "app2", sessions).await;
}

/// Everybody stays at home, and homes are spread.
async fn steady(stage: &mut Stage) {
    let crowds = begin(stage).await;
    rounds(&crowds, 4).await;
    stage.leave(crowds).await;
    judge(stage, "steady", "app1", Cost::Nothing).await;
    for front in stage.fronts.iter().filter(|front| front.way.has_pins()) {
        let homes = homes(front);
        let share = front.visitors.len() / 3;
        assert!(
            homes.len() == 3 && homes.values().all(|count| (share * 2 / 3..=share * 3 / 2).contains(count)),
            "{}: {homes:?}",
            front.way.affinity
        );
    }
}

/// The operator disables a server, and enables it again.
async fn disabled(stage: &mut Stage, name: &str, sessions: &str) {
    let crowds = begin(stage).await;
    rounds(&crowds, 1).await;
    stage.order(name, json!({ "state": "disabled" })).await;
    rounds(&crowds, 3).await;
    stage.enable(name).await;
    rounds(&crowds, 3).await;
    stage.leave(crowds).await;
    let cost = if sessions == "local" { Cost::Absence } else { Cost::Move("disabled") };
    judge(stage, "disabled", name, cost).await;
}

/// The operator drains a server by a deadline, and enables it again. Local sessions stay until the deadline comes.
async fn drained(stage: &mut Stage, name: &str, sessions: &str) {
    let crowds = begin(stage).await;
    rounds(&crowds, 1).await;
    stage.order(name, json!({ "state": "draining", "deadline": "10m", "pace": "50%/s" })).await;
    if sessions == "local" {
        rounds(&crowds, 3).await;
        stage.leave(crowds).await;
        judge(stage, "draining", name, Cost::Nothing).await;
        for front in &mut stage.fronts {
            let before = front.visitors.len();
            front.log_in(6).await;
            let newcomers = &front.visitors[before..];
            assert!(newcomers.iter().all(|visitor| visitor.home != name), "a drained server gets no new clients");
        }
        let crowds = begin(stage).await;
        stage.order(name, json!({ "state": "draining", "deadline": "1s", "pace": "100%/s" })).await;
        until_left(stage, name).await;
        rounds(&crowds, 2).await;
        stage.leave(crowds).await;
        judge(stage, "drained", name, Cost::Loss("drained")).await;
        stage.enable(name).await;
        return;
    }
    until_left(stage, name).await;
    rounds(&crowds, 2).await;
    stage.enable(name).await;
    rounds(&crowds, 2).await;
    stage.leave(crowds).await;
    judge(stage, "drained", name, Cost::Move("drained")).await;
}

/// A server with local sessions is drained and left by waiting: half of its clients go on for a while, then all of them have
/// had enough, as people do. Its pins are idle soon after the last request.
pub(crate) async fn left_by_waiting(stage: &mut Stage, name: &str) {
    let all = begin(stage).await;
    rounds(&all, 1).await;
    stage.order(name, json!({ "state": "draining", "deadline": "10m" })).await;
    stage.leave(all).await;
    let mut stayed = Vec::new();
    for front in &mut stage.fronts {
        let (there, elsewhere) = std::mem::take(&mut front.visitors).into_iter().partition(|it| it.home == name);
        front.visitors = there;
        assert!(!front.visitors.is_empty(), "nobody is at {name}");
        stayed.push(Crowd::start(elsewhere));
    }
    let half = stage.enter(|number| number % 2 == 0);
    rounds(&half, 4).await;
    stage.leave(half).await;
    judge(stage, "draining", name, Cost::Nothing).await;
    until_left(stage, name).await;
    rounds(&stayed, 1).await;
    for front in &mut stage.fronts {
        front.visitors.clear();
    }
    stage.leave(stayed).await;
    judge(stage, "left", name, Cost::Nothing).await;
}

async fn until_left(stage: &mut Stage, name: &str) {
    for front in &mut stage.fronts {
        until(&format!("nobody is left at {name}"), async || {
            let view = front.admin.backend("shop", name).await;
            if view["drain"]["drained"] == true { Ok(()) } else { Err(view) }
        })
        .await;
    }
}

/// A server is killed in the midst of it, and comes back much later.
async fn killed(stage: &mut Stage, name: &str, sessions: &str) {
    let crowds = begin(stage).await;
    rounds(&crowds, 1).await;
    stage.server(name).kill();
    for front in &mut stage.fronts {
        until(&format!("{name} is gone"), async || {
            let view = front.admin.backend("shop", name).await;
            if view["memory"] == "gone" { Ok(()) } else { Err(view) }
        })
        .await;
    }
    rounds(&crowds, 3).await;
    stage.server(name).start();
    stage.server(name).answers().await;
    stage.until_health(name, "healthy").await;
    rounds(&crowds, 3).await;
    stage.leave(crowds).await;
    forgive_half_replies(stage);
    forgive_swaps(stage);
    let cost = if sessions == "local" { Cost::Loss("gone") } else { Cost::Move("gone") };
    judge(stage, "killed", name, cost).await;
}

/// A server is killed and back as soon as it can be: quicker, perhaps, than a probe could tell. (A Tomcat takes seconds.)
async fn restarted(stage: &mut Stage, name: &str, sessions: &str) {
    let crowds = begin(stage).await;
    rounds(&crowds, 1).await;
    stage.server(name).kill();
    stage.server(name).start();
    stage.server(name).answers().await;
    stage.until_health(name, "healthy").await;
    rounds(&crowds, 4).await;
    stage.leave(crowds).await;
    forgive_half_replies(stage);
    let cost = if sessions == "local" { Cost::LossAnywhere } else { Cost::MoveUnlessWaiting("gone") };
    judge(stage, "restarted", name, cost).await;
}

/// Some send a reply in pieces: express-session all but the last byte before it saves the session, Gunicorn the head before
/// the body. Killed between the two, such a server has broken off a reply that the client has already begun to read: nobody
/// can take that back.
fn forgive_half_replies(stage: &mut Stage) {
    if !matches!(stage.make, Make::Express | Make::Flask) {
        return;
    }
    for front in &mut stage.fronts {
        let mut forgiven = 0;
        for visitor in &mut front.visitors {
            let is_half = |seen: &Seen| matches!(&seen.answer, Err(error) if error.contains("broken off after"));
            let before = visitor.seen.len();
            visitor.seen.retain(|seen| !is_half(seen));
            forgiven += before - visitor.seen.len();
        }
        println!("{} {}: {forgiven} replies that were broken off in their midst", front.sessions, front.way.affinity);
    }
}

/// A Tomcat that takes a session over may be asking one that hangs for it, with the first request or the first two, and
/// answers those as if nobody were logged in: to one who asks several times at once, and the login is not lost. That nobody
/// may see who asks for one thing at a time.
fn forgive_swaps(stage: &mut Stage) {
    if stage.make == Make::TomcatBackup {
        let mut forgiven = 0;
        for visitor in stage.fronts.iter_mut().flat_map(|front| &mut front.visitors) {
            let is_swap = |seen: &Seen| {
                let is_unknown = seen.answer.as_ref().is_ok_and(|answer| answer["user"].is_null());
                is_unknown && seen.asked == Asked::AtOnce
            };
            let before = visitor.seen.len();
            visitor.seen.retain(|seen| !is_swap(seen));
            let of_one = before - visitor.seen.len();
            assert!(of_one <= 3, "{}: {of_one} answers without a login", visitor.user);
            forgiven += of_one;
        }
        println!("{forgiven} parallel answers without a login, while a Tomcat asked one that hangs");
    }
}

/// What a member of a cluster does that goes on after the others have given it up, as to answer who has waited, it copies
/// to nobody: such a client may find itself where it was before that. Reported, and no login is lost by it.
fn forgive_what_was_not_copied(stage: &mut Stage, waited: &[BTreeSet<String>]) {
    if !is_cluster(stage.make) {
        return;
    }
    for (front, waited) in stage.fronts.iter_mut().zip(waited) {
        let mut forgiven = 0;
        for visitor in front.visitors.iter_mut().filter(|visitor| waited.contains(&visitor.user)) {
            let of_one = visitor.seen.iter_mut().filter(|seen| seen.wrong == Some(Wrong::Older));
            forgiven += of_one.map(|seen| seen.wrong = None).count();
        }
        println!("{} {}: {forgiven} answers behind a count that was not copied", front.sessions, front.way.affinity);
    }
}

fn is_cluster(make: Make) -> bool {
    matches!(make, Make::TomcatReplicated | Make::TomcatBackup)
}

/// How long a server stands still.
const PAUSE: Duration = Duration::from_secs(8);

/// A server stands still and goes on. A third of the clients are asking when it stops, and wait there; the others come
/// when that is known.
async fn hung(stage: &mut Stage, name: &str, sessions: &str) {
    stage.begin().await;
    let waiting = stage.enter(|number| number % 3 == 0);
    rounds(&waiting, 1).await;
    stage.server(name).pause();
    let goes_on = Instant::now() + PAUSE;
    stage.probe(Probes::Impatient).await;
    stage.until_health(name, "unhealthy").await;
    let later = stage.enter(|_| true);
    rounds(&later, 3).await;
    sleep_until(goes_on).await;
    stage.server(name).resume();
    stage.probe(Probes::Patient).await;
    stage.until_health(name, "healthy").await;
    rounds(&waiting, 3).await;
    rounds(&later, 3).await;
    stage.leave(waiting).await;
    let names = |front: &Front| front.visitors.iter().map(|visitor| visitor.user.clone()).collect();
    let waited: Vec<BTreeSet<String>> = stage.fronts.iter().map(names).collect();
    stage.leave(later).await;
    forgive_swaps(stage);
    forgive_what_was_not_copied(stage, &waited);
    let cost = if sessions == "local" { Cost::Absence } else { Cost::MoveUnlessWaiting("unreachable") };
    judge(stage, "hung", name, cost).await;
}

/// A fourth server comes: new clients go there; those that are at home elsewhere follow as far as their sessions can.
async fn joined(stage: &mut Stage) {
    let fourth = NAMES[3];
    stage.server(fourth).start();
    stage.server(fourth).answers().await;
    let crowds = begin(stage).await;
    rounds(&crowds, 1).await;
    stage.add_the_fourth().await;
    stage.until_health(fourth, "healthy").await;
    for (front, crowd) in stage.fronts.iter_mut().zip(&crowds).filter(|(front, _)| front.rebalances()) {
        // With one copy only those can move whose heir it is: by chance, a third of those that are at the fullest.
        let least = crowd.len() / if front.sessions == "backup" { 10 } else { 5 };
        until("the fourth has most of its share", async || {
            let pins = front.admin.backend("shop", fourth).await["active_pins"].as_u64().unwrap_or_default();
            if pins as usize >= least { Ok(()) } else { Err(pins) }
        })
        .await;
    }
    // Nobody moves for that reason any more, and who moved at last has a round to be seen there.
    stage.probe(Probes::Patient).await;
    rounds(&crowds, 3).await;
    stage.leave(crowds).await;
    for front in &mut stage.fronts {
        let rebalances = front.rebalances();
        for visitor in &front.visitors {
            judge_common(front, visitor, "joined");
            if rebalances {
                judge_affected(front, visitor, "joined", Cost::MoveOrNothing("rebalanced"));
            } else if front.way.has_pins() {
                judge_affected(front, visitor, "joined", Cost::Nothing);
            }
            assert!(!visitor.was_unknown(), "joined: {}: {}", visitor.user, visitor.story());
        }
        judge_counters(front, "joined").await;
        let there = if rebalances || !front.way.has_pins() {
            front.visitors.iter().filter(|visitor| visitor.servers().contains(fourth)).count()
        } else {
            let before = front.visitors.len();
            front.log_in(before / 4).await;
            front.visitors[before..].iter().filter(|visitor| visitor.home == fourth).count() * 2
        };
        let count = front.visitors.len();
        let least = count / if front.sessions == "backup" { 10 } else { 8 };
        assert!(there >= least, "{}: {there} of {count} at the new server", front.way.affinity);
        record(front, "joined", &format!("{there} at {fourth}"));
    }
}

/// Everybody asks from now on.
async fn begin(stage: &mut Stage) -> Vec<Crowd> {
    stage.begin().await;
    stage.enter(|_| true)
}

async fn rounds(crowds: &[Crowd], count: u64) {
    for crowd in crowds {
        crowd.rounds(count).await;
    }
}

fn homes(front: &Front) -> BTreeMap<&str, usize> {
    let mut homes = BTreeMap::new();
    for visitor in &front.visitors {
        *homes.entry(&*visitor.home).or_default() += 1;
    }
    homes
}

/// Whether it cost the clients of this server what it may, and all others nothing. Who has lost a session logs in again.
async fn judge(stage: &mut Stage, what: &str, server: &str, cost: Cost) {
    for front in &mut stage.fronts {
        let mut affected = 0;
        for visitor in &front.visitors {
            judge_common(front, visitor, what);
            if !front.way.has_pins() {
                assert!(!visitor.was_unknown(), "{what}: {}: {}", visitor.user, visitor.story());
            } else if visitor.home == server {
                affected += 1;
                judge_affected(front, visitor, what, cost);
            } else {
                let is_impatient = front.sessions != "local" && matches!(cost, Cost::MoveUnlessWaiting("unreachable"));
                let cost = if is_impatient { Cost::NothingOrDetours } else { Cost::Nothing };
                judge_affected(front, visitor, what, cost);
            }
        }
        assert!(affected > 0 || !front.way.has_pins() || cost == Cost::Nothing, "{what}: nobody is at {server}");
        judge_counters(front, what).await;
        record(front, what, &format!("{affected} at {server}, {cost:?}"));
        for visitor in front.visitors.iter_mut().filter(|visitor| visitor.was_unknown()) {
            if matches!(cost, Cost::Loss(_) | Cost::LossAnywhere) {
                visitor.begin();
                let there = visitor.home.clone();
                visitor.log_in_again().await;
                assert_eq!(visitor.home, there, "{what}: {} logs in where it has been since", visitor.user);
            }
        }
    }
}

/// What the clients have seen, once it has been judged: none failed, and nobody was served another's session.
fn record(front: &Front, what: &str, whom: &str) {
    let visitors = &front.visitors;
    let count = |is: &dyn Fn(&Visitor) -> bool| visitors.iter().filter(|visitor| is(visitor)).count();
    let lost = count(&|visitor| visitor.told().iter().any(|told| !told.lost.is_empty()));
    let moved = count(&Visitor::has_moved);
    let away = count(&|visitor| visitor.was_unknown() && visitor.told().iter().all(|told| told.lost.is_empty()));
    let longest = visitors.iter().map(|visitor| visitor.longest_wait).max().unwrap_or_default();
    let mut now = BTreeMap::<_, usize>::new();
    visitors
        .iter()
        .filter_map(|visitor| visitor.path().last().copied())
        .for_each(|at| *now.entry(at).or_default() += 1);
    println!(
        "{what}: {} {}: of {} clients {whom}: {moved} moved, {lost} lost their login, {away} looked logged out for a while; \
         longest round {longest:.1?}; then at {now:?}",
        front.sessions,
        front.way.affinity,
        visitors.len()
    );
}

fn judge_common(front: &Front, visitor: &Visitor, what: &str) {
    let failures = visitor.failures();
    assert!(
        failures.is_empty(),
        "{what}: {} at home at {}: {} failed:\n{}",
        visitor.user,
        visitor.home,
        failures.len(),
        visitor.story()
    );
    visitor.assert_own_session();
    for answer in visitor.answers() {
        let heir = text(answer, "heir");
        let is_named = !heir.is_empty() && heir != text(answer, "served_by");
        assert_eq!(is_named, front.sessions == "backup", "{what}: who takes over: {answer}");
    }
}

fn judge_affected(front: &Front, visitor: &Visitor, what: &str, cost: Cost) {
    let (path, told, home) = (visitor.path(), visitor.told(), &*visitor.home);
    let context = || {
        let (way, user) = (front.way.affinity, &visitor.user);
        format!("{what}: {way}: {user} at home at {home}, {cost:?}: {path:?}, {told:?}\n{}", visitor.story())
    };
    // Parallel requests may all come before any of them has its answer.
    let is_told_once = || told.iter().all(|each| (each.round, each.by) == (told[0].round, told[0].by));
    // However many requests at once: one client, one heir.
    let elsewhere = visitor.servers().into_iter().filter(|server| *server != home).count();
    assert!(elsewhere <= 1, "{}", context());
    match cost {
        Cost::NothingOrDetours => {
            assert!(path.last() == Some(&home) && told.is_empty() && !visitor.was_unknown(), "{}", context());
        }
        Cost::Nothing => {
            assert!(elsewhere == 0 && path == [home] && told.is_empty() && !visitor.was_unknown(), "{}", context());
        }
        Cost::Absence => {
            assert!(told.is_empty() && visitor.is_logged_in_at(home), "{}", context());
        }
        Cost::MoveUnlessWaiting(_) | Cost::MoveOrNothing(_) if path == [home] => {
            assert!(told.is_empty() && !visitor.was_unknown(), "{}", context());
        }
        Cost::Move(reason) | Cost::MoveUnlessWaiting(reason) | Cost::MoveOrNothing(reason) => {
            assert!(!visitor.was_unknown() && path.len() <= 2 && path.last() != Some(&home), "{}", context());
            let is_silent = told.is_empty() && reason == "gone" && front.way.ids_name_homes();
            assert!(is_silent || !told.is_empty() && is_told_once(), "{}", context());
            let is_as_expected = |told: &Told<'_>| {
                // A probe that was broken off, not refused, by a death leaves it open for a moment whether it is one.
                let is_reason = told.reason == reason || (reason, told.reason) == ("gone", "unreachable");
                is_reason && (told.from, told.lost) == (home, "") && Some(&told.by) == path.last()
            };
            assert!(told.iter().all(is_as_expected), "{}", context());
        }
        Cost::Loss(reason) => {
            assert!(!told.is_empty() && is_told_once(), "{}", context());
            let is_as_expected = |told: &Told<'_>| {
                (told.from, told.reason, told.lost) == (home, reason, reason) && Some(&told.by) == path.last()
            };
            assert!(told.iter().all(is_as_expected) && path.last() != Some(&home), "{}", context());
            assert!(!visitor.is_logged_in_at(told[0].by), "{}", context());
        }
        Cost::LossAnywhere => {
            assert!(!told.is_empty() && is_told_once(), "{}", context());
            assert!(told.iter().all(|told| !told.lost.is_empty() && Some(&told.by) == path.last()), "{}", context());
            assert!(!visitor.is_logged_in_at(told[0].by), "{}", context());
        }
    }
}

/// What is counted is what servers were told: each pin that moved, and each session that was lost, once; and as
/// placements each request that moved one, of which parallel ones may be several.
async fn judge_counters(front: &mut Front, what: &str) {
    let told: Vec<_> = front.visitors.iter().flat_map(Visitor::told).filter(|told| !told.from.is_empty()).collect();
    let (told, ids_name_homes) = (told.len() as u64, front.way.ids_name_homes());
    let moved = front.visitors.iter().filter(|visitor| visitor.has_moved()).count() as u64;
    let lost = front.visitors.iter().filter(|it| it.told().iter().any(|told| !told.lost.is_empty())).count() as u64;
    let what = format!("{what}: {}: {moved} moves told {told} times and {lost} losses are counted", front.way.affinity);
    // A request is counted when its reply has been passed on, which may be a moment after the client has it.
    until(&what, async || {
        let counted = front.counters().await.since(front.before);
        // An id that names another home is a move without a word; see `Cost::Move`.
        // What was forgiven may have been told.
        let may_be_more = ids_name_homes || front.sessions == "backup";
        let placed = counted.rehomed == told || may_be_more && counted.rehomed >= told.max(moved);
        if (counted.rehomes, counted.lost) == (moved, lost) && placed { Ok(()) } else { Err(counted) }
    })
    .await;
}

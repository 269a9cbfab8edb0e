//! The two kinds of sessions that live in more than one memory, in front of servers that really keep them so: whatever
//! happens to a home, its clients are served by one that has a copy, still logged in, and stay there.

use std::time::Duration;

use crate::crowd::{Crowd, customers};
use crate::gate::Gate;
use crate::shop::{IMPATIENT, SUSPECTING, Shop, assert_placed, client_at, is_logged_in_at, told, until_gone, who_am_i};
use crate::support::{BackendProcess, Client, StickpinProcess, until};

const NAMES: [&str; 3] = ["red", "green", "blue"];

/// Both kinds.
const KINDS: [&str; 2] = ["replicated", "backup"];

fn cluster(kind: &str) -> [BackendProcess; 3] {
    BackendProcess::cluster(NAMES, &["--sessions", kind])
}

fn shop(kind: &str, backends: &[BackendProcess]) -> Shop {
    Shop::of(backends.iter().map(BackendProcess::yaml)).pool(&format!("sessions: {kind}"))
}

/// Asks until the client is served elsewhere than `home`, and says where; it has to be logged in all the while.
async fn until_moved(client: &mut Client, home: &str) -> (String, [String; 3]) {
    until(&format!("the client has left {home}"), async || {
        let reply = who_am_i(client).await;
        assert_eq!(reply.field("user"), "ann", "{}", reply.text());
        if reply.served_by() == home { Err(reply.text()) } else { Ok((reply.served_by(), told(&reply))) }
    })
    .await
}

async fn assert_stays(client: &mut Client, home: &str) {
    for _ in 0..5 {
        let reply = who_am_i(client).await;
        assert!(is_logged_in_at(&reply, home), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_home_that_is_gone_loses_nothing_and_its_clients_stay_when_it_is_back() {
    for kind in KINDS {
        let mut backends = cluster(kind);
        let stickpin = shop(kind, &backends).open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "red").await, stickpin.admin());
        assert_stays(&mut client, "red").await;
        backends[0].kill();
        until_gone(&mut admin, "red").await;
        let (heir, told) = until_moved(&mut client, "red").await;
        assert_eq!(told, ["red", "gone", ""].map(str::to_owned), "{kind}");
        assert_stays(&mut client, &heir).await;
        backends[0].restart().unwrap();
        admin.until_health("shop", "red", "healthy").await;
        assert_stays(&mut client, &heir).await;
        assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, 0.0);
        assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, 1.0, "{kind}");
    }
}

#[tokio::test]
async fn a_home_that_hangs_is_left_for_one_that_has_a_copy_and_not_gone_back_to() {
    for kind in KINDS {
        let backends = cluster(kind);
        let stickpin = shop(kind, &backends).probed(IMPATIENT).open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "green").await, stickpin.admin());
        assert_stays(&mut client, "green").await;
        backends[1].pause().await.unwrap();
        admin.until_health("shop", "green", "unhealthy").await;
        let (heir, told) = until_moved(&mut client, "green").await;
        assert_eq!(told, ["green", "unreachable", ""].map(str::to_owned), "{kind}");
        backends[1].resume().unwrap();
        admin.until_health("shop", "green", "healthy").await;
        assert_stays(&mut client, &heir).await;
    }
}

#[tokio::test]
async fn a_disabled_home_is_left_for_good() {
    for kind in KINDS {
        let backends = cluster(kind);
        let stickpin = shop(kind, &backends).open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "blue").await, stickpin.admin());
        assert_stays(&mut client, "blue").await;
        admin.set_state("shop", "blue", "disabled").await;
        let (heir, told) = until_moved(&mut client, "blue").await;
        assert_eq!(told, ["blue", "disabled", ""].map(str::to_owned), "{kind}");
        admin.set_state("shop", "blue", "enabled").await;
        assert_stays(&mut client, &heir).await;
    }
}

#[tokio::test]
async fn a_removed_home_is_left_without_a_loss() {
    for kind in KINDS {
        let backends = cluster(kind);
        let stickpin = shop(kind, &backends).open().await;
        let mut client = client_at(&stickpin, "red").await;
        assert_stays(&mut client, "red").await;
        shop(kind, &backends[1..]).write_to(&stickpin);
        assert_eq!(stickpin.admin().reload().await.status, 200);
        let (heir, told) = until_moved(&mut client, "red").await;
        assert_eq!(told, ["removed", "removed", ""].map(str::to_owned), "{kind}");
        assert_stays(&mut client, &heir).await;
    }
}

/// Where there is one copy, whoever serves a session takes it over. It is told to keep the copy at the home, or that has
/// nothing when the client is back: it was logged out.
#[tokio::test]
async fn a_refused_connect_is_a_detour_that_loses_nothing_afterwards() {
    for kind in KINDS {
        let backends = cluster(kind);
        let mut gate = Gate::before(backends[0].address()).await;
        let mut shop = shop(kind, &backends).probed(SUSPECTING);
        shop.backends[0] = gate.yaml("red");
        let stickpin = shop.open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "red").await, stickpin.admin());
        assert_stays(&mut client, "red").await;
        let pin = client.cookies.value("stickpin").unwrap().to_owned();
        gate.shut().await;
        let away = who_am_i(&mut client).await;
        assert_ne!(away.served_by(), "red");
        assert_eq!(away.field("user"), "ann", "{kind}: {}", away.text());
        if kind == "backup" {
            assert_eq!(away.field("copied_to"), "red", "{}", away.text());
        }
        assert_eq!(client.cookies.value("stickpin"), Some(&*pin), "the pin is as it was");
        gate.open().await;
        admin.until_health("shop", "red", "healthy").await;
        assert_stays(&mut client, "red").await;
        assert_placed(&stickpin, "rehomed", "", 0).await;
    }
}

async fn crowd_leaves_a_drained_backend(kind: &str) {
    let backends = cluster(kind);
    let stickpin = shop(kind, &backends).open().await;
    let crowd = Crowd::start(customers(&stickpin, 45).await);
    crowd.rounds(2).await;
    let mut admin = stickpin.admin();
    let path = "/api/v1/pools/shop/backends/red/state";
    let order = serde_json::json!({ "state": "draining", "pace": "50%/s" });
    assert_eq!(admin.put(path, &order).await.status, 200);
    until("nobody is left", async || {
        let drain = admin.backend("shop", "red").await["drain"].clone();
        if drain["pins_left"] == 0 { Ok(()) } else { Err(drain) }
    })
    .await;
    let customers = crowd.stop().await;
    assert!(customers.iter().any(|customer| customer.home == "red"));
    for customer in &customers {
        assert!(customer.failures().is_empty(), "{kind}: {:?}", customer.failures());
        let users = customer.seen.iter().filter_map(|seen| seen.answer()).map(|answer| &answer["user"]);
        users.for_each(|user| assert_eq!(*user, *customer.user, "{kind}: a drain logs nobody out"));
        let path = customer.path();
        match customer.home.as_str() {
            "red" => assert_eq!((path.len(), path[0]), (2, "red"), "{kind}: one move: {path:?}"),
            home => assert_eq!(path, [home], "{kind}: nobody else moves"),
        }
    }
}

#[tokio::test]
async fn a_drained_backend_is_left_without_a_loss_where_sessions_are_replicated() {
    crowd_leaves_a_drained_backend("replicated").await;
}

#[tokio::test]
async fn a_drained_backend_is_left_without_a_loss_where_sessions_have_a_backup() {
    crowd_leaves_a_drained_backend("backup").await;
}

/// Three requests of each client at once, at the moment its home dies.
async fn volley(stickpin: &StickpinProcess, clients: &[Client]) -> Vec<(usize, String, String)> {
    let requests = clients.iter().enumerate().flat_map(|(number, client)| {
        (0..3).map(move |_| {
            let (mut twin, cookies) = (Client::new(stickpin.front()), client.cookies.clone());
            twin.cookies = cookies;
            tokio::spawn(async move {
                let reply = who_am_i(&mut twin).await;
                (number, reply.served_by(), reply.field("user"))
            })
        })
    });
    let requests: Vec<_> = requests.collect();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await.expect("it was answered"));
    }
    answers
}

#[tokio::test]
async fn parallel_requests_at_a_death_find_one_heir_and_lose_nothing() {
    for kind in KINDS {
        // Adopting takes a moment, in which a second node that did so, too, would lose the session.
        let mut backends = BackendProcess::cluster(NAMES, &["--sessions", kind, "--adopt-ms", "50"]);
        let stickpin = shop(kind, &backends).open().await;
        let mut clients = Vec::new();
        for _ in 0..12 {
            let mut client = client_at(&stickpin, "red").await;
            who_am_i(&mut client).await;
            clients.push(client);
        }
        backends[0].kill();
        // Before anything is known of the death, and after.
        let early = volley(&stickpin, &clients).await;
        until_gone(&mut stickpin.admin(), "red").await;
        let late = volley(&stickpin, &clients).await;
        for answers in [early, late] {
            for number in 0..clients.len() {
                let of_one: Vec<_> = answers.iter().filter(|answer| answer.0 == number).collect();
                assert!(of_one.iter().all(|answer| answer.1 == of_one[0].1), "{kind}: one heir: {of_one:?}");
                assert!(of_one.iter().all(|answer| answer.2 == "ann"), "{kind}: still logged in: {of_one:?}");
            }
        }
        assert_eq!(stickpin.admin().metric("stickpin_sessions_lost_total", &[]).await, 0.0);
    }
}

#[tokio::test]
async fn with_a_backup_every_request_names_the_heir_that_takes_over() {
    let mut backends = cluster("backup");
    let stickpin = shop("backup", &backends).open().await;
    let mut client = client_at(&stickpin, "red").await;
    let before = who_am_i(&mut client).await;
    let heir = before.field("heir");
    assert!(["green", "blue"].contains(&&*heir), "{}", before.text());
    assert_eq!(before.field("copied_to"), heir);
    let login = stickpin.client().post("/login?user=bob", "").await.unwrap();
    assert_ne!(login.field("copied_to"), "", "the first request has an heir, too: {}", login.text());
    backends[0].kill();
    until_gone(&mut stickpin.admin(), "red").await;
    let after = who_am_i(&mut client).await;
    assert_eq!(after.served_by(), heir);
    assert_ne!(after.field("heir"), heir);
    assert_ne!(after.field("heir"), "red", "nobody copies to the dead");
}

/// Pins tell time in whole seconds, so what is to be told apart by them has to be further apart.
async fn seconds_apart() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// The heir was whoever came first in the client's own order of those that are there now, with a copy or not.
#[tokio::test]
async fn a_backend_that_has_just_come_is_nobodys_heir_before_it_was_told() {
    let mut backends = cluster("backup");
    let stickpin = shop("backup", &backends[..2]).open().await;
    let mut admin = stickpin.admin();
    seconds_apart().await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = client_at(&stickpin, "red").await;
        assert_eq!(who_am_i(&mut client).await.field("copied_to"), "green");
        clients.push(client);
    }
    seconds_apart().await;
    shop("backup", &backends).write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    admin.until_health("shop", "blue", "healthy").await;
    backends[0].kill();
    until_gone(&mut admin, "red").await;
    for client in &mut clients {
        let reply = who_am_i(client).await;
        assert_eq!((reply.field("user"), reply.served_by()), ("ann".into(), "green".into()), "{}", reply.text());
    }
}

#[tokio::test]
async fn evening_out_moves_to_an_heir_that_has_a_copy() {
    let backends = BackendProcess::cluster(["red", "green", "blue", "new"], &["--sessions", "backup"]);
    let rebalance = "rebalance: { when_above: 1.25, pace: 50%/s, idle_for: 0s }";
    let of = |count: usize| shop("backup", &backends[..count]).pool(rebalance);
    let stickpin = of(3).open().await;
    let crowd = Crowd::start(customers(&stickpin, 90).await);
    crowd.rounds(2).await;
    let mut admin = stickpin.admin();
    of(4).write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    until("the fourth has most of its share", async || {
        let pins = admin.backend("shop", "new").await["active_pins"].as_u64().unwrap();
        if pins >= 16 { Ok(()) } else { Err(pins) }
    })
    .await;
    for customer in &crowd.stop().await {
        assert!(customer.failures().is_empty(), "{:?}", customer.failures());
        let users = customer.seen.iter().filter_map(|seen| seen.answer()).map(|answer| &answer["user"]);
        users.for_each(|user| assert_eq!(*user, *customer.user, "nobody is logged out"));
    }
}

#[tokio::test]
async fn evening_out_fills_a_fourth_backend_without_a_failure_or_a_loss() {
    let backends = BackendProcess::cluster(["red", "green", "blue", "new"], &["--sessions", "replicated"]);
    let rebalance = "rebalance: { when_above: 1.25, pace: 10%/s, idle_for: 0s }";
    let of = |count: usize| shop("replicated", &backends[..count]).pool(rebalance);
    let stickpin = of(3).open().await;
    let crowd = Crowd::start(customers(&stickpin, 120).await);
    crowd.rounds(2).await;
    let mut admin = stickpin.admin();
    assert_placed(&stickpin, "rehomed", "", 0).await;
    of(4).write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    // A quarter has to move, a tenth each second: 2.9 s, and slices and counts of a second each. The patience of `until` leaves
    // several times that to a busy machine.
    until("the fourth has 0.9 of its share", async || {
        let pins = admin.backend("shop", "new").await["active_pins"].as_u64().unwrap();
        if pins >= 27 { Ok(()) } else { Err(pins) }
    })
    .await;
    until("it has come to rest", async || {
        let before = admin.metric("stickpin_rehomes_total", &[]).await;
        crowd.rounds(20).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = admin.metric("stickpin_rehomes_total", &[]).await;
        if before == after { Ok(()) } else { Err((before, after)) }
    })
    .await;
    let customers = crowd.stop().await;
    let mut moves = 0;
    for customer in &customers {
        assert!(customer.failures().is_empty(), "{:?}", customer.failures());
        let users = customer.seen.iter().filter_map(|seen| seen.answer()).map(|answer| &answer["user"]);
        users.for_each(|user| assert_eq!(*user, *customer.user, "nobody is logged out"));
        let path = customer.path();
        assert!(path.len() <= 2 && path.last().is_some(), "nobody moves twice: {path:?}");
        moves += path.len() - 1;
    }
    assert!((25..=40).contains(&moves), "{moves} of 120 moved; 30 are a quarter");
}

/// Moves were counted when they were answered: where replies take their time, more were under way than were too many, the
/// fourth backend had to give some back, and those moved twice.
#[tokio::test]
async fn no_more_move_at_once_than_are_too_many() {
    let backends = BackendProcess::cluster(["red", "green", "blue", "new"], &["--sessions", "replicated"]);
    let of = |count: usize| {
        let rebalance = "rebalance: { when_above: 1.05, pace: 100%/s, idle_for: 0s }";
        shop("replicated", &backends[..count]).pool(rebalance)
    };
    let stickpin = of(3).open().await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = stickpin.client();
        let home = client.post("/login?user=ann", "").await.unwrap().served_by();
        clients.push((client, vec![home]));
    }
    let mut admin = stickpin.admin();
    of(4).write_to(&stickpin);
    assert_eq!(admin.reload().await.status, 200);
    // Whoever asks after its turn has come moves: all in the same moment, again and again.
    until("the fourth has its share", async || {
        let asked = clients.drain(..).map(|(mut client, mut path)| {
            tokio::spawn(async move {
                let reply = client.get("/slow?ms=400").await.unwrap();
                path.push(reply.served_by());
                (client, path)
            })
        });
        for asked in asked.collect::<Vec<_>>() {
            clients.push(asked.await.unwrap());
        }
        let there = clients.iter().filter(|(_, path)| path.last().is_some_and(|home| home == "new")).count();
        if there >= 13 { Ok(()) } else { Err(there) }
    })
    .await;
    for (_, path) in &mut clients {
        path.dedup();
        assert!(path.len() <= 2, "nobody moves twice: {path:?}");
    }
    let mut left = std::collections::BTreeMap::<_, usize>::new();
    clients.iter().for_each(|(_, path)| *left.entry(&path[path.len() - 1]).or_default() += 1);
    // Pins are estimated; with this few, by one or two.
    assert!(left.values().all(|count| (12..=18).contains(count)), "{left:?}");
}

/// A request that goes with another one to a backend that is full by then was sent there again and again, and its worker
/// did nothing else, for ever where the room was for that worker to give back.
#[tokio::test]
async fn whoever_moves_along_to_a_backend_that_is_full_keeps_no_worker_busy() {
    for kind in ["replicated", "external"] {
        let backends = BackendProcess::cluster(["red", "new"], &["--sessions", "replicated"]);
        let rebalance = "rebalance: { when_above: 1.05, pace: 100%/s, idle_for: 0s }";
        let mut shop = shop(kind, &backends[..1]).pool(rebalance).pool("rehome: { gate: 50ms }").workers(1);
        let stickpin = shop.open().await;
        let mut clients = Vec::new();
        for _ in 0..12 {
            clients.push(client_at(&stickpin, "red").await);
        }
        let mut admin = stickpin.admin();
        shop.backends.push(format!("{{ name: new, address: '{}', max_requests: 1 }}", backends[1].address()));
        shop.write_to(&stickpin);
        assert_eq!(admin.reload().await.status, 200);
        let mut moves = 0;
        until("some have been sent there", async || {
            for client in &mut clients {
                let mut twin = stickpin.client();
                twin.cookies = client.cookies.clone();
                let (one, other) = tokio::join!(client.get("/slow?ms=200"), twin.get("/slow?ms=200"));
                let (one, other) = (one.unwrap(), other.unwrap());
                assert_eq!((one.status.as_u16(), other.status.as_u16()), (200, 200), "{kind}: {}", other.text());
                moves += usize::from([one, other].iter().any(|reply| reply.served_by() == "new"));
            }
            if moves >= 2 { Ok(()) } else { Err(moves) }
        })
        .await;
    }
}

/// Clients at red, whose sessions change while green hangs and after that are known there as they were.
async fn customers_that_green_has_missed(stickpin: &StickpinProcess, green: &BackendProcess) -> Vec<Client> {
    let (mut admin, mut clients) = (stickpin.admin(), Vec::new());
    for name in ["green", "blue"] {
        admin.set_state("shop", name, "disabled").await;
    }
    for _ in 0..16 {
        clients.push(client_at(stickpin, "red").await);
    }
    for name in ["green", "blue"] {
        admin.set_state("shop", name, "enabled").await;
    }
    green.pause().await.unwrap();
    admin.until_health("shop", "green", "unhealthy").await;
    for client in &mut clients {
        assert_eq!(who_am_i(client).await.json()["visits"], 1);
    }
    green.resume().unwrap();
    admin.until_health("shop", "green", "healthy").await;
    clients
}

/// Has every client count once more, and says where.
async fn all_count(clients: &mut [Client], visits: u64) -> Vec<String> {
    let mut homes = Vec::new();
    for client in clients {
        let reply = who_am_i(client).await;
        assert_eq!(reply.json()["visits"], visits, "{}", reply.text());
        homes.push(reply.served_by());
    }
    homes
}

/// Half of them had green for their heir.
#[tokio::test]
async fn who_has_missed_changes_takes_sessions_over_last_of_all_until_it_lives_anew() {
    let mut backends = cluster("replicated");
    let stickpin = shop("replicated", &backends).probed(IMPATIENT).open().await;
    let mut admin = stickpin.admin();
    let mut clients = customers_that_green_has_missed(&stickpin, &backends[1]).await;
    admin.set_state("shop", "red", "disabled").await;
    assert_eq!(all_count(&mut clients, 2).await, ["blue"; 16]);
    admin.set_state("shop", "red", "enabled").await;
    backends[1].kill();
    until_gone(&mut admin, "green").await;
    backends[1].restart().unwrap();
    admin.until_health("shop", "green", "healthy").await;
    admin.set_state("shop", "blue", "disabled").await;
    let homes = all_count(&mut clients, 3).await;
    assert!(homes.iter().any(|home| home == "green"), "it has fetched what it had missed: {homes:?}");
}

#[tokio::test]
async fn evening_out_moves_nobody_to_where_a_session_is_known_as_it_was() {
    let backends = BackendProcess::cluster(["red", "green", "blue", "new"], &["--sessions", "replicated"]);
    let of = |count: usize| {
        let rebalance = "rebalance: { when_above: 1.05, pace: 100%/s, idle_for: 0s }";
        shop("replicated", &backends[..count]).probed(IMPATIENT).pool(rebalance)
    };
    let stickpin = shop("replicated", &backends[..3]).probed(IMPATIENT).open().await;
    let mut clients = customers_that_green_has_missed(&stickpin, &backends[1]).await;
    of(4).write_to(&stickpin);
    assert_eq!(stickpin.admin().reload().await.status, 200);
    let mut visits = 1;
    until("the others have their share", async || {
        visits += 1;
        let homes = all_count(&mut clients, visits).await;
        assert!(!homes.contains(&"green".to_owned()), "{homes:?}");
        let has_share = |name: &str| homes.iter().filter(|home| *home == name).count() >= 3;
        if has_share("blue") && has_share("new") { Ok(()) } else { Err(homes) }
    })
    .await;
}

/// A page's requests are under way when their home is drained or disabled: taking the session away meanwhile would have
/// them find nobody logged in.
#[tokio::test]
async fn a_session_moves_when_nobody_uses_it_at_home_any_more() {
    for (kind, order) in KINDS.into_iter().flat_map(|kind| ["draining", "disabled"].map(|order| (kind, order))) {
        let backends = cluster(kind);
        let stickpin = shop(kind, &backends).open().await;
        let (mut client, mut admin) = (client_at(&stickpin, "red").await, stickpin.admin());
        let mut twin = stickpin.client();
        twin.cookies = client.cookies.clone();
        let mut under_way = tokio::spawn(async move { twin.get("/slow?ms=3000").await.unwrap().served_by() });
        until("it is under way", async || {
            let view = admin.backend("shop", "red").await;
            if view["in_flight"] == 1 { Ok(()) } else { Err(view) }
        })
        .await;
        let path = "/api/v1/pools/shop/backends/red/state";
        let pace = if order == "draining" { Some("100%/s") } else { None };
        assert_eq!(admin.put(path, &serde_json::json!({ "state": order, "pace": pace })).await.status, 200);
        let (heir, told) = until_moved(&mut client, "red").await;
        assert_eq!(told[0], "red");
        let served_by = tokio::time::timeout(Duration::from_secs(1), &mut under_way).await;
        assert_eq!(served_by.expect("it ended before").unwrap(), "red");
        assert_stays(&mut client, &heir).await;
    }
}

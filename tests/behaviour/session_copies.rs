//! The session app with sessions on several servers: what tests of `replicated` and `backup` believe of it.

use std::time::Duration;

use http::Request;

use crate::support::{BackendProcess, Client, Reply, until};

#[tokio::test]
async fn every_server_knows_a_replicated_session_and_a_restarted_one_fetches_it() {
    let [mut one, two, mut three] = BackendProcess::cluster(["one", "two", "three"], &["--sessions", "replicated"]);
    let ann = logged_in(&one, None).await;
    assert_known(&ask(&ann, &one, None).await, "one", 1);
    one.kill();
    assert_known(&ask(&ann, &two, None).await, "two", 2);
    assert_known(&ask(&ann, &three, None).await, "three", 3);

    // Nobody needs to know yet that it is back, and its first answer is right.
    one.restart().unwrap();
    assert_known(&ask(&ann, &one, None).await, "one", 4);
    // Nor is a change lost that comes right after it has fetched the others.
    let bob = logged_in(&two, None).await;
    assert_known(&ask(&bob, &one, None).await, "one", 1);

    three.kill();
    let eve = logged_in(&one, None).await;
    three.restart().unwrap();
    assert_known(&ask(&eve, &three, None).await, "three", 1);
    log_out(&eve, &three).await;
    for server in [&one, &two, &three] {
        assert_unknown(&ask(&eve, server, None).await, server.name());
    }
}

#[tokio::test]
async fn a_server_that_stood_still_is_told_what_it_missed() {
    let [one, two] = BackendProcess::cluster(["one", "two"], &["--sessions", "replicated"]);
    let eve = logged_in(&one, None).await;
    two.pause().await.unwrap();
    let ann = logged_in(&one, None).await;
    log_out(&eve, &one).await;
    two.resume().unwrap();
    until("it knows of ann, and not of eve", async || {
        let known = [ask(&ann, &two, None).await, ask(&eve, &two, None).await].map(|reply| reply.field("session"));
        if known == ["known", "unknown"] { Ok(()) } else { Err(known) }
    })
    .await;
}

#[tokio::test]
async fn a_backup_session_has_one_copy_and_whoever_has_it_adopts_the_session() {
    let [mut one, two, three] = BackendProcess::cluster(["one", "two", "three"], &["--sessions", "backup"]);
    let ann = logged_in(&one, Some("two")).await;
    let reply = ask(&ann, &one, Some("two")).await;
    assert_known(&reply, "one", 1);
    assert_eq!((reply.field("heir"), reply.field("copied_to")), ("two".into(), "two".into()));
    one.kill();
    assert_unknown(&ask(&ann, &three, Some("two")).await, "three");
    let reply = ask(&ann, &two, Some("three")).await;
    assert_known(&reply, "two", 2);
    assert_eq!(reply.field("copied_to"), "three");

    // It may have a copy from the moment it answers.
    one.restart().unwrap();
    assert_unknown(&ask(&ann, &one, None).await, "one");
    assert_eq!(ask(&ann, &two, Some("one")).await.field("copied_to"), "one");
    assert_known(&ask(&ann, &one, None).await, "one", 4);
    log_out(&ann, &one).await;
    for server in [&one, &two, &three] {
        assert_unknown(&ask(&ann, server, None).await, server.name());
    }
}

#[tokio::test]
async fn without_a_living_heir_a_backup_session_is_kept_here_only() {
    let [one, mut two] = BackendProcess::cluster(["one", "two"], &["--sessions", "backup"]);
    let ann = logged_in(&one, None).await;
    two.kill();
    for heir in [None, Some("two"), Some("two"), Some("one"), Some("nobody")] {
        let reply = ask(&ann, &one, heir).await.json();
        assert_eq!((&reply["session"], &reply["heir"]), (&"known".into(), &heir.into()));
        assert!(reply["copied_to"].is_null(), "{reply}");
    }
}

#[tokio::test]
async fn one_server_that_adopts_a_session_keeps_it_for_all_who_wait() {
    let [mut one, two, three] =
        BackendProcess::cluster(["one", "two", "three"], &["--sessions", "backup", "--adopt-ms", "200"]);
    let ann = logged_in(&one, Some("three")).await;
    ask(&ann, &one, Some("two")).await;
    one.kill();
    let replies = tokio::join!(ask(&ann, &two, None), ask(&ann, &two, None), ask(&ann, &two, None));
    let mut visits = [replies.0, replies.1, replies.2].map(|reply| reply.json()["visits"].as_u64());
    visits.sort_unstable();
    assert_eq!(visits, [Some(2), Some(3), Some(4)]);
    // The former heir had an older copy, and was told to drop it.
    assert_unknown(&ask(&ann, &three, None).await, "three");
    assert_known(&ask(&ann, &two, None).await, "two", 5);
}

#[tokio::test]
async fn two_servers_that_adopt_a_session_at_once_lose_it() {
    let [mut one, two, three] =
        BackendProcess::cluster(["one", "two", "three"], &["--sessions", "backup", "--adopt-ms", "500"]);
    let ann = logged_in(&one, Some("two")).await;
    ask(&ann, &one, Some("three")).await;
    one.kill();
    tokio::join!(ask(&ann, &two, None), ask(&ann, &three, None));
    for server in [&two, &three] {
        assert_unknown(&ask(&ann, server, None).await, server.name());
    }
}

#[tokio::test]
async fn a_primary_that_stood_still_while_its_session_was_adopted_drops_it() {
    let [one, two] = BackendProcess::cluster(["one", "two"], &["--sessions", "backup"]);
    let ann = logged_in(&one, Some("two")).await;
    one.pause().await.unwrap();
    assert_known(&ask(&ann, &two, None).await, "two", 1);
    one.resume().unwrap();
    until("one has dropped it", async || {
        let session = ask(&ann, &one, None).await.field("session");
        if session == "unknown" { Ok(()) } else { Err(session) }
    })
    .await;
}

#[tokio::test]
async fn a_server_tells_what_it_keeps_and_what_that_cost() {
    let census = async |server: &BackendProcess| {
        let told = Client::new(server.address()).get("/_census").await.unwrap().json();
        ["sessions", "peer_bytes"].map(|count| told[count].as_u64().unwrap())
    };
    for (kind, held) in [("local", [1, 0, 0]), ("replicated", [1, 1, 1]), ("backup", [1, 1, 0])] {
        let servers = BackendProcess::cluster(["one", "two", "three"], &["--sessions", kind]);
        let [one, two, three] = &servers;
        let before = census(one).await[1];
        let heir = (kind == "backup").then_some("two");
        logged_in(one, heir).await;
        let counted = [census(one).await, census(two).await, census(three).await];
        assert_eq!(counted.map(|[sessions, _]| sessions), held, "{kind}");
        let copies = held.iter().sum::<u64>() - 1;
        // A head and a body each way, to each that has a copy.
        let (bytes, range) = (counted[0][1] - before, 150 * copies..=600 * copies);
        assert!(range.contains(&bytes), "{kind}: {bytes} bytes");
    }
    let server = BackendProcess::start("alone");
    let proxied = Request::get("/_census").header("Via", "1.1 stickpin").body("".into()).unwrap();
    assert_eq!(Client::new(server.address()).send(proxied).await.unwrap().status, 404);
}

#[tokio::test]
async fn clients_find_no_page_that_is_for_peers() {
    let [one, _two] = BackendProcess::cluster(["one", "two"], &["--sessions", "replicated"]);
    logged_in(&one, None).await;
    let mut client = Client::new(one.address());
    assert!(client.get("/_sessions?for=two").await.unwrap().text().contains("ann"));
    let proxied = Request::get("/_sessions?for=two").header("Via", "1.1 stickpin").body("".into()).unwrap();
    assert_eq!(client.send(proxied).await.unwrap().status, 404);
    let alone = BackendProcess::start("alone");
    assert_eq!(Client::new(alone.address()).get("/_sessions?for=two").await.unwrap().status, 404);
}

/// A browser after its login there; only its cookies matter.
async fn logged_in(server: &BackendProcess, heir: Option<&str>) -> Client {
    let mut client = Client::new(server.address());
    let reply = send(&mut client, Request::post("/login?user=ann"), heir).await;
    assert_eq!((reply.status.as_u16(), reply.field("copied_to").as_str()), (200, heir.unwrap_or_default()));
    client
}

async fn log_out(client: &Client, server: &BackendProcess) {
    let reply = send(&mut at(client, server), Request::post("/logout"), None).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

async fn ask(client: &Client, server: &BackendProcess, heir: Option<&str>) -> Reply {
    send(&mut at(client, server), Request::get("/whoami"), heir).await
}

/// The same browser, as if sent to that server.
fn at(client: &Client, server: &BackendProcess) -> Client {
    let mut elsewhere = Client::new(server.address());
    elsewhere.cookies = client.cookies.clone();
    elsewhere.timeout = Duration::from_secs(20);
    elsewhere
}

async fn send(client: &mut Client, mut request: http::request::Builder, heir: Option<&str>) -> Reply {
    if let Some(heir) = heir {
        request = request.header("Stickpin-Heir", heir);
    }
    client.send(request.body("".into()).unwrap()).await.unwrap()
}

fn assert_known(reply: &Reply, server: &str, visits: u64) {
    let seen = (reply.field("user"), reply.served_by(), reply.json()["visits"].as_u64());
    assert_eq!(seen, ("ann".into(), server.into(), Some(visits)), "{}", reply.text());
}

fn assert_unknown(reply: &Reply, server: &str) {
    assert_eq!((reply.served_by(), reply.field("session")), (server.into(), "unknown".into()), "{}", reply.text());
}

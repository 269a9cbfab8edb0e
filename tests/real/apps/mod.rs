//! The four ways to keep a session, with app servers that nobody here wrote, each through all that may happen to a
//! server.
//!
//! What they are made of is fetched by `tests/real/servers/install`; Tomcat, Java, Node, Python and Redis are Debian's.

pub(crate) mod server;

mod stage;

mod story;

pub(crate) mod visitors;

use server::Make;
use stage::{Stage, Way};
use story::{left_by_waiting, play, play_a_hang};

const OWN_COOKIE: Way = Way::pinned("{ cookie: { name: stickpin } }");

const BY_ROUTE: Way =
    Way::with_links("{ app_session: { cookie: JSESSIONID, path_parameter: jsessionid, home_by: route_suffix } }");

const LEARNED_FROM_EXPRESS: Way = Way::pinned("{ app_session: { cookie: connect.sid } }");

const LEARNED_FROM_FLASK: Way = Way::pinned("{ app_session: { cookie: session } }");

const UNPINNED: Way = Way::pinned("off");

#[tokio::test]
async fn sticky_tomcats_lose_the_sessions_of_a_dead_server_and_no_others() {
    let mut stage = Stage::open(Make::Tomcat, "local", &[OWN_COOKIE, BY_ROUTE]).await;
    play(&mut stage, "local").await;
}

#[tokio::test]
async fn sticky_expresses_lose_the_sessions_of_a_dead_server_and_no_others() {
    let mut stage = Stage::open(Make::Express, "local", &[OWN_COOKIE, LEARNED_FROM_EXPRESS]).await;
    play(&mut stage, "local").await;
}

#[tokio::test]
async fn a_drained_express_is_left_by_waiting_until_its_clients_have_gone() {
    let ways = [
        Way::pinned("{ cookie: { name: stickpin, idle_timeout: 6s } }"),
        Way::pinned("{ app_session: { cookie: connect.sid, idle_timeout: 6s } }"),
    ];
    let mut stage = Stage::open(Make::Express, "local", &ways).await;
    left_by_waiting(&mut stage, "app2").await;
}

#[tokio::test]
async fn sticky_flasks_lose_the_sessions_of_a_dead_server_and_no_others() {
    let mut stage = Stage::open(Make::Flask, "local", &[OWN_COOKIE, LEARNED_FROM_FLASK]).await;
    play(&mut stage, "local").await;
}

#[tokio::test]
async fn tomcats_that_replicate_to_all_lose_nothing() {
    let mut stage = Stage::open(Make::TomcatReplicated, "replicated", &[OWN_COOKIE, BY_ROUTE]).await;
    play(&mut stage, "replicated").await;
}

#[tokio::test]
async fn tomcats_with_one_backup_lose_nothing() {
    let mut stage = Stage::open(Make::TomcatBackup, "backup", &[OWN_COOKIE, BY_ROUTE]).await;
    play(&mut stage, "backup").await;
}

#[tokio::test]
async fn tomcats_with_one_backup_lose_nothing_when_one_hangs() {
    let mut stage = Stage::open(Make::TomcatBackup, "backup", &[OWN_COOKIE, BY_ROUTE]).await;
    play_a_hang(&mut stage, "backup").await;
}

#[tokio::test]
async fn expresses_with_a_shared_store_lose_nothing() {
    let mut stage = Stage::open(Make::Express, "external", &[OWN_COOKIE, LEARNED_FROM_EXPRESS, UNPINNED]).await;
    play(&mut stage, "external").await;
}

#[tokio::test]
async fn flasks_with_a_shared_store_lose_nothing() {
    let mut stage = Stage::open(Make::Flask, "external", &[OWN_COOKIE, LEARNED_FROM_FLASK, UNPINNED]).await;
    play(&mut stage, "external").await;
}

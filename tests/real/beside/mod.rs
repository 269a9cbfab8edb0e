//! Stickpin beside HAProxy, nginx and Apache httpd: the same Tomcats, the same kind of clients, the same moment at which
//! something happens to a server.
//!
//! What the others do is told, by a table for each event; what Stickpin promises is held against it.

mod balancers;

mod play;

mod tally;

use crate::apps::server::Make;
use play::play;

#[tokio::test]
async fn sticky_tomcats_beside_other_balancers() {
    play(Make::Tomcat, "local").await;
}

#[tokio::test]
async fn tomcats_that_replicate_to_all_beside_other_balancers() {
    play(Make::TomcatReplicated, "replicated").await;
}

#[tokio::test]
async fn tomcats_with_one_backup_beside_other_balancers() {
    play(Make::TomcatBackup, "backup").await;
}

//! WebSockets by a client and servers of another maker: Python's `websockets`.

use crate::program::{Server, run_script};
use crate::site::Site;

fn open() -> ([Server; 3], Site) {
    let servers = ["red", "green", "blue"].map(|name| Server::start(name, "websocket_server.py"));
    let site = Site::start(&servers.each_ref().map(Server::yaml), &["health: { tcp: { interval: 1s } }"]);
    (servers, site)
}

#[test]
fn websockets_pass_with_pings_large_messages_and_close_codes_and_keep_their_pin() {
    let (_servers, site) = open();
    run_script("websocket_client.py", &[&format!("ws://localhost:{}/", site.plain().port())]);
}

#[test]
fn so_they_do_within_tls() {
    let (_servers, site) = open();
    run_script("websocket_client.py", &[&format!("wss://localhost:{}/", site.secure().port()), &site.ca_file()]);
}

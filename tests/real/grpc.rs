//! gRPC by a client and servers of another maker: Python's `grpcio`.

use crate::program::{Server, run_script};
use crate::site::Site;

fn open() -> ([Server; 3], Site) {
    let servers = ["red", "green", "blue"].map(|name| Server::start(name, "grpc_server.py"));
    let site =
        Site::start(&servers.each_ref().map(Server::yaml), &["protocol: h2", "health: { tcp: { interval: 1s } }"]);
    (servers, site)
}

#[test]
fn grpc_calls_of_every_kind_pass_with_trailers_deadlines_and_cancels_and_keep_their_pin() {
    let (_servers, site) = open();
    run_script("grpc_client.py", &[&format!("localhost:{}", site.secure().port()), &site.ca_file()]);
}

#[test]
fn so_they_do_without_tls_by_prior_knowledge() {
    let (_servers, site) = open();
    run_script("grpc_client.py", &[&format!("localhost:{}", site.plain().port())]);
}

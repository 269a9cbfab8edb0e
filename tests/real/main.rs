//! What takes programs that cargo does not bring: `redis-server`, `openssl`, and `ip` of iproute2, which needs root. Run by `cargo test --test real`.

#[path = "../support/mod.rs"]
mod support;

mod network_cut;

mod pin_store;

mod replicas;

//! Clients that come back: resumed or not, also at another replica.

use std::net::SocketAddr;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use crate::support::made::{Ca, Made, days};
use crate::support::raw::{self, Recorder};
use crate::support::tls::{Files, TlsClient};
use crate::support::{Stickpin, until};

const RESUMED: HandshakeKind = HandshakeKind::Resumed;

struct Shop {
    backend: Recorder,
    files: Files,
    item: String,
    ca: Ca,
}

impl Shop {
    async fn new() -> Self {
        let (backend, files, ca) = (Recorder::start().await, Files::new(), Ca::new("ca"));
        let item = files.certificate("shop", &ca.server(&["shop.example"], days(-1, 1)));
        Self { backend, files, item, ca }
    }

    /// One replica.
    fn open(&self, settings: &str) -> Stickpin {
        let tls = format!("tls: {{ certificates: [ {} ], {settings} }}", self.item);
        Stickpin::start(&raw::config(self.backend.address(), &[&tls], &[]))
    }

    /// The setting for keys in a file.
    fn keys(&self, keys: &[u8]) -> String {
        format!("session_tickets: {{ keys_file: \"{}\" }}", self.write_keys(keys))
    }

    fn write_keys(&self, keys: &[u8]) -> String {
        let lines: Vec<_> = keys.iter().map(|key| format!("{key:02x}").repeat(32)).collect();
        self.files.write("tickets.keys", lines.join("\n")).display().to_string()
    }
}

async fn visit(client: &TlsClient, address: SocketAddr) -> HandshakeKind {
    client.visit(address, "shop.example").await
}

#[tokio::test]
async fn a_client_comes_back_by_a_ticket_unless_they_are_off() {
    let shop = Shop::new().await;
    let (on, off) = (shop.open(""), shop.open("session_tickets: off"));
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::speaking(version);
        assert_ne!(visit(&client, on.front()).await, RESUMED);
        assert_eq!(visit(&client, on.front()).await, RESUMED);
        let client = TlsClient::speaking(version);
        for _ in 0..2 {
            assert_ne!(visit(&client, off.front()).await, RESUMED);
        }
    }
    let mut admin = on.admin();
    for (resumed, count) in [("false", 2.0), ("true", 2.0)] {
        let labels = ["result=\"ok\"", &format!("resumed=\"{resumed}\"")];
        assert_eq!(admin.metric("stickpin_tls_handshakes_total", &labels).await, count);
    }
}

#[tokio::test]
async fn replicas_with_one_file_of_keys_understand_each_others_tickets() {
    let shop = Shop::new().await;
    let keys = shop.keys(&[1]);
    let (one, other) = (shop.open(&keys), shop.open(&keys));
    let (alone, also_alone) = (shop.open(""), shop.open(""));
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::speaking(version);
        assert_ne!(visit(&client, one.front()).await, RESUMED);
        assert_eq!(visit(&client, other.front()).await, RESUMED);
        let client = TlsClient::speaking(version);
        visit(&client, alone.front()).await;
        assert_ne!(visit(&client, also_alone.front()).await, RESUMED, "each has keys of its own");
    }
}

#[tokio::test]
async fn a_key_is_replaced_without_losing_tickets_and_one_that_is_gone_opens_none() {
    let shop = Shop::new().await;
    let stickpin = shop.open(&shop.keys(&[1]));
    let (one, other) = (TlsClient::new(), TlsClient::new());
    for client in [&one, &other] {
        visit(client, stickpin.front()).await;
    }
    let mut admin = stickpin.admin();
    let mut taken = async |count: f64| {
        until("the file was taken", async || {
            let found = admin.metric("stickpin_tls_file_changes_total", &["result=\"ok\""]).await;
            if found == count { Ok(()) } else { Err(found) }
        })
        .await;
    };
    shop.write_keys(&[2, 1]);
    taken(1.0).await;
    assert_eq!(visit(&one, stickpin.front()).await, RESUMED);
    shop.write_keys(&[2]);
    taken(2.0).await;
    assert_eq!(visit(&one, stickpin.front()).await, RESUMED, "it got a new one");
    assert_ne!(visit(&other, stickpin.front()).await, RESUMED);
}

#[tokio::test]
async fn a_ticket_does_not_stand_in_for_a_certificate_that_was_never_shown() {
    let shop = Shop::new().await;
    let (keys, ca) = (shop.keys(&[1]), shop.files.write("ca.pem", shop.ca.pem()));
    let asking = |mode: &str| {
        shop.open(&format!("{keys}, client_certificates: {{ mode: {mode}, ca_file: \"{}\" }}", ca.display()))
    };
    let (open, optional, required) = (shop.open(&keys), asking("optional"), asking("required"));
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::speaking(version);
        visit(&client, open.front()).await;
        assert_ne!(visit(&client, optional.front()).await, RESUMED);
        for visited in [open.front(), optional.front()] {
            visit(&client, visited).await;
            let refused = match client.connect(required.front(), "shop.example").await {
                Ok(mut peer) => peer.get("/", "").await.map(|_| ()),
                Err(error) => Err(error),
            };
            assert!(refused.is_err());
        }
    }
    let ann: Made = shop.ca.issue(|_| ());
    let client = TlsClient::showing(&ann);
    assert_ne!(visit(&client, required.front()).await, RESUMED);
    assert_eq!(visit(&client, required.front()).await, RESUMED);
}

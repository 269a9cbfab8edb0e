//! Certificates of clients: who comes in, and what backends are told.

use std::io;

use rcgen::{DnType, SanType};

use crate::support::made::{Ca, Made, days};
use crate::support::raw::{self, Head, Recorder};
use crate::support::tls::{Files, TlsClient};
use crate::support::{Stickpin, until};

/// What a client may send to seem somebody else.
const FORGED: &str = "Stickpin-Client-Cert-Subject: CN=root\r\nstickpin_client_cert_subject: CN=root\r\n\
                      Stickpin-Client-Cert-Fingerprint: 00\r\nStickpin-Client-Cert-San: DNS:root\r\n";

struct Shop {
    stickpin: Stickpin,
    backend: Recorder,
    files: Files,
}

impl Shop {
    async fn open(mode: &str, ca: &Ca) -> Self {
        let (backend, files) = (Recorder::start().await, Files::new());
        let item = files.certificate("shop", &Ca::new("server ca").server(&["shop.example"], days(-1, 1)));
        let ca_file = files.write("ca.pem", ca.pem());
        let clients = format!("client_certificates: {{ mode: {mode}, ca_file: \"{}\" }}", ca_file.display());
        let tls = format!("tls: {{ certificates: [ {item} ], {clients} }}");
        Self { stickpin: Stickpin::start(&raw::config(backend.address(), &[&tls], &[])), backend, files }
    }

    /// What the backend is sent for a request of this client.
    async fn seen(&self, client: &TlsClient) -> io::Result<Head> {
        let mut peer = client.connect(self.stickpin.front(), "shop.example").await?;
        let (head, _) = peer.get("/", FORGED).await?;
        assert_eq!(head.status(), 200);
        Ok(self.backend.last_head())
    }
}

fn ann(ca: &Ca) -> Made {
    ca.issue(|params| {
        params.distinguished_name.push(DnType::CommonName, "Ann, of the shop");
        params.subject_alt_names = vec![SanType::Rfc822Name("ann@shop.example".try_into().expect("ASCII"))];
        params.serial_number = Some(vec![0x5e].into());
    })
}

fn assert_unknown(head: &Head) {
    assert!(!head.0.to_ascii_lowercase().contains("client"), "{head:?}");
}

fn assert_ann(head: &Head, ann: &Made) {
    assert_eq!(head.value("stickpin-client-cert-subject"), Some("CN=Ann\\, of the shop"));
    assert_eq!(head.value("stickpin-client-cert-san"), Some("email:ann@shop.example"));
    assert_eq!(head.value("stickpin-client-cert-serial"), Some("5e"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &ann.der);
    let expected: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(head.value("stickpin-client-cert-fingerprint"), Some(&*expected));
    assert!(!head.0.contains("root"), "{head:?}");
}

#[tokio::test]
async fn where_certificates_are_required_only_good_ones_come_in() {
    let (ca, other) = (Ca::new("clients"), Ca::new("clients"));
    let shop = Shop::open("required", &ca).await;
    let ann = ann(&ca);
    assert_ann(&shop.seen(&TlsClient::showing(&ann)).await.expect("she comes in"), &ann);
    let stranger = TlsClient::showing(&self::ann(&other));
    let expired = TlsClient::showing(&ca.server(&["late.example"], days(-3, -1)));
    for (client, what) in [(TlsClient::new(), "none"), (stranger, "another CA"), (expired, "expired")] {
        assert!(shop.seen(&client).await.is_err(), "{what}");
    }
    assert_eq!(shop.backend.heard().requests.len(), 1);
    let mut admin = shop.stickpin.admin();
    until("the refused ones are counted", async || {
        let metric = "stickpin_tls_handshakes_total";
        match admin.metric(metric, &["result=\"client_certificate\""]).await {
            3.0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
}

#[tokio::test]
async fn where_they_are_optional_backends_know_who_shows_one_and_nobody_can_pretend() {
    let ca = Ca::new("clients");
    let shop = Shop::open("optional", &ca).await;
    assert_unknown(&shop.seen(&TlsClient::new()).await.expect("nobody asks who it is"));
    let ann = ann(&ca);
    let client = TlsClient::showing(&ann);
    // The second time by a ticket.
    for _ in 0..2 {
        assert_ann(&shop.seen(&client).await.expect("she comes in"), &ann);
    }
    let resumed = shop.stickpin.admin().metric("stickpin_tls_handshakes_total", &["resumed=\"true\""]).await;
    assert_eq!(resumed, 1.0);
    assert!(shop.seen(&TlsClient::showing(&self::ann(&Ca::new("clients")))).await.is_err(), "a wrong one is worse");
}

#[tokio::test]
async fn another_ca_counts_as_soon_as_its_file_says_so_and_old_tickets_do_not_help() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let shop = Shop::open("required", &old).await;
    let (leaver, joiner) = (TlsClient::showing(&ann(&old)), TlsClient::showing(&ann(&new)));
    shop.seen(&leaver).await.expect("she comes in");
    shop.seen(&joiner).await.expect_err("not yet");
    shop.files.write("ca.pem", new.pem());
    until("the other CA counts", async || shop.seen(&joiner).await.map_err(|error| error.to_string())).await;
    assert!(shop.seen(&leaver).await.is_err(), "her ticket is of another CA");
}

/// A ticket holds what the client showed, and has an end.
#[tokio::test]
async fn whoever_shows_a_long_chain_gets_no_ticket_and_one_that_is_too_long_is_refused() {
    let ca = Ca::new("clients");
    let shop = Shop::open("required", &ca).await;
    let with_more = |length: usize| {
        let mut ann = ann(&ca);
        while ann.chain.len() < length {
            ann.chain.push_str(ca.pem());
        }
        ann
    };
    for (length, is_resumed) in [(2_000, true), (60_000, false)] {
        let ann = with_more(length);
        let client = TlsClient::showing(&ann);
        assert_ann(&shop.seen(&client).await.expect("she comes in"), &ann);
        let kind = client.visit(shop.stickpin.front(), "shop.example").await;
        assert_eq!(kind == rustls::HandshakeKind::Resumed, is_resumed, "{length} bytes");
    }
    for length in [200_000, 2_000_000] {
        assert!(shop.seen(&TlsClient::showing(&with_more(length))).await.is_err(), "{length} bytes");
    }
    shop.seen(&TlsClient::showing(&ann(&ca))).await.expect("nobody else suffers");
}

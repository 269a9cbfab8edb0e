//! What a scanner finds at a TLS listener.

use crate::program::run;
use crate::site::Site;

#[test]
fn a_scanner_of_tls_finds_nothing_weak() {
    let site = Site::start(&["127.0.0.1:9".to_owned()], &["health: off"]);
    let (report, _) = run("sslscan", ["--xml=-", "--show-sigs", "--sni-name=localhost", &site.secure().to_string()]);
    let found = weaknesses(&report);
    assert!(found.is_empty(), "{found:#?}\n{report}");
    // And it has looked: what there has to be is there.
    for (element, at_least) in [("protocol", 6), ("cipher", 6), ("group", 3), ("heartbleed", 2), ("certificate", 1)] {
        let count = elements(&report).filter(|it| it.name == element).count();
        assert!(count >= at_least, "{count} of {element}\n{report}");
    }
    assert!(
        report.contains(r#"version="1.3" enabled="1""#) && report.contains(r#"version="1.2" enabled="1""#),
        "{report}"
    );
}

/// What sslscan does not say is good. Anything that it says and that is not known here counts as weak.
fn weaknesses(report: &str) -> Vec<String> {
    elements(report).filter(|element| !element.is_good()).map(|element| element.text.to_owned()).collect()
}

/// One element of the report.
struct Element<'a> {
    name: &'a str,
    text: &'a str,
}

/// Those with attributes, and those that begin the others.
fn elements(report: &str) -> impl Iterator<Item = Element<'_>> {
    let tags = report.split('<').skip(1).filter_map(|piece| piece.split('>').next());
    let tags = tags.filter(|tag| !tag.starts_with(['/', '?', '!']));
    tags.map(|text| Element { name: text.split([' ', '/']).next().unwrap_or_default(), text })
}

impl Element<'_> {
    fn is_good(&self) -> bool {
        let is = |name: &str, values: &[&str]| self.value(name).is_some_and(|value| values.contains(&value));
        match self.name {
            "protocol" => match (self.value("type"), self.value("version")) {
                (Some("ssl"), Some("2" | "3")) | (Some("tls"), Some("1.0" | "1.1")) => is("enabled", &["0"]),
                (Some("tls"), Some("1.2" | "1.3")) => is("enabled", &["0", "1"]),
                _ => false,
            },
            "renegotiation" => is("supported", &["0"]),
            "compression" => is("supported", &["0"]),
            // For those who speak 1.1 and older, which are not spoken here.
            "fallback" => true,
            "heartbleed" => is("vulnerable", &["0"]),
            // Neither RC4, 3DES, CBC, NULL, EXPORT nor an anonymous one, and nothing without forward secrecy.
            "cipher" => is("sslversion", &["TLSv1.2", "TLSv1.3"]) && is("cipher", &SUITES),
            "group" => is("name", &["secp256r1 (NIST P-256)", "secp384r1 (NIST P-384)", "x25519"]),
            // `ANY`: the scanner looks no further than the ServerHello, and a client without a fitting one is told so behind it.
            "connection-signature-algorithm" => is("name", &["ANY", "ecdsa_secp256r1_sha256"]),
            "pk" => is("type", &["EC"]) && is("curve_name", &["prime256v1"]),
            "document"
            | "ssltest"
            | "certificates"
            | "certificate"
            | "signature-algorithm"
            | "subject"
            | "altnames"
            | "issuer"
            | "self-signed"
            | "not-valid-before"
            | "not-valid-after"
            | "expired" => true,
            _ => false,
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        let from = self.text.split_once(&format!(" {name}=\""))?.1;
        from.split('"').next()
    }
}

const SUITES: [&str; 9] = [
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

#[test]
fn whatever_is_weak_in_a_report_is_found() {
    for weak in [
        r#"<protocol type="ssl" version="3" enabled="1" />"#,
        r#"<protocol type="tls" version="1.1" enabled="1" />"#,
        r#"<protocol type="tls" version="1.4" enabled="0" />"#,
        r#"<renegotiation supported="1" secure="1" />"#,
        r#"<compression supported="1" />"#,
        r#"<heartbleed sslversion="TLSv1.2" vulnerable="1" />"#,
        r#"<cipher status="accepted" sslversion="TLSv1.2" bits="128" cipher="ECDHE-RSA-AES128-SHA256" />"#,
        r#"<cipher status="accepted" sslversion="TLSv1.2" bits="256" cipher="AES256-GCM-SHA384" />"#,
        r#"<cipher status="accepted" sslversion="TLSv1.0" bits="128" cipher="ECDHE-RSA-AES128-GCM-SHA256" />"#,
        r#"<group sslversion="TLSv1.3" bits="80" name="secp160k1" />"#,
        r#"<connection-signature-algorithm sslversion="TLSv1.2" name="rsa_pkcs1_sha1" />"#,
        r#"<pk error="false" type="RSA" bits="1024" />"#,
        r#"<news />"#,
    ] {
        assert_eq!(weaknesses(&format!("<?xml version=\"1.0\"?>\n<document>\n{weak}\n</document>")).len(), 1, "{weak}");
    }
}

//! curl, with its own TLS and HTTP/2.

use crate::program::run;
use crate::site::Site;
use crate::support::Backend;

/// A curl with a cookie jar.
struct Curl<'a> {
    site: &'a Site,
    arguments: Vec<String>,
    _jar: tempfile::TempDir,
}

impl<'a> Curl<'a> {
    fn new(site: &'a Site, protocol: &str) -> Self {
        let jar = tempfile::tempdir().expect("a folder for temporary files");
        let file = jar.path().join("jar").to_str().expect("a plain path").to_owned();
        let arguments =
            ["--silent", "--show-error", "--fail", protocol, "--cacert", &site.ca_file(), "--cookie", &file];
        let more = ["--cookie-jar", &file, "--write-out", "\n%{http_version} %{http_code} %{num_connects}\n"];
        Self { site, arguments: arguments.iter().chain(&more).map(|it| (*it).to_owned()).collect(), _jar: jar }
    }

    /// The body of each reply, in order, and what curl says of all of them: version, status, new connections.
    #[track_caller]
    fn get(&self, urls: &[String], more: &[&str]) -> (Vec<String>, Vec<String>) {
        let arguments = self.arguments.iter().map(String::as_str).chain(more.iter().copied());
        let (said, _) = run("curl", arguments.chain(urls.iter().map(String::as_str)));
        let lines: Vec<_> = said.lines().map(str::to_owned).collect();
        let (bodies, verdicts) = lines.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
        (bodies, verdicts)
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        match scheme {
            "https" => self.site.https(path),
            _ => format!("http://localhost:{}{path}", self.site.plain().port()),
        }
    }
}

const PRIOR_KNOWLEDGE: &str = "--http2-prior-knowledge";

fn served_by(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    value["served_by"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
}

/// Logs in, comes back by other processes with the jar, and on one connection; sends and gets long bodies.
fn visits(scheme: &str, protocol: &str, version: &str) {
    let backends = ["red", "green", "blue"].map(Backend::start);
    let site = Site::start(&backends.each_ref().map(Backend::yaml), &[]);
    for user in ["ann", "bea", "eve", "ida"] {
        let curl = Curl::new(&site, protocol);
        let (bodies, verdicts) = curl.get(&[curl.url(scheme, &format!("/login?user={user}"))], &["--request", "POST"]);
        assert_eq!(verdicts, [format!("{version} 200 1")]);
        let home = served_by(&bodies[0]);
        for _ in 0..2 {
            // Debian's curl fails to use a connection of prior knowledge again, whoever serves it.
            let count = if protocol == PRIOR_KNOWLEDGE { 1 } else { 3 };
            let (bodies, verdicts) = curl.get(&vec![curl.url(scheme, "/whoami"); count], &[]);
            // One connection for all of them.
            let expected = ["1", "0", "0"].map(|connects| format!("{version} 200 {connects}"));
            assert_eq!(verdicts, expected[..count]);
            for body in bodies {
                assert_eq!(served_by(&body), home, "{body}");
                assert!(body.contains(user), "{body}");
            }
        }
    }
    long_bodies(&Curl::new(&site, protocol), scheme, &backends[0]);
}

/// What goes through arrives as what goes straight to the backend.
fn long_bodies(curl: &Curl<'_>, scheme: &str, backend: &Backend) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = |name: &str| folder.path().join(name).to_str().expect("a plain path").to_owned();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(path("sent"), &sent).expect("a writable folder");
    let straight = format!("http://{}", backend.address());
    let upload = ["--data-binary", &*format!("@{}", path("sent")), "--header", "Expect:"];
    // The last protocol named counts, and backends speak this one.
    let plainly = [&upload[..], &["--http1.1"]].concat();
    let through = curl.get(&[curl.url(scheme, "/upload")], &upload).0;
    let bodies = [through, curl.get(&[format!("{straight}/upload")], &plainly).0];
    let [seen, expected] = bodies.map(|bodies| serde_json::from_str::<serde_json::Value>(&bodies[0]).expect("JSON"));
    assert_eq!((&seen["length"], &seen["checksum"]), (&3_000_000.into(), &expected["checksum"]));

    let bytes = "/bytes?n=3000000";
    for (url, file, more) in [
        (curl.url(scheme, bytes), path("came"), None),
        (format!("{straight}{bytes}"), path("straight"), Some("--http1.1")),
    ] {
        let (_, verdicts) = curl.get(&[url], &["--output", &file].into_iter().chain(more).collect::<Vec<_>>());
        assert!(verdicts.len() == 1 && verdicts[0].contains(" 200 "), "{verdicts:?}");
    }
    let [came, straight] = ["came", "straight"].map(|name| std::fs::read(path(name)).expect("it was written"));
    assert!(came.len() == 3_000_000 && came == straight, "{} bytes", came.len());
}

#[test]
fn curl_keeps_its_pin_by_https_and_http_1_1() {
    visits("https", "--http1.1", "1.1");
}

#[test]
fn curl_keeps_its_pin_by_https_and_http_2() {
    visits("https", "--http2", "2");
}

#[test]
fn curl_keeps_its_pin_by_http_2_with_prior_knowledge() {
    visits("http", PRIOR_KNOWLEDGE, "2");
}

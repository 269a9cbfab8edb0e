//! nghttp and h2load, the clients of the library that curl and many servers have their HTTP/2 from.

use crate::program::run;
use crate::site::Site;
use crate::support::Backend;

fn open() -> ([Backend; 2], Site) {
    let backends = ["red", "green"].map(Backend::start);
    let site = Site::start(&backends.each_ref().map(Backend::yaml), &[]);
    (backends, site)
}

#[test]
fn nghttp_sees_frames_in_order_and_nothing_it_has_to_complain_of() {
    let (_backends, site) = open();
    let plain = format!("http://localhost:{}", site.plain().port());
    for base in [site.https(""), plain] {
        let data = ["--data", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")];
        for (path, more) in [("/whoami", &[][..]), ("/chunks?n=20", &[]), ("/bytes?n=500000", &[]), ("/echo", &data)] {
            let url = format!("{base}{path}");
            let arguments = ["--verbose", "--no-verify-peer", "--null-out", "--timeout=20"];
            let (said, complaints) =
                run("nghttp", arguments.iter().copied().chain(more.iter().copied()).chain([&*url]));
            assert!(complaints.trim().is_empty(), "{url}: {complaints}");
            let has = |text: &str| assert!(said.contains(text), "{url}: no {text:?}\n{said}");
            has("recv SETTINGS frame");
            has(":status: 200");
            has("; END_STREAM");
            for wrong in ["RST_STREAM", "error_code=PROTOCOL", "INTERNAL_ERROR", "connection:", "transfer-encoding"] {
                assert!(!said.contains(wrong), "{url}: {wrong}\n{said}");
            }
        }
    }
}

#[test]
fn h2load_has_every_request_of_many_streams_answered() {
    let (_backends, site) = open();
    let plain = format!("http://localhost:{}/whoami", site.plain().port());
    for url in [site.https("/whoami"), plain, site.https("/bytes?n=100000")] {
        let (said, _) = run("h2load", ["--requests=4000", "--clients=8", "--max-concurrent-streams=100", &url]);
        assert!(said.contains("Application protocol: h2"), "{url}\n{said}");
        let all = "4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(all), "{url}\n{said}");
        assert!(said.contains("4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{url}\n{said}");
    }
}

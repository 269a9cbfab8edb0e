//! HTTP/2 from clients, to backends that speak HTTP/1.1.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};

use crate::support::http2::{Http2Client, get, head, whole};
use crate::support::made::{Ca, days};
use crate::support::raw::{Backend, Peer, Recorder, front};
use crate::support::tls::{Files, TlsClient};

use super::tls::secured;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_client_that_knows_of_http2_begins_with_its_preface() {
    let backend = Recorder::start().await;
    let stickpin = front(backend.address());
    let mut client = Http2Client::connect(stickpin.front()).await;
    for path in ["/a?b=c", "/d"] {
        let reply = client.get(path).await;
        assert_eq!((reply.status, &*reply.body), (200, &b"ok"[..]));
        assert_eq!(reply.value("content-length"), Some("2"));
        assert_eq!(reply.value("connection"), None);
        assert_eq!(backend.last_head().first_line(), format!("GET {path} HTTP/1.1"));
    }
    assert_eq!(backend.last_head().value("host"), Some("x"));
    let mut client = Peer::connect(stickpin.front()).await;
    assert_eq!(client.reply_to("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, 200, "HTTP/1.1 goes on at the same port");
}

#[tokio::test]
async fn within_tls_the_protocol_is_agreed_on() {
    let (backend, files) = (Recorder::start().await, Files::new());
    let item = files.certificate("shop", &Ca::new("ca").server(&["shop.example"], days(-1, 1)));
    let stickpin = secured(backend.address(), &format!("certificates: [ {item} ]"));
    let connecting = TlsClient::new().offering(&["h2", "http/1.1"]);
    let peer = connecting.connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(peer.protocol(), Some(&b"h2"[..]));
    let mut client = Http2Client::over(peer.into_io(), &mut h2::client::Builder::new()).await;
    let request = Request::builder().uri("https://shop.example/a").body(()).expect("a request");
    let reply = client.ask(request).await.expect("a reply");
    assert_eq!((reply.status, &*reply.body), (200, &b"ok"[..]));
    let head = backend.last_head();
    assert_eq!((head.value("host"), head.value("x-forwarded-proto")), (Some("shop.example"), Some("https")));
    let older = TlsClient::new().connect(stickpin.front(), "shop.example").await.expect("a connection");
    assert_eq!(older.protocol(), Some(&b"http/1.1"[..]));
}

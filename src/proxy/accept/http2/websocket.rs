//! WebSocket over HTTP/2 (RFC 8441): a stream that asks for a tunnel, told to the rest of the program, and to backends, as
//! the upgrade of HTTP/1.1 that it stands for.
//!
//! Within, a request for a tunnel is always `GET` with `Upgrade: websocket` and a key, and its answer `101` with the key's
//! counterpart. Whoever speaks HTTP/2 on either side translates at its edge.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::request::Parts;
use http::{HeaderValue, Method, header};

/// Whether a request opens a tunnel by extended `CONNECT`. Becomes an upgrade then.
pub(super) fn begin(parts: &mut Parts) -> bool {
    let is_websocket = parts.method == Method::CONNECT
        && parts.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    if is_websocket {
        let mut nonce = [0; 16];
        fastrand::fill(&mut nonce);
        let key = STANDARD.encode(nonce);
        parts.method = Method::GET;
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        // Base64 is visible ASCII.
        if let Ok(key) = HeaderValue::from_str(&key) {
            parts.headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
    }
    is_websocket
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn connect_for_a_websocket_becomes_an_upgrade_with_a_key_of_its_own() {
        let asked = |protocol: &'static str| {
            let request = Request::builder().method("CONNECT").uri("http://x/chat");
            let (mut parts, ()) =
                request.extension(Protocol::from_static(protocol)).body(()).expect("a request").into_parts();
            (begin(&mut parts), parts)
        };
        let (is_tunnel, parts) = asked("websocket");
        assert!(is_tunnel && parts.method == Method::GET);
        assert_eq!(parts.headers[header::UPGRADE], "websocket");
        assert_eq!(parts.headers[header::SEC_WEBSOCKET_KEY].len(), 24);
        assert_ne!(parts.headers[header::SEC_WEBSOCKET_KEY], asked("websocket").1.headers[header::SEC_WEBSOCKET_KEY]);
        let (is_tunnel, parts) = asked("connect-udp");
        assert!(!is_tunnel && parts.method == Method::CONNECT && parts.headers.is_empty());
    }
}

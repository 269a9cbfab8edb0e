//! The key of a WebSocket's opening handshake (RFC 6455 §4.2.2), and the answer that proves it was read.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The answer to the key of a request; `None` without a key.
pub(super) fn answer(request: &HeaderMap) -> Option<HeaderValue> {
    let mut digest = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(request.get(header::SEC_WEBSOCKET_KEY)?.as_bytes().trim_ascii());
    digest.update(GUID);
    HeaderValue::try_from(STANDARD.encode(digest.finish())).ok()
}

/// Whether a `101` answers this very upgrade: it proves that the key was read.
pub(super) fn is_answer(request: &HeaderMap, reply: &HeaderMap) -> bool {
    answer(request).is_some_and(|expected| reply.get(header::SEC_WEBSOCKET_ACCEPT) == Some(&expected))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_key_is_answered_as_the_rfc_says() {
        assert_eq!(answer(&HeaderMap::new()), None);
        let request = headers(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer(&request).expect("an answer"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_the_counterpart_of_the_key_answers_it() {
        // The pair of RFC 6455 §1.3.
        let request = headers(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        for (accept, expected) in [("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", true), ("dGhlIHNhbXBsZSBub25jZQ==", false)] {
            assert_eq!(is_answer(&request, &headers(header::SEC_WEBSOCKET_ACCEPT, accept)), expected);
        }
        assert!(!is_answer(&request, &HeaderMap::new()));
    }
}

//! May a request be tried again, where, and after which pause? Pure.
//!
//! What was not sent may be sent elsewhere, whatever it is. What may have reached a backend is sent again only when that
//! does no harm: the method is idempotent (RFC 9110 §9.2.2), or the client gave the request an `Idempotency-Key` by which
//! the app tells a repetition. Each retry but of a failed connect is taken from a budget, so that retries cannot multiply
//! the load of a pool that is ill already.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::forward::{AttemptError, is_idempotent};
use crate::config::{RetryOn, RetryOnSet};
use crate::telemetry::words::RetryReason;

/// The longest pause is this many times that before the first retry.
const LONGEST_BACKOFF: u32 = 10;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Whether the request may be sent twice.
pub(super) fn is_repeatable(method: &Method, headers: &HeaderMap) -> bool {
    is_idempotent(method) || headers.contains_key(IDEMPOTENCY_KEY)
}

/// Why a request whose attempt failed is tried again; `None` when it is not.
pub(super) fn after_failure(retry_on: RetryOnSet, error: &AttemptError, is_repeatable: bool) -> Option<RetryReason> {
    let (reason, word, is_safe) = match error {
        AttemptError::Connect(_) | AttemptError::ConnectTimeout => (RetryReason::Connect, RetryOn::Connect, true),
        // The connection was closing: the same as if it could not have been opened.
        AttemptError::Broken { anything_sent: false, .. } => (RetryReason::ResetBeforeReply, RetryOn::Connect, true),
        // Its own word that it did not process it.
        AttemptError::Refused(_) => (RetryReason::ResetBeforeReply, RetryOn::ResetBeforeReply, true),
        AttemptError::NoUpgrade => return None,
        AttemptError::Broken { .. } | AttemptError::Reply(_) => {
            (RetryReason::ResetBeforeReply, RetryOn::ResetBeforeReply, is_repeatable)
        }
        // A reply that never came may still be in the making; asking elsewhere adds to the load, so only who wants it.
        AttemptError::FirstByteTimeout => (RetryReason::FirstByteTimeout, RetryOn::GatewayTimeout, is_repeatable),
        // It was given up for another attempt, and for nothing else.
        AttemptError::AttemptTimeout => return Some(RetryReason::AttemptTimeout).filter(|_| is_repeatable),
        AttemptError::ClientBody(_) | AttemptError::ClientStalled => return None,
    };
    (is_safe && retry_on.contains(word)).then_some(reason)
}

/// Why a request is tried again that has a reply; `None` when the client gets that reply.
pub(super) fn after_reply(retry_on: RetryOnSet, status: StatusCode, is_repeatable: bool) -> Option<RetryReason> {
    let (reason, word) = match status {
        StatusCode::BAD_GATEWAY => (RetryReason::BadGateway, RetryOn::BadGateway),
        StatusCode::SERVICE_UNAVAILABLE => (RetryReason::ServiceUnavailable, RetryOn::ServiceUnavailable),
        StatusCode::GATEWAY_TIMEOUT => (RetryReason::GatewayTimeout, RetryOn::GatewayTimeout),
        _ => return None,
    };
    (is_repeatable && retry_on.contains(word)).then_some(reason)
}

/// Whether a reply says when to come back, which is not at once.
pub(super) fn says_later(headers: &HeaderMap) -> bool {
    headers.contains_key(header::RETRY_AFTER)
}

/// How long to wait before retry number `retry`, counted from 1. `chance` is 0 to 1.
///
/// Doubles with each retry up to ten times the first, and is drawn evenly from nothing up to that, so that the retries
/// of many clients do not come together. Source: "full jitter" in Brooker, "Exponential Backoff And Jitter", AWS, 2015.
pub(super) fn pause(backoff: Duration, retry: u32, chance: f64) -> Duration {
    let doubled = 1_u32.checked_shl(retry.saturating_sub(1)).unwrap_or(LONGEST_BACKOFF);
    backoff.saturating_mul(doubled.clamp(1, LONGEST_BACKOFF)).mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::proxy::forward::HeadError;

    fn all() -> RetryOnSet {
        use RetryOn::{BadGateway, Connect, GatewayTimeout, ResetBeforeReply, ServiceUnavailable};
        [Connect, ResetBeforeReply, BadGateway, ServiceUnavailable, GatewayTimeout].into_iter().collect()
    }

    fn broken(anything_sent: bool) -> AttemptError {
        AttemptError::Broken { anything_sent, source: io::ErrorKind::ConnectionReset.into() }
    }

    #[test]
    fn what_failed_is_tried_again_where_it_is_wanted_and_does_no_harm() {
        use RetryReason as R;
        let refused = || AttemptError::Connect(io::ErrorKind::ConnectionRefused.into());
        // Error, the word that allows it, the reason for a repeatable request, and for another.
        let rows = [
            (refused(), Some(RetryOn::Connect), Some(R::Connect), Some(R::Connect)),
            (AttemptError::ConnectTimeout, Some(RetryOn::Connect), Some(R::Connect), Some(R::Connect)),
            (broken(false), Some(RetryOn::Connect), Some(R::ResetBeforeReply), Some(R::ResetBeforeReply)),
            (broken(true), Some(RetryOn::ResetBeforeReply), Some(R::ResetBeforeReply), None),
            (
                AttemptError::Reply(HeadError::Malformed),
                Some(RetryOn::ResetBeforeReply),
                Some(R::ResetBeforeReply),
                None,
            ),
            (AttemptError::FirstByteTimeout, Some(RetryOn::GatewayTimeout), Some(R::FirstByteTimeout), None),
            (AttemptError::ClientStalled, None, None, None),
        ];
        for (error, word, repeatable, other) in rows {
            assert_eq!(after_failure(all(), &error, true), repeatable, "{error:?}");
            assert_eq!(after_failure(all(), &error, false), other, "{error:?}");
            let only: RetryOnSet = word.into_iter().collect();
            assert_eq!(after_failure(only, &error, true), repeatable, "{error:?} with {word:?} alone");
            assert_eq!(after_failure(RetryOnSet::default(), &error, true), None, "{error:?} with nothing wanted");
        }
        let timeout = AttemptError::AttemptTimeout;
        assert_eq!(after_failure(RetryOnSet::default(), &timeout, true), Some(R::AttemptTimeout));
        assert_eq!(after_failure(all(), &timeout, false), None);
    }

    #[test]
    fn a_reply_is_tried_again_only_when_its_status_is_named() {
        for status in 100..=599 {
            let status = StatusCode::from_u16(status).expect("a status");
            let reason = after_reply(all(), status, true);
            assert_eq!(reason.is_some(), [502, 503, 504].contains(&status.as_u16()), "{status}");
            assert_eq!(
                reason.map_or(status.to_string(), |reason| reason.as_str().to_owned())[..3],
                status.as_str()[..3]
            );
            assert_eq!(after_reply(all(), status, false), None);
            assert_eq!(after_reply([RetryOn::Connect].into_iter().collect(), status, true), None);
        }
    }

    #[test]
    fn a_key_of_the_clients_makes_any_method_repeatable() {
        let mut headers = HeaderMap::new();
        assert!(is_repeatable(&Method::PUT, &headers) && !is_repeatable(&Method::POST, &headers));
        headers.insert("Idempotency-Key", "8e03978e".parse().expect("a value"));
        assert!(is_repeatable(&Method::POST, &headers) && is_repeatable(&Method::PATCH, &headers));
    }

    #[test]
    fn pauses_double_up_to_ten_times_the_first() {
        let first = Duration::from_millis(20);
        let longest: Vec<u64> = (1..=7).map(|retry| pause(first, retry, 1.0).as_millis() as u64).collect();
        assert_eq!(longest, [20, 40, 80, 160, 200, 200, 200]);
        assert_eq!(pause(first, 3, 0.0), Duration::ZERO);
        assert_eq!(pause(first, 2, 0.5), Duration::from_millis(20));
        assert_eq!(pause(Duration::ZERO, 5, 1.0), Duration::ZERO);
        assert_eq!(pause(first, 500, 1.0), Duration::from_millis(200));
    }
}

//! What a crowd has seen, judged: was anything lost that should not be?

use crate::crowd::{Customer, Seen};

/// Those at home at this server, and the others. There have to be some of each.
pub(crate) fn parted(customers: Vec<Customer>, home: &str) -> (Vec<Customer>, Vec<Customer>) {
    let (there, others): (Vec<_>, Vec<_>) = customers.into_iter().partition(|customer| customer.home == home);
    assert!(!there.is_empty() && !others.is_empty(), "{} at {home}, {} elsewhere", there.len(), others.len());
    (there, others)
}

/// No failed request, and nothing of what [`assert_sound`] looks for.
#[track_caller]
pub(crate) fn assert_nothing_failed(customers: &[Customer]) {
    assert_answered(customers);
    assert_sound(customers);
}

/// No failed request, and nobody was served another's session.
#[track_caller]
pub(crate) fn assert_answered(customers: &[Customer]) {
    for customer in customers {
        assert_eq!(customer.failures(), [""; 0], "{} at home at {}", customer.user, customer.home);
        let served = customer.seen.iter().filter_map(Seen::answer).filter_map(|answer| answer["user"].as_str());
        served.for_each(|served| assert_eq!(served, customer.user, "another's session"));
    }
}

/// Nobody was served another's session, and no session fell back to an older state.
#[track_caller]
pub(crate) fn assert_sound(customers: &[Customer]) {
    for Customer { user, home, seen, .. } in customers {
        let mut visits = 0;
        for answer in seen.iter().filter_map(Seen::answer) {
            match answer["user"].as_str() {
                None => {}
                Some(served) => {
                    assert_eq!(served, user, "another's session, at home at {home}: {answer}");
                    let now = answer["visits"].as_u64().unwrap_or_default();
                    assert!(now > visits, "{user} at home at {home}: an older state than {visits} visits: {answer}");
                    visits = now;
                }
            }
        }
    }
}

/// Whether some answer came from a server that did not know its session.
pub(crate) fn was_unknown(customer: &Customer) -> bool {
    customer.seen.iter().filter_map(Seen::answer).any(|answer| answer["user"].is_null())
}

/// Whether the last answer came from its session, at this server.
pub(crate) fn ends_logged_in_at(customer: &Customer, server: &str) -> bool {
    let last = customer.seen.last().and_then(Seen::answer);
    last.is_some_and(|answer| answer["served_by"] == *server && answer["user"] == *customer.user)
}

/// Moved once, from its home to another server, and never without its session.
#[track_caller]
pub(crate) fn assert_moved_with_its_session(customer: &Customer) {
    let path = customer.path();
    assert!(path.len() <= 2 && path.last() != Some(&&*customer.home), "{}: {path:?}", customer.user);
    assert!(!was_unknown(customer), "{}: {:?}", customer.user, customer.seen);
}

/// Lost its session with its home, was told so once, and has stayed since where that was.
#[track_caller]
pub(crate) fn assert_lost_once(customer: &Customer) {
    let told = customer.told();
    assert_eq!(told.len(), 1, "{}: {:?}", customer.user, customer.seen);
    assert!(told[0]["session_lost"].is_string(), "{}: {}", customer.user, told[0]);
    assert_eq!(customer.path().last().copied(), told[0]["served_by"].as_str(), "{}", customer.user);
}

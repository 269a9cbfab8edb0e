//! Logins in memory: gone with the process, known to no other server.

use std::collections::{HashMap, VecDeque};

/// The app's own session cookie.
pub const COOKIE: &str = "APPSESSION";

/// Beyond it the oldest login is forgotten, so that a bench cannot fill the memory.
const MOST: usize = 100_000;

/// The sessions of one server.
#[derive(Debug, Default)]
pub struct Logins {
    by_id: HashMap<String, Login>,
    oldest_first: VecDeque<String>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who logged in.
    pub user: String,
    /// Requests of the session since.
    pub visits: u64,
}

/// What the session id in a request is to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// The request has none.
    None,
    /// Begun here.
    Known(Login),
    /// Begun elsewhere, or in an earlier life of this server: the login is lost.
    Unknown,
}

impl Session {
    /// The word used in replies.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Known(_) => "known",
            Self::Unknown => "unknown",
        }
    }
}

impl Logins {
    /// Begins a session under a new id.
    pub fn begin(&mut self, id: String, user: String) {
        if self.oldest_first.len() >= MOST
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.oldest_first.push_back(id.clone());
        self.by_id.insert(id, Login { user, visits: 0 });
    }

    /// Looks up the session of a request, and counts the visit.
    pub fn visit(&mut self, id: Option<&str>) -> Session {
        let Some(id) = id else { return Session::None };
        let Some(login) = self.by_id.get_mut(id) else { return Session::Unknown };
        login.visits += 1;
        Session::Known(login.clone())
    }
}

/// A new session id: 128 random bits.
pub fn new_id() -> String {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("the system has random bits");
    format!("{:032x}", u128::from_ne_bytes(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_login_makes_room_for_the_newest() {
        let mut logins = Logins::default();
        for n in 0..=MOST {
            logins.begin(n.to_string(), "ann".to_owned());
        }
        assert_eq!(logins.visit(Some("0")), Session::Unknown);
        assert_eq!(logins.visit(Some("1")), Session::Known(Login { user: "ann".to_owned(), visits: 1 }));
        assert_eq!(logins.by_id.len(), MOST);
    }
}

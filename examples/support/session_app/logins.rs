//! Logins in memory: gone with the process.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// Beyond it the oldest login is forgotten, so that a bench cannot fill the memory.
pub const MOST: usize = 100_000;

/// Sessions by their bare ids.
#[derive(Debug, Default)]
pub struct Logins {
    by_id: HashMap<String, Entry>,
    by_age: BTreeMap<u64, String>,
    begun: u64,
}

#[derive(Debug)]
struct Entry {
    login: Login,
    age: u64,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Who logged in.
    pub user: String,
    /// Requests of the session since. Of two copies of a session the one with more is the newer.
    pub visits: u64,
}

impl Logins {
    /// Adds a session, or replaces what is known of it.
    pub fn put(&mut self, id: &str, login: Login) {
        if let Some(entry) = self.by_id.get_mut(id) {
            entry.login = login;
            return;
        }
        if self.by_id.len() >= MOST
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_id.remove(&oldest);
        }
        let age = self.begun;
        self.begun += 1;
        self.by_age.insert(age, id.to_owned());
        self.by_id.insert(id.to_owned(), Entry { login, age });
    }

    /// As [`Logins::put`], but what is newer stays.
    pub fn put_newer(&mut self, id: &str, login: Login) {
        if self.by_id.get(id).is_none_or(|known| known.login.visits <= login.visits) {
            self.put(id, login);
        }
    }

    /// Counts a visit, and gives the session as it is then.
    pub fn visit(&mut self, id: &str) -> Option<Login> {
        let Entry { login, .. } = self.by_id.get_mut(id)?;
        login.visits += 1;
        Some(login.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether it is here.
    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Forgets a session.
    pub fn remove(&mut self, id: &str) -> Option<Login> {
        let Entry { login, age } = self.by_id.remove(id)?;
        self.by_age.remove(&age);
        Some(login)
    }

    /// All there are, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Login)> {
        self.by_age.values().filter_map(|id| Some((id.as_str(), &self.by_id.get(id)?.login)))
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

    fn ann(visits: u64) -> Login {
        Login { user: "ann".to_owned(), visits }
    }

    #[test]
    fn the_oldest_login_makes_room_for_the_newest() {
        let mut logins = Logins::default();
        for n in 0..=MOST {
            logins.put(&n.to_string(), ann(0));
        }
        assert_eq!(logins.visit("0"), None);
        assert_eq!(logins.visit("1"), Some(ann(1)));
        assert_eq!((logins.by_id.len(), logins.by_age.len()), (MOST, MOST));
    }

    #[test]
    fn a_login_that_is_put_again_or_removed_takes_no_room() {
        let mut logins = Logins::default();
        logins.put("a", ann(0));
        logins.put("a", ann(3));
        logins.put("b", ann(1));
        assert_eq!(logins.iter().collect::<Vec<_>>(), [("a", &ann(3)), ("b", &ann(1))]);
        assert_eq!((logins.remove("a"), logins.remove("a")), (Some(ann(3)), None));
        assert!(!logins.contains("a") && logins.contains("b"));
        assert_eq!(logins.by_age.len(), 1);
    }

    #[test]
    fn an_older_copy_replaces_nothing() {
        let mut logins = Logins::default();
        for (visits, expected) in [(2, 2), (1, 2), (3, 3)] {
            logins.put_newer("a", ann(visits));
            assert_eq!(logins.by_id["a"].login.visits, expected, "{visits}");
        }
    }
}

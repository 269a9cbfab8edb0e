//! What servers tell one another, as JSON.

use serde::{Deserialize, Serialize};

use super::super::logins::Login;

/// What has become of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is like this now.
    Keep {
        /// Its bare id.
        id: String,
        /// What is known of it.
        #[serde(flatten)]
        login: Login,
    },
    /// It has ended, or has another home that wants no copies but its own.
    Drop {
        /// Its bare id.
        id: String,
    },
}

impl Change {
    /// It is like this now.
    pub fn keep(id: &str, login: Login) -> Self {
        Self::Keep { id: id.to_owned(), login }
    }

    /// It is not to be kept any more.
    pub fn drop(id: &str) -> Self {
        Self::Drop { id: id.to_owned() }
    }

    /// Whose change it is.
    pub fn id(&self) -> &str {
        match self {
            Self::Keep { id, .. } | Self::Drop { id } => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_small_json() {
        for (change, expected) in [
            (
                Change::keep("ab", Login { user: "ann".to_owned(), visits: 3 }),
                r#"{"keep":{"id":"ab","user":"ann","visits":3}}"#,
            ),
            (Change::drop("ab"), r#"{"drop":{"id":"ab"}}"#),
        ] {
            let written = serde_json::to_string(&change).unwrap();
            assert_eq!(written, expected);
            assert_eq!(serde_json::from_str::<Change>(&written).unwrap(), change);
        }
    }
}

//! Names the operator chooses, and names of files.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::{Schema, json_schema};

use super::{Scalar, scalar};
use crate::config::User;

/// Does `name` fit a pool? It stands in metrics, log and paths of the API.
pub(in crate::config) fn is_pool_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// A backend's name.
pub(in crate::config) struct BackendName(pub(in crate::config) Arc<str>);

impl Scalar for BackendName {
    fn expected() -> Cow<'static, str> {
        "a name of 1 to 64 visible ASCII characters without /".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[!-.0-~]{1,64}$" })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        // The name is a segment of a path in the API.
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(Self::expected())
        }
    }
}

scalar!(BackendName);

/// The path of a file or folder, as written.
pub(in crate::config) struct FilePath(pub(in crate::config) PathBuf);

impl Scalar for FilePath {
    fn expected() -> Cow<'static, str> {
        "the path of a file or folder".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        if text.is_empty() || text.contains('\0') { Err(Self::expected()) } else { Ok(Self(text.into())) }
    }
}

scalar!(FilePath);

/// The permissions of a file, as `chmod` takes them.
#[derive(Clone, Copy)]
pub(in crate::config) struct FileMode(pub(in crate::config) u32);

impl Scalar for FileMode {
    fn expected() -> Cow<'static, str> {
        "four octal digits such as 0660, the first of them 0".into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^0[0-7]{3}$" })
    }

    // YAML leaves digits behind a zero as text. A number would be one of base ten, and meant otherwise.
    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let is_octal = text.len() == 4 && text.starts_with('0') && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let mode = is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten();
        mode.map(Self).ok_or_else(Self::expected)
    }
}

scalar!(FileMode);

/// A user of this machine, and a group.
pub(in crate::config) struct UserName(pub(in crate::config) User);

impl Scalar for UserName {
    fn expected() -> Cow<'static, str> {
        "the name of a user, or USER:GROUP".into()
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let is_name = |name: &str| {
            let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/');
            (1..=255).contains(&name.len()) && name.bytes().all(allowed)
        };
        let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
        if is_name(name) && group.is_none_or(is_name) {
            Ok(Self(User { name: name.into(), group: group.map(Into::into) }))
        } else {
            Err(Self::expected())
        }
    }
}

scalar!(UserName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_visible() {
        assert!(is_pool_name("shop-1_a.B"));
        for name in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(!is_pool_name(name), "{name}");
        }
        assert!(BackendName::from_text("127.0.0.1:9101").is_ok());
        for name in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert!(BackendName::from_text(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_says_so() {
        for (text, mode) in [("0660", 0o660), ("0000", 0), ("0777", 0o777)] {
            assert_eq!(FileMode::from_text(text).map(|it| it.0), Ok(mode));
        }
        for text in ["660", "0o660", "1777", "0680", "00660", "", "rw-rw----", "+066"] {
            assert!(FileMode::from_text(text).is_err(), "{text}");
        }
        assert!(FileMode::from_number(660).is_none());
    }

    #[test]
    fn a_user_may_come_with_a_group() {
        let read = |text| UserName::from_text(text).map(|it| it.0.to_string());
        for text in ["www-data", "www-data:adm", "1000:1000"] {
            assert_eq!(read(text), Ok(text.to_owned()));
        }
        for text in ["", ":adm", "www-data:", "a:b:c", "a b", "a/b"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}

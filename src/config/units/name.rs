//! Names the operator chooses, and names of files.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::{Schema, json_schema};

use super::{Scalar, scalar};

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
}

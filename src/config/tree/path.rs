//! Where a value stands, without allocating until a problem is written.

use std::fmt;

/// A path from the top of the file, linked from child to parent.
#[derive(Clone, Copy)]
pub(in crate::config) enum Path<'p> {
    /// The file as a whole.
    Root,
    /// The value of a key.
    Key(&'p Self, &'p str),
    /// An item of a list, counted from 0.
    Item(&'p Self, usize),
}

impl Path<'_> {
    pub(in crate::config) fn key<'a>(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    pub(in crate::config) fn item(&self, index: usize) -> Path<'_> {
        Path::Item(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(parent, key) => {
                if !matches!(parent, Path::Root) {
                    write!(f, "{parent}.")?;
                }
                if is_plain(key) { f.write_str(key) } else { write!(f, "{key:?}") }
            }
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Can `key` stand in a path without quotes?
fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_file() {
        let pools = Path::Root.key("pools");
        let shop = pools.key("shop");
        let backends = shop.key("backends");
        let backend = backends.item(2);
        assert_eq!(backend.key("weight").to_string(), "pools.shop.backends[2].weight");
        assert_eq!(pools.key("shop.eu").to_string(), "pools.\"shop.eu\"");
        assert_eq!(Path::Root.to_string(), "");
    }
}

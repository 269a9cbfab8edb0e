//! Where somebody listens: an IP address and port, or a Unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Longest path of a Unix socket, in bytes: the system's structure for it ends there, with a zero byte.
pub const SOCKET_PATH_LIMIT: usize = 107;

/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";

/// An address to listen on or to connect to. Cloning costs a copy, or for a path a reference count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// The path of a Unix socket; absolute.
    Unix(Arc<Path>),
}

impl Address {
    /// The IP address and port, if it is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path, if it is a Unix socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        self.ip().is_none_or(|address| address.ip().to_canonical().is_loopback())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(address: (I, u16)) -> Self {
        Self::Ip(address.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// Neither an IP address with a port nor `unix:` and a path.
    Unknown,
    /// A path that a Unix socket cannot have.
    Path,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not an IP address with a port, nor unix: and a path"),
            Self::Path => write!(f, "not an absolute path of at most {SOCKET_PATH_LIMIT} bytes"),
        }
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return text.parse().map(Self::Ip).map_err(|_| AddressError::Unknown);
        };
        let is_path = path.len() > 1 && path.len() <= SOCKET_PATH_LIMIT && path.starts_with('/');
        // A path with a control character would break lines of the log, and nobody has one.
        if is_path && !path.ends_with('/') && !path.contains(char::is_control) {
            Ok(Self::Unix(Path::new(path).into()))
        } else {
            Err(AddressError::Path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        let longest = format!("unix:/{}", "x".repeat(SOCKET_PATH_LIMIT - 1));
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%2]:80", "unix:/run/app.sock", "unix:/a b", &longest] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), text);
            assert_eq!(address.ip().is_none(), text.starts_with("unix:"), "{text}");
        }
        let too_long = format!("{longest}x");
        for text in
            ["unix:", "unix:/", "unix:run/app.sock", "unix:@app", "unix:/run/", "unix:/a\nb", "unix:/a\0", &too_long]
        {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Path), "{text}");
        }
        for text in ["", "localhost:80", "127.0.0.1", "::1:80", "/run/app.sock", "UNIX:/run/app.sock"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Unknown), "{text}");
        }
    }

    #[test]
    fn only_this_machine_reaches_loopback_and_unix_sockets() {
        for (text, is_local) in [
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
            ("unix:/run/a", true),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
        ] {
            assert_eq!(text.parse::<Address>().expect("an address").is_local(), is_local, "{text}");
        }
    }
}

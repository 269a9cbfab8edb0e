//! Sockets that were opened before the program began, by systemd or whoever speaks its protocol (`sd_listen_fds(3)`):
//! `LISTEN_FDS` of them from descriptor 3 on, meant for the process `LISTEN_PID`, named by `LISTEN_FDNAMES`.

use std::env;
use std::io;

use listenfd::ListenFd;
use socket2::SockRef;

use super::listener::ListeningSocket;

/// What a socket is called that nobody named; systemd names it so, too.
const UNNAMED: &str = "unknown";

/// The sockets that are there to be taken, each once.
pub struct Inherited {
    sockets: ListenFd,
    /// In order; `None` for one that was taken.
    names: Vec<Option<String>>,
}

impl Inherited {
    /// Takes them from the environment, which then has them no more: neither a second call nor a child finds them.
    pub fn from_env() -> Self {
        let names = env::var("LISTEN_FDNAMES").ok();
        let sockets = ListenFd::from_env();
        let names = named(names.as_deref(), sockets.len()).into_iter().map(Some).collect();
        Self { sockets, names }
    }

    /// The next socket of this name.
    ///
    /// # Errors
    /// When there is none (left), or it is not one that listens for streams.
    pub fn take(&mut self, name: &str) -> io::Result<ListeningSocket> {
        let place = self.names.iter().position(|it| it.as_deref() == Some(name)).ok_or_else(|| {
            let others = self.left().collect::<Vec<_>>().join(", ");
            let others = if others.is_empty() { "nothing".to_owned() } else { others };
            io::Error::new(io::ErrorKind::NotFound, format!("no socket of this name was passed, but {others}"))
        })?;
        let taken = match self.sockets.take_tcp_listener(place) {
            Ok(socket) => socket.map(ListeningSocket::Ip),
            // Not that, then; whether it is the other one is said by the next error.
            Err(_) => self.sockets.take_unix_listener(place)?.map(ListeningSocket::Unix),
        };
        let socket = taken.ok_or(io::ErrorKind::NotFound)?;
        self.names[place] = None;
        let does_listen = match &socket {
            ListeningSocket::Ip(socket) => SockRef::from(socket).is_listener()?,
            ListeningSocket::Unix(socket) => SockRef::from(socket).is_listener()?,
        };
        if !does_listen {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen (Accept=no is needed)"));
        }
        Ok(socket)
    }

    /// The names of those that nobody took.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str)
    }
}

/// A name for each socket.
fn named(names: Option<&str>, count: usize) -> Vec<String> {
    let given = names.into_iter().flat_map(|names| names.split(':')).map(str::to_owned);
    given.chain(std::iter::repeat_with(|| UNNAMED.to_owned())).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_a_name() {
        assert_eq!(named(Some("web:tls"), 2), ["web", "tls"]);
        assert_eq!(named(Some("web"), 3), ["web", UNNAMED, UNNAMED]);
        assert_eq!(named(Some("a:b:c"), 1), ["a"]);
        assert_eq!(named(None, 1), [UNNAMED]);
        assert!(named(None, 0).is_empty());
    }
}

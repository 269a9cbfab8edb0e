//! Stream sockets to whatever an [`Address`] names.
//!
//! A Unix stream socket is read, written and shut down by the same system calls as a TCP one, so it is carried as a
//! [`TcpStream`]: whoever holds a connection need not know which it is, and pays nothing for the choice. What only TCP has
//! (`TCP_NODELAY`, the peer's address) fails on it, which every caller takes for "does not apply".

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::TcpStream;

use crate::config::Address;

/// How long a queue that is full is left alone.
const FULL: Duration = Duration::from_millis(2);

/// Connects, with `TCP_NODELAY` where there is such a thing.
///
/// # Errors
/// What the system says, in the words of TCP: a path where nobody listens refuses, be it that the file is missing or stale.
/// A queue that is full is waited for, as TCP does; for how long is the caller's business.
pub async fn connect(address: &Address) -> io::Result<TcpStream> {
    let address = match address {
        Address::Ip(address) => *address,
        Address::Unix(path) => loop {
            match connect_unix(path) {
                // The system tells nobody when there is room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL).await,
                outcome => return outcome,
            }
        },
    };
    let stream = TcpStream::connect(address).await?;
    if is_its_own_peer(&stream, address) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    // Fails only on a socket that is broken already, which the first write will tell.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Whether the connection goes round to itself.
///
/// On the same machine, a port nobody listens on may be the one we happen to connect from, and that succeeds.
fn is_its_own_peer(stream: &TcpStream, peer: SocketAddr) -> bool {
    // The stream is not asked for its peer: it has none any more when the backend was quick to reset.
    stream.local_addr().is_ok_and(|local| local == peer)
}

/// Does not wait: the system connects Unix sockets at once, or not at all; `WouldBlock` when the queue is full.
fn connect_unix(path: &Path) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(io::ErrorKind::ConnectionRefused, error),
        _ => error,
    })?;
    TcpStream::from_std(socket.into())
}

/// An accepted Unix connection, carried as the module says.
pub fn carried(stream: UnixStream) -> std::net::TcpStream {
    OwnedFd::from(stream).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn a_connection_to_itself_is_recognised() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = socket.local_addr().unwrap();
        assert!(is_its_own_peer(&socket.connect(own).await.unwrap(), own));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let other = TcpStream::connect(address).await.unwrap();
        assert!(!is_its_own_peer(&other, address));
    }

    #[tokio::test]
    async fn a_unix_socket_is_carried_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let address: Address = format!("unix:{}", path.display()).parse().unwrap();
        let refused = connect(&address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "no such file");

        let listener = UnixListener::bind(&path).unwrap();
        let mut near = connect(&address).await.unwrap();
        let far = carried(listener.accept().unwrap().0);
        far.set_nonblocking(true).unwrap();
        let mut far = TcpStream::from_std(far).unwrap();
        assert!(far.local_addr().is_err() && far.peer_addr().is_err(), "it has no IP address");
        near.write_all(b"ping").await.unwrap();
        near.shutdown().await.unwrap();
        let mut read = String::new();
        far.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "ping");
        far.write_all(b"pong").await.unwrap();
        drop(far);
        read.clear();
        near.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "pong");

        drop(listener);
        let refused = connect(&address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "a stale file");
    }

    /// It was a failure at once, and a backend that was only busy was held for dead.
    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let address = Address::Unix(path.into());
        let mut waiting = Vec::new();
        while let Ok(stream) = tokio::time::timeout(FULL * 10, connect(&address)).await {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 100, "nobody accepts, and yet there is room");
        }
        let (connected, accepted) = tokio::join!(connect(&address), async { listener.accept() });
        connected.unwrap();
        drop(accepted.unwrap());
        let (refused, ()) = tokio::join!(connect(&address), async { drop(listener) });
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "who waits is told of the end");
    }
}

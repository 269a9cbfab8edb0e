//! A port of the system's choice that stays ours while the process that listens on it comes and goes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A bound socket that never listens.
///
/// Asking for a free port and releasing it right away loses it now and then to whoever asks next. A socket that is bound
/// but does not listen keeps the system from giving the port away, while a server that names the port, and reuses
/// addresses as servers do, can still listen on it.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _socket: Socket,
}

impl ReservedPort {
    /// Reserves one on the loopback address.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        // Workers that share a port can only join others that share it too.
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket.local_addr()?.as_socket().expect("bound to an IPv4 address");
        Ok(Self { address, _socket: socket })
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

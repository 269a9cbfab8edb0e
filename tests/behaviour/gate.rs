//! A door in front of a backend that can be shut for a moment: connections are refused, and the backend behind it loses
//! nothing.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{ReservedPort, until};

/// Passes bytes on while it is open.
#[derive(Debug)]
pub(crate) struct Gate {
    port: ReservedPort,
    behind: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Gate {
    /// An open one.
    pub(crate) async fn before(behind: SocketAddr) -> Self {
        let mut gate = Self { port: ReservedPort::new().expect("a loopback port is free"), behind, open: None };
        gate.open().await;
        gate
    }

    /// A backend's line with this as its address.
    pub(crate) fn yaml(&self, name: &str) -> String {
        format!("{{ name: {name}, address: \"{}\" }}", self.port.address())
    }

    /// Connecting succeeds when this returns.
    pub(crate) async fn open(&mut self) {
        // tokio's listener reuses addresses, which is what the reservation wants. A process that another test is just
        // starting has a copy of the last listener for a moment.
        let listener = until("the port is free", async || TcpListener::bind(self.port.address()).await).await;
        self.open = Some(tokio::spawn(pass(listener, self.behind)));
    }

    /// Breaks every connection; connecting is refused when this returns.
    pub(crate) async fn shut(&mut self) {
        let Some(open) = self.open.take() else { return };
        open.abort();
        // Cancelled, as it should be: what it held is closed then.
        let _ = open.await;
        until("connecting is refused", async || match TcpStream::connect(self.port.address()).await {
            Err(_) => Ok(()),
            Ok(_) => Err("connected"),
        })
        .await;
    }
}

async fn pass(listener: TcpListener, behind: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((front, _)) = listener.accept() => {
                connections.spawn(connection(front, behind));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut front: TcpStream, behind: SocketAddr) -> io::Result<()> {
    let mut back = TcpStream::connect(behind).await?;
    tokio::io::copy_bidirectional(&mut front, &mut back).await?;
    Ok(())
}

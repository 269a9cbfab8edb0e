//! Opens a connection to a backend: socket, header of the PROXY protocol, TLS.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::client::Owner;
use crate::pool::Member;
use crate::proxy::stream::BackendStream;
use crate::tls::backend::TlsClient;
use crate::{proxy_protocol, socket};

/// Longest header of the PROXY protocol that is written, in bytes.
const PROXY_HEADER: usize = 52;

/// What is offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// As the pool's protocol says.
    AsSet,
    /// What can switch to any other protocol.
    Http1,
}

/// A connection over which nothing of HTTP has gone.
///
/// # Errors
/// When the backend cannot be reached, or its TLS is not as it has to be.
pub(super) async fn open(member: &Member, owner: Option<Owner>, offer: Offer) -> io::Result<BackendStream> {
    let mut io = socket::connect(&member.address).await?;
    if let Some(owner) = owner {
        let mut header = Vec::with_capacity(PROXY_HEADER);
        proxy_protocol::write(&mut header, Some(owner.ends));
        io.write_all(&header).await?;
    }
    match &member.transport.tls {
        None => Ok(BackendStream::Plain(io)),
        // Boxed, as all that is rare here: a handshake takes room.
        Some(tls) => Box::pin(secure(member, tls, io, offer)).await,
    }
}

/// Does the handshake. What is wrong with a certificate is a mistake in a file somewhere, and told once.
async fn secure(member: &Member, tls: &TlsClient, io: TcpStream, offer: Offer) -> io::Result<BackendStream> {
    let config = match offer {
        Offer::AsSet => tls.config(),
        Offer::Http1 => tls.http1_config(),
    };
    let Some(config) = config else {
        return Err(io::Error::other("there is nobody whose certificates are trusted"));
    };
    let backend = &member.backend;
    let name = tls.server_name(member.address.ip().map(|address| address.ip()));
    match TlsConnector::from(Arc::clone(config)).connect(name, io).await {
        Ok(io) => {
            tls.is_well(backend.serial());
            Ok(BackendStream::Tls(Box::new(io)))
        }
        Err(error) => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            if let Some(problem) = cause.map(ToString::to_string)
                && tls.is_news(backend.serial(), &problem)
            {
                let id = backend.id();
                tracing::warn!(pool = &*id.pool, backend = &*id.name, problem, "requests fail because of TLS");
            }
            Err(error)
        }
    }
}

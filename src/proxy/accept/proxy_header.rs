//! Reads the header of the PROXY protocol off a connection, before TLS or HTTP see a byte of it.
//!
//! Only trusted proxies are listened to, since whoever is believed here can be anybody: in the log, in a limit, in a hash.

use std::fmt;
use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

use crate::config::ProxyProtocol;
use crate::proxy_protocol::{Ends, Fault, Outcome, parse};

/// Why a connection cannot begin.
#[derive(Debug)]
pub enum HeaderError {
    /// The header is needed, and whoever connected must not send one.
    Untrusted,
    /// What came is none.
    Invalid(Fault),
    /// The connection broke or ended before it was whole.
    Broken(io::Error),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => f.write_str("not one of the trusted proxies, which alone may connect"),
            Self::Invalid(fault) => fault.fmt(f),
            Self::Broken(_) => f.write_str("ended within the header of the PROXY protocol"),
        }
    }
}

impl std::error::Error for HeaderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            Self::Untrusted | Self::Invalid(_) => None,
        }
    }
}

/// What the header says of the client, if there has to be or may be one; `None` when the connection speaks for itself.
/// Reads nothing beyond it. Without a deadline: that is the caller's.
///
/// # Errors
/// When the connection has to be closed.
pub async fn receive(
    io: &mut TcpStream,
    setting: ProxyProtocol,
    is_trusted: bool,
) -> Result<Option<Ends>, HeaderError> {
    match (setting, is_trusted) {
        (ProxyProtocol::Off, _) | (ProxyProtocol::Optional, false) => Ok(None),
        (ProxyProtocol::Required, false) => Err(HeaderError::Untrusted),
        (ProxyProtocol::Required, true) => read(io).await,
        (ProxyProtocol::Optional, true) => {
            if begins(io).await.map_err(HeaderError::Broken)? {
                read(io).await
            } else {
                Ok(None)
            }
        }
    }
}

async fn read(io: &mut TcpStream) -> Result<Option<Ends>, HeaderError> {
    let mut header = Vec::new();
    loop {
        match parse(&header) {
            Outcome::Header { ends, .. } => return Ok(ends),
            Outcome::Invalid(fault) => return Err(HeaderError::Invalid(fault)),
            Outcome::Incomplete { at_least } => {
                let had = header.len();
                header.resize(had + at_least, 0);
                let count = io.read(&mut header[had..]).await.map_err(HeaderError::Broken)?;
                if count == 0 {
                    return Err(HeaderError::Broken(io::ErrorKind::UnexpectedEof.into()));
                }
                header.truncate(had + count);
            }
        }
    }
}

/// Whether a connection begins with a header rather than with something else, which is left where it is.
async fn begins(io: &TcpStream) -> io::Result<bool> {
    // As much as it takes to tell.
    let mut seen = [0; 12];
    loop {
        let ready = io.ready(Interest::READABLE).await?;
        let looked = io.try_io(Interest::READABLE, || {
            let (count, _) = recv(io, &mut seen, RecvFlags::PEEK)?;
            match parse(&seen[..count]) {
                Outcome::Invalid(_) => Ok(false),
                Outcome::Header { .. } => Ok(true),
                Outcome::Incomplete { .. } if count == seen.len() => Ok(true),
                // An empty look is the end, which whoever comes next will find as well.
                Outcome::Incomplete { .. } if count == 0 => Ok(false),
                // Not before more has come: the runtime is told that there is nothing to read.
                Outcome::Incomplete { .. } => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Then no more will come, and waiting for it would not wait.
                if ready.is_read_closed() {
                    return Ok(false);
                }
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// What is made of these pieces, each of which has arrived before the next is sent, and what is left to read.
    async fn received(
        setting: ProxyProtocol,
        is_trusted: bool,
        pieces: &[&[u8]],
    ) -> (Result<Option<Ends>, HeaderError>, Vec<u8>) {
        let (mut client, mut io) = pair().await;
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                // Not to let something happen: without it the pieces are one, and the test proves less.
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            client.shutdown().await.unwrap();
        };
        let (outcome, ()) = tokio::join!(receive(&mut io, setting, is_trusted), sending);
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        (outcome, rest)
    }

    #[tokio::test]
    async fn nothing_beyond_the_header_is_read() {
        let mut binary = Vec::new();
        let ends = Ends { source: ([192, 0, 2, 7], 56324).into(), destination: ([198, 51, 100, 1], 443).into() };
        crate::proxy_protocol::write(&mut binary, Some(ends));
        for header in [LINE, &binary] {
            let whole = [header, b"GET / HTTP/1.1\r\n"].concat();
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            let pairs: Vec<&[u8]> = whole.chunks(2).collect();
            for pieces in [&[&whole[..]][..], &bytes, &pairs, &[header, b"GET / HTTP/1.1\r\n"]] {
                for setting in [ProxyProtocol::Required, ProxyProtocol::Optional] {
                    let (outcome, rest) = received(setting, true, pieces).await;
                    assert_eq!(outcome.unwrap(), Some(ends));
                    assert_eq!(rest, b"GET / HTTP/1.1\r\n");
                }
            }
        }
    }

    #[tokio::test]
    async fn where_it_is_optional_anything_else_is_left_alone() {
        for text in ["GET / HTTP/1.1\r\n", "PUT / HTTP/1.1\r\n", "PROX", "P", "\r\n\r\nGET /", "\r\n", ""] {
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            for pieces in [&[text.as_bytes()][..], &bytes] {
                let (outcome, rest) = received(ProxyProtocol::Optional, true, pieces).await;
                assert_eq!((outcome.unwrap(), &*rest), (None, text.as_bytes()), "{text:?}");
            }
        }
        let (outcome, _) = received(ProxyProtocol::Optional, true, &[b"PROXY nonsense\r\n"]).await;
        assert!(matches!(outcome, Err(HeaderError::Invalid(Fault::Line))), "{outcome:?}");
    }

    #[tokio::test]
    async fn where_it_is_required_there_is_no_other_way_in() {
        let (outcome, _) = received(ProxyProtocol::Required, true, &[b"GET / HTTP/1.1\r\n"]).await;
        assert!(matches!(outcome, Err(HeaderError::Invalid(Fault::NoHeader))), "{outcome:?}");
        for cut in [0, 1, 20, LINE.len() - 1] {
            let (outcome, _) = received(ProxyProtocol::Required, true, &[&LINE[..cut]]).await;
            assert!(matches!(outcome, Err(HeaderError::Broken(_))), "{outcome:?}");
        }
        let (outcome, _) = received(ProxyProtocol::Required, false, &[LINE]).await;
        assert!(matches!(outcome, Err(HeaderError::Untrusted)), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_stranger_is_not_looked_at() {
        for setting in [ProxyProtocol::Off, ProxyProtocol::Optional] {
            let (outcome, rest) = received(setting, false, &[LINE]).await;
            assert_eq!((outcome.unwrap(), &*rest), (None, LINE), "it is a bad request");
        }
    }
}

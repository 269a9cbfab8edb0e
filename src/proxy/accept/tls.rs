//! The handshake of one connection, in the worker that owns it: bounded in time and number.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{CertificateError, Error, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::LINGER;
use crate::drain;
use crate::tls::client_certificate::ClientCertificate;
use crate::tls::listener::{Handshake, Terms, TlsListener};

/// Handshakes under way that a worker keeps. Beyond it the one that began first goes: who is honest is done in a few round
/// trips, so it is who stalls.
const MOST_HANDSHAKES: usize = 1024;

/// The first byte of a TLS record that begins a handshake.
const HANDSHAKE_RECORD: u8 = 22;

/// How long a client that spoke HTTP may take to hear the answer.
const PLAIN_ANSWER: Duration = Duration::from_secs(1);

/// What it is told.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 46\r\n\
    connection: close\r\n\r\n400 Bad Request: this port speaks https only.\n";

/// A connection within TLS.
#[derive(Debug)]
pub struct Secured {
    /// What HTTP is read from.
    pub io: Box<TlsStream<TcpStream>>,
    /// Who the client is, if it showed a certificate.
    pub certificate: Option<ClientCertificate>,
}

/// Does the handshake; `None` when that did not end well. How it ended is counted.
pub async fn secure(
    io: TcpStream,
    listener: &TlsListener,
    worker: usize,
    handshakes: &Rc<Handshakes>,
) -> Option<Secured> {
    let place = handshakes.enter();
    let terms = listener.terms();
    let result = tokio::select! {
        biased;
        result = tokio::time::timeout(terms.handshake_timeout, shake(io, &terms, handshakes)) => {
            result.unwrap_or(Err(Handshake::Timeout))
        }
        () = place.taken() => Err(Handshake::Crowded),
    };
    let (secured, handshake) = match result {
        Ok(io) => admitted(io),
        Err(handshake) => (None, handshake),
    };
    listener.ended(worker, handshake);
    secured
}

async fn shake(
    mut io: TcpStream,
    terms: &Terms,
    handshakes: &Handshakes,
) -> Result<Box<TlsStream<TcpStream>>, Handshake> {
    let mut first = [0];
    let looked = tokio::select! {
        biased;
        looked = io.peek(&mut first) => looked,
        // Whoever has said nothing yet does not hold up a stop.
        () = handshakes.closing() => {
            tokio::time::timeout(LINGER, io.peek(&mut first)).await.map_err(|_| Handshake::Timeout)?
        }
    };
    // rustls would answer with an alert, which means nothing to a client that speaks HTTP.
    match looked {
        Ok(1) if first[0] != HANDSHAKE_RECORD => {
            let is_http = first[0].is_ascii_uppercase();
            if is_http {
                // Best effort: whoever it is may be gone.
                let _ = tokio::time::timeout(PLAIN_ANSWER, answer_plainly(&mut io)).await;
            }
            return Err(if is_http { Handshake::PlainHttp } else { Handshake::Failed });
        }
        Ok(1) => {}
        Ok(_) | Err(_) => return Err(Handshake::Failed),
    }
    let accepted = TlsAcceptor::from(Arc::clone(&terms.config)).accept(io).await;
    accepted.map(Box::new).map_err(|error| {
        tracing::debug!(%error, "a TLS handshake failed");
        if is_clients_certificate(&error) { Handshake::ClientCertificate } else { Handshake::Failed }
    })
}

async fn answer_plainly(io: &mut TcpStream) -> io::Result<()> {
    io.write_all(PLAIN_HTTP).await?;
    io.shutdown().await?;
    // Closed with something unread, the connection would be reset, and the answer with it.
    let mut unread = [0; 4096];
    while io.read(&mut unread).await? > 0 {}
    Ok(())
}

fn is_clients_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(error, Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)))
}

/// What came out of a handshake that rustls is content with.
fn admitted(mut io: Box<TlsStream<TcpStream>>) -> (Option<Secured>, Handshake) {
    let connection = io.get_mut().1;
    let handshake = match connection.handshake_kind() {
        Some(HandshakeKind::Resumed) => Handshake::Resumed,
        _ => Handshake::Full,
    };
    let shown = connection.peer_certificates().and_then(<[_]>::first).map(ClientCertificate::read);
    // A ticket outlives what rustls looked at when it was made.
    if handshake == Handshake::Resumed && shown.as_ref().is_some_and(|it| it.is_expired(SystemTime::now())) {
        let error = Error::InvalidCertificate(CertificateError::Expired);
        tracing::debug!(%error, "a client came back with a certificate that is over by now");
        return (None, Handshake::ClientCertificate);
    }
    (Some(Secured { io, certificate: shown }), handshake)
}

/// The handshakes under way at one worker.
#[derive(Debug)]
pub struct Handshakes {
    /// In the order in which they began.
    under_way: RefCell<BTreeMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
    most: usize,
    drain: drain::Watcher,
}

impl Handshakes {
    /// None yet.
    pub fn new(drain: drain::Watcher) -> Self {
        Self { under_way: RefCell::default(), next: Cell::new(0), most: MOST_HANDSHAKES, drain }
    }

    /// Resolves when the process is stopping.
    async fn closing(&self) {
        self.drain.clone().draining().await;
    }

    /// Begins one; takes the place of the oldest when there are too many.
    fn enter(self: &Rc<Self>) -> Place {
        let (number, taken) = (self.next.get(), Rc::<Notify>::default());
        self.next.set(number + 1);
        let mut under_way = self.under_way.borrow_mut();
        if under_way.len() >= self.most
            && let Some((_, oldest)) = under_way.pop_first()
        {
            oldest.notify_one();
        }
        under_way.insert(number, Rc::clone(&taken));
        Place { handshakes: Rc::clone(self), number, taken }
    }
}

/// One handshake's place among those under way, until dropped.
struct Place {
    handshakes: Rc<Handshakes>,
    number: u64,
    taken: Rc<Notify>,
}

impl Place {
    /// Resolves when another one has taken it.
    async fn taken(&self) {
        self.taken.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshakes.under_way.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_handshake_that_began_first_makes_room() {
        let (_trigger, drain) = drain::new();
        let handshakes = Rc::new(Handshakes { most: 2, ..Handshakes::new(drain) });
        let first = handshakes.enter();
        let second = handshakes.enter();
        drop(first);
        let third = handshakes.enter();
        assert!(!is_ready(second.taken()), "one had ended");
        let fourth = handshakes.enter();
        assert!(is_ready(second.taken()));
        assert!(!is_ready(third.taken()) && !is_ready(fourth.taken()));
        drop((second, third, fourth));
        assert!(handshakes.under_way.borrow().is_empty());
    }

    #[test]
    fn the_plain_answer_tells_its_own_length() {
        let text = String::from_utf8(PLAIN_HTTP.to_vec()).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{text}");
    }
}

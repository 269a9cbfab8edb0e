//! One probe: a fresh connection, over TLS if the settings say so, a question on it, and what it shows of the backend.
//!
//! It changes nothing and knows nothing of the probes before it.

mod exchange;

mod grpc;

#[cfg(test)]
mod raw_tests;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::agent::Words;
use crate::config::{self, Address, Probe};
use crate::pool::{Evidence, Failure};
use crate::proxy::forward::is_own_trouble;
use crate::tls::{HTTP_1, HTTP_2, backend as tls};
use crate::{proxy_protocol, socket};
use exchange::{Answer, Place};

/// What a probe showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProbeReport {
    /// About its health.
    pub(super) evidence: Evidence,
    /// Which life of its process answered: a hash of the instance header, if there is one and it was in the reply. Two
    /// replicas of Stickpin, and one before and after its restart, have the same hash for the same value.
    pub(super) instance: Option<u64>,
    /// What its agent said.
    pub(super) words: Option<Words>,
    /// What is wrong with its TLS, which is nothing that time would heal.
    pub(super) tls_problem: Option<String>,
}

/// Who is probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// Where the probe goes.
    pub(super) address: &'a Address,
    /// Where requests go; mostly the same.
    pub(super) backend: &'a Address,
    /// Whether connections for requests begin with the header of the PROXY protocol.
    pub(super) sends_proxy_protocol: bool,
    /// Made of the settings, where they ask for TLS.
    pub(super) tls: Option<&'a Arc<ClientConfig>>,
}

impl<'a> Target<'a> {
    /// Where requests go too, in clear and without a word before them.
    #[cfg(test)]
    fn plain(address: &'a Address) -> Self {
        Self { address, backend: address, sends_proxy_protocol: false, tls: None }
    }
}

/// What is offered by ALPN to agree on for these probes.
pub(super) fn protocols(probe: &Probe) -> &'static [&'static [u8]] {
    match probe {
        Probe::Off | Probe::Tcp => &[],
        Probe::Http(probe) if probe.http2 => &[HTTP_2],
        Probe::Http(_) => &[HTTP_1],
        Probe::Grpc(_) => &[HTTP_2],
    }
}

/// Probes a backend once, within `settings.timeout`.
///
/// Without probes in the settings, it is a connection that opens. Where requests begin with the header of the PROXY protocol
/// probes do, too: it says that they are our own.
///
/// # Errors
/// Those of our own, which say nothing of the backend.
pub(super) async fn probe(settings: &config::Health, target: Target<'_>) -> io::Result<ProbeReport> {
    let exchange = async {
        let outcome = reach(settings, target).await;
        if matches!(outcome, Err(ProbeError::Failed(Failure::Refused))) && target.address != target.backend {
            // Only a backend that refuses requests, too, is known to be gone.
            return match socket::connect(target.backend).await {
                Err(error) if failure_of(&error) == Failure::Refused => outcome,
                Ok(_) | Err(_) => Err(ProbeError::Failed(Failure::Silent)),
            };
        }
        outcome
    };
    let (evidence, answer, tls_problem) = match timeout(settings.timeout, exchange).await {
        Ok(Ok(answer)) => (Evidence::ProbeOk, answer, None),
        Ok(Err(ProbeError::Unexpected(answer))) => (Evidence::ProbeFailed(Failure::Unexpected), answer, None),
        Ok(Err(ProbeError::Local(error))) => return Err(error),
        Ok(Err(ProbeError::Failed(failure))) => (Evidence::ProbeFailed(failure), Answer::default(), None),
        Ok(Err(ProbeError::Tls(problem))) => (Evidence::ProbeFailed(Failure::Broken), Answer::default(), Some(problem)),
        Err(_elapsed) => (Evidence::ProbeFailed(Failure::Silent), Answer::default(), None),
    };
    Ok(ProbeReport { evidence, instance: answer.instance, words: answer.words, tls_problem })
}

/// Why a probe did not succeed.
enum ProbeError {
    /// It could not be made.
    Local(io::Error),
    /// Nobody answered in what the probe speaks.
    Failed(Failure),
    /// The other side's TLS is not as expected.
    Tls(String),
    /// The answer was another one; it may still tell something.
    Unexpected(Answer),
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        if is_own_trouble(&error) { Self::Local(error) } else { Self::Failed(failure_of(&error)) }
    }
}

/// What a failed connection shows.
fn failure_of(error: &io::Error) -> Failure {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => Failure::Refused,
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof | K::InvalidData => {
            Failure::Broken
        }
        // Timeouts, missing routes, and whatever else does not prove that the process is gone.
        _ => Failure::Silent,
    }
}

async fn reach(settings: &config::Health, target: Target<'_>) -> Result<Answer, ProbeError> {
    let mut stream = socket::connect(target.address).await?;
    // Somewhere else, nobody is known to expect it.
    if target.sends_proxy_protocol && target.address == target.backend {
        let mut header = Vec::new();
        proxy_protocol::write(&mut header, None);
        stream.write_all(&header).await?;
    }
    let Some(tls) = &settings.tls else {
        return talk(&settings.probe, target.address, false, stream).await;
    };
    let Some(config) = target.tls else {
        return Err(ProbeError::Local(io::Error::other("there is nobody whose certificates are trusted")));
    };
    let host = match &settings.probe {
        Probe::Http(probe) => probe.host.as_deref(),
        Probe::Grpc(probe) => probe.host.as_deref(),
        Probe::Off | Probe::Tcp => None,
    };
    let name = tls::server_name(tls, host, target.address.ip().map(|address| address.ip()));
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|error| {
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(error) => ProbeError::Tls(error.to_string()),
            None => error.into(),
        }
    })?;
    if protocols(&settings.probe) == [HTTP_2] && stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
        return Err(ProbeError::Tls("it does not agree to HTTP/2 (ALPN)".to_owned()));
    }
    talk(&settings.probe, target.address, true, stream).await
}

async fn talk<I>(probe: &Probe, address: &Address, is_https: bool, io: I) -> Result<Answer, ProbeError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A path is no host.
    let own = || address.ip().map_or_else(|| "localhost".to_owned(), |address| address.to_string());
    match probe {
        Probe::Off | Probe::Tcp => Ok(Answer::default()),
        Probe::Http(http) => {
            let authority = http.host.as_deref().map_or_else(own, str::to_owned);
            exchange::ask(http, Place { authority: &authority, is_https }, io).await
        }
        Probe::Grpc(grpc) => {
            let authority = grpc.host.as_deref().map_or_else(own, str::to_owned);
            exchange::ask_grpc(grpc, Place { authority: &authority, is_https }, io).await
        }
    }
}

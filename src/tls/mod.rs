//! TLS: what certificate files say, which certificate a client is shown, and what its handshake goes by.
//!
//! Like `config`: the contents of files, the time and random bytes are arguments; nothing here opens a socket or, but for
//! the system's roots, a file. [`certificate`] reads a chain and its key, [`ocsp`] what the issuer says of it, [`names`] finds the one for a host,
//! [`tickets`] seals what a client needs to come back, [`client_certificate`] tells backends who a client is,
//! [`backend`] is TLS towards them, and [`listener`] is what workers and the control plane share of one listener. All of it uses one [`provider`].

pub mod provider;

pub mod certificate;

pub mod ocsp;

pub mod names;

pub mod tickets;

pub mod client_certificate;

pub mod backend;

pub mod listener;

#[cfg(test)]
pub(crate) mod made;

/// HTTP/1.1 as ALPN names it.
pub const HTTP_1: &[u8] = b"http/1.1";

/// HTTP/2 as ALPN names it.
pub const HTTP_2: &[u8] = b"h2";

/// A positive number without the zero that DER puts before a high bit.
pub(crate) fn without_sign(number: &[u8]) -> &[u8] {
    let zeroes = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeroes..]
}

/// SHA-256 of the parts, each with its length, so that no two lists of parts are alike.
pub(crate) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

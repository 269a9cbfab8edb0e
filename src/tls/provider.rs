//! The one provider of cryptography, for every connection of the program: aws-lc-rs.

use std::sync::Arc;

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite as aws, default_provider};

use crate::config::CipherSuite;

/// With everything that it holds for secure.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// With these cipher suites alone, in this order.
pub fn with_suites(suites: &[CipherSuite]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: suites.iter().copied().map(suite).collect(), ..default_provider() })
}

/// Makes it the process's default, for libraries that take that one.
pub fn install() {
    // An error means that it was chosen already, which is as good.
    let _ = default_provider().install_default();
}

fn suite(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::Aes256Gcm => aws::TLS13_AES_256_GCM_SHA384,
        CipherSuite::Aes128Gcm => aws::TLS13_AES_128_GCM_SHA256,
        CipherSuite::ChaCha20 => aws::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdsaAes256Gcm => aws::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdsaAes128Gcm => aws::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdsaChaCha20 => aws::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::RsaAes256Gcm => aws::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::RsaAes128Gcm => aws::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::RsaChaCha20 => aws::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_provider_can_be_named_and_each_name_is_the_right_one() {
        let named: Vec<_> = CipherSuite::ALL.iter().map(|one| suite(*one)).collect();
        assert_eq!(named, provider().cipher_suites);
        for (one, found) in CipherSuite::ALL.iter().zip(named) {
            let name = format!("{:?}", found.suite()).replace("TLS13_", "TLS_");
            assert_eq!(name, one.as_str());
        }
    }
}

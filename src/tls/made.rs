//! Certificates made for tests.

use std::ops::Range;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use time::{Duration, OffsetDateTime};

/// One who issues certificates.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM and DER.
pub(crate) struct Made {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: rustls::pki_types::CertificateDer<'static>,
}

/// From so many days after now to so many.
pub(crate) fn days(from: i64, to: i64) -> Range<OffsetDateTime> {
    let now = OffsetDateTime::now_utc();
    now + Duration::days(from)..now + Duration::days(to)
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn server(&self, names: &[&str], valid: Range<OffsetDateTime>) -> Made {
        let names = names.iter().map(|name| SanType::DnsName((*name).try_into().expect("a name")));
        self.issue(|params| {
            params.subject_alt_names = names.collect();
            (params.not_before, params.not_after) = (valid.start, valid.end);
        })
    }

    pub(crate) fn issue(&self, describe: impl FnOnce(&mut CertificateParams)) -> Made {
        let mut params = CertificateParams::default();
        describe(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Made { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }
}

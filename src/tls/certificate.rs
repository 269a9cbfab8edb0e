//! A certificate with its key, as their files have it: is it whole, does it fit together, for whom and for how long is it?

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate that can be shown to clients.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The chain and its key, without an OCSP response.
    pub key: Arc<CertifiedKey>,
    /// Hosts that it is for, lower case; `*.` in front stands for one label.
    pub names: Vec<Box<str>>,
    /// Not good before.
    pub not_before: SystemTime,
    /// Not good after.
    pub not_after: SystemTime,
    /// Its number at its issuer, without zeroes in front.
    pub serial: Vec<u8>,
    /// What is odd about it, although it can be used.
    pub remarks: Vec<Remark>,
}

/// Whether a certificate is good at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It is not good yet.
    NotYet,
    /// It is good.
    Valid,
    /// It was.
    Expired,
}

/// Something odd about a certificate that is shown all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// This one of the file, counted from 1, did not issue the one before.
    ChainOrder(usize),
    /// It has no host name, so nobody can ask for it.
    NoNames,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainOrder(place) => {
                write!(
                    f,
                    "certificate {place} of the file did not issue the one before it; some clients will not trust it"
                )
            }
            Self::NoNames => {
                f.write_str("it has no host name (subjectAltName); it is only used where it is the first one")
            }
        }
    }
}

/// Why a certificate cannot be used.
#[derive(Debug)]
pub enum CertificateError {
    /// No certificate in the file.
    NoCertificate,
    /// No private key in the file.
    NoKey,
    /// The key needs a password, and nobody could give one at start.
    EncryptedKey,
    /// The key is another certificate's.
    KeyMismatch {
        /// Its place in the file, from 1, if it is there.
        belongs_to: Option<usize>,
    },
    /// The file is not PEM.
    Pem(rustls::pki_types::pem::Error),
    /// A certificate that cannot be read.
    Malformed(x509_cert::der::Error),
    /// A key, or a certificate, that rustls does not take.
    Unusable(rustls::Error),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => {
                f.write_str("expected a certificate in PEM form (-----BEGIN CERTIFICATE-----), found none")
            }
            Self::NoKey => f.write_str("expected a private key in PEM form (-----BEGIN PRIVATE KEY-----), found none"),
            Self::EncryptedKey => f.write_str("expected a private key without a password, found one that is encrypted"),
            Self::KeyMismatch { belongs_to: None } => f.write_str("the private key is not that of the certificate"),
            Self::KeyMismatch { belongs_to: Some(place) } => write!(
                f,
                "the private key is that of certificate {place} of the file; the server's own has to come first, then its \
                 issuers"
            ),
            Self::Pem(_) => f.write_str("not PEM"),
            Self::Malformed(_) => f.write_str("a certificate that cannot be read"),
            Self::Unusable(_) => f.write_str("a certificate or key that cannot be used"),
        }
    }
}

impl Error for CertificateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pem(error) => Some(error),
            Self::Malformed(error) => Some(error),
            Self::Unusable(error) => Some(error),
            Self::NoCertificate | Self::NoKey | Self::EncryptedKey | Self::KeyMismatch { .. } => None,
        }
    }
}

impl Certificate {
    /// Reads a chain and its key, both PEM.
    ///
    /// # Errors
    /// When either is missing or unreadable, or they do not belong together.
    pub fn read(chain: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<Self, CertificateError> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(CertificateError::Pem)?;
        let Some(own) = chain.first() else { return Err(CertificateError::NoCertificate) };
        let own: CertificateInner<Raw> = CertificateInner::from_der(own).map_err(CertificateError::Malformed)?;
        let key = provider.key_provider.load_private_key(private_key(key)?).map_err(CertificateError::Unusable)?;
        if let Some(public) = key.public_key() {
            let owners = chain.iter().map(|der| {
                let parsed = ParsedCertificate::try_from(der).map_err(CertificateError::Unusable)?;
                Ok(parsed.subject_public_key_info() == public)
            });
            let owners: Vec<bool> = owners.collect::<Result<_, _>>()?;
            if !owners[0] {
                let belongs_to = owners.iter().position(|is_owner| *is_owner).map(|index| index + 1);
                return Err(CertificateError::KeyMismatch { belongs_to });
            }
        }
        let tbs = own.tbs_certificate();
        let time = |time: &x509_cert::time::Time| UNIX_EPOCH + time.to_unix_duration();
        let names = names(&own);
        let mut remarks: Vec<_> = first_out_of_order(&own, &chain).map(Remark::ChainOrder).into_iter().collect();
        if names.is_empty() {
            remarks.push(Remark::NoNames);
        }
        Ok(Self {
            not_before: time(&tbs.validity().not_before),
            not_after: time(&tbs.validity().not_after),
            serial: super::without_sign(tbs.serial_number().as_bytes()).to_vec(),
            key: Arc::new(CertifiedKey::new(chain, key)),
            names,
            remarks,
        })
    }

    /// Whether it is good now.
    pub fn validity(&self, now: SystemTime) -> Validity {
        if now < self.not_before {
            Validity::NotYet
        } else if now > self.not_after {
            Validity::Expired
        } else {
            Validity::Valid
        }
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            // `ENCRYPTED PRIVATE KEY`, or the older `Proc-Type: 4,ENCRYPTED`.
            let is_encrypted = memchr::memmem::find(pem, b"ENCRYPTED").is_some();
            if is_encrypted { CertificateError::EncryptedKey } else { CertificateError::NoKey }
        }
        error => CertificateError::Pem(error),
    })
}

/// The host names that a certificate is for. The subject's common name has not been one since RFC 6125.
fn names(certificate: &CertificateInner<Raw>) -> Vec<Box<str>> {
    let Ok(Some((_, SubjectAltName(names)))) = certificate.tbs_certificate().get_extension::<SubjectAltName>() else {
        return Vec::new();
    };
    let names = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().trim_end_matches('.').to_ascii_lowercase().into()),
        _ => None,
    });
    names.collect()
}

/// The place, from 1, of the first certificate of a chain that did not issue the one before.
fn first_out_of_order(own: &CertificateInner<Raw>, chain: &[CertificateDer<'_>]) -> Option<usize> {
    let mut issuer = own.tbs_certificate().issuer().clone();
    for (index, der) in chain.iter().enumerate().skip(1) {
        match CertificateInner::<Raw>::from_der(der) {
            Ok(next) if *next.tbs_certificate().subject() == issuer => {
                issuer = next.tbs_certificate().issuer().clone();
            }
            Ok(_) | Err(_) => return Some(index + 1),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::made::{Ca, Made, days};
    use super::super::provider::provider;
    use super::*;

    fn read(chain: &str, key: &str) -> Result<Certificate, String> {
        Certificate::read(chain.as_bytes(), key.as_bytes(), &provider()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_tells_its_hosts_and_how_long_it_is_good() {
        let now = SystemTime::now();
        let made = Ca::new("ca").server(&["Shop.example.com", "*.example.com"], days(-1, 30));
        let certificate = read(&made.chain, &made.key).expect("it is whole");
        let names: Vec<&str> = certificate.names.iter().map(|name| &**name).collect();
        assert_eq!(names, ["shop.example.com", "*.example.com"]);
        assert_eq!(certificate.validity(now), Validity::Valid);
        assert_eq!(certificate.validity(now - Duration::from_secs(3 * 86_400)), Validity::NotYet);
        assert_eq!(certificate.validity(now + Duration::from_secs(31 * 86_400)), Validity::Expired);
        assert!(certificate.remarks.is_empty(), "{:?}", certificate.remarks);
    }

    #[test]
    fn what_does_not_fit_together_is_told_apart() {
        let ca = Ca::new("ca");
        let (one, other) = (ca.server(&["a.example"], days(-1, 1)), ca.server(&["b.example"], days(-1, 1)));
        let Made { chain, key, .. } = &one;
        let swapped = format!("{}{}", ca.pem(), chain);
        for (chain, key, expected) in [
            ("", &**key, "expected a certificate in PEM form"),
            ("hello", key, "expected a certificate in PEM form"),
            (key, key, "expected a certificate in PEM form"),
            (chain, "", "expected a private key in PEM form"),
            (chain, chain, "expected a private key in PEM form"),
            (
                chain,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "without a password",
            ),
            (chain, &other.key, "is not that of the certificate"),
            (&swapped, key, "is that of certificate 2 of the file"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", key, "cannot be read"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", key, "not PEM"),
            (chain, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be used"),
        ] {
            let error = read(chain, key).map(|_| ()).expect_err(expected);
            assert!(error.contains(expected), "{error:?} is not {expected:?}");
        }
    }

    #[test]
    fn a_chain_out_of_order_and_one_without_names_are_used_with_a_remark() {
        let (ca, stranger) = (Ca::new("ca"), Ca::new("stranger"));
        let made = ca.server(&["a.example"], days(-1, 1));
        let remarks = |chain: String, key: &str| read(&chain, key).expect("it can be used").remarks;
        assert_eq!(remarks(format!("{}{}", made.chain, ca.pem()), &made.key), []);
        assert_eq!(remarks(format!("{}{}", made.chain, stranger.pem()), &made.key), [Remark::ChainOrder(2)]);
        let nameless = ca.server(&[], days(-1, 1));
        assert_eq!(remarks(nameless.chain, &nameless.key), [Remark::NoNames]);
    }
}

//! Who a client is, by the certificate it showed, told to backends in headers that clients cannot forge.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::hex;

/// A longer value is left out: a backend would refuse the head for it.
const LONGEST_VALUE: usize = 4096;

/// What a verified certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Header lines for backends, each with its line end.
    pub lines: Vec<u8>,
    /// Not good after. A client that comes back with a ticket does not show its certificate again.
    not_after: SystemTime,
}

impl ClientCertificate {
    /// Reads a certificate that was verified. The fingerprint is always told; the rest where it can be read.
    pub fn read(der: &CertificateDer<'_>) -> Self {
        let fingerprint = hex::digits(digest::digest(&digest::SHA256, der).as_ref());
        let mut lines = format!("stickpin-client-cert-fingerprint: {fingerprint}\r\n");
        let mut line = |name: &str, value: &str| {
            let value = escaped(value);
            if !value.is_empty() && value.len() <= LONGEST_VALUE {
                // Writing to a string does not fail.
                let _ = write!(lines, "stickpin-client-cert-{name}: {value}\r\n");
            }
        };
        let mut not_after = UNIX_EPOCH;
        if let Ok(certificate) = CertificateInner::<Raw>::from_der(der) {
            let tbs = certificate.tbs_certificate();
            not_after = UNIX_EPOCH + tbs.validity().not_after.to_unix_duration();
            line("subject", &tbs.subject().to_string());
            line("serial", &hex::digits(super::without_sign(tbs.serial_number().as_bytes())));
            if let Ok(Some((_, SubjectAltName(names)))) = tbs.get_extension::<SubjectAltName>() {
                let names: Vec<_> = names.iter().filter_map(alternative).collect();
                line("san", &names.join(", "));
            }
        }
        Self { lines: lines.into_bytes(), not_after }
    }

    /// Whether it is over.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now > self.not_after
    }
}

/// A name of the subject, as OpenSSL writes them. A comma within one is escaped, since commas separate them.
fn alternative(name: &GeneralName) -> Option<String> {
    let (kind, name) = match name {
        GeneralName::DnsName(name) => ("DNS", name),
        GeneralName::Rfc822Name(name) => ("email", name),
        GeneralName::UniformResourceIdentifier(name) => ("URI", name),
        _ => return None,
    };
    Some(format!("{kind}:{}", name.as_str().replace('\\', "\\5c").replace(',', "\\2c")))
}

/// Visible ASCII and spaces as they are, every other byte as RFC 4514 §2.4 escapes it: nothing that ends a line, and
/// nothing that servers read differently.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if (0x20..0x7f).contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('\\');
            out.push_str(&hex::digits(&[byte]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, SanType};

    use super::super::made::Ca;
    use super::*;

    #[test]
    fn the_subject_is_written_as_rfc_4514_says_and_nothing_in_it_ends_a_line() {
        let made = Ca::new("ca").issue(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "Läden, Söhne & Co\r\nStickpin-Evil: 1");
            params.distinguished_name.push(DnType::CommonName, "ann");
            params.subject_alt_names = vec![
                SanType::Rfc822Name("ann@example.com".try_into().expect("ASCII")),
                SanType::URI("spiffe://example.com/a,b".try_into().expect("ASCII")),
            ];
            params.serial_number = Some(vec![0x0a, 0xbc].into());
        });
        let certificate = ClientCertificate::read(&made.der);
        let text = String::from_utf8(certificate.lines.clone()).expect("ASCII");
        assert!(text.is_ascii());
        let lines: Vec<_> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 4, "{text}");
        let (name, fingerprint) = lines[0].split_once(": ").expect("a line");
        assert_eq!((name, fingerprint.len()), ("stickpin-client-cert-fingerprint", 64));
        assert_eq!(
            lines[1..],
            [
                "stickpin-client-cert-subject: O=L\\c3\\a4den\\, S\\c3\\b6hne & Co\\0d\\0aStickpin-Evil: 1,CN=ann",
                "stickpin-client-cert-serial: 0abc",
                "stickpin-client-cert-san: email:ann@example.com, URI:spiffe://example.com/a\\2cb",
            ]
        );
        assert!(!certificate.is_expired(SystemTime::now()));
    }

    #[test]
    fn one_that_cannot_be_read_has_a_fingerprint_and_is_never_good_again() {
        let certificate = ClientCertificate::read(&CertificateDer::from(&b"nonsense"[..]));
        assert!(certificate.lines.starts_with(b"stickpin-client-cert-fingerprint: "));
        assert!(certificate.is_expired(SystemTime::now()));
    }
}

//! Which certificate is shown: by the name that the client asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificates by the names in them: exactly the name asked for, else a wildcard of one label, else the default.
///
/// A name may have several certificates, with keys of different kinds; the first one that the client can verify counts.
/// Constant time in the number of names, no allocation.
#[derive(Debug, Default)]
pub struct Names {
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// The first certificate, and those for the same names.
    default: Vec<Arc<CertifiedKey>>,
}

impl Names {
    /// Arranges certificates, with their names in lower case; the first one is the default.
    pub fn new<'a>(certificates: impl IntoIterator<Item = (&'a [Box<str>], Arc<CertifiedKey>)>) -> Self {
        let mut arranged = Self::default();
        let mut default_names = None;
        for (names, key) in certificates {
            if *default_names.get_or_insert(names) == names {
                arranged.default.push(Arc::clone(&key));
            }
            for name in names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut arranged.wildcard, domain),
                    None => (&mut arranged.exact, &**name),
                };
                table.entry(name.into()).or_default().push(Arc::clone(&key));
            }
        }
        arranged
    }

    /// The certificates for a name in lower case; `None` when the client did not ask for any.
    pub fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let by_wildcard = |name: &str| self.wildcard.get(name.split_once('.')?.1);
        let found = name.and_then(|name| self.exact.get(name).or_else(|| by_wildcard(name)));
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case.
        let found = self.find(hello.server_name());
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        found.iter().find(fits).or(found.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificate::Certificate;
    use super::super::made::{Ca, days};
    use super::super::provider::provider;
    use super::*;

    #[test]
    fn the_most_exact_name_wins_and_the_first_certificate_is_for_the_rest() {
        let ca = Ca::new("ca");
        let hosts: [&[&str]; 4] =
            [&["shop.example.com"], &["*.example.com", "example.com"], &["a.b.example.com"], &["shop.example.com"]];
        let certificates = hosts.map(|names| {
            let made = ca.server(names, days(-1, 1));
            Certificate::read(made.chain.as_bytes(), made.key.as_bytes(), &provider()).expect("a certificate")
        });
        let names = Names::new(certificates.iter().map(|it| (&*it.names, Arc::clone(&it.key))));
        for (asked, expected) in [
            (Some("shop.example.com"), &[0, 3][..]),
            (Some("www.example.com"), &[1]),
            // A name written to its root, which some clients send as it was typed.
            (Some("www.example.com."), &[1]),
            (Some("a.b.example.com."), &[2]),
            (Some("example.com"), &[1]),
            (Some("a.b.example.com"), &[2]),
            (Some("b.b.example.com"), &[0, 3]),
            (Some("other.org"), &[0, 3]),
            (Some(""), &[0, 3]),
            (Some("."), &[0, 3]),
            (Some(".example.com"), &[1]),
            (None, &[0, 3]),
        ] {
            let found: Vec<_> = names
                .find(asked)
                .iter()
                .map(|key| certificates.iter().position(|it| Arc::ptr_eq(&it.key, key)).expect("one of them"))
                .collect();
            assert_eq!(found, expected, "{asked:?}");
        }
    }
}

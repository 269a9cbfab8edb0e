//! The affinity key: what a request carries that is hashed onto the pool.
//!
//! A key is SipHash-2-4, with the hash key zero, of one byte for the kind of its source and the bytes of the source. All
//! replicas have to agree on it, of every release, with nothing shared and nothing kept: what
//! `tests/golden/affinity-keys.txt` holds may never change.
//!
//! The hash key is no secret, so who can choose the header or cookie can find many keys of one backend, and aim its load
//! there. A secret would not prevent it: the same key sent again and again does the same. It would cost much, though:
//! replicas without a common keys file would disagree, and each rotation would move every client. Against one backend with
//! too much to do stand the limits of load; nothing here is a table that collisions could slow down.

use std::fmt;
use std::hash::Hasher as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use siphasher::sip::SipHasher24;

use super::cookie::CookieName;
use super::parameter::QueryParameter;
use crate::config::{HashAffinity, KeySource, TokenSource};

/// A longer payload of a token is not read: claims that name somebody are short, and this is work for strangers.
const LONGEST_PAYLOAD: usize = 8 << 10;

/// Encoders of tokens leave the padding out; some do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Makes the affinity key of one pool's requests, with the searches prepared. Made once a snapshot.
#[derive(Clone, Debug)]
pub struct AffinityKeys {
    sources: Vec<Source>,
}

#[derive(Clone, Debug)]
enum Source {
    Header(HeaderName),
    Cookie(CookieName),
    Query(QueryParameter),
    Path,
    Client { ipv4_prefix: u8, ipv6_prefix: u8 },
    Claim { claim: Box<str>, token: Token },
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a pool has few, and a search without a box is one step less")]
enum Token {
    Header(HeaderName),
    Cookie(CookieName),
}

/// The first byte of what is hashed, so that a user called `/cart` is not hashed like the path.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Header = 1,
    Cookie = 2,
    Query = 3,
    Path = 4,
    Client = 5,
    Claim = 6,
}

impl AffinityKeys {
    /// Prepares the searches.
    pub fn new(settings: &HashAffinity) -> Self {
        let source = |source: &KeySource| match source {
            KeySource::Header(name) => Source::Header(name.clone()),
            KeySource::Cookie(name) => Source::Cookie(CookieName::new(name)),
            KeySource::QueryParameter(name) => Source::Query(QueryParameter::new(name)),
            KeySource::Path => Source::Path,
            &KeySource::ClientAddress { ipv4_prefix, ipv6_prefix } => Source::Client { ipv4_prefix, ipv6_prefix },
            KeySource::JwtClaim { claim, token } => Source::Claim {
                claim: (&**claim).into(),
                token: match token {
                    TokenSource::Header(name) => Token::Header(name.clone()),
                    TokenSource::Cookie(name) => Token::Cookie(CookieName::new(name)),
                },
            },
        };
        Self { sources: settings.keys.iter().map(source).collect() }
    }

    /// The key of a request, from the first source that has one. `path` is `path_and_query` without the query.
    ///
    /// A token is not verified, which is the app's business; one that cannot be read has no claim. Nothing allocates but the
    /// reading of a token's texts with escapes in them.
    pub fn key(&self, client: IpAddr, headers: &HeaderMap, path: &str, path_and_query: &str) -> Option<u64> {
        self.sources.iter().find_map(|source| match source {
            Source::Header(name) => present(Kind::Header, headers.get(name)?.as_bytes().trim_ascii()),
            Source::Cookie(name) => name.find(headers).find_map(|value| present(Kind::Cookie, value)),
            Source::Query(parameter) => parameter.values(path_and_query).find_map(|value| present(Kind::Query, value)),
            Source::Path => present(Kind::Path, path.as_bytes()),
            &Source::Client { ipv4_prefix, ipv6_prefix } => Some(of_network(client, ipv4_prefix, ipv6_prefix)),
            Source::Claim { claim, token } => match token {
                Token::Header(name) => of_claim(claim, without_bearer(headers.get(name)?)),
                Token::Cookie(name) => name.find(headers).find_map(|token| of_claim(claim, token)),
            },
        })
    }

    /// The key of a client's whole address, for a request without a key.
    pub fn of_client(client: IpAddr) -> u64 {
        of_network(client, 32, 128)
    }
}

fn present(kind: Kind, value: &[u8]) -> Option<u64> {
    (!value.is_empty()).then(|| hash(kind, value))
}

fn hash(kind: Kind, value: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(&[kind as u8]);
    hasher.write(value);
    hasher.finish()
}

/// An IPv4 address inside an IPv6 one is an IPv4 address. Bits beyond the prefix are zero.
fn of_network(client: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => {
            let host_bits = 32_u32.saturating_sub(ipv4_prefix.into());
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            hash(Kind::Client, &Ipv4Addr::from_bits(address.to_bits() & mask).octets())
        }
        IpAddr::V6(address) => {
            let host_bits = 128_u32.saturating_sub(ipv6_prefix.into());
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            hash(Kind::Client, &Ipv6Addr::from_bits(address.to_bits() & mask).octets())
        }
    }
}

/// The token of a header line; the scheme in front is written in any case.
fn without_bearer(line: &HeaderValue) -> &[u8] {
    const SCHEME: &[u8] = b"bearer";
    let line = line.as_bytes().trim_ascii();
    match line.split_at_checked(SCHEME.len()) {
        Some((scheme, token @ [b' ' | b'\t', ..])) if scheme.eq_ignore_ascii_case(SCHEME) => token.trim_ascii_start(),
        _ => line,
    }
}

/// The key of a token's claim: of the text of a string, the digits of a whole number, or `true` or `false`.
fn of_claim(claim: &str, token: &[u8]) -> Option<u64> {
    let mut parts = token.split(|byte| *byte == b'.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    // A blank means that another scheme than Bearer stands in front.
    let has_blank = memchr::memchr2(b' ', b'\t', token).is_some();
    if parts.next().is_some() || has_blank || payload.len() > LONGEST_PAYLOAD {
        return None;
    }
    // On the stack: with padding or without, three bytes come of four characters.
    let mut buffer = [0; LONGEST_PAYLOAD / 4 * 3];
    let length = BASE64.decode_slice(payload, &mut buffer).ok()?;
    let mut json = serde_json::Deserializer::from_slice(&buffer[..length]);
    let key = ReadClaim(claim).deserialize(&mut json).ok()?;
    json.end().ok()?;
    key
}

/// Reads one claim of an object and skips the others. Of several of one name the last one counts, as for most readers.
struct ReadClaim<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for ReadClaim<'_> {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReadClaim<'_> {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut claims: A) -> Result<Option<u64>, A::Error> {
        let mut key = None;
        while let Some(is_ours) = claims.next_key_seed(IsText(self.0))? {
            if is_ours {
                key = claims.next_value_seed(ClaimKey)?;
            } else {
                claims.next_value::<IgnoredAny>()?;
            }
        }
        Ok(key)
    }
}

/// Whether a text is this one.
struct IsText<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for IsText<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsText<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(text == self.0)
    }
}

/// The key of a claim's value; `None` for one that names nobody.
struct ClaimKey;

impl<'de> DeserializeSeed<'de> for ClaimKey {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ClaimKey {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a claim")
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<u64>, E> {
        Ok(present(Kind::Claim, text.as_bytes()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Option<u64>, E> {
        self.visit_str(itoa::Buffer::new().format(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Option<u64>, E> {
        self.visit_str(itoa::Buffer::new().format(number))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<u64>, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<u64>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<u64>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<u64>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<u64>, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;
    use crate::config::{HomeHash, WithoutKey};

    fn keys(sources: &[KeySource]) -> AffinityKeys {
        AffinityKeys::new(&HashAffinity {
            keys: sources.to_vec(),
            without_key: WithoutKey::Balance,
            home_hash: HomeHash::Rendezvous,
            bounded_load: None,
        })
    }

    fn header(name: &'static str) -> KeySource {
        KeySource::Header(HeaderName::from_static(name))
    }

    fn claim(name: &str) -> KeySource {
        KeySource::JwtClaim { claim: name.into(), token: TokenSource::Header(http::header::AUTHORIZATION) }
    }

    fn network(ipv4_prefix: u8, ipv6_prefix: u8) -> KeySource {
        KeySource::ClientAddress { ipv4_prefix, ipv6_prefix }
    }

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    /// The key of a request with these header lines and this target.
    fn key(sources: &[KeySource], lines: &[(&str, &[u8])], target: &str) -> Option<u64> {
        let line = |(name, value): &(&str, &[u8])| -> (HeaderName, HeaderValue) {
            (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap())
        };
        let path = target.split('?').next().unwrap();
        keys(sources).key(CLIENT, &lines.iter().map(line).collect(), path, target)
    }

    /// A token with this payload.
    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    /// One line each: kind of source, value, key. Values have no blanks.
    #[test]
    fn replicas_agree_on_the_golden_keys() {
        let mut checked = 0;
        let golden = include_str!("../../../tests/golden/affinity-keys.txt");
        for line in golden.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, value, expected] = words[..] else { panic!("{line}") };
            let found = match kind {
                "header" => key(&[header("x-user")], &[("x-user", value.as_bytes())], "/"),
                "cookie" => {
                    key(&[KeySource::Cookie("uid".into())], &[("cookie", format!("uid={value}").as_bytes())], "/")
                }
                "query" => key(&[KeySource::QueryParameter("user".into())], &[], &format!("/?user={value}")),
                "path" => key(&[KeySource::Path], &[], value),
                "claim" => {
                    let token = token(&format!("{{\"sub\":{value}}}"));
                    key(&[claim("sub")], &[("authorization", format!("Bearer {token}").as_bytes())], "/")
                }
                "address" => {
                    let (address, prefixes) = value.split_once('/').unwrap();
                    let (ipv4, ipv6) = prefixes.split_once(',').unwrap();
                    let source = network(ipv4.parse().unwrap(), ipv6.parse().unwrap());
                    keys(&[source]).key(address.parse().unwrap(), &HeaderMap::new(), "/", "/")
                }
                _ => panic!("{line}"),
            };
            assert_eq!(found.map(|key| format!("{key:016x}")).as_deref(), Some(expected), "{line}");
            checked += 1;
        }
        assert!(checked >= 20, "{checked} vectors");
    }

    #[test]
    fn the_first_source_that_is_present_wins() {
        type Row<'a> = (&'a [(&'a str, &'a [u8])], &'a str, Option<u64>);
        let sources = [
            header("x-user"),
            KeySource::Cookie("uid".into()),
            KeySource::QueryParameter("user".into()),
            KeySource::Path,
        ];
        let by_header = Some(hash(Kind::Header, b"ann"));
        let by_cookie = Some(hash(Kind::Cookie, b"7"));
        let by_query = Some(hash(Kind::Query, b"b%20b"));
        let by_path = Some(hash(Kind::Path, b"/cart"));
        let long = [b"uid=".as_slice(), &[b'x'; 64 << 10]].concat();
        let many = [b"uid=; ".repeat(10).as_slice(), &b"other=1; ".repeat(5000), b"uid=7"].concat();
        let table: &[Row<'_>] = &[
            (&[("x-user", b"ann"), ("cookie", b"uid=7")], "/cart?user=b%20b", by_header),
            (&[("cookie", b"a=1; uid=7")], "/cart?user=b%20b", by_cookie),
            (&[], "/cart?user=b%20b", by_query),
            (&[], "/cart?users=b", by_path),
            // Empty is not present.
            (&[("x-user", b""), ("x-user", b"ann"), ("cookie", b"uid=7")], "/cart", by_cookie),
            (&[("x-user", b"  "), ("cookie", b"uid=; uid=\"\"; uid=7; uid=8")], "/cart", by_cookie),
            (&[("cookie", b"uid=")], "/cart?user=&user=b%20b", by_query),
            // Only the first line of a header, and the blanks around it do not count.
            (&[("x-user", b" ann "), ("x-user", b"bob")], "/", by_header),
            (&[("cookie", &many)], "/", by_cookie),
            (&[("cookie", &long)], "/", Some(hash(Kind::Cookie, &[b'x'; 64 << 10]))),
            (&[("x-user", b"\xff\x80")], "/", Some(hash(Kind::Header, b"\xff\x80"))),
        ];
        for (lines, target, expected) in table {
            assert_eq!(key(&sources, lines, target), *expected, "{target}");
        }
        assert_eq!(key(&sources[..3], &[], "/"), None);
        assert_eq!(key(&[], &[], "/"), None);
    }

    #[test]
    fn the_kind_of_the_source_counts() {
        let kinds = [Kind::Header, Kind::Cookie, Kind::Query, Kind::Path, Kind::Client, Kind::Claim];
        let mut keys = kinds.map(|kind| hash(kind, b"x"));
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn clients_of_one_network_share_a_key() {
        let key = |source: &KeySource, address: &str| {
            keys(std::slice::from_ref(source)).key(address.parse().unwrap(), &HeaderMap::new(), "/", "/").unwrap()
        };
        let table = [
            ((32, 64), "192.0.2.7", "192.0.2.8", false),
            ((24, 64), "192.0.2.7", "192.0.2.8", true),
            ((24, 64), "192.0.2.7", "192.0.3.7", false),
            ((1, 64), "127.255.0.1", "0.0.0.1", true),
            ((1, 64), "128.0.0.1", "0.0.0.1", false),
            ((0, 0), "128.0.0.1", "0.0.0.1", true),
            ((255, 255), "192.0.2.7", "192.0.2.8", false),
            ((32, 64), "2001:db8::1", "2001:db8::ffff:0:0:1", true),
            ((32, 64), "2001:db8::1", "2001:db8:0:1::1", false),
            ((32, 56), "2001:db8::1", "2001:db8:0:ff::1", true),
            ((32, 128), "2001:db8::1", "2001:db8::2", false),
            // An address of version 4 is one however it is written.
            ((24, 1), "::ffff:192.0.2.7", "192.0.2.8", true),
            ((32, 1), "::ffff:192.0.2.7", "::ffff:192.0.2.8", false),
            ((32, 128), "::192.0.2.7", "192.0.2.7", false),
        ];
        for ((ipv4, ipv6), one, other, same) in table {
            let source = network(ipv4, ipv6);
            assert_eq!(key(&source, one) == key(&source, other), same, "/{ipv4} /{ipv6} {one} {other}");
        }
        assert_eq!(AffinityKeys::of_client(CLIENT), key(&network(32, 128), "192.0.2.7"));
    }

    #[test]
    fn a_claim_is_found_in_whatever_carries_the_token() {
        let by_claim = Some(hash(Kind::Claim, b"ann"));
        let token = token(r#"{"iss":"x","sub":"ann","aud":["a",{"sub":"bob"}]}"#);
        for line in
            [format!("Bearer {token}"), format!("bEARER \t {token} "), token.clone(), format!("\tBearer  {token}")]
        {
            assert_eq!(key(&[claim("sub")], &[("authorization", line.as_bytes())], "/"), by_claim, "{line}");
        }
        for line in [format!("Basic {token}"), format!("Bearer{token}x.y"), "Bearer".into(), "Bearer ".into()] {
            assert_eq!(key(&[claim("sub")], &[("authorization", line.as_bytes())], "/"), None, "{line}");
        }
        let in_header = TokenSource::Header(HeaderName::from_static("x-token"));
        let in_header = KeySource::JwtClaim { claim: "sub".into(), token: in_header };
        assert_eq!(key(&[in_header], &[("x-token", token.as_bytes())], "/"), by_claim);
        let in_cookie = KeySource::JwtClaim { claim: "sub".into(), token: TokenSource::Cookie("token".into()) };
        let line = format!("token=x; a=1; token=\"{token}\"");
        assert_eq!(key(&[in_cookie], &[("cookie", line.as_bytes())], "/"), by_claim);
    }

    #[test]
    fn a_claim_is_a_text_a_whole_number_or_a_truth() {
        let table: &[(&str, Option<&str>)] = &[
            (r#"{"sub":"ann"}"#, Some("ann")),
            (r#" { "a" : { "b" : [ 1, null, 1.5 ] } , "sub" : "ann" } "#, Some("ann")),
            (r#"{"s\u0075b":"\u0061nn"}"#, Some("ann")),
            (r#"{"sub":"é\n😀"}"#, Some("é\n😀")),
            (r#"{"sub":42}"#, Some("42")),
            (r#"{"sub":"42"}"#, Some("42")),
            (r#"{"sub":-7}"#, Some("-7")),
            (r#"{"sub":18446744073709551615}"#, Some("18446744073709551615")),
            (r#"{"sub":true}"#, Some("true")),
            (r#"{"sub":false}"#, Some("false")),
            (r#"{"sub":"ann","sub":"bob"}"#, Some("bob")),
            (r#"{"sub":"ann","sub":null}"#, None),
            // Not present.
            (r#"{"sub":""}"#, None),
            (r#"{"sub":null}"#, None),
            (r#"{"sub":1.5}"#, None),
            (r#"{"sub":1e3}"#, None),
            (r#"{"sub":18446744073709551616}"#, None),
            (r#"{"sub":["ann"]}"#, None),
            (r#"{"sub":{"sub":"ann"}}"#, None),
            (r#"{"SUB":"ann"}"#, None),
            (r"{}", None),
            // Not an object of claims.
            (r#"{"sub":"ann""#, None),
            (r#"{"sub":"ann"}x"#, None),
            (r#"{"sub":"ann",}"#, None),
            (r#"["sub","ann"]"#, None),
            (r#""sub""#, None),
            ("null", None),
            ("", None),
        ];
        for (payload, expected) in table {
            let found = of_claim("sub", token(payload).as_bytes());
            assert_eq!(found, expected.map(|text| hash(Kind::Claim, text.as_bytes())), "{payload}");
        }
    }

    #[test]
    fn what_is_no_token_has_no_claim() {
        let by_claim = Some(hash(Kind::Claim, b"ann"));
        let good = URL_SAFE_NO_PAD.encode(r#"{"sub":"ann"}"#);
        let padded = URL_SAFE.encode(r#"{"sub":"ann"}"#);
        assert!(padded.ends_with('='));
        let filled = |length: usize| {
            let text = r#"{"sub":"ann"}"#.to_owned() + &" ".repeat(length / 4 * 3 - 13);
            URL_SAFE_NO_PAD.encode(text)
        };
        assert_eq!(filled(8192).len(), 8192);
        let deep = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"ann","a":{}}}"#, "[".repeat(6000)));
        let table = [
            (format!("x.{good}.y"), by_claim),
            (format!(".{good}."), by_claim),
            (format!("x.{padded}.y"), by_claim),
            (format!("x.{}.y", filled(8192)), by_claim),
            (format!("x.{}.y", filled(8196)), None),
            (format!("x.{}.y", filled(64 << 10)), None),
            (format!("x.{deep}.y"), None),
            (format!("x.{good}"), None),
            (good.clone(), None),
            (format!("x.{good}.y.z"), None),
            (format!("x.{good}.y.z.a"), None),
            (format!("x.{good}!.y"), None),
            (format!("x.{good} .y"), None),
            (format!("x.{}.y", URL_SAFE_NO_PAD.encode(b"{\"sub\":\"\xff\"}")), None),
            ("..".into(), None),
            (String::new(), None),
        ];
        for (token, expected) in table {
            assert_eq!(of_claim("sub", token.as_bytes()), expected, "{token:.99}");
        }
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(token in prop::collection::vec(any::<u8>(), 0..200), json in "\\PC{0,40}|[\\[\\]{}:,\"a-c0-9.e-]{0,40}") {
            of_claim("a", &token);
            of_claim("a", format!("x.{}.y", URL_SAFE_NO_PAD.encode(json)).as_bytes());
        }

        #[test]
        fn every_text_of_a_claim_is_its_key(text in "\\PC{1,40}") {
            let payload = serde_json::json!({ "before": [1], "sub": text, "after": {} }).to_string();
            prop_assert_eq!(of_claim("sub", token(&payload).as_bytes()), Some(hash(Kind::Claim, text.as_bytes())));
        }
    }
}

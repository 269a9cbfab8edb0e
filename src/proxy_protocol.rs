//! The PROXY protocol: a header in front of everything else, by which a proxy that only carries bytes says whose they are.
//!
//! Bytes in, outcome out: nothing here reads a socket, and nothing decides who is believed. Versions 1 (a line of text) and 2
//! (binary) are read, version 2 is written. Of the TLVs (further fields of version 2) the checksum is held against the
//! header, and the others are skipped within the header's length.
//!
//! Source: "The PROXY protocol, versions 1 & 2", `doc/proxy-protocol.txt` of HAProxy.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What version 2 begins with: no beginning of an HTTP request, nor of a TLS or HTTP/2 connection.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// The shortest line of version 1.
const SHORTEST_LINE: usize = b"PROXY UNKNOWN\r\n".len();

/// The longest line of version 1 that the source allows.
const LONGEST_LINE: usize = 107;

/// The part of version 2 whose size is fixed; its last two bytes are the length of the rest.
const FIXED: usize = 16;

/// Longest header that is read, in bytes. The source allows 65,551; what is in use stays far below, client certificates in
/// TLVs included.
pub const LENGTH_LIMIT: usize = 16 * 1024;

/// The TLV with the checksum.
const TLV_CRC32C: u8 = 3;

/// The ends of a connection, as the proxy saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// What some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The beginning of a header, which goes on for at least so many bytes: whoever reads no more than that, reads nothing
    /// beyond it.
    Incomplete {
        /// At least 1.
        at_least: usize,
    },
    /// A whole header.
    Header {
        /// In bytes; what follows is the client's.
        length: usize,
        /// `None` when the connection itself says who the client is: the proxy speaks for itself (`LOCAL`), or has no IP
        /// addresses to tell (`UNKNOWN`, `AF_UNSPEC`, `AF_UNIX`, datagrams).
        ends: Option<Ends>,
    },
    /// No header, whatever follows.
    Invalid(Fault),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They do not begin like one.
    NoHeader,
    /// A line that is malformed or too long.
    Line,
    /// Neither version 1 nor 2.
    Version,
    /// A command that version 2 does not have.
    Command,
    /// An address family or transport that version 2 does not have.
    Family,
    /// Too short for the addresses, longer than [`LENGTH_LIMIT`], or TLVs that do not fit.
    Length,
    /// The checksum is another.
    Checksum,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHeader => "no header of the PROXY protocol",
            Self::Line => "a malformed line of the PROXY protocol",
            Self::Version => "an unknown version of the PROXY protocol",
            Self::Command => "an unknown command of the PROXY protocol",
            Self::Family => "an unknown address family of the PROXY protocol",
            Self::Length => "a header of the PROXY protocol with a wrong length",
            Self::Checksum => "a header of the PROXY protocol with a wrong checksum",
        })
    }
}

impl std::error::Error for Fault {}

/// Reads the header at the start of `bytes`. Linear in the header; no allocation.
pub fn parse(bytes: &[u8]) -> Outcome {
    let begins_like = |mark: &[u8]| bytes.iter().zip(mark).all(|(byte, expected)| byte == expected);
    let outcome = match bytes.first() {
        None => Ok(Outcome::Incomplete { at_least: SHORTEST_LINE.min(FIXED) }),
        Some(_) if begins_like(WORD) => line(bytes),
        Some(_) if begins_like(SIGNATURE) => binary(bytes),
        Some(_) => Err(Fault::NoHeader),
    };
    outcome.unwrap_or_else(Outcome::Invalid)
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Outcome, Fault> {
    let seen = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', seen) else {
        if seen.len() + 2 > LONGEST_LINE {
            return Err(Fault::Line);
        }
        return Ok(Outcome::Incomplete { at_least: SHORTEST_LINE.saturating_sub(seen.len()).max(2) });
    };
    match seen.get(end + 1) {
        Some(b'\n') if seen[end] == b'\r' => {}
        None if seen[end] == b'\r' && seen.len() < LONGEST_LINE => return Ok(Outcome::Incomplete { at_least: 1 }),
        Some(_) | None => return Err(Fault::Line),
    }
    let ends = told_by_line(&seen[..end]).ok_or(Fault::Line)?;
    Ok(Outcome::Header { length: end + 2, ends })
}

/// What a whole line says; the outer `None` when it is malformed.
fn told_by_line(line: &[u8]) -> Option<Option<Ends>> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("PROXY ")?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = line.split(' ');
    let is_ipv4 = match words.next()? {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let (source, destination) = (address(words.next()?, is_ipv4)?, address(words.next()?, is_ipv4)?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    let ends = Ends {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    };
    words.next().is_none().then_some(Some(ends))
}

fn address(text: &str, is_ipv4: bool) -> Option<IpAddr> {
    if is_ipv4 { text.parse().ok().map(IpAddr::V4) } else { text.parse().ok().map(IpAddr::V6) }
}

/// Digits without a zero in front.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok()).flatten()
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Outcome, Fault> {
    let is_proxy = match bytes.get(12) {
        Some(0x20) => false,
        Some(0x21) | None => true,
        Some(other) if other >> 4 == 2 => return Err(Fault::Command),
        Some(_) => return Err(Fault::Version),
    };
    let Some(fixed) = bytes.get(..FIXED) else {
        return Ok(Outcome::Incomplete { at_least: FIXED - bytes.len() });
    };
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > LENGTH_LIMIT {
        return Err(Fault::Length);
    }
    if is_proxy && (fixed[13] >> 4 > 3 || fixed[13] & 0xf > 2) {
        return Err(Fault::Family);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Outcome::Incomplete { at_least: length - bytes.len() });
    };
    // Whatever else a proxy sends about a connection of its own is to be discarded.
    let ends = if is_proxy { told_by_binary(header)? } else { None };
    Ok(Outcome::Header { length, ends })
}

/// What a whole header of version 2 says.
fn told_by_binary(header: &[u8]) -> Result<Option<Ends>, Fault> {
    let (family, rest) = (header[13], &header[FIXED..]);
    let size = match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let (addresses, tlvs) = rest.split_at_checked(size).ok_or(Fault::Length)?;
    // Of an unspecified family nobody knows where addresses end and TLVs begin.
    if family >> 4 != 0 {
        check_tlvs(header, tlvs)?;
    }
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    Ok(match family {
        0x11 => {
            let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).expect("four bytes"));
            let (source, destination) = ((address(0), port(8)).into(), (address(4), port(10)).into());
            Some(Ends { source, destination })
        }
        0x21 => {
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).expect("sixteen"));
            let (source, destination) = ((address(0), port(32)).into(), (address(16), port(34)).into());
            Some(Ends { source, destination })
        }
        _ => None,
    })
}

/// Walks over the TLVs, and holds the checksum against the header if there is one.
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), Fault> {
    while let Some((fixed, rest)) = tlvs.split_first_chunk::<3>() {
        let size = usize::from(u16::from_be_bytes([fixed[1], fixed[2]]));
        let (value, rest) = rest.split_at_checked(size).ok_or(Fault::Length)?;
        if fixed[0] == TLV_CRC32C {
            let told = u32::from_be_bytes(value.try_into().map_err(|_| Fault::Length)?);
            // It was worked out with zeros in its own place.
            let at = header.len() - rest.len() - value.len();
            let zeroed = header[..at].iter().chain(&[0; 4]).chain(&header[at + 4..]);
            if crc32c(zeroed) != told {
                return Err(Fault::Checksum);
            }
        }
        tlvs = rest;
    }
    if tlvs.is_empty() { Ok(()) } else { Err(Fault::Length) }
}

/// The Castagnoli checksum (RFC 3720, appendix B.4), bit by bit: eight steps a byte, once a connection at most.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Appends a header of version 2: of the connection between these ends, or, when there are none, of one of our own
/// (`LOCAL`). Ends of two families are both written as IPv6. At most 52 bytes.
pub fn write(out: &mut Vec<u8>, ends: Option<Ends>) {
    out.extend_from_slice(SIGNATURE);
    let Some(Ends { source, destination }) = ends else {
        return out.extend_from_slice(&[0x20, 0, 0, 0]);
    };
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            for address in [from, to] {
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                out.extend_from_slice(&address.octets());
            }
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(source: &str, destination: &str) -> Option<Ends> {
        let parse = |text: &str| text.parse().expect("an address");
        Some(Ends { source: parse(source), destination: parse(destination) })
    }

    /// A header of version 2 with whatever in it.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const IPV4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xcd, 0x15, 0x01, 0xbb];

    #[test]
    fn a_line_says_who_the_client_is() {
        let tcp4 = ends("192.0.2.7:56324", "198.51.100.1:443");
        let tcp6 = ends("[2001:db8::7]:65535", "[::1]:0");
        let long = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let all_ones = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE - 16));
        for (line, told) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", tcp4),
            ("PROXY TCP6 2001:db8::7 ::1 65535 0\r\n", tcp6),
            (long, ends(all_ones, all_ones)),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 whatever 1 2\r\n", None),
            (&longest, None),
        ] {
            assert_eq!(parse(line.as_bytes()), Outcome::Header { length: line.len(), ends: told }, "{line}");
        }
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\rX",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.7  198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +6324 443\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 2001:db8::7 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 [2001:db8::7] [::1] 56324 443\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY tcp4 192.0.2.7 198.51.100.1 56324 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY \u{661}\r\n",
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE - 15)),
            &format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_LINE)),
        ] {
            assert_eq!(parse(line.as_bytes()), Outcome::Invalid(Fault::Line), "{line}");
        }
    }

    #[test]
    fn a_binary_header_says_who_the_client_is() {
        let tcp4 = ends("192.0.2.7:52501", "198.51.100.1:443");
        let ipv6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1], &[0xff, 0xff, 0, 0]].concat();
        let tcp6 = ends("[2001:db8::7]:65535", "[::1]:0");
        let unknown_tlvs = [IPV4, &[0xe0, 0, 3, 1, 2, 3], &[4, 0, 0], &[1, 0, 2, b'h', b'2']].concat();
        let huge = [IPV4, &[0xe0, 0x30, 0], &[7; 0x3000]].concat();
        for (header, told) in [
            (v2(0x21, 0x11, IPV4), tcp4),
            (v2(0x21, 0x21, &ipv6), tcp6),
            (v2(0x21, 0x11, &unknown_tlvs), tcp4),
            (v2(0x21, 0x11, &huge), tcp4),
            (v2(0x20, 0, &[]), None),
            (v2(0x20, 0x11, IPV4), None),
            (v2(0x20, 0xff, b"whatever"), None),
            (v2(0x21, 0, &[]), None),
            (v2(0x21, 0, b"no TLV"), None),
            (v2(0x21, 0x12, IPV4), None),
            (v2(0x21, 0x31, &[b'x'; 216]), None),
        ] {
            assert_eq!(parse(&header), Outcome::Header { length: header.len(), ends: told }, "{header:x?}");
        }
        let short_tlv = [IPV4, &[0xe0, 0]].concat();
        let long_tlv = [IPV4, &[0xe0, 0, 4, 1, 2, 3]].concat();
        let odd_checksum = [IPV4, &[TLV_CRC32C, 0, 3, 1, 2, 3]].concat();
        let endless = [&SIGNATURE[..], &[0x21, 0x11, 0x3f, 0xf1]].concat();
        for (header, fault) in [
            (v2(0x11, 0x11, IPV4), Fault::Version),
            (v2(0x31, 0x11, IPV4), Fault::Version),
            (v2(0x22, 0x11, IPV4), Fault::Command),
            (v2(0x21, 0x41, IPV4), Fault::Family),
            (v2(0x21, 0x13, IPV4), Fault::Family),
            (v2(0x21, 0x11, &IPV4[..11]), Fault::Length),
            (v2(0x21, 0x21, &ipv6[..35]), Fault::Length),
            (v2(0x21, 0x31, &[b'x'; 215]), Fault::Length),
            (v2(0x21, 0x11, &short_tlv), Fault::Length),
            (v2(0x21, 0x11, &long_tlv), Fault::Length),
            (v2(0x21, 0x11, &odd_checksum), Fault::Length),
            (endless, Fault::Length),
        ] {
            assert_eq!(parse(&header), Outcome::Invalid(fault), "{header:x?}");
        }
    }

    #[test]
    fn what_is_none_is_known_at_the_first_byte_that_differs() {
        for text in [
            "GET / HTTP/1.1",
            "POST",
            "PROXY",
            "PROXZ",
            "\r\n\r\nG",
            "\r\n\r\n\0\r\nQUIX",
            "\x16\x03\x01",
            "PRI * HTTP/2.0",
        ] {
            let differs = !WORD.starts_with(text.as_bytes());
            let expected =
                if differs { Outcome::Invalid(Fault::NoHeader) } else { Outcome::Incomplete { at_least: 10 } };
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_checksum_is_held_against_the_header() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283, "the check value of CRC-32C");
        // Twice, in front of and behind another TLV.
        for (before, behind) in [(&[4, 0, 1, 0][..], &[][..]), (&[], &[4, 0, 1, 0])] {
            let rest = [IPV4, before, &[TLV_CRC32C, 0, 4, 0, 0, 0, 0], behind].concat();
            let mut header = v2(0x21, 0x11, &rest);
            let at = FIXED + IPV4.len() + before.len() + 3;
            let sum = crc32c(header.iter()).to_be_bytes();
            header[at..at + 4].copy_from_slice(&sum);
            assert!(matches!(parse(&header), Outcome::Header { ends: Some(_), .. }), "{header:x?}");
            header[17] ^= 1;
            assert_eq!(parse(&header), Outcome::Invalid(Fault::Checksum));
        }
    }

    #[test]
    fn what_is_written_are_these_bytes() {
        let written = |ends| {
            let mut out = Vec::new();
            write(&mut out, ends);
            out
        };
        assert_eq!(written(ends("192.0.2.7:52501", "198.51.100.1:443")), v2(0x21, 0x11, IPV4));
        assert_eq!(written(None), b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x20\x00\x00\x00");
        let mixed = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0; 15], &[1], &[0, 9, 0, 80]].concat();
        assert_eq!(written(ends("192.0.2.7:9", "[::1]:80")), v2(0x21, 0x21, &mixed));
        assert_eq!(written(ends("[::ffff:192.0.2.7]:52501", "198.51.100.1:443")), v2(0x21, 0x11, IPV4));
    }

    fn any_end() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
    }

    fn any_header() -> impl Strategy<Value = Vec<u8>> {
        let tlvs = proptest::collection::vec((4..=u8::MAX, proptest::collection::vec(any::<u8>(), 0..40)), 0..5);
        let binary = (any::<[u8; 36]>(), proptest::bool::ANY, tlvs).prop_map(|(addresses, is_ipv4, tlvs)| {
            let mut rest = addresses[..if is_ipv4 { 12 } else { 36 }].to_vec();
            for (kind, value) in tlvs {
                rest.push(kind);
                rest.extend_from_slice(&u16::try_from(value.len()).expect("short").to_be_bytes());
                rest.extend_from_slice(&value);
            }
            v2(0x21, if is_ipv4 { 0x11 } else { 0x21 }, &rest)
        });
        let line = (any::<Ipv4Addr>(), any::<Ipv4Addr>(), any::<u16>(), any::<u16>())
            .prop_map(|(from, to, one, other)| format!("PROXY TCP4 {from} {to} {one} {other}\r\n").into_bytes());
        prop_oneof![binary, line]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(source in any_end(), destination in any_end(), behind in any::<Vec<u8>>()) {
            let mut bytes = Vec::new();
            write(&mut bytes, Some(Ends { source, destination }));
            let length = bytes.len();
            bytes.extend_from_slice(&behind);
            let Outcome::Header { length: read, ends: Some(ends) } = parse(&bytes) else { panic!("{bytes:x?}") };
            let same = |one: SocketAddr, other: SocketAddr| {
                (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
            };
            prop_assert!(read == length && same(ends.source, source) && same(ends.destination, destination));
        }

        #[test]
        fn a_header_in_pieces_is_asked_for_to_its_end_and_no_further(header in any_header(), behind in any::<Vec<u8>>()) {
            let whole = parse(&header);
            prop_assert!(matches!(whole, Outcome::Header { length, .. } if length == header.len()), "{:?}", whole);
            prop_assert_eq!(parse(&[&header[..], &behind].concat()), whole);
            for end in 0..header.len() {
                let Outcome::Incomplete { at_least } = parse(&header[..end]) else { panic!("at {end}: {header:x?}") };
                prop_assert!((1..=header.len() - end).contains(&at_least), "at {}: {}", end, at_least);
            }
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in any::<Vec<u8>>(), mark in 0..3_usize) {
            let mark = [&b""[..], b"PROXY TCP", SIGNATURE][mark];
            let bytes = [mark, &bytes].concat();
            if let Outcome::Header { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}

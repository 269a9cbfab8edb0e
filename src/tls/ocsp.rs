//! An OCSP response, as far as it has to be known before it is passed on: for which certificate, and until when.
//!
//! Whether its signature is right, the client decides. Format: RFC 6960 §4.2.1.

use std::error::Error;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use x509_cert::der::asn1::GeneralizedTime;
use x509_cert::der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber};

/// A response that can be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    /// As it came.
    pub der: Vec<u8>,
    /// When a newer one will be there; this one is not passed on any more then.
    pub next_update: Option<SystemTime>,
}

/// Why a response is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OcspError {
    /// Not an OCSP response, or one without an answer.
    Malformed,
    /// It is about another certificate.
    OtherCertificate,
    /// It does not say that the certificate is good.
    NotGood,
    /// A newer one is due.
    OutOfDate,
}

impl fmt::Display for OcspError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "expected the DER form of an OCSP response with an answer",
            Self::OtherCertificate => "an OCSP response about another certificate",
            Self::NotGood => "an OCSP response that does not say that the certificate is good",
            Self::OutOfDate => "an OCSP response that is out of date",
        })
    }
}

impl Error for OcspError {}

impl Staple {
    /// Reads a response about the certificate with this serial number, which has no zeroes in front.
    ///
    /// # Errors
    /// When it should not be passed on.
    pub fn read(der: &[u8], serial: &[u8], now: SystemTime) -> Result<Self, OcspError> {
        let answer = answers(der).ok_or(OcspError::Malformed)?;
        let about = answer.into_iter().find(|answer| answer.serial == serial).ok_or(OcspError::OtherCertificate)?;
        if !about.is_good {
            return Err(OcspError::NotGood);
        }
        let staple = Self { der: der.to_vec(), next_update: about.next_update };
        if staple.is_current(now) { Ok(staple) } else { Err(OcspError::OutOfDate) }
    }

    /// Whether it may still be passed on.
    pub fn is_current(&self, now: SystemTime) -> bool {
        self.next_update.is_none_or(|next| now < next)
    }
}

/// What a response says of one certificate.
struct Answer {
    serial: Vec<u8>,
    is_good: bool,
    next_update: Option<SystemTime>,
}

fn answers(der: &[u8]) -> Option<Vec<Answer>> {
    let mut response = Elements::of(within(der, Tag::Sequence)?);
    // `successful`
    (response.take(Tag::Enumerated)? == [0]).then_some(())?;
    let mut bytes = Elements::of(within(response.take(explicit(0))?, Tag::Sequence)?);
    bytes.take(Tag::ObjectIdentifier)?;
    let basic = bytes.take(Tag::OctetString)?;
    let mut data = Elements::of(Elements::of(within(basic, Tag::Sequence)?).take(Tag::Sequence)?);
    // Version and responder come first, the time of the response and the answers follow.
    let mut answers = None;
    while let Some((tag, content)) = data.next() {
        if tag == Tag::Sequence {
            answers = Some(content);
            break;
        }
    }
    let mut answers = Elements::of(answers?);
    let mut read = Vec::new();
    while let Some((tag, content)) = answers.next() {
        (tag == Tag::Sequence).then_some(())?;
        read.push(answer(content)?);
    }
    Some(read)
}

fn answer(content: &[u8]) -> Option<Answer> {
    let mut single = Elements::of(content);
    let mut id = Elements::of(single.take(Tag::Sequence)?);
    id.take(Tag::Sequence)?;
    id.take(Tag::OctetString)?;
    id.take(Tag::OctetString)?;
    let serial = super::without_sign(id.take(Tag::Integer)?).to_vec();
    let (status, _) = single.next()?;
    let is_good = matches!(status, Tag::ContextSpecific { number: TagNumber(0), .. });
    single.take(Tag::GeneralizedTime)?;
    let next_update = match single.next() {
        Some((tag, content)) if tag == explicit(0) => {
            Some(UNIX_EPOCH + GeneralizedTime::from_der(content).ok()?.to_unix_duration())
        }
        _ => None,
    };
    Some(Answer { serial, is_good, next_update })
}

fn explicit(number: u32) -> Tag {
    Tag::ContextSpecific { number: TagNumber(number), constructed: true }
}

fn within(der: &[u8], tag: Tag) -> Option<&[u8]> {
    Elements::of(der).take(tag)
}

/// The elements of a DER sequence, one after the other.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    fn of(content: &'a [u8]) -> Self {
        Self(content)
    }

    fn next(&mut self) -> Option<(Tag, &'a [u8])> {
        let mut reader = SliceReader::new(self.0).ok()?;
        let header = x509_cert::der::Header::decode(&mut reader).ok()?;
        let header_length = usize::try_from(reader.position()).ok()?;
        let length = usize::try_from(header.length()).ok()?;
        let content = self.0.get(header_length..header_length.checked_add(length)?)?;
        self.0 = &self.0[header_length + length..];
        Some((header.tag(), content))
    }

    fn take(&mut self, tag: Tag) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What `openssl ocsp` answered about a certificate with the serial number 8abc: good until 3 December 2026, 21:58:58.
    const GOOD: &str = "3081fd0a0100a081f73081f406092b06010505073001010481e63081e330818aa10f300d310b300906035504030c02636118 \
        0f32303236313132363231353835385a30663064303c300906052b0e03021a0500041411048cd20cb3592307d019fd088956 \
        2b62d364920414fa15e5787f5f4e22eada3fc5d92ba7a876a54cfb0203008abc8000180f3230323631313236323135383538 \
        5aa011180f32303236313230333231353835385a300a06082a8648ce3d0403020348003045022072dfabd4d75e82679994d8 \
        6f9a12ccc08ccf4b267c412e1aa8e70e6c1078727d022100bfa1fcc993442531782b6551b7c042b3d5985b5df3004c2edf95 \
        8e679e3da662";

    /// What it answered after the certificate was revoked.
    const REVOKED: &str = "308201100a0100a08201093082010506092b06010505073001010481f73081f430819ba10f300d310b300906035504030c02 \
        6361180f32303236313132363231353835385a30773075303c300906052b0e03021a0500041411048cd20cb3592307d019fd \
        0889562b62d364920414fa15e5787f5f4e22eada3fc5d92ba7a876a54cfb0203008abca111180f3230323630313031303030 \
        3030305a180f32303236313132363231353835385aa011180f32303236313230333231353835385a300a06082a8648ce3d04 \
        03020348003045022100afacdfa8de13444c3e71e8b68fce5efa48c191b61a9bda71f5010fe9daf6860202203486784a3ed4 \
        5e0a86c3b7092e904a87df189a5a21a24e3698797e5204963069";

    const SERIAL: [u8; 2] = [0x8a, 0xbc];

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("a byte")).collect()
    }

    #[test]
    fn a_response_of_openssl_is_passed_on_while_it_is_good_and_about_the_certificate() {
        let end = UNIX_EPOCH + Duration::from_secs(1_796_335_138);
        let second = Duration::from_secs(1);
        let good = bytes(GOOD);
        let staple = Staple::read(&good, &SERIAL, end - second).expect("it is good");
        assert_eq!((&staple.der, staple.next_update), (&good, Some(end)));
        assert_eq!(Staple::read(&good, &SERIAL, end), Err(OcspError::OutOfDate));
        assert_eq!(Staple::read(&good, &[0x8a, 0xbd], end - second), Err(OcspError::OtherCertificate));
        assert_eq!(Staple::read(&bytes(REVOKED), &SERIAL, end - second), Err(OcspError::NotGood));
        // `tryLater`
        assert_eq!(Staple::read(&[0x30, 3, 0x0a, 1, 3], &SERIAL, end), Err(OcspError::Malformed));
    }

    #[test]
    fn one_that_is_cut_short_or_damaged_is_refused_without_a_panic() {
        let good = bytes(GOOD);
        for length in 0..good.len() {
            assert_eq!(Staple::read(&good[..length], &SERIAL, UNIX_EPOCH), Err(OcspError::Malformed), "{length}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut damaged = good.clone();
                damaged[at] ^= 1 << bit;
                // Whatever it makes of it.
                let _ = Staple::read(&damaged, &SERIAL, UNIX_EPOCH);
            }
        }
    }
}

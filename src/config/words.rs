//! The words of the file for values that are one of a few.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use schemars::{Schema, json_schema};

use super::units::{Ratio, Scalar, scalar};
use super::{
    Away, Balance, Briefly, CipherSuite, Drained, HomeHash, PinOn, ProxyProtocol, RetryOn, SameSite, Secure,
    SendProxyProtocol, Sessions, TlsVersion, WhenUnavailable, WithoutKey,
};

/// Gives each variant its word. A `true` or `false` in brackets after it is read as that variant too.
macro_rules! words {
    ($vis:vis $type:ident { $($variant:ident = $word:literal $(($also:literal))?),+ $(,)? }) => {
        impl $type {
            /// The word used in the file.
            $vis fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Scalar for $type {
            fn expected() -> Cow<'static, str> {
                list(&[$($word),+]).into()
            }

            fn schema() -> Schema {
                enumeration(&[$($word),+], &[$($($also,)?)+])
            }

            fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Self::expected()),
                }
            }

            fn from_number(number: u64) -> Option<Self> {
                Self::from_text(itoa::Buffer::new().format(number)).ok()
            }

            fn from_bool(value: bool) -> Option<Self> {
                let words: &[(bool, Self)] = &[$($(($also, Self::$variant),)?)+];
                words.iter().find(|(also, _)| *also == value).map(|(_, word)| *word)
            }
        }

        scalar!($type);
    };
}

/// `a, b or c`
fn list(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

/// The words, the numbers that some of them are, and what else is read as one of them.
fn enumeration(words: &[&str], also: &[bool]) -> Schema {
    let mut values: Vec<serde_json::Value> = words.iter().copied().map(Into::into).collect();
    values.extend(words.iter().filter_map(|word| word.parse::<u64>().ok()).map(serde_json::Value::from));
    values.extend(also.iter().copied().map(serde_json::Value::from));
    json_schema!({ "enum": values })
}

words!(pub Sessions { Local = "local", Replicated = "replicated", Backup = "backup", External = "external" });

words!(pub ProxyProtocol { Off = "off" (false), Optional = "optional", Required = "required" });

words!(pub SendProxyProtocol { Off = "off" (false), V2 = "v2" });

words!(pub Balance {
    LeastPins = "least_pins",
    LeastRequests = "least_requests",
    PeakEwma = "peak_ewma",
    RoundRobin = "round_robin",
    Random = "random",
    TwoChoices = "two_choices",
});

words!(pub HomeHash { Rendezvous = "rendezvous", Maglev = "maglev", Ring = "ring" });

/// What `balance` says: how a client without a pin is placed, or how a key finds its home.
#[derive(Clone, Copy)]
pub(super) enum BalanceWord {
    Pick(Balance),
    Hash(HomeHash),
}

impl Scalar for BalanceWord {
    fn expected() -> Cow<'static, str> {
        let pick = Balance::expected().replace(" or ", ", ");
        format!("{pick}, {}", HomeHash::expected()).into()
    }

    fn schema() -> Schema {
        let words_of =
            |schema: Schema| schema.get("enum").and_then(|words| words.as_array()).cloned().unwrap_or_default();
        let words = [words_of(Balance::schema()), words_of(HomeHash::schema())].concat();
        json_schema!({ "enum": words })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        let pick = Balance::from_text(text).map(Self::Pick);
        pick.or_else(|_| HomeHash::from_text(text).map(Self::Hash)).map_err(|_| Self::expected())
    }
}

scalar!(BalanceWord);

/// The bound on the load that hashing may bring: `on`, `off`, or how much more than the average.
#[derive(Clone, Copy)]
pub(super) enum BoundedLoad {
    Off,
    On,
    Ratio(Ratio),
}

impl Scalar for BoundedLoad {
    fn expected() -> Cow<'static, str> {
        format!("on, off, or {}", Ratio::expected()).into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["on", "off", true, false] }, Ratio::schema()] })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(Self::expected()),
        }
    }

    fn from_bool(value: bool) -> Option<Self> {
        Some(if value { Self::On } else { Self::Off })
    }

    fn from_number(number: u64) -> Option<Self> {
        Ratio::from_number(number).map(Self::Ratio)
    }

    fn from_float(number: f64) -> Option<Self> {
        Ratio::from_float(number).map(Self::Ratio)
    }
}

scalar!(BoundedLoad);

words!(pub WhenUnavailable { Rehome = "rehome", Detour = "detour", Refuse = "refuse" });

words!(pub Briefly { Wait = "wait", Detour = "detour", Refuse = "refuse" });

words!(pub Away { Detour = "detour", Rehome = "rehome", Refuse = "refuse" });

words!(pub Drained { Keep = "keep", Rehome = "rehome" });

words!(pub RetryOn {
    Connect = "connect",
    ResetBeforeReply = "reset_before_reply",
    BadGateway = "502",
    ServiceUnavailable = "503",
    GatewayTimeout = "504",
});

words!(pub Secure { Auto = "auto", Always = "always" (true), Never = "never" (false) });

words!(pub SameSite { Lax = "lax", Strict = "strict", None = "none" });

/// The only word of a setting that is otherwise a mapping. YAML 1.1 writes it `false`.
#[derive(Clone, Copy)]
pub(super) enum Off {
    Off,
}

words!(pub(super) Off { Off = "off" (false) });

/// The only words of a setting that is otherwise a mapping with defaults.
#[derive(Clone, Copy)]
pub(super) enum On {
    On,
    Off,
}

words!(pub(super) On { On = "on" (true), Off = "off" (false) });

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientCertificatesMode {
    Off,
    Optional,
    Required,
}

words!(pub(super) ClientCertificatesMode { Off = "off" (false), Optional = "optional", Required = "required" });

/// The status of a redirect to https.
#[derive(Clone, Copy)]
pub(super) enum RedirectStatus {
    MovedPermanently,
    Found,
    Temporary,
    Permanent,
}

words!(pub(super) RedirectStatus { MovedPermanently = "301", Found = "302", Temporary = "307", Permanent = "308" });

impl RedirectStatus {
    pub(super) fn code(self) -> StatusCode {
        match self {
            Self::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            Self::Found => StatusCode::FOUND,
            Self::Temporary => StatusCode::TEMPORARY_REDIRECT,
            Self::Permanent => StatusCode::PERMANENT_REDIRECT,
        }
    }
}

impl Scalar for TlsVersion {
    fn expected() -> Cow<'static, str> {
        "1.2 or 1.3".into()
    }

    fn schema() -> Schema {
        json_schema!({ "enum": [1.2, 1.3, "1.2", "1.3"] })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        match text {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(Self::expected()),
        }
    }

    fn from_float(number: f64) -> Option<Self> {
        Self::from_text(&number.to_string()).ok()
    }
}

scalar!(TlsVersion);

impl Scalar for CipherSuite {
    fn expected() -> Cow<'static, str> {
        list(&Self::ALL.iter().map(|suite| suite.as_str()).collect::<Vec<_>>()).into()
    }

    fn schema() -> Schema {
        json_schema!({ "enum": Self::ALL.iter().map(|suite| suite.as_str()).collect::<Vec<_>>() })
    }

    fn from_text(text: &str) -> Result<Self, Cow<'static, str>> {
        Self::ALL.iter().copied().find(|suite| suite.as_str() == text).ok_or_else(Self::expected)
    }
}

scalar!(CipherSuite);

/// How the home of a session id is known, without its separator.
#[derive(Clone, Copy)]
pub(super) enum HomeByWord {
    Learn,
    RouteSuffix,
    Prefix,
}

words!(pub(super) HomeByWord { Learn = "learn", RouteSuffix = "route_suffix", Prefix = "prefix" });

/// What stands between a session id and its route.
#[derive(Clone, Copy)]
pub(super) enum Separator {
    Point,
    ExclamationMark,
}

words!(pub(super) Separator { Point = ".", ExclamationMark = "!" });

/// An affinity key that needs no name.
#[derive(Clone, Copy)]
pub(super) enum KeyWord {
    Path,
    ClientAddress,
}

words!(pub(super) KeyWord { Path = "path", ClientAddress = "client_address" });

words!(pub WithoutKey { Balance = "balance", ClientAddress = "client_address", Reject = "reject" });

/// What to do for a client whose session is lost, in one word.
#[derive(Clone, Copy)]
pub(super) enum LostWord {
    Forward,
}

words!(pub(super) LostWord { Forward = "forward" });

words!(pub PinOn { FirstRequest = "first_request", SessionStart = "session_start" });

/// Where the access log goes, without the path of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LogTarget {
    Stdout,
    Off,
    File,
}

words!(pub(super) LogTarget { Stdout = "stdout", Off = "off" (false), File = "file" });

/// The access log in one word.
#[derive(Clone, Copy)]
pub(super) enum LogWord {
    Stdout,
    Off,
}

words!(pub(super) LogWord { Stdout = "stdout", Off = "off" (false) });

/// How a probe asks. Methods that change something are not among them.
#[derive(Clone, Copy)]
pub(super) enum ProbeMethod {
    Get,
    Head,
    Options,
}

words!(pub(super) ProbeMethod { Get = "GET", Head = "HEAD", Options = "OPTIONS" });

/// Backends that only the admin API adds.
#[derive(Clone, Copy)]
pub(super) enum ApiWord {
    Api,
}

words!(pub(super) ApiWord { Api = "api" });

/// What a name is looked up for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordWord {
    A,
    Aaaa,
    Both,
    Srv,
}

words!(pub(super) RecordWord { A = "a", Aaaa = "aaaa", Both = "both", Srv = "srv" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_names_one_value() {
        assert_eq!(Sessions::from_text("backup"), Ok(Sessions::Backup));
        assert_eq!(Sessions::from_text("Backup"), Err("local, replicated, backup or external".into()));
        assert_eq!(Balance::TwoChoices.to_string(), "two_choices");
        assert_eq!(Secure::from_bool(true), Some(Secure::Always));
        assert_eq!(SameSite::from_bool(true), None);
        assert_eq!(LostWord::expected(), "forward");
    }
}

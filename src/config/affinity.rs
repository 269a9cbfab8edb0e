//! How a client keeps coming back to one backend.

use std::sync::Arc;
use std::time::Duration;

/// How a client keeps coming back to one backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Affinity {
    /// Not at all.
    Off,
    /// By Stickpin's own sealed cookie.
    Cookie(CookieAffinity),
    /// By the session id that the app itself issues.
    AppSession(AppSessionAffinity),
    /// By a hash of something that the request carries.
    Hash(HashAffinity),
}

/// The cookie and the life of the pin in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieAffinity {
    /// Cookie name, `__Host-` and `__Secure-` included.
    pub name: Arc<str>,
    /// A pin unused for this long is expired.
    pub idle_timeout: Duration,
    /// A pin older than this is expired, used or not.
    pub max_lifetime: Duration,
    /// `Domain` attribute.
    pub domain: Option<Arc<str>>,
    /// `Path` attribute.
    pub path: Arc<str>,
    /// `Secure` attribute.
    pub secure: Secure,
    /// `HttpOnly` attribute.
    pub http_only: bool,
    /// `SameSite` attribute.
    pub same_site: SameSite,
    /// When a client without a pin gets one.
    pub pin_on: PinOn,
    /// `true`: `Max-Age` is sent, so that the cookie outlives the browser. `false`: it ends with the browser session.
    pub persistent: bool,
}

/// When a client without a pin gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinOn {
    /// With the reply to its first request.
    FirstRequest,
    /// With the reply that begins a session: one that sets the app's session cookie, or says `Stickpin-Pin: keep`.
    SessionStart,
}

/// When the cookie is `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// When the client's connection (or a trusted proxy's word) is https.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The `SameSite` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `Lax`
    Lax,
    /// `Strict`
    Strict,
    /// `None`; needs `Secure`.
    None,
}

/// Where the app's session id is found, and how its home is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSessionAffinity {
    /// Where a request may carry the id, in the order of looking; at least one.
    pub sources: Vec<SessionSource>,
    /// How the home of an id is known.
    pub home_by: HomeBy,
    /// A pin unused for this long is expired.
    pub idle_timeout: Duration,
    /// A pin older than this is expired, used or not.
    pub max_lifetime: Duration,
}

/// Where a session id is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// A cookie of this name; in a reply, a `Set-Cookie` of it.
    Cookie(Arc<str>),
    /// A header of this name, in requests and replies.
    Header(http::HeaderName),
    /// `;NAME=ID` at the end of a path segment.
    PathParameter(Arc<str>),
    /// `NAME=ID` in the query.
    QueryParameter(Arc<str>),
}

/// How the home of a session id is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeBy {
    /// The reply that issues the id teaches it; kept in the pin store.
    Learn,
    /// The app appends its route to the id, after this separator: `.` as in `ID.app1`, `!` as in `ID!app1!app2`, where the
    /// second one is the heir.
    RouteSuffix(char),
    /// Stickpin puts the backend's name and `~` in front of the value of the app's cookie.
    Prefix,
}

/// What is hashed and how, and what happens without it.
#[derive(Clone, Debug, PartialEq)]
pub struct HashAffinity {
    /// Where the affinity key comes from; the first one present wins. At least one.
    pub keys: Vec<KeySource>,
    /// What happens to a request that carries none of them.
    pub without_key: WithoutKey,
    /// How a key finds its home.
    pub home_hash: HomeHash,
    /// A backend with more than this many times the average of active pins per weight gets no new key: 1.05 to 10.
    /// `None` for no bound.
    pub bounded_load: Option<f64>,
}

/// How a key finds its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HomeHash {
    /// The best score of all backends.
    Rendezvous,
    /// A table of slots.
    Maglev,
    /// A ring of points.
    Ring,
}

/// Where an affinity key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The value of this header.
    Header(http::HeaderName),
    /// The value of this cookie.
    Cookie(Arc<str>),
    /// The value of this query parameter.
    QueryParameter(Arc<str>),
    /// The path, without the query.
    Path,
    /// The client's address, of which this many bits count.
    ClientAddress {
        /// 1 to 32.
        ipv4_prefix: u8,
        /// 1 to 128.
        ipv6_prefix: u8,
    },
    /// A claim of a JSON Web Token, which is read but not verified: that is the app's business.
    JwtClaim {
        /// The claim's name, as in `sub`.
        claim: Arc<str>,
        /// Where the token is.
        token: TokenSource,
    },
}

/// Where a JSON Web Token is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// A header; `Bearer` in front of the token is left out.
    Header(http::HeaderName),
    /// A cookie of this name.
    Cookie(Arc<str>),
}

/// What happens to a request without an affinity key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WithoutKey {
    /// It is balanced like one of a pool without affinity.
    Balance,
    /// The client's whole address is the key.
    ClientAddress,
    /// It is answered with 400.
    Reject,
}

//! Affinity: what ties a client to the backend that holds its session, and how it travels.
//!
//! A [`Pin`] is sealed into a [`Token`] by [`PoolPins`] and goes to the browser through [`SetCookie`]. On the next request
//! [`CookieName`] finds it, [`PoolPins`] opens it, and [`CookieName`] strips it before the backend sees the request.
//!
//! Instead of a cookie of ours, [`SessionReader`] finds the id that the app itself issued, and [`PinKeys`] make of it the
//! key under which its pin is stored; or [`AffinityKeys`] hash what the request carries, and nothing
//! is kept at all, unless hashing has a bound on the load ([`known_keys`]).
//!
//! Pure: nothing here opens a socket or reads a clock, and chance is handed in. Time is the wall clock in whole seconds
//! since the Unix epoch, because a pin must mean the same to every replica and after every restart. Finding, opening and
//! stripping a pin allocate nothing: tokens live in arrays on the stack, and stripping appends to a buffer of the caller.

pub mod keys;

pub mod pin;

pub mod new_ids;

pub mod token;

pub mod cookie;

pub mod set_cookie;

pub mod cache_guard;

pub mod rehome;

pub mod app_cookie;

pub mod app_session;

pub mod id_parts;

pub mod pin_keys;

pub mod key;

mod parameter;

pub mod session_pins;

pub mod known_keys;

pub use app_session::{IssuedBy, IssuedId, SessionReader};
pub use cookie::CookieName;
pub use id_parts::{Routes, split_prefix, split_route};
pub use key::AffinityKeys;
pub use keys::KeyRing;
pub use new_ids::NewIds;
pub use pin::{Detour, Limits, Opened, Orphan, Pin};
pub use pin_keys::PinKeys;
pub use session_pins::{SessionId, SessionPins};
pub use set_cookie::SetCookie;
pub use token::{PoolPins, Token};

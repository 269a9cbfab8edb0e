//! Affinity: what ties a client to the backend that holds its session, and how it travels in Stickpin's own cookie.
//!
//! A [`Pin`] is sealed into a [`Token`] by [`PoolPins`] and goes to the browser through [`SetCookie`]. On the next request
//! [`CookieName`] finds it, [`PoolPins`] opens it, and [`CookieName`] strips it before the backend sees the request.
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

pub use cookie::CookieName;
pub use keys::{KeyRing, KeyRingError};
pub use new_ids::NewIds;
pub use pin::{Detour, Limits, Opened, Orphan, Pin};
pub use set_cookie::SetCookie;
pub use token::{PoolPins, Token};

//! Single values of the file that cannot be wrong once made.
//!
//! Each is read from what YAML gives (text, number or boolean) by [`Scalar`], which also says what to write instead.

mod http;

mod name;

mod net;

mod number;

mod scalar;

mod size;

mod time;

pub(super) use http::{CookieName, CookiePath, Header, HostHeader, PathPrefix, RequestTarget, Statuses};
pub(super) use name::{BackendName, FilePath, is_pool_name};
pub(super) use net::{Address, BackendAddress, CookieDomain, Network};
pub(super) use number::Whole;
pub use number::{Percent, Weight};
pub(super) use scalar::{Scalar, scalar};
pub(super) use size::Size;
pub use time::duration;
pub(super) use time::{NonZeroTime, Time, written};

//! Single values of the file that cannot be wrong once made.
//!
//! Each is read from what YAML gives (text, number or boolean) by [`Scalar`], which also says what to write instead.

mod dns;

mod http;

mod name;

mod net;

mod number;

mod pace;

mod scalar;

mod size;

mod time;

pub(super) use dns::{DnsName, DnsRefresh, DnsServer};
pub(super) use http::{
    ClaimName, CookieName, CookiePath, Header, HeaderText, HostHeader, ParameterName, PathPrefix, RequestTarget,
    ServiceName, Statuses, Text,
};
pub(super) use name::{BackendName, FileMode, FilePath, UserName, is_pool_name};
pub(super) use net::{Address, BackendAddress, CookieDomain, ListenerAddress, RedisUrl, ServerName, TrustedProxy};
pub use number::{Percent, Tier, Weight};
pub(super) use number::{Ratio, Times, Whole};
pub use pace::Pace;
pub(super) use scalar::{Scalar, scalar};
pub(super) use size::Size;
pub use time::duration;
pub use time::written;
pub(super) use time::{HedgeAfter, NonZeroTime, Time};

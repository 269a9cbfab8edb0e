//! The words for what was decided: the same in the access log, the metrics and the API.

/// What was decided for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// A client without a pin got one.
    New,
    /// The pinned client went home.
    Kept,
    /// Served elsewhere; the pin still names its home.
    Detour(DetourReason),
    /// The pin itself moved.
    Rehomed(RehomeReason),
    /// The client gets an error: by the pool's policy, or because there is no room.
    Refused(RefuseReason),
    /// The route or pool has no affinity.
    Unpinned,
}

/// Why a request took a detour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DetourReason {
    /// The home is full.
    Busy,
    /// An attempt at the home failed.
    ConnectFailed,
    /// The home failed a moment ago and is being probed.
    Suspect,
    /// The home is out of reach and may still hold the session.
    Unreachable,
    /// The operator disabled the home.
    Disabled,
}

/// Why a client got an error though backends are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// The pool's policy says so, for a client without its home or a request without a key.
    Policy,
    /// Every backend has as many clients as it may.
    MaxPins,
    /// There was no room, and none in the queue.
    QueueFull,
    /// It has waited in the queue for as long as it may.
    QueueTimeout,
}

/// Why a pin moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RehomeReason {
    /// The home's process is gone.
    Gone,
    /// The home is out of reach.
    Unreachable,
    /// The operator disabled the home.
    Disabled,
    /// The home is drained.
    Drained,
    /// The home is no longer in the pool.
    Removed,
    /// The home was out of reach for longer than `hold_home`.
    HoldOver,
    /// The client began a new session elsewhere.
    NewSession,
    /// The pool evens out its load.
    Rebalanced,
}

impl Placement {
    /// Every placement with every reason, in the order of [`Placement::index`].
    pub const ALL: [Self; 20] = [
        Self::New,
        Self::Kept,
        Self::Detour(DetourReason::Busy),
        Self::Detour(DetourReason::ConnectFailed),
        Self::Detour(DetourReason::Suspect),
        Self::Detour(DetourReason::Unreachable),
        Self::Detour(DetourReason::Disabled),
        Self::Rehomed(RehomeReason::Gone),
        Self::Rehomed(RehomeReason::Unreachable),
        Self::Rehomed(RehomeReason::Disabled),
        Self::Rehomed(RehomeReason::Drained),
        Self::Rehomed(RehomeReason::Removed),
        Self::Rehomed(RehomeReason::HoldOver),
        Self::Rehomed(RehomeReason::NewSession),
        Self::Rehomed(RehomeReason::Rebalanced),
        Self::Refused(RefuseReason::Policy),
        Self::Refused(RefuseReason::MaxPins),
        Self::Refused(RefuseReason::QueueFull),
        Self::Refused(RefuseReason::QueueTimeout),
        Self::Unpinned,
    ];

    /// Its place in [`Placement::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::New => 0,
            Self::Kept => 1,
            Self::Detour(reason) => 2 + reason as usize,
            Self::Rehomed(reason) => 7 + reason as usize,
            Self::Refused(reason) => 15 + reason as usize,
            Self::Unpinned => 19,
        }
    }

    /// The placement's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Kept => "kept",
            Self::Detour(_) => "detour",
            Self::Rehomed(_) => "rehomed",
            Self::Refused(_) => "refused",
            Self::Unpinned => "unpinned",
        }
    }

    /// The reason's word, empty for placements that need none.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Detour(reason) => reason.as_str(),
            Self::Rehomed(reason) => reason.as_str(),
            Self::Refused(reason) => reason.as_str(),
            Self::New | Self::Kept | Self::Unpinned => "",
        }
    }
}

impl DetourReason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::ConnectFailed => "connect_failed",
            Self::Suspect => "suspect",
            Self::Unreachable => "unreachable",
            Self::Disabled => "disabled",
        }
    }
}

impl RefuseReason {
    /// The word, empty for the policy, which needs none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "",
            Self::MaxPins => "max_pins",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
        }
    }
}

impl RehomeReason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Unreachable => "unreachable",
            Self::Disabled => "disabled",
            Self::Drained => "drained",
            Self::Removed => "removed",
            Self::HoldOver => "hold_over",
            Self::NewSession => "new_session",
            Self::Rebalanced => "rebalanced",
        }
    }
}

/// What the presented pin turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinVerdict {
    /// There was none.
    None,
    /// Good.
    Valid,
    /// Good, but sealed with a key that no longer signs; it is sealed anew.
    OldKey,
    /// Unused for too long, or too old.
    Expired,
    /// Not sealed by us for this pool, or not a pin at all.
    Forged,
    /// Ours, but its home is not in the pool.
    UnknownBackend,
}

impl PinVerdict {
    /// Every verdict; `verdict as usize` is its place.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Valid, Self::OldKey, Self::Expired, Self::Forged, Self::UnknownBackend];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Valid => "valid",
            Self::OldKey => "old_key",
            Self::Expired => "expired",
            Self::Forged => "forged",
            Self::UnknownBackend => "unknown_backend",
        }
    }
}

/// Why a request was tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryReason {
    /// No connection could be opened, so nothing was sent.
    Connect,
    /// The connection broke before the first byte of the reply.
    ResetBeforeReply,
    /// No byte of a reply came in time.
    FirstByteTimeout,
    /// No byte of a reply came within the time of one attempt.
    AttemptTimeout,
    /// The reply was 502.
    BadGateway,
    /// The reply was 503.
    ServiceUnavailable,
    /// The reply was 504.
    GatewayTimeout,
    /// Nothing failed yet: a second backend was asked because the first one was slow.
    Hedge,
}

impl RetryReason {
    /// Every reason; `reason as usize` is its place.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::ResetBeforeReply,
        Self::FirstByteTimeout,
        Self::AttemptTimeout,
        Self::BadGateway,
        Self::ServiceUnavailable,
        Self::GatewayTimeout,
        Self::Hedge,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ResetBeforeReply => "reset_before_reply",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::AttemptTimeout => "attempt_timeout",
            Self::BadGateway => "502",
            Self::ServiceUnavailable => "503",
            Self::GatewayTimeout => "504",
            Self::Hedge => "hedge",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placement_stands_at_its_own_index() {
        for (index, placement) in Placement::ALL.into_iter().enumerate() {
            assert_eq!(placement.index(), index, "{placement:?}");
        }
        for (index, verdict) in PinVerdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, index);
        }
        for (index, reason) in RetryReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}

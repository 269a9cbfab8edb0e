//! Over whom are new clients spread? The tier in use, and whether health is ignored.
//!
//! Pure. **Tiers**: the tier in use is the first one with an available backend. **Panic**: when of the backends that could
//! take new clients, those of the tier in use and of the later ones, fewer than the pool's `panic_below` are available, new
//! clients are spread over everybody enabled in the tier in use, as if all were healthy: all of them on the few that are
//! left would be the end of those, too. Tiers before do not count: a later tier is there to stand in for them, and to
//! send half of the new clients to a site that is down would help nobody. Later tiers count, because they stand in when the
//! one in use is lost: as long as they are well there is no need to panic. Only new clients are spread so; pinned ones
//! keep, and inherit, living homes.
//!
//! Those whose process is gone are left out all the same: that connections are refused is no doubtful measurement, and
//! each client would only come back to the few after a detour. When nobody at all is available, those are tried that
//! answer, though not as a probe expects: a probe that asks for the wrong thing does not end the service. Silent ones are
//! not, so that nobody hangs; with nobody left to try, it is 503 at once.

use super::{AdminState, Health, Member};
use crate::config::Tier;

/// Over whom new clients are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The tier in use.
    pub tier: u8,
    /// Whether health is ignored.
    pub panic: Panic,
}

/// Whether health is ignored for spreading new clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Panic {
    /// No.
    #[default]
    Calm = 0,
    /// Too few are available.
    FewLeft = 1,
    /// Nobody is available.
    NobodyLeft = 2,
}

/// What is counted of a tier.
#[derive(Clone, Copy, Default)]
struct Count {
    enabled: u32,
    available: u32,
    answering: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Self::FIRST_TIER
    }
}

impl Spread {
    /// Over the first tier, by health.
    pub const FIRST_TIER: Self = Self { tier: 0, panic: Panic::Calm };

    /// For these members. `panic_below` is a share, 0 for never. O(N).
    pub fn of(members: &[Member], panic_below: f64) -> Self {
        let mut tiers = [Count::default(); Tier::MAX as usize + 1];
        for member in members {
            let standing = member.backend.standing();
            if standing.admin == AdminState::Enabled && member.backend.weight() > 0 {
                let count = &mut tiers[usize::from(member.tier.min(Tier::MAX))];
                count.enabled += 1;
                count.available += u32::from(standing.health != Health::Unhealthy);
                count.answering += u32::from(!standing.is_gone() && !standing.is_silent);
            }
        }
        let first = |counted: fn(&Count) -> u32| tiers.iter().position(|count| counted(count) > 0);
        if let Some(tier) = first(|count| count.available) {
            let sum = |counted: fn(&Count) -> u32| tiers[tier..].iter().map(counted).sum::<u32>();
            let (available, enabled) = (sum(|count| count.available), sum(|count| count.enabled));
            let is_few = f64::from(available) < panic_below * f64::from(enabled);
            return Self { tier: tier as u8, panic: if is_few { Panic::FewLeft } else { Panic::Calm } };
        }
        match first(|count| count.enabled) {
            Some(enabled) if panic_below > 0.0 => {
                let tier = first(|count| count.answering).unwrap_or(enabled);
                Self { tier: tier as u8, panic: Panic::NobodyLeft }
            }
            Some(_) | None => Self::FIRST_TIER,
        }
    }

    /// Whether new clients are spread over this member because health is ignored; never without panic.
    pub fn ignores_health_of(self, member: &Member) -> bool {
        if self.panic == Panic::Calm || member.tier != self.tier || member.backend.weight() == 0 {
            return false;
        }
        let standing = member.backend.standing();
        let is_worth_a_try = match self.panic {
            Panic::Calm => false,
            Panic::FewLeft => true,
            Panic::NobodyLeft => !standing.is_silent,
        };
        is_worth_a_try && standing.admin == AdminState::Enabled && !standing.is_gone()
    }

    /// Whether health is ignored.
    pub fn is_panicking(self) -> bool {
        self.panic != Panic::Calm
    }

    pub(super) fn pack(self) -> u32 {
        u32::from(self.tier) | (self.panic as u32) << 8
    }

    pub(super) fn unpack(bits: u32) -> Self {
        let panic = match bits >> 8 {
            0 => Panic::Calm,
            1 => Panic::FewLeft,
            _ => Panic::NobodyLeft,
        };
        Self { tier: bits as u8, panic }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::pool::{BackendId, Evidence, Failure, Registry, Thresholds, testing};

    use Panic::{Calm, FewLeft, NobodyLeft};

    /// One letter a backend, tiers apart by `|`: `h`ealthy, `n`ew (starting), `s`uspect, `w`rong answers, `q`uiet, `g`one,
    /// `d`raining, `o`ff (disabled), `0` weight 0 and healthy.
    fn pool(text: &str) -> Vec<Member> {
        let (registry, now) = (Registry::new(1), Instant::now());
        let once = Thresholds { healthy_after: 1, unhealthy_after: 1 };
        let mut members = Vec::new();
        for (tier, letters) in text.split('|').enumerate() {
            for letter in letters.chars() {
                let id = BackendId { pool: "shop".into(), name: Arc::from(format!("b{}", members.len())) };
                let backend = registry.backend(&id, now);
                let seen: &[Evidence] = match letter {
                    'n' => &[],
                    's' => &[Evidence::ProbeOk, Evidence::TrafficFailed(Failure::Broken)],
                    'w' => &[Evidence::ProbeFailed(Failure::Unexpected)],
                    'q' => &[Evidence::ProbeFailed(Failure::Silent)],
                    'g' => &[Evidence::ProbeFailed(Failure::Refused)],
                    _ => &[Evidence::ProbeOk],
                };
                for evidence in seen {
                    backend.observe(*evidence, once, now);
                }
                match letter {
                    'd' => backend.set_admin_state(AdminState::Draining, None, now),
                    'o' => backend.set_admin_state(AdminState::Disabled, None, now),
                    '0' => backend.set_file_weight(0),
                    _ => {}
                }
                members.push(Member { tier: tier as u8, ..testing::member(backend) });
            }
        }
        members
    }

    /// The pool, the tier in use, panic, and over whom it spreads new clients.
    type Row = (&'static str, u8, Panic, &'static str);

    #[test]
    fn tiers_and_panic_follow_the_table() {
        let table: &[Row] = &[
            ("hhhh", 0, Calm, "----"),
            ("", 0, Calm, ""),
            // Before the first probe nothing is known, and nothing is to be afraid of.
            ("nnnn", 0, Calm, "----"),
            // Three tenths are not too few, a quarter is.
            ("hhhqqqqqqq", 0, Calm, "----------"),
            ("hqqq", 0, FewLeft, "xxxx"),
            ("sqqq", 0, FewLeft, "xxxx"),
            // Gone is gone; it counts as lost, but nobody is sent there.
            ("hggg", 0, FewLeft, "x---"),
            ("hqgw", 0, FewLeft, "xx-x"),
            // Who is not meant for new clients does not count, on either side.
            ("hqqqd0", 0, FewLeft, "xxxx--"),
            ("hhdddddooo000", 0, Calm, "-------------"),
            ("hhqddddd", 0, Calm, "--------"),
            // Nobody is left: those that answer are tried, and nobody waits for silent ones.
            ("wwqg", 0, NobodyLeft, "xx--"),
            ("qqgg", 0, NobodyLeft, "----"),
            ("dddd", 0, Calm, "----"),
            ("wd00", 0, NobodyLeft, "x---"),
            // A later tier stands in for the ones before…
            ("qqqqqqqqqq|hhh", 1, Calm, "-------------"),
            ("s|hhh", 0, Calm, "----"),
            ("0|h", 1, Calm, "--"),
            ("d|o|h", 2, Calm, "---"),
            // …and is a reason not to panic before it is needed.
            ("hqqq|hhhh", 0, Calm, "--------"),
            ("hqqq|qqqq", 0, FewLeft, "xxxx----"),
            ("qqqq|hqqq", 1, FewLeft, "----xxxx"),
            ("qq|qw", 1, NobodyLeft, "---x"),
            ("wq|ww", 0, NobodyLeft, "x---"),
        ];
        for (text, tier, panic, spread) in table {
            let members = pool(text);
            let found = Spread::of(&members, 0.3);
            assert_eq!(found, Spread { tier: *tier, panic: *panic }, "{text}");
            let over: String = members.iter().map(|m| if found.ignores_health_of(m) { 'x' } else { '-' }).collect();
            assert_eq!(over, *spread, "{text}");
            assert_eq!(Spread::unpack(found.pack()), found, "{text}");
        }
    }

    #[test]
    fn a_pool_that_never_panics_still_has_a_tier_in_use() {
        for (text, tier) in [("hqqq", 0), ("qqqq", 0), ("wwww|wwww", 0), ("qqqq|h", 1)] {
            assert_eq!(Spread::of(&pool(text), 0.0), Spread { tier, panic: Calm }, "{text}");
        }
        assert_eq!(Spread::of(&pool("hhhq"), 1.0).panic, FewLeft, "100%: as soon as one is missing");
        assert_eq!(Spread::of(&pool("hhhh"), 1.0).panic, Calm);
    }
}

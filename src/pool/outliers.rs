//! Is a backend out of order, though its probes do not say so? Judged by what requests met, against the others. Pure.
//!
//! A backend is *out* when, within the window, enough of its replies were bad, from enough different clients, and the
//! others did better. One client counts for no more than its part of the threshold: whoever asks again and again for what
//! cannot be answered takes nobody out. What fewer clients met only asks for a probe.
//!
//! Being out by errors or slowness makes a backend suspect: it may hold sessions, so its pinned clients keep coming, while
//! new ones go elsewhere. Being out by failed connects makes it unhealthy: nobody can be served there. A probe that succeeds
//! does not end it. When its time is over it is on probation: suspect, and one new client is let through to it; a good reply
//! to anybody brings it back.

use std::time::Duration;

use tokio::time::Instant;

use super::condition::Health;
use super::traffic::{BUCKETS, Bad, Counts, median};
use crate::config;

/// What put a backend out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection could be opened.
    ConnectFailures,
    /// Replies of 5xx, or none after the request was sent.
    Errors,
    /// Replies that took far longer than those of others.
    Slow,
}

impl Cause {
    /// Every cause; `cause as usize` is its place.
    pub const ALL: [Self; 3] = [Self::ConnectFailures, Self::Errors, Self::Slow];

    /// The word used in metrics, log and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailures => "connect_failures",
            Self::Errors => "errors",
            Self::Slow => "slow",
        }
    }
}

/// A backend that is out by traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// What put it out.
    pub cause: Cause,
    /// Since when, earlier times not counted.
    pub since: Instant,
    /// How far it is.
    pub stage: Stage,
}

/// See [`Out::stage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Out until then, whatever probes say.
    Until(Instant),
    /// A good reply brings it back.
    Probation,
}

impl Out {
    /// What it means for its health; what probes show may be worse.
    pub fn health(self) -> Health {
        match (self.cause, self.stage) {
            (Cause::ConnectFailures, Stage::Until(_)) => Health::Unhealthy,
            (_, Stage::Until(_) | Stage::Probation) => Health::Suspect,
        }
    }
}

/// What was seen in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Counts.
    pub counts: Counts,
    /// What went wrong.
    pub bad: Bad,
}

impl Sample {
    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.counts.replies += other.counts.replies;
        for (sum, more) in self.counts.latency.iter_mut().zip(other.counts.latency) {
            *sum += more;
        }
        self.bad.merge(&other.bad, MOST_CLIENTS);
    }

    /// The median of its latency, if there were enough replies to tell.
    pub fn median(&self, rules: &config::Traffic) -> Option<Duration> {
        let replies: u64 = self.counts.latency.iter().sum();
        if replies < u64::from(enough(rules)) { None } else { median(&self.counts.latency) }
    }

    /// The share of bad replies for this cause, no client counted for more than `most`: how many, of how many.
    fn weighed(&self, cause: Cause, most: u32) -> Weighed {
        let at = cause as usize;
        let of = |counts: &[u32; Cause::ALL.len()]| counts[at].min(most);
        let counted = self.bad.clients.iter().map(|(_, counts)| u64::from(of(counts))).sum::<u64>();
        let clients = self.bad.clients.iter().filter(|(_, counts)| counts[at] > 0).count();
        let total = u64::from(self.bad.totals[at]);
        let all = match cause {
            // Those were never answered, so they are not among the replies.
            Cause::ConnectFailures => self.counts.replies + total,
            Cause::Errors => self.counts.replies,
            Cause::Slow => self.counts.latency.iter().sum(),
        };
        Weighed { counted, clients, of: all.saturating_sub(total - counted.min(total)) }
    }
}

struct Weighed {
    counted: u64,
    clients: usize,
    of: u64,
}

impl Weighed {
    fn share(&self) -> f64 {
        if self.of == 0 { 0.0 } else { self.counted as f64 / self.of as f64 }
    }
}

/// The last half to whole window of one backend.
#[derive(Clone, Debug)]
pub struct Window {
    before: Sample,
    current: Sample,
    turned_at: Instant,
    seen: Counts,
}

impl Window {
    /// Begins now, when so much has been counted.
    pub fn new(seen: Counts, now: Instant) -> Self {
        Self { before: Sample::default(), current: Sample::default(), turned_at: now, seen }
    }

    /// Takes what has been counted since, and gives it back.
    pub fn take(&mut self, counts: Counts, bad: Bad, length: Duration, now: Instant) -> Sample {
        let mut news = Sample { counts: Counts::default(), bad };
        news.counts.replies = counts.replies.saturating_sub(self.seen.replies);
        for bucket in 0..BUCKETS {
            news.counts.latency[bucket] = counts.latency[bucket].saturating_sub(self.seen.latency[bucket]);
        }
        self.seen = counts;
        if now.saturating_duration_since(self.turned_at) >= length / 2 {
            self.before = std::mem::take(&mut self.current);
            self.turned_at = now;
        }
        self.current.add(&news);
        news
    }

    /// Forgets everything but what was counted.
    pub fn restart(&mut self, now: Instant) {
        *self = Self::new(std::mem::take(&mut self.seen), now);
    }

    /// All of it.
    pub fn sample(&self) -> Sample {
        let mut sample = self.before.clone();
        sample.add(&self.current);
        sample
    }
}

/// What the replies of one backend amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Something may be wrong, but too few clients met it: a probe should tell.
    Ask,
    /// It is out of order; the share of its replies that were bad.
    Out(Cause, f64),
}

/// Judges one backend against the others of its pool, whose counts are in `others`.
pub fn judge(sample: &Sample, others: &Tally, rules: &config::Traffic) -> Verdict {
    let mut verdict = Verdict::Fine;
    for cause in Cause::ALL {
        let Some(threshold) = threshold(cause, rules) else { continue };
        let most = threshold.div_ceil(rules.clients);
        let weighed = sample.weighed(cause, most);
        let is_worse = weighed.share() > TIMES_THE_OTHERS * others.share(cause);
        let is_bad = |weighed: &Weighed| {
            weighed.counted >= u64::from(threshold) && weighed.share() >= rules.bad_share.fraction()
        };
        if weighed.clients >= rules.clients as usize && is_bad(&weighed) && is_worse {
            return Verdict::Out(cause, weighed.share());
        }
        if is_bad(&sample.weighed(cause, u32::MAX)) {
            verdict = Verdict::Ask;
        }
    }
    verdict
}

/// How many it takes; `None` for never.
fn threshold(cause: Cause, rules: &config::Traffic) -> Option<u32> {
    match cause {
        Cause::ConnectFailures => Some(rules.connect_failures).filter(|count| *count > 0),
        Cause::Errors => Some(rules.errors).filter(|count| *count > 0),
        Cause::Slow => (rules.slow > 0.0).then(|| enough(rules)),
    }
}

/// Replies that are enough to tell how slow a backend is.
fn enough(rules: &config::Traffic) -> u32 {
    if rules.errors > 0 { rules.errors } else { config::Traffic::default().errors }
}

/// What all backends of a pool met, and from it what all but one did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    counted: [u64; Cause::ALL.len()],
    of: [u64; Cause::ALL.len()],
}

impl Tally {
    /// Adds one backend.
    pub fn add(&mut self, sample: &Sample, rules: &config::Traffic) {
        self.change(sample, rules, u64::saturating_add);
    }

    /// Without that backend.
    #[must_use]
    pub fn without(mut self, sample: &Sample, rules: &config::Traffic) -> Self {
        self.change(sample, rules, u64::saturating_sub);
        self
    }

    fn change(&mut self, sample: &Sample, rules: &config::Traffic, by: fn(u64, u64) -> u64) {
        for cause in Cause::ALL {
            let Some(threshold) = threshold(cause, rules) else { continue };
            let weighed = sample.weighed(cause, threshold.div_ceil(rules.clients));
            let at = cause as usize;
            (self.counted[at], self.of[at]) = (by(self.counted[at], weighed.counted), by(self.of[at], weighed.of));
        }
    }

    fn share(&self, cause: Cause) -> f64 {
        let at = cause as usize;
        // How slow they are is in the limit already.
        if self.of[at] == 0 || cause == Cause::Slow { 0.0 } else { self.counted[at] as f64 / self.of[at] as f64 }
    }
}

/// The time above which a reply of this backend is slow: so many times the median of the others' medians, in order
/// ascending in `medians`; `own` is among them or not. `None` when there is no other to compare with.
pub fn slow_limit(medians: &[Duration], own: Option<Duration>, rules: &config::Traffic) -> Option<Duration> {
    let place = own.and_then(|own| medians.binary_search(&own).ok());
    let others = medians.len() - usize::from(place.is_some());
    // Of an even number the slower one, in doubt for the backend.
    let middle = others / 2;
    let middle = if place.is_some_and(|place| middle >= place) { middle + 1 } else { middle };
    if others == 0 || rules.slow <= 0.0 {
        return None;
    }
    Some(medians[middle].mul_f64(rules.slow).max(rules.slow_floor))
}

/// How many more may go out, when so many of the enabled backends are.
pub fn room(enabled: usize, out: usize, rules: &config::Traffic) -> usize {
    // A hair more, so that 0.3 of 10 is 3.
    let most = (enabled as f64 * rules.max_out.fraction() + 1e-9) as usize;
    most.saturating_sub(out)
}

/// How often and how recently a backend was out.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    times: u32,
    /// How long it was out the last time, and when it came back.
    last: Option<(Duration, Instant)>,
}

impl History {
    /// It goes out: for how long.
    pub fn goes_out(&mut self, rules: &config::Traffic, now: Instant) -> Duration {
        let was_out_lately =
            self.last.is_some_and(|(duration, back)| now.saturating_duration_since(back) < duration * 2);
        self.times = if was_out_lately { self.times.saturating_add(1) } else { 1 };
        let factor = 2_u32.saturating_pow(self.times - 1).min(LONGEST);
        let duration = rules.out_for.saturating_mul(factor);
        self.last = Some((duration, now));
        duration
    }

    /// It is back.
    pub fn is_back(&mut self, now: Instant) {
        self.last = self.last.map(|(duration, _)| (duration, now));
    }
}

/// What comes of a probation so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Nothing yet.
    Wait,
    /// It works again.
    Passed,
    /// It does not.
    Failed,
}

/// Judges what was seen since a probation began; `let_through` is how long ago a new client was let through for it.
///
/// Every client counts once, so that one that only meets errors cannot keep the backend out.
pub fn trial(sample: &Sample, let_through: Option<Duration>, rules: &config::Traffic) -> Trial {
    let failed = |at: Cause| u64::from(sample.bad.totals[at as usize]);
    let good = sample.counts.replies.saturating_sub(failed(Cause::Errors) + failed(Cause::Slow));
    let bad_clients = sample.bad.clients.len() as u64;
    if good > 0 && good >= bad_clients {
        Trial::Passed
    } else if bad_clients >= u64::from(rules.clients)
        || (bad_clients > 0 && let_through.is_some_and(|since| since >= TRIAL_WAIT))
    {
        Trial::Failed
    } else {
        Trial::Wait
    }
}

/// Clients kept apart for each backend.
pub const MOST_CLIENTS: usize = 64;

/// Where all are ill alike, nobody is an outlier.
const TIMES_THE_OTHERS: f64 = 2.0;

/// How many times `out_for` a backend is out at most.
const LONGEST: u32 = 10;

/// The reply to a client that was let through is waited for this long before bad replies to others tell.
const TRIAL_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Percent;
    use crate::pool::traffic::Traffic;

    const MS: Duration = Duration::from_millis(1);

    fn rules() -> config::Traffic {
        config::Traffic::default()
    }

    /// So many good replies, and bad ones by client.
    fn sample(cause: Cause, good: u64, by_client: &[u32]) -> Sample {
        let mut sample = Sample::default();
        let mut all = good;
        for (client, count) in by_client.iter().enumerate() {
            sample.bad.add(client as u64, cause, *count, MOST_CLIENTS);
            all += u64::from(*count);
        }
        sample.counts.replies = if cause == Cause::ConnectFailures { good } else { all };
        sample.counts.latency[if cause == Cause::Slow { 12 } else { 3 }] = sample.counts.replies;
        sample
    }

    fn tally(sample: &Sample) -> Tally {
        let mut tally = Tally::default();
        tally.add(sample, &rules());
        tally
    }

    #[test]
    fn a_backend_is_out_when_enough_of_its_replies_to_enough_clients_are_bad() {
        use Cause as C;
        use Verdict as V;
        let out = |cause| V::Out(cause, 0.0);
        let rows: [(Cause, u64, &[u32], Verdict, &str); 17] = [
            (C::Errors, 0, &[4, 3, 3], out(C::Errors), "ten from three"),
            (C::Errors, 0, &[1; 10], out(C::Errors), "one each"),
            (C::Errors, 0, &[3, 3, 3], V::Fine, "nine"),
            (C::Errors, 10, &[4, 4, 4], out(C::Errors), "more than half"),
            (C::Errors, 13, &[4, 4, 4], V::Fine, "less than half"),
            (C::Errors, 0, &[100], V::Ask, "one client"),
            (C::Errors, 0, &[50, 50], V::Ask, "two clients"),
            (C::Errors, 0, &[1000, 1, 1], V::Ask, "one client, and two that met an error by chance"),
            (C::Errors, 50, &[1000, 4, 4], V::Ask, "one client does not make up the share either"),
            (C::Errors, 1000, &[40, 40, 40], V::Fine, "few of many"),
            (C::ConnectFailures, 0, &[2, 2, 1], out(C::ConnectFailures), "five from three"),
            (C::ConnectFailures, 0, &[2, 2], V::Fine, "four"),
            (C::ConnectFailures, 0, &[50], V::Ask, "one client"),
            (C::ConnectFailures, 100, &[2, 2, 2], V::Fine, "a few resets under load"),
            (C::Slow, 0, &[4, 3, 3], out(C::Slow), "ten from three"),
            (C::Slow, 100, &[4, 3, 3], V::Fine, "few of many"),
            (C::Slow, 0, &[100], V::Ask, "one client"),
        ];
        for (cause, good, by_client, expected, what) in rows {
            let verdict = match judge(&sample(cause, good, by_client), &Tally::default(), &rules()) {
                Verdict::Out(cause, share) => {
                    assert!(share >= 0.5, "{what}");
                    out(cause)
                }
                verdict => verdict,
            };
            assert_eq!(verdict, expected, "{what}: {cause:?} {good} {by_client:?}");
        }
    }

    #[test]
    fn where_all_are_ill_alike_nobody_is_an_outlier() {
        let ill = sample(Cause::Errors, 2, &[4, 4, 4]);
        assert!(matches!(judge(&ill, &tally(&sample(Cause::Errors, 100, &[1])), &rules()), Verdict::Out(..)));
        assert_eq!(judge(&ill, &tally(&ill), &rules()), Verdict::Ask);
        let mut all = tally(&ill);
        all.add(&sample(Cause::Errors, 100, &[]), &rules());
        assert!(matches!(judge(&ill, &all.without(&ill, &rules()), &rules()), Verdict::Out(..)));
    }

    #[test]
    fn a_rule_that_is_off_puts_nobody_out() {
        let off = config::Traffic { errors: 0, connect_failures: 0, slow: 0.0, ..rules() };
        for cause in Cause::ALL {
            assert_eq!(judge(&sample(cause, 0, &[100; 10]), &Tally::default(), &off), Verdict::Fine, "{cause:?}");
        }
    }

    #[test]
    fn a_reply_is_slow_by_what_the_others_need() {
        let of = |medians: &[u32], own: Option<u32>| {
            let medians: Vec<_> = medians.iter().map(|ms| MS * *ms).collect();
            slow_limit(&medians, own.map(|ms| MS * ms), &rules()).map(|limit| limit.as_millis())
        };
        for (medians, own, expected) in [
            (&[][..], None, None),
            (&[100], Some(100), None),
            (&[100], None, Some(300)),
            (&[10, 900], Some(900), Some(250)),
            (&[10, 900], Some(10), Some(2700)),
            (&[100, 100, 900], Some(900), Some(300)),
            // In doubt the slower one: two of three are slow, and neither is alone with it.
            (&[100, 900, 900], Some(900), Some(2700)),
            (&[100, 200, 300, 400], None, Some(900)),
            (&[100, 200, 300, 400], Some(100), Some(900)),
            (&[100, 200, 300, 400], Some(400), Some(600)),
        ] {
            assert_eq!(of(medians, own), expected, "{medians:?} for {own:?}");
        }
        let off = config::Traffic { slow: 0.0, ..rules() };
        assert_eq!(slow_limit(&[MS, MS], None, &off), None);
    }

    #[test]
    fn no_more_than_their_share_may_be_out() {
        let rules = |percent| config::Traffic { max_out: Percent::new(percent).unwrap(), ..rules() };
        for (enabled, out, percent, expected) in [
            (1, 0, 50.0, 0),
            (2, 0, 50.0, 1),
            (2, 1, 50.0, 0),
            (3, 0, 50.0, 1),
            (10, 0, 30.0, 3),
            (10, 4, 30.0, 0),
            (10, 0, 0.0, 0),
            (10, 2, 100.0, 8),
            (0, 0, 100.0, 0),
        ] {
            assert_eq!(room(enabled, out, &rules(percent)), expected, "{percent} % of {enabled}, {out} are out");
        }
    }

    #[test]
    fn who_is_out_again_soon_is_out_for_longer() {
        let start = Instant::now();
        let mut history = History::default();
        let mut now = start;
        for expected in [30, 60, 120, 240, 300, 300] {
            let duration = history.goes_out(&rules(), now);
            assert_eq!(duration.as_secs(), expected);
            now += duration;
            history.is_back(now);
            now += duration;
        }
        now += Duration::from_secs(600);
        assert_eq!(history.goes_out(&rules(), now).as_secs(), 30, "it has been well for long");
    }

    #[test]
    fn a_good_reply_ends_a_probation_and_one_client_cannot_prevent_it() {
        use Trial as T;
        let (long, short) = (Some(TRIAL_WAIT), Some(MS));
        for (good, by_client, let_through, expected) in [
            (0, &[][..], None, T::Wait),
            (0, &[], long, T::Wait),
            (1, &[], None, T::Passed),
            (1, &[1000], short, T::Passed),
            (1, &[1, 1], long, T::Failed),
            (0, &[1], None, T::Wait),
            (0, &[1000], short, T::Wait),
            (0, &[1], long, T::Failed),
            (0, &[1, 1, 1], None, T::Failed),
            (5, &[1, 1, 1], None, T::Passed),
        ] {
            let sample = sample(Cause::Errors, good, by_client);
            assert_eq!(trial(&sample, let_through, &rules()), expected, "{good} {by_client:?} {let_through:?}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let start = Instant::now();
        let traffic = Traffic::new(1);
        let (counts, _) = traffic.take(MOST_CLIENTS);
        let mut window = Window::new(counts, start);
        let length = Duration::from_secs(10);
        let mut at = |seconds: u64, errors: u32| {
            for _ in 0..errors {
                traffic.shard(0).broke_off([192, 0, 2, 1].into());
            }
            let (counts, bad) = traffic.take(MOST_CLIENTS);
            let news = window.take(counts, bad, length, start + Duration::from_secs(seconds));
            assert_eq!(news.bad.totals[Cause::Errors as usize], errors);
            let sample = window.sample();
            assert_eq!(sample.counts.replies, u64::from(sample.bad.totals[Cause::Errors as usize]));
            sample.counts.replies
        };
        assert_eq!([at(1, 3), at(4, 2), at(6, 1), at(9, 1), at(12, 0), at(18, 0)], [3, 5, 6, 7, 2, 0]);
    }

    #[test]
    fn only_failed_connects_make_a_backend_unhealthy_and_only_until_its_probation() {
        let now = Instant::now();
        for cause in Cause::ALL {
            let of = |stage| Out { cause, since: now, stage }.health();
            let expected = if cause == Cause::ConnectFailures { Health::Unhealthy } else { Health::Suspect };
            assert_eq!((of(Stage::Until(now)), of(Stage::Probation)), (expected, Health::Suspect));
        }
    }
}

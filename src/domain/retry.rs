//! When a task that failed, or was in somebody's way, is tried again: back-off, the cap on tries an hour, and
//! the circuit breaker.
//!
//! ```text
//!             Done                      Failed, LockTimeout: after a growing delay
//!   IDLE <──────────── TRYING <──────────────────────────────────────────┐
//!                        │  └── cap reached: when the oldest try is an hour old
//!                        │  └── breaker open: an hour after the last try
//!                        v
//!                     BLOCKED: somebody holds what is needed; only looks, nobody is made to wait
//! ```
//!
//! What is unfinished goes on after a second.
//!
//! Times are durations since some fixed moment, from a clock that never goes back.

use std::collections::VecDeque;
use std::time::Duration;

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that was due is done, or there was nothing to do.
    Done,
    /// A part of what was due is done, and nothing failed: the rest comes with the next pass.
    Unfinished,
    /// Something failed, or the worker ended without a word.
    Failed,
    /// A lock was waited for, while others queued behind, and could not be had in time.
    LockTimeout,
    /// Somebody holds what is needed: nothing was tried, and nobody had to wait.
    Blocked,
}

/// How often at most something that fails is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many tries that fail there may be in an hour.
    pub attempts_per_hour: u32,
    /// After how many failures in a row there is one try an hour until one succeeds.
    pub breaker_failures: u32,
}

const HOUR: Duration = Duration::from_secs(3_600);

/// How long others are spared a try while somebody is in the way; then one is made all the same, because a
/// queue may get through where there is never a moment without somebody.
const INSIST_AFTER: Duration = Duration::from_secs(300);

/// How often somebody in the way is looked after: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The wait before the next attempt after `failures` failures in a row: 10 s, doubled each time, at
/// most an hour.
#[must_use]
pub fn back_off(failures: u32) -> Duration {
    doubled(Duration::from_secs(10), failures).min(HOUR)
}

/// The wait before a lock is asked for again that was waited for in vain `timeouts` times in a row: 1 s,
/// doubled each time, at most five minutes.
#[must_use]
pub fn lock_back_off(timeouts: u32) -> Duration {
    doubled(Duration::from_secs(1), timeouts).min(INSIST_AFTER)
}

/// The wait before the next look at who is in the way since `blocked`: an eighth of that time, so that the
/// work is done soon after a short transaction, and a long one costs few looks.
#[must_use]
pub fn look_again(blocked: Duration) -> Duration {
    (blocked / 8).clamp(LOOK.0, LOOK.1)
}

/// The wait before the next attempt after `crashes` attempts in a row that never ended: longer than
/// after failures, because each may have taken the server down: 5 min, doubled each time, at most a
/// day. The first is tried again after 10 s: a server that was stopped while a worker worked leaves the
/// same trace.
#[must_use]
pub fn crash_back_off(crashes: u32) -> Duration {
    if crashes <= 1 {
        return Duration::from_secs(10);
    }
    doubled(Duration::from_secs(300), crashes - 1).min(24 * HOUR)
}

/// `first` for 1, and twice as much for each further.
fn doubled(first: Duration, count: u32) -> Duration {
    first.saturating_mul(1 << count.saturating_sub(1).min(16))
}

/// Up to an eighth longer by `jitter` (0 to 255), so that databases that failed together do not come back
/// together.
fn jittered(wait: Duration, jitter: u8) -> Duration {
    wait + wait * u32::from(jitter) / (255 * 8)
}

/// What is known of a task's tries.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Failures in a row, of any kind.
    failures: u32,
    /// Lock timeouts in a row.
    timeouts: u32,
    /// When the tries of the last hour that failed ended, oldest first.
    failed_tries: VecDeque<Duration>,
    /// Since when somebody is in the way.
    blocked_since: Option<Duration>,
}

impl Record {
    /// How many failures in a row there have been.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes note of how a try or a look ended at `now`, and gives when the next is due; `None` where none is.
    pub fn note(
        &mut self,
        outcome: Outcome,
        now: Duration,
        limits: Limits,
        jitter: u8,
    ) -> Option<Duration> {
        let wait = match outcome {
            Outcome::Done | Outcome::Unfinished => {
                *self = Self {
                    failed_tries: std::mem::take(&mut self.failed_tries),
                    ..Self::default()
                };
                return (outcome == Outcome::Unfinished).then(|| now + LOOK.0);
            }
            Outcome::Blocked => {
                let since = *self.blocked_since.get_or_insert(now);
                return Some(now + jittered(look_again(now.saturating_sub(since)), jitter));
            }
            Outcome::Failed => {
                self.timeouts = 0;
                self.blocked_since = None;
                self.count_failed_try(now);
                back_off(self.failures)
            }
            Outcome::LockTimeout => {
                self.timeouts = self.timeouts.saturating_add(1);
                self.blocked_since.get_or_insert(now);
                self.count_failed_try(now);
                lock_back_off(self.timeouts)
            }
        };
        let due = now + jittered(wait, jitter);
        Some(due.max(self.allowed_at(limits).unwrap_or(due)))
    }

    fn count_failed_try(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.failed_tries.retain(|at| *at + HOUR > now);
        self.failed_tries.push_back(now);
    }

    /// From when on the limits allow a try; `None` where they never forbade one.
    #[must_use]
    pub fn allowed_at(&self, limits: Limits) -> Option<Duration> {
        let last = *self.failed_tries.back()?;
        if self.failures >= limits.breaker_failures {
            return Some(last + HOUR);
        }
        let cap = usize::try_from(limits.attempts_per_hour).unwrap_or(usize::MAX).max(1);
        let oldest_counted = self.failed_tries.len().checked_sub(cap)?;
        self.failed_tries.get(oldest_counted).map(|at| *at + HOUR)
    }

    /// Whether a lock is to be asked for though somebody is in the way.
    #[must_use]
    pub fn insists(&self, now: Duration, limits: Limits) -> bool {
        let long_ago = |at: &Duration| *at + INSIST_AFTER <= now;
        self.blocked_since.as_ref().is_some_and(long_ago)
            && self.failed_tries.back().is_none_or(long_ago)
            && self.allowed_at(limits).is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { attempts_per_hour: 12, breaker_failures: 24 };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_grow_to_their_caps() {
        assert_eq!([1, 2, 3, 50].map(back_off), [s(10), s(20), s(40), s(3_600)]);
        assert_eq!([1, 2, 3, 50].map(lock_back_off), [s(1), s(2), s(4), s(300)]);
        assert_eq!([1, 2, 3, 99].map(crash_back_off), [s(10), s(300), s(600), s(86_400)]);
        assert_eq!(
            [0, 40, 60, 9_999].map(|t| look_again(s(t))),
            [s(1), s(5), s(7) + s(1) / 2, s(30)]
        );
        assert_eq!(jittered(s(8), 255), s(9));
        assert_eq!(jittered(s(8), 0), s(8));
    }

    #[test]
    fn success_forgets_failures_but_not_how_many_tries_there_were() {
        let mut record = Record::default();
        for _ in 0..12 {
            record.note(Outcome::Failed, s(1), LIMITS, 0);
        }
        assert_eq!(record.note(Outcome::Done, s(2), LIMITS, 0), None);
        assert_eq!(record.failures(), 0);
        let due = record.note(Outcome::Failed, s(100), LIMITS, 0);
        assert_eq!(due, Some(s(3_601)), "the second to thirteenth lie in one hour");
    }

    #[test]
    fn somebody_in_the_way_is_looked_after_and_spared() {
        let mut record = Record::default();
        assert_eq!(record.note(Outcome::Blocked, s(100), LIMITS, 0), Some(s(101)));
        assert_eq!(record.note(Outcome::Blocked, s(180), LIMITS, 0), Some(s(190)));
        assert!(!record.insists(s(399), LIMITS));
        assert!(record.insists(s(400), LIMITS));
        record.note(Outcome::LockTimeout, s(400), LIMITS, 0);
        assert!(!record.insists(s(699), LIMITS), "it has just been tried");
        assert!(record.insists(s(700), LIMITS));
        record.note(Outcome::Done, s(701), LIMITS, 0);
        assert!(!record.insists(s(9_999), LIMITS));
    }

    #[test]
    fn after_many_failures_in_a_row_there_is_one_try_an_hour() {
        let mut record = Record::default();
        let mut now = s(0);
        for _ in 0..24 {
            now = record.note(Outcome::LockTimeout, now, LIMITS, 0).unwrap();
        }
        for _ in 0..5 {
            let due = record.note(Outcome::LockTimeout, now, LIMITS, 0).unwrap();
            assert_eq!(due - now, s(3_600));
            now = due;
        }
    }

    proptest! {
        /// However failures are mixed and whenever a try is forced, tries made when due keep to the cap.
        #[test]
        fn no_hour_has_more_tries_than_the_cap(
            outcomes in prop::collection::vec(0_u8..4, 1..200),
            cap in 1_u32..20,
            jitter: u8,
        ) {
            let limits = Limits { attempts_per_hour: cap, breaker_failures: 30 };
            let (mut record, mut now, mut tries) = (Record::default(), s(0), Vec::new());
            for outcome in outcomes {
                let outcome = match outcome {
                    0 => Outcome::Done,
                    1 => Outcome::Failed,
                    2 => Outcome::LockTimeout,
                    _ => Outcome::Blocked,
                };
                if matches!(outcome, Outcome::Failed | Outcome::LockTimeout) {
                    // What a scheduled time does: due at once, as far as the limits allow it.
                    now = now.max(record.allowed_at(limits).unwrap_or_default());
                    tries.push(now);
                }
                now = record.note(outcome, now, limits, jitter).unwrap_or(now + s(1));
            }
            for (i, first) in tries.iter().enumerate() {
                let within = tries.iter().skip(i).filter(|at| **at < *first + HOUR).count();
                prop_assert!(within <= cap as usize, "{within} tries in an hour");
            }
        }
    }
}

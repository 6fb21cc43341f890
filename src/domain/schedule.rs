//! When maintenance runs: the cron schedule, catch-up, and back-off after failures.
//!
//! Times are handed in. A [`Timetable`] follows the wall clock of the schedule's time zone, a [`Queue`]
//! follows a clock that never goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::NaiveDateTime;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// A cron expression of five fields: minute, hour, day of month, month, day of week.
#[derive(Clone, Debug)]
pub struct Schedule(Cron);

impl Schedule {
    /// Reads a cron expression.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as text; an expression that never comes is refused as well.
    pub fn parse(expression: &str) -> Result<Self, String> {
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let schedule = Self(parser.parse(expression).map_err(|error| error.to_string())?);
        let start = NaiveDateTime::default();
        schedule.next_after(start).map(|_| schedule).ok_or_else(|| "it never comes".to_owned())
    }

    /// The first time after `civil` that the expression names; `None` where there is none.
    #[must_use]
    pub fn next_after(&self, civil: NaiveDateTime) -> Option<NaiveDateTime> {
        self.0.find_next_occurrence(&civil, false).ok()
    }
}

/// Which scheduled times have passed.
///
/// It looks at wall-clock times only, so that no time-zone arithmetic is needed: a time that a jump
/// forward skips counts as passed, and one that comes twice when the clock goes back counts once.
#[derive(Debug)]
pub struct Timetable {
    seen: NaiveDateTime,
}

impl Timetable {
    /// A clock that goes back further than this was wrong before, and is followed.
    const CORRECTION: chrono::TimeDelta = chrono::TimeDelta::hours(3);

    /// Starts at `civil`.
    #[must_use]
    pub const fn new(civil: NaiveDateTime) -> Self {
        Self { seen: civil }
    }

    /// Whether a scheduled time has passed since the last call.
    pub fn passed(&mut self, schedule: &Schedule, civil: NaiveDateTime) -> bool {
        if civil < self.seen {
            if self.seen.signed_duration_since(civil) > Self::CORRECTION {
                self.seen = civil;
            }
            return false;
        }
        let passed = schedule.next_after(self.seen).is_some_and(|next| next <= civil);
        self.seen = civil;
        passed
    }

    /// How long until the next scheduled time; `None` where there is none.
    #[must_use]
    pub fn until_next(&self, schedule: &Schedule) -> Option<Duration> {
        let next = schedule.next_after(self.seen)?;
        next.signed_duration_since(self.seen).to_std().ok()
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that was due is done, or there was nothing to do.
    Done,
    /// Something failed, or the worker ended without a word.
    Failed,
}

/// The wait before the next attempt after `failures` failures in a row: 10 s, doubled each time, at
/// most an hour, and up to an eighth longer by `jitter` (0 to 255), so that databases that failed
/// together do not come back together.
#[must_use]
pub fn back_off(failures: u32, jitter: u8) -> Duration {
    let seconds = 10_u64.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(3_600);
    Duration::from_millis(seconds * 1_000 + seconds * 1_000 * u64::from(jitter) / (255 * 8))
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
    let minutes = 5_u64.saturating_mul(1 << (crashes - 2).min(16)).min(24 * 60);
    Duration::from_secs(minutes * 60)
}

/// What is known of one database.
#[derive(Debug, Default)]
struct Entry {
    due: Option<Duration>,
    failures: u32,
    running: bool,
}

/// The databases and when each is due, served in turn.
///
/// Times are durations since some fixed moment, from a clock that never goes back.
#[derive(Debug, Default)]
pub struct Queue {
    databases: BTreeMap<u32, Entry>,
    served: u32,
}

impl Queue {
    /// Takes in which databases there are now. One never seen before is due at once; one that has
    /// gone is forgotten, unless its worker still runs.
    pub fn observe(&mut self, databases: &[u32], now: Duration) {
        self.databases.retain(|oid, entry| entry.running || databases.contains(oid));
        for oid in databases {
            self.databases.entry(*oid).or_insert(Entry { due: Some(now), ..Entry::default() });
        }
    }

    /// Everything is due: a scheduled time has come.
    pub fn all_due(&mut self, now: Duration) {
        for entry in self.databases.values_mut() {
            entry.due = Some(now);
        }
    }

    /// One database is due; one that is not known is looked at when it is observed.
    pub fn wake(&mut self, oid: u32, now: Duration) {
        if let Some(entry) = self.databases.get_mut(&oid) {
            entry.due = Some(now);
        }
    }

    /// The next database to serve: due, without a running worker, after the last one served, so that
    /// none starves while worker slots are short.
    #[must_use]
    pub fn next(&self, now: Duration) -> Option<u32> {
        let ready = |entry: &Entry| !entry.running && entry.due.is_some_and(|due| due <= now);
        let after = self.databases.range(self.served.saturating_add(1)..);
        after.chain(&self.databases).find(|(_, entry)| ready(entry)).map(|(oid, _)| *oid)
    }

    /// A worker was started for this database.
    pub fn started(&mut self, oid: u32) {
        self.served = oid;
        if let Some(entry) = self.databases.get_mut(&oid) {
            entry.running = true;
            entry.due = None;
        }
    }

    /// Its worker has ended. Returns how many failures in a row that makes.
    pub fn ended(&mut self, oid: u32, outcome: Outcome, now: Duration, jitter: u8) -> u32 {
        let Some(entry) = self.databases.get_mut(&oid) else {
            return 0;
        };
        entry.running = false;
        match outcome {
            Outcome::Done => entry.failures = 0,
            Outcome::Failed => {
                entry.failures = entry.failures.saturating_add(1);
                let retry = now + back_off(entry.failures, jitter);
                entry.due = Some(entry.due.map_or(retry, |due| due.min(retry)));
            }
        }
        entry.failures
    }

    /// How long until some database without a worker is due; `None` where none is.
    #[must_use]
    pub fn until_next(&self, now: Duration) -> Option<Duration> {
        let waiting = self.databases.values().filter(|entry| !entry.running);
        waiting.filter_map(|entry| entry.due).min().map(|due| due.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::NaiveDate;

    fn at(d: u32, h: u32, m: u32) -> NaiveDateTime {
        NaiveDate::from_ymd_opt(2026, 11, d).unwrap().and_hms_opt(h, m, 0).unwrap()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn expressions_are_cron_with_five_fields() {
        let daily = Schedule::parse("0 2 * * *").unwrap();
        assert_eq!(daily.next_after(at(24, 1, 0)), Some(at(24, 2, 0)));
        assert_eq!(daily.next_after(at(24, 2, 0)), Some(at(25, 2, 0)));
        for bad in ["", "often", "0 2 * *", "0 2 * * * *", "61 2 * * *", "0 2 30 2 *", "0 25 * * *"]
        {
            assert!(Schedule::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_scheduled_time_counts_once_whatever_the_clock_does() {
        let daily = Schedule::parse("0 2 * * *").unwrap();
        let mut table = Timetable::new(at(24, 1, 59));
        assert!(!table.passed(&daily, at(24, 1, 59)));
        assert!(table.passed(&daily, at(24, 2, 0)));
        assert!(!table.passed(&daily, at(24, 2, 30)));
        assert!(!table.passed(&daily, at(24, 1, 45)), "the clock went back an hour");
        assert!(!table.passed(&daily, at(24, 2, 15)), "02:00 comes a second time");
        assert!(table.passed(&daily, at(25, 3, 0)), "a jump over 02:00");
        assert!(table.passed(&daily, at(29, 3, 0)), "days passed are caught up, once");
        assert!(!table.passed(&daily, at(29, 3, 1)));
    }

    #[test]
    fn a_clock_that_was_wrong_is_followed() {
        let daily = Schedule::parse("0 2 * * *").unwrap();
        let mut table = Timetable::new(at(29, 12, 0));
        assert!(!table.passed(&daily, at(24, 1, 0)));
        assert!(table.passed(&daily, at(24, 2, 0)));
        assert_eq!(table.until_next(&daily), Some(s(86_400)));
    }

    #[test]
    fn back_off_grows_to_its_cap() {
        assert_eq!(back_off(1, 0), s(10));
        assert_eq!(back_off(2, 0), s(20));
        assert_eq!(back_off(50, 0), s(3_600));
        assert_eq!(back_off(1, 255), Duration::from_millis(11_250));
        assert_eq!(crash_back_off(1), s(10));
        assert_eq!(crash_back_off(2), s(300));
        assert_eq!(crash_back_off(3), s(600));
        assert_eq!(crash_back_off(99), s(86_400));
    }

    #[test]
    fn every_database_is_due_at_the_start_and_served_in_turn() {
        let mut queue = Queue::default();
        queue.observe(&[5, 7, 9], s(0));
        assert_eq!(queue.next(s(0)), Some(5));
        queue.started(5);
        assert_eq!(queue.next(s(0)), Some(7), "5 runs");
        assert_eq!(queue.ended(5, Outcome::Done, s(1), 0), 0);
        queue.wake(5, s(1));
        assert_eq!(queue.next(s(1)), Some(7), "the others come first");
        queue.started(7);
        queue.started(9);
        assert_eq!(queue.next(s(1)), Some(5));
        queue.started(5);
        assert_eq!(queue.next(s(1)), None);
        assert_eq!(queue.until_next(s(1)), None);
    }

    #[test]
    fn a_failure_is_tried_again_later_and_success_forgets_it() {
        let mut queue = Queue::default();
        queue.observe(&[1], s(0));
        for (n, wait) in [(1, 10), (2, 20), (3, 40)] {
            queue.started(1);
            assert_eq!(queue.ended(1, Outcome::Failed, s(100), 0), n);
            assert_eq!(queue.until_next(s(100)), Some(s(wait)));
            assert_eq!(queue.next(s(100 + wait - 1)), None);
            assert_eq!(queue.next(s(100 + wait)), Some(1));
        }
        queue.started(1);
        assert_eq!(queue.ended(1, Outcome::Done, s(200), 0), 0);
        assert_eq!(queue.until_next(s(200)), None);
    }

    #[test]
    fn a_wake_up_during_a_run_is_not_lost() {
        let mut queue = Queue::default();
        queue.observe(&[1], s(0));
        queue.started(1);
        queue.wake(1, s(5));
        queue.ended(1, Outcome::Done, s(6), 0);
        assert_eq!(queue.next(s(6)), Some(1));
        queue.started(1);
        queue.wake(1, s(7));
        queue.ended(1, Outcome::Failed, s(8), 0);
        assert_eq!(queue.next(s(8)), Some(1), "not put off by the back-off");
    }

    #[test]
    fn databases_come_and_go() {
        let mut queue = Queue::default();
        queue.observe(&[1, 2], s(0));
        queue.started(1);
        queue.observe(&[2, 3], s(1));
        queue.ended(1, Outcome::Failed, s(2), 0);
        queue.observe(&[2, 3], s(3));
        queue.all_due(s(3));
        assert_eq!(queue.next(s(3)), Some(2));
        queue.started(2);
        queue.started(3);
        assert_eq!(queue.next(s(10_000)), None, "1 is forgotten");
    }
}

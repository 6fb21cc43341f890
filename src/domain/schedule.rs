//! When maintenance runs: the cron schedule, and catch-up of times that were missed.
//!
//! Times are handed in. A [`Timetable`] follows the wall clock of the schedule's time zone.

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
}

//! Civil arithmetic on periods: which period holds a date, where it starts, which one comes next.

use chrono::{Datelike, Months, NaiveDate};

/// How long the range of one partition is.
///
/// Months for now; weeks and days are further variants, and everything that differs between them is
/// decided in this file and in [`super::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// One calendar month.
    Month,
}

impl Granularity {
    /// The word that the policy table uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
        }
    }

    /// The granularity of that word; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        (word == Self::Month.as_str()).then_some(Self::Month)
    }
}

/// Why a date has no period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The date lies before 0001-01-01 or after 9999-12-31.
    #[error("date is outside the years 1 to 9999")]
    OutOfRange,
}

/// One month of the calendar, by its first day; always within the years 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    start: NaiveDate,
}

impl Period {
    /// The period that holds `date`.
    ///
    /// # Errors
    ///
    /// [`CalendarError::OutOfRange`] outside the years 1 to 9999: a partition's name has four digits
    /// for the year.
    pub fn containing(granularity: Granularity, date: NaiveDate) -> Result<Self, CalendarError> {
        if !(1..=9999).contains(&date.year()) {
            return Err(CalendarError::OutOfRange);
        }
        let start = match granularity {
            Granularity::Month => date.with_day(1),
        };
        start.map(|start| Self { start }).ok_or(CalendarError::OutOfRange)
    }

    /// The first day.
    #[must_use]
    pub const fn start(self) -> NaiveDate {
        self.start
    }

    /// The first day that no longer belongs to it.
    #[must_use]
    pub fn end(self) -> NaiveDate {
        self.start.checked_add_months(Months::new(1)).unwrap_or(NaiveDate::MAX)
    }

    /// The period `count` periods later (earlier where negative); `None` outside the years 1 to 9999.
    #[must_use]
    pub fn plus(self, count: i64) -> Option<Self> {
        let months = Months::new(u32::try_from(count.unsigned_abs()).ok()?);
        let start = if count < 0 {
            self.start.checked_sub_months(months)
        } else {
            self.start.checked_add_months(months)
        }?;
        Self::containing(Granularity::Month, start).ok()
    }

    /// All periods from `self` to `last`, both included; empty where `last` comes before.
    pub fn through(self, last: Self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |period| period.plus(1)).take_while(move |p| *p <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn month(y: i32, m: u32) -> Period {
        Period::containing(Granularity::Month, NaiveDate::from_ymd_opt(y, m, 1).unwrap()).unwrap()
    }

    #[test]
    fn every_month_tiles_with_the_next() {
        let mut count = 0;
        for period in month(1, 1).through(month(9999, 12)) {
            count += 1;
            if let Some(next) = period.plus(1) {
                assert_eq!(period.end(), next.start(), "gap or overlap after {period:?}");
            }
        }
        assert_eq!(count, 9999 * 12);
        assert_eq!(month(9999, 12).end(), NaiveDate::from_ymd_opt(10_000, 1, 1).unwrap());
    }

    #[test]
    fn years_outside_1_to_9999_are_refused() {
        for (y, m, d) in [(0, 12, 31), (-1, 6, 1), (10_000, 1, 1), (262_000, 1, 1)] {
            let date = NaiveDate::from_ymd_opt(y, m, d).unwrap();
            assert_eq!(
                Period::containing(Granularity::Month, date),
                Err(CalendarError::OutOfRange)
            );
        }
        assert_eq!(month(9999, 12).plus(1), None);
        assert_eq!(month(1, 1).plus(-1), None);
        assert_eq!(month(2000, 1).plus(i64::MAX), None);
        assert_eq!(month(2000, 1).plus(i64::MIN), None);
    }

    #[test]
    fn granularity_has_one_word() {
        assert_eq!(Granularity::parse("month"), Some(Granularity::Month));
        assert_eq!(Granularity::parse("Month"), None);
        assert_eq!(Granularity::parse("week"), None);
    }

    proptest! {
        #[test]
        fn a_date_lies_in_its_period(days in -719_162_i32..2_932_897) {
            let date = NaiveDate::from_num_days_from_ce_opt(days + 719_163).unwrap();
            let period = Period::containing(Granularity::Month, date).unwrap();
            prop_assert!(period.start() <= date && date < period.end());
        }

        #[test]
        fn plus_goes_there_and_back(y in 1_i32..=9999, m in 1_u32..=12, n in -400_i64..400) {
            let here = month(y, m);
            if let Some(there) = here.plus(n) {
                prop_assert_eq!(there.plus(-n), Some(here));
            }
        }
    }
}

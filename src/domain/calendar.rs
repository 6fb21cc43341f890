//! Civil arithmetic on periods: which period holds a date, where it starts, which one comes next.

use chrono::{Datelike, Days, Months, NaiveDate};

/// How long the range of one partition is.
///
/// What differs between them is decided in this file and in [`super::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granularity {
    /// One calendar month.
    Month,
    /// One week of ISO 8601, from Monday on.
    Week,
    /// One day.
    Day,
}

impl Granularity {
    /// All of them, the longest first.
    pub const ALL: [Self; 3] = [Self::Month, Self::Week, Self::Day];

    /// The word that the policy table uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Week => "week",
            Self::Day => "day",
        }
    }

    /// The granularity of that word; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|granularity| granularity.as_str() == word)
    }

    /// How many days the longest of its periods has.
    #[must_use]
    pub const fn most_days(self) -> u32 {
        match self {
            Self::Month => 31,
            Self::Week => 7,
            Self::Day => 1,
        }
    }
}

/// Why a date has no period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// A part of the period lies before 0001-01-01 or after 9999-12-31.
    #[error("the period is not within the years 1 to 9999")]
    OutOfRange,
    /// A time zone that moved to the other side of the date line has left the day out.
    #[error("the policy's time zone has no such day")]
    LeftOut,
}

/// One period of the calendar, by its first day; always within the years 1 to 9999, the ISO week's year too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    start: NaiveDate,
    granularity: Granularity,
}

impl Period {
    /// The period that holds `date`.
    ///
    /// # Errors
    ///
    /// [`CalendarError::OutOfRange`] where it is not wholly within the years 1 to 9999: a partition's name has four
    /// digits for the year.
    pub fn containing(granularity: Granularity, date: NaiveDate) -> Result<Self, CalendarError> {
        let start = match granularity {
            Granularity::Month => date.with_day(1),
            Granularity::Week => {
                let since_monday = date.weekday().num_days_from_monday();
                date.checked_sub_days(Days::new(since_monday.into()))
            }
            Granularity::Day => Some(date),
        };
        let period = Self { start: start.ok_or(CalendarError::OutOfRange)?, granularity };
        let last = period.end().pred_opt().ok_or(CalendarError::OutOfRange)?;
        // The year of an ISO week is that of its Thursday, which lies between the two.
        match [period.start, last].iter().all(|day| (1..=9999).contains(&day.year())) {
            true => Ok(period),
            false => Err(CalendarError::OutOfRange),
        }
    }

    /// How long it is.
    #[must_use]
    pub const fn granularity(self) -> Granularity {
        self.granularity
    }

    /// The first day.
    #[must_use]
    pub const fn start(self) -> NaiveDate {
        self.start
    }

    /// The first day that no longer belongs to it.
    #[must_use]
    pub fn end(self) -> NaiveDate {
        moved(self.start, self.granularity, 1).unwrap_or(NaiveDate::MAX)
    }

    /// The period `count` periods later (earlier where negative); `None` where it is not wholly within the years 1 to
    /// 9999.
    #[must_use]
    pub fn plus(self, count: i64) -> Option<Self> {
        let start = moved(self.start, self.granularity, count)?;
        Self::containing(self.granularity, start).ok()
    }

    /// All periods from `self` to `last`, both included; empty where `last` comes before.
    pub fn through(self, last: Self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |period| period.plus(1)).take_while(move |p| *p <= last)
    }
}

/// The first day of a period as many periods later as `count` says.
fn moved(start: NaiveDate, granularity: Granularity, count: i64) -> Option<NaiveDate> {
    let days = match granularity {
        Granularity::Month => {
            let months = Months::new(u32::try_from(count.unsigned_abs()).ok()?);
            return match count < 0 {
                true => start.checked_sub_months(months),
                false => start.checked_add_months(months),
            };
        }
        Granularity::Week => Days::new(count.unsigned_abs().checked_mul(7)?),
        Granularity::Day => Days::new(count.unsigned_abs()),
    };
    match count < 0 {
        true => start.checked_sub_days(days),
        false => start.checked_add_days(days),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Weekday;
    use proptest::prelude::*;

    fn date(y: i32, m: u32, d: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(y, m, d).unwrap()
    }

    fn period(granularity: Granularity, y: i32, m: u32, d: u32) -> Period {
        Period::containing(granularity, date(y, m, d)).unwrap()
    }

    fn month(y: i32, m: u32) -> Period {
        period(Granularity::Month, y, m, 1)
    }

    /// Counts the periods between two, each of which must begin where the one before ends.
    fn tiles(first: Period, last: Period) -> usize {
        let mut count = 0;
        let mut reached = first.start();
        for period in first.through(last) {
            assert_eq!(period.start(), reached, "gap or overlap before {period:?}");
            (count, reached) = (count + 1, period.end());
        }
        assert_eq!(reached, last.end());
        count
    }

    #[test]
    fn every_period_tiles_with_the_next() {
        assert_eq!(tiles(month(1, 1), month(9999, 12)), 9999 * 12);
        assert_eq!(month(9999, 12).end(), date(10_000, 1, 1));
        // 0001-01-01 is a Monday, and the week of 9999-12-27 ends in the year 10000.
        let (first, last) = (date(1, 1, 1), date(9999, 12, 31));
        let days = usize::try_from((last - first).num_days()).unwrap() + 1;
        let weeks = (period(Granularity::Week, 1, 1, 1), period(Granularity::Week, 9999, 12, 26));
        assert_eq!(tiles(weeks.0, weeks.1), days / 7);
        assert_eq!((weeks.0.start(), weeks.1.end()), (first, date(9999, 12, 27)));
        let days_of = |y| (period(Granularity::Day, y, 1, 1), period(Granularity::Day, y, 12, 31));
        for (year, days) in [(1, 365), (1900, 365), (2000, 366), (9999, 365)] {
            let (first, last) = days_of(year);
            assert_eq!(tiles(first, last), days);
        }
    }

    #[test]
    fn what_is_not_within_the_years_1_to_9999_is_refused() {
        for granularity in Granularity::ALL {
            for (y, m, d) in [(0, 12, 31), (-1, 6, 1), (10_000, 1, 1), (262_000, 1, 1)] {
                let period = Period::containing(granularity, date(y, m, d));
                assert_eq!(period, Err(CalendarError::OutOfRange));
            }
            for end in [NaiveDate::MIN, NaiveDate::MAX] {
                assert_eq!(Period::containing(granularity, end), Err(CalendarError::OutOfRange));
            }
            let here = period(granularity, 2000, 1, 1);
            for count in [i64::MAX, i64::MIN, 4_000_000, -4_000_000] {
                assert_eq!(here.plus(count), None);
            }
            assert_eq!(period(granularity, 1, 1, 1).plus(-1), None);
        }
        assert_eq!(month(9999, 12).plus(1), None);
        assert_eq!(period(Granularity::Day, 9999, 12, 31).plus(1), None);
        // A week that reaches into the year 10000, though each of these days lies before it.
        assert_eq!(period(Granularity::Week, 9999, 12, 26).plus(1), None);
        for day in 27..=31 {
            let week = Period::containing(Granularity::Week, date(9999, 12, day));
            assert_eq!(week, Err(CalendarError::OutOfRange));
        }
    }

    #[test]
    fn a_week_begins_on_monday() {
        for (y, m, d, start) in [
            (2025, 1, 15, date(2025, 1, 13)),
            (2025, 1, 13, date(2025, 1, 13)),
            (2025, 1, 19, date(2025, 1, 13)),
            (2025, 1, 1, date(2024, 12, 30)),
            (2027, 1, 3, date(2026, 12, 28)),
        ] {
            assert_eq!(period(Granularity::Week, y, m, d).start(), start);
        }
    }

    #[test]
    fn granularity_has_one_word() {
        for granularity in Granularity::ALL {
            assert_eq!(Granularity::parse(granularity.as_str()), Some(granularity));
        }
        for word in ["Month", "weeks", "DAY", "", "fortnight"] {
            assert_eq!(Granularity::parse(word), None);
        }
    }

    fn granularities() -> impl Strategy<Value = Granularity> {
        prop::sample::select(&Granularity::ALL[..])
    }

    proptest! {
        #[test]
        fn a_date_lies_in_its_period(
            days in 1_i32..3_652_055, granularity in granularities(),
        ) {
            let date = NaiveDate::from_num_days_from_ce_opt(days).unwrap();
            let period = Period::containing(granularity, date).unwrap();
            prop_assert!(period.start() <= date && date < period.end());
            let length = (period.end() - period.start()).num_days();
            prop_assert!(length <= i64::from(granularity.most_days()));
            if granularity == Granularity::Week {
                prop_assert_eq!((period.start().weekday(), length), (Weekday::Mon, 7));
                prop_assert_eq!(period.start().iso_week(), date.iso_week());
            }
        }

        #[test]
        fn plus_goes_there_and_back(
            days in 1_i32..3_652_055, granularity in granularities(), n in -400_i64..400,
        ) {
            let date = NaiveDate::from_num_days_from_ce_opt(days).unwrap();
            let here = Period::containing(granularity, date).unwrap();
            if let Some(there) = here.plus(n) {
                prop_assert_eq!(there.plus(-n), Some(here));
            }
        }
    }
}

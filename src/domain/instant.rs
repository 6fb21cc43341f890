//! A point in time as PostgreSQL stores `timestamptz`: microseconds since 2000-01-01 00:00 UTC.

use std::fmt;

use chrono::{NaiveDate, NaiveDateTime, TimeDelta, Timelike};

/// Microseconds since 2000-01-01 00:00:00 UTC.
///
/// The two ends of the 64-bit range are PostgreSQL's `-infinity` and `infinity`, so that the order of
/// this type is the order of `timestamptz` (`DT_NOBEGIN` and `DT_NOEND` in `datatype/timestamp.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub i64);

impl Instant {
    /// PostgreSQL's `-infinity`.
    pub const NEG_INFINITY: Self = Self(i64::MIN);
    /// PostgreSQL's `infinity`.
    pub const INFINITY: Self = Self(i64::MAX);

    /// Whether this is a real point in time, neither `infinity` nor `-infinity`.
    #[must_use]
    pub const fn is_finite(self) -> bool {
        self.0 != i64::MIN && self.0 != i64::MAX
    }

    /// The instant at which a clock in UTC shows `civil`.
    #[must_use]
    pub fn from_utc(civil: NaiveDateTime) -> Self {
        Self(civil.signed_duration_since(epoch()).num_microseconds().unwrap_or(i64::MAX))
    }

    /// What a clock in UTC shows at this instant; `None` where it is infinite.
    #[must_use]
    pub fn to_utc(self) -> Option<NaiveDateTime> {
        if self.is_finite() {
            epoch().checked_add_signed(TimeDelta::microseconds(self.0))
        } else {
            None
        }
    }
}

/// PostgreSQL's epoch.
fn epoch() -> NaiveDateTime {
    NaiveDate::from_yo_opt(2000, 1).unwrap_or(NaiveDate::MIN).into()
}

/// Writes the instant so that PostgreSQL reads back the same one whatever `TimeZone` and `DateStyle`
/// a session has: ISO order, UTC offset spelled out.
impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use chrono::Datelike;
        let Some(t) = self.to_utc() else {
            return f.write_str(if *self == Self::NEG_INFINITY { "-infinity" } else { "infinity" });
        };
        // There is no year 0 in PostgreSQL's calendar: astronomical 0 is 1 BC.
        let (year, era) = if t.year() > 0 { (t.year(), "") } else { (1 - t.year(), " BC") };
        write!(f, "{year:04}-{:02}-{:02} ", t.month(), t.day())?;
        write!(f, "{:02}:{:02}:{:02}", t.hour(), t.minute(), t.second())?;
        if t.nanosecond() != 0 {
            write!(f, ".{:06}", t.nanosecond() / 1_000)?;
        }
        write!(f, "+00{era}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(y: i32, m: u32, d: u32) -> Instant {
        Instant::from_utc(NaiveDate::from_ymd_opt(y, m, d).unwrap().into())
    }

    #[test]
    fn epoch_is_postgresqls() {
        assert_eq!(utc(2000, 1, 1), Instant(0));
        assert_eq!(utc(2000, 1, 2), Instant(86_400_000_000));
    }

    #[test]
    fn text_is_independent_of_any_setting() {
        assert_eq!(utc(2025, 1, 1).to_string(), "2025-01-01 00:00:00+00");
        assert_eq!(utc(10_000, 1, 1).to_string(), "10000-01-01 00:00:00+00");
        assert_eq!(utc(0, 12, 31).to_string(), "0001-12-31 00:00:00+00 BC");
        assert_eq!(Instant(1).to_string(), "2000-01-01 00:00:00.000001+00");
        assert_eq!(Instant::INFINITY.to_string(), "infinity");
        assert_eq!(Instant::NEG_INFINITY.to_string(), "-infinity");
    }

    #[test]
    fn infinities_are_the_ends_of_the_order() {
        assert!(Instant::NEG_INFINITY < utc(1, 1, 1) && utc(9999, 1, 1) < Instant::INFINITY);
        assert_eq!(Instant::INFINITY.to_utc(), None);
    }
}

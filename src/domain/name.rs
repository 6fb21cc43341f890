//! The names of partitions and of their indexes: how they are formed, read back and kept to 63 bytes.
//!
//! A name is for people. No decision about a partition is taken from its name.

use chrono::{Datelike, NaiveDate, Weekday};

use super::calendar::{Granularity, Period};

/// PostgreSQL cuts identifiers off after this many bytes (`NAMEDATALEN` - 1).
pub const MAX_IDENTIFIER_BYTES: usize = 63;

/// Why a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// PostgreSQL would cut it off, and two names could become one.
    #[error("name \"{0}\" is longer than {MAX_IDENTIFIER_BYTES} bytes")]
    TooLong(String),
}

/// The name of the partition of `parent` that holds the whole of `period`: `workflow_events_y2025m01` for a month,
/// `workflow_events_y2025w03` for a week, by the year and number of ISO 8601, `workflow_events_y2025m01d15` for a day.
///
/// # Errors
///
/// [`NameError::TooLong`] where it, or the longest of its index names, would exceed 63 bytes.
pub fn of_period(parent: &str, period: Period) -> Result<String, NameError> {
    let (start, week) = (period.start(), period.start().iso_week());
    let suffix = match period.granularity() {
        Granularity::Month => format!("y{:04}m{:02}", start.year(), start.month()),
        Granularity::Week => format!("y{:04}w{:02}", week.year(), week.week()),
        Granularity::Day => {
            format!("y{:04}m{:02}d{:02}", start.year(), start.month(), start.day())
        }
    };
    checked(format!("{parent}_{suffix}"))
}

/// The name of a partition that holds only a part of `period`, because others hold the rest: the
/// period's name with `_p` and a number from 1.
///
/// # Errors
///
/// As [`of_period`].
pub fn of_part(parent: &str, period: Period, number: u32) -> Result<String, NameError> {
    checked(format!("{}_p{number}", of_period(parent, period)?))
}

/// Refuses a name that PostgreSQL would cut off, or whose index names it would.
fn checked(name: String) -> Result<String, NameError> {
    let longest = INDEX_SUFFIXES.iter().map(|suffix| suffix.len()).max().unwrap_or(0);
    if name.len() + longest > MAX_IDENTIFIER_BYTES {
        return Err(NameError::TooLong(name));
    }
    Ok(name)
}

/// What is appended to a table's name to name its indexes.
const INDEX_SUFFIXES: [&str; 3] = ["_run_id_idx", "_run_ts_idx", "_type_idx"];

/// An index that each partition has, beside its primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandardIndex {
    suffix: &'static str,
    /// The indexed columns, in order.
    pub columns: &'static [&'static str],
}

impl StandardIndex {
    /// The name of this index on `table`.
    #[must_use]
    pub fn name_on(&self, table: &str) -> String {
        format!("{table}{}", self.suffix)
    }
}

/// The indexes that each partition has, beside its primary key.
pub const STANDARD_INDEXES: [StandardIndex; 3] = [
    StandardIndex { suffix: INDEX_SUFFIXES[0], columns: &["run_id"] },
    StandardIndex { suffix: INDEX_SUFFIXES[1], columns: &["run_id", "ts"] },
    StandardIndex { suffix: INDEX_SUFFIXES[2], columns: &["type"] },
];

/// The period whose name [`of_period`] gives as `name`; `None` for any other name.
#[must_use]
pub fn parse(parent: &str, name: &str) -> Option<Period> {
    let (year, rest) = number(name.strip_prefix(parent)?.strip_prefix("_y")?, 4)?;
    let year = i32::try_from(year).ok()?;
    let (granularity, first) = if let Some(rest) = rest.strip_prefix('w') {
        let (week, rest) = number(rest, 2)?;
        let first = NaiveDate::from_isoywd_opt(year, week, Weekday::Mon)?;
        rest.is_empty().then_some((Granularity::Week, first))?
    } else {
        let (month, rest) = number(rest.strip_prefix('m')?, 2)?;
        match rest.strip_prefix('d') {
            None if rest.is_empty() => {
                (Granularity::Month, NaiveDate::from_ymd_opt(year, month, 1)?)
            }
            Some(rest) => {
                let (day, rest) = number(rest, 2)?;
                let first = NaiveDate::from_ymd_opt(year, month, day)?;
                rest.is_empty().then_some((Granularity::Day, first))?
            }
            None => return None,
        }
    };
    Period::containing(granularity, first).ok()
}

/// The number that the first `digits` characters of a text give, all of them ASCII digits, and the rest.
fn number(text: &str, digits: usize) -> Option<(u32, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    let is_number = number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| number.parse().ok())?.map(|number| (number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(granularity: Granularity, y: i32, m: u32, d: u32) -> Period {
        Period::containing(granularity, NaiveDate::from_ymd_opt(y, m, d).unwrap()).unwrap()
    }

    fn month(y: i32, m: u32) -> Period {
        period(Granularity::Month, y, m, 1)
    }

    #[test]
    fn every_period_round_trips_through_its_name() {
        let all = |g, first, last| period(g, first, 1, 1).through(period(g, last, 12, 26));
        let months = all(Granularity::Month, 1, 9999);
        let weeks = all(Granularity::Week, 1, 9999);
        // The days of some years, leap years and both ends among them.
        let days = [(1, 4), (1899, 1901), (1999, 2001), (9996, 9999)]
            .into_iter()
            .flat_map(|(first, last)| all(Granularity::Day, first, last));
        for period in months.chain(weeks).chain(days) {
            let name = of_period("workflow_events", period).unwrap();
            assert_eq!(parse("workflow_events", &name), Some(period), "{name}");
        }
    }

    #[test]
    fn names_are_as_documented() {
        assert_eq!(
            of_period("workflow_events", month(2025, 1)).unwrap(),
            "workflow_events_y2025m01"
        );
        assert_eq!(
            of_part("workflow_events", month(2025, 1), 2).unwrap(),
            "workflow_events_y2025m01_p2"
        );
        for (granularity, y, m, d, name) in [
            (Granularity::Week, 2025, 1, 15, "workflow_events_y2025w03"),
            (Granularity::Day, 2025, 1, 15, "workflow_events_y2025m01d15"),
            // The year of a week is that of its Thursday.
            (Granularity::Week, 2024, 12, 31, "workflow_events_y2025w01"),
            (Granularity::Week, 2027, 1, 1, "workflow_events_y2026w53"),
            (Granularity::Week, 1, 1, 1, "workflow_events_y0001w01"),
        ] {
            assert_eq!(of_period("workflow_events", period(granularity, y, m, d)).unwrap(), name);
        }
        let week = period(Granularity::Week, 2025, 1, 15);
        assert_eq!(of_part("workflow_events", week, 1).unwrap(), "workflow_events_y2025w03_p1");
        let names = STANDARD_INDEXES.map(|index| index.name_on("workflow_events_y2025m01"));
        assert_eq!(
            names,
            [
                "workflow_events_y2025m01_run_id_idx",
                "workflow_events_y2025m01_run_ts_idx",
                "workflow_events_y2025m01_type_idx"
            ]
        );
    }

    #[test]
    fn look_alikes_are_not_names() {
        for name in [
            "workflow_events",
            "workflow_events_y2025m13",
            "workflow_events_y2025m00",
            "workflow_events_y0000m01",
            "workflow_events_y2019m01_backup",
            "workflow_events_y2025m1",
            "workflow_events_y+025m01",
            "workflow_events_y2025m+1",
            "Workflow_events_y2025m01",
            "workflow_events_y20250m01",
            "workflow_events_y2025m01_p1",
            "workflow_events_y2025w00",
            "workflow_events_y2025w53",
            "workflow_events_y2025w3",
            "workflow_events_y2025w03d1",
            "workflow_events_y2025w003",
            "workflow_events_y0000w01",
            "workflow_events_y9999w52",
            "workflow_events_y2025m02d29",
            "workflow_events_y2025m01d00",
            "workflow_events_y2025m01d1",
            "workflow_events_y2025m01d",
            "workflow_events_y2025m01d015",
            "workflow_events_y2025m01d15_p1",
            "workflow_events_y2025m01w03",
            "workflow_events_y2025w",
            "workflow_events_y202\u{fc}m01",
        ] {
            assert_eq!(parse("workflow_events", name), None, "{name}");
        }
    }

    #[test]
    fn the_limit_counts_bytes_and_the_longest_index_name() {
        // 9 bytes for the period and 11 for "_run_id_idx" leave 43 for the parent.
        assert!(of_period(&"x".repeat(43), month(2025, 1)).is_ok());
        assert!(of_period(&"x".repeat(44), month(2025, 1)).is_err());
        assert!(of_period(&"ü".repeat(22), month(2025, 1)).is_err());
        // A week's is as long; a day's has 12, and a part 3 more.
        assert!(of_period(&"x".repeat(43), period(Granularity::Week, 2025, 1, 1)).is_ok());
        let day = period(Granularity::Day, 2025, 1, 1);
        assert!(
            of_period(&"x".repeat(40), day).is_ok() && of_period(&"x".repeat(41), day).is_err()
        );
        assert!(
            of_part(&"x".repeat(37), day, 9).is_ok() && of_part(&"x".repeat(37), day, 10).is_err()
        );
    }
}

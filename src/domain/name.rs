//! The names of partitions and of their indexes: how they are formed, read back and kept to 63 bytes.
//!
//! A name is for people. No decision about a partition is taken from its name.

use chrono::{Datelike, NaiveDate};

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

/// The name of the partition of `parent` that holds the whole of `period`, such as
/// `workflow_events_y2025m01`.
///
/// # Errors
///
/// [`NameError::TooLong`] where it, or the longest of its index names, would exceed 63 bytes.
pub fn of_period(parent: &str, period: Period) -> Result<String, NameError> {
    let start = period.start();
    checked(format!("{parent}_y{:04}m{:02}", start.year(), start.month()))
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
    let rest = name.strip_prefix(parent)?.strip_prefix("_y")?;
    let (year, month) = rest.split_once('m')?;
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(year, 4) || !digits(month, 2) {
        return None;
    }
    let first = NaiveDate::from_ymd_opt(year.parse().ok()?, month.parse().ok()?, 1)?;
    Period::containing(Granularity::Month, first).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(y: i32, m: u32) -> Period {
        Period::containing(Granularity::Month, NaiveDate::from_ymd_opt(y, m, 1).unwrap()).unwrap()
    }

    #[test]
    fn every_month_round_trips_through_its_name() {
        for period in month(1, 1).through(month(9999, 12)) {
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
    }
}

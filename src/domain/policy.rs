//! The policy: how long a period is, where it begins, how many are made ahead, how long they are kept.

use super::archive::{Archive, ArchiveError};
use super::calendar::Granularity;

/// The most periods that may be made ahead.
pub const MAX_PREMAKE: u32 = 120;

/// What the team wants done with its event log; the row of `meshhook_events.policy`, or the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a partition's range is.
    pub granularity: Granularity,
    /// The time zone in which a period begins at 00:00, as PostgreSQL names it.
    pub time_zone: String,
    /// How many periods after the current one are made ahead.
    pub premake: u32,
    /// How many whole months before the current one are kept; `None`: the worker never drops.
    pub retention_months: Option<u32>,
    /// Whether the worker creates.
    pub automatic_creation: bool,
    /// Whether the worker drops, where a retention is set.
    pub automatic_retention: bool,
    /// What becomes of the rows of a partition before it is dropped.
    pub archive: Archive,
    /// The statuses of runs that go on no more.
    pub final_statuses: Vec<String>,
    /// How long a partition that the worker has retired is parked before it is dropped, in microseconds.
    pub grace_us: i64,
    /// From which size of a partition on a shorter granularity is recommended, in bytes.
    pub size_warning_bytes: i64,
    /// The most that a partition should ever have, in bytes.
    pub size_limit_bytes: i64,
}

/// A week, in microseconds.
const WEEK_US: i64 = 7 * 24 * 3_600 * 1_000_000;

impl Default for Policy {
    fn default() -> Self {
        Self {
            granularity: Granularity::Month,
            time_zone: "UTC".to_owned(),
            premake: 3,
            retention_months: None,
            automatic_creation: true,
            automatic_retention: true,
            archive: Archive::None,
            final_statuses: ["succeeded", "failed", "canceled"].map(str::to_owned).to_vec(),
            grace_us: WEEK_US,
            size_warning_bytes: 100 * GIB,
            size_limit_bytes: 200 * GIB,
        }
    }
}

/// 2^30 bytes.
const GIB: i64 = 1 << 30;

/// Which setting of a policy makes no sense, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not a granularity that is known.
    #[error("granularity \"{0}\" is not known")]
    Granularity(String),
    /// Nothing, or too much, would be made ahead.
    #[error("premake {0} is not between 1 and {MAX_PREMAKE}")]
    Premake(i64),
    /// Nothing would be kept.
    #[error("a retention of {0} months is less than 1")]
    Retention(i64),
    /// No archive can be made.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Every partition, or none, would be too large.
    #[error("sizes of {0} bytes to warn of and {1} as the limit make no sense")]
    Sizes(i64, i64),
}

impl Policy {
    /// Checks what the table's CHECK constraints check, for a row that got past them.
    ///
    /// # Errors
    ///
    /// Names the first setting that makes no sense.
    pub fn from_row(
        granularity: &str,
        time_zone: String,
        premake: i64,
        retention_months: Option<i64>,
        automatic_creation: bool,
        automatic_retention: bool,
    ) -> Result<Self, PolicyError> {
        let granularity = Granularity::parse(granularity)
            .ok_or_else(|| PolicyError::Granularity(granularity.to_owned()))?;
        let premake = u32::try_from(premake)
            .ok()
            .filter(|n| (1..=MAX_PREMAKE).contains(n))
            .ok_or(PolicyError::Premake(premake))?;
        let retention_months = match retention_months {
            None => None,
            Some(months) => Some(
                u32::try_from(months)
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or(PolicyError::Retention(months))?,
            ),
        };
        Ok(Self {
            granularity,
            time_zone,
            premake,
            retention_months,
            automatic_creation,
            automatic_retention,
            ..Self::default()
        })
    }

    /// The same with what the row says of final statuses and of the grace.
    #[must_use]
    pub fn with_retention(self, final_statuses: Vec<String>, grace_us: i64) -> Self {
        Self { final_statuses, grace_us, ..self }
    }

    /// Whether a partition that the worker retires is parked before it is dropped.
    #[must_use]
    pub const fn parks(&self) -> bool {
        self.grace_us > 0
    }

    /// Whether the rows of a partition are archived before it is dropped.
    #[must_use]
    pub fn wants_archive(&self) -> bool {
        self.archive != Archive::None
    }

    /// The same with what the row says of archives.
    ///
    /// # Errors
    ///
    /// Why no archive can be made.
    pub fn with_archive(
        self,
        archive: &str,
        format: &str,
        directory: Option<&str>,
    ) -> Result<Self, PolicyError> {
        Ok(Self { archive: Archive::from_row(archive, format, directory)?, ..self })
    }

    /// The same with these sizes of partitions, in bytes: the one to warn of, and the limit.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Sizes`] as [`Policy::from_row`].
    pub fn with_sizes(self, warning: i64, limit: i64) -> Result<Self, PolicyError> {
        if warning <= 0 || limit < warning {
            return Err(PolicyError::Sizes(warning, limit));
        }
        Ok(Self { size_warning_bytes: warning, size_limit_bytes: limit, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(granularity: &str, premake: i64, retention: Option<i64>) -> Result<Policy, PolicyError> {
        Policy::from_row(granularity, "UTC".to_owned(), premake, retention, true, true)
    }

    #[test]
    fn the_defaults_are_a_valid_row() {
        assert_eq!(row("month", 3, None).unwrap(), Policy::default());
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(row("fortnight", 3, None), Err(PolicyError::Granularity("fortnight".into())));
        for premake in [0, -1, 121, i64::MAX] {
            assert_eq!(row("month", premake, None), Err(PolicyError::Premake(premake)));
        }
        for months in [0, -12, i64::MIN] {
            assert_eq!(row("month", 3, Some(months)), Err(PolicyError::Retention(months)));
        }
        assert_eq!(row("month", 120, Some(1)).unwrap().retention_months, Some(1));
        for (warning, limit) in [(0, 5), (-1, 5), (5, 4)] {
            let sizes = Policy::default().with_sizes(warning, limit);
            assert_eq!(sizes, Err(PolicyError::Sizes(warning, limit)));
        }
        assert_eq!(Policy::default().with_sizes(5, 5).unwrap().size_limit_bytes, 5);
    }

    #[test]
    fn every_granularity_is_known() {
        for granularity in Granularity::ALL {
            assert_eq!(row(granularity.as_str(), 3, None).unwrap().granularity, granularity);
        }
    }
}

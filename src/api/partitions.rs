//! Functions that make and drop partitions.

use pgrx::datum::{Date, TimestampWithTimeZone};
use pgrx::iter::SetOfIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{required, warn};
use crate::lifecycle::create::{self, Report, Wanted};
use crate::lifecycle::maintain;
use crate::settings::Settings;

/// Makes sure that a partition holds the whole period of `partition_date`, and gives its name.
///
/// # Errors
///
/// 22004 for NULL, 22008 for infinity, BC and years past 9999, 42P17 where another partition holds a
/// part of the period, 42P07 where the name is taken, 55P03 where a lock could not be had in time,
/// 42501 where the caller may not act as the owner, 25006 where nothing can be written.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn create_workflow_events_partition(partition_date: Option<Date>) -> Result<String, ErrorReport> {
    let date = required(partition_date, "partition_date")?;
    let (name, report) = create::one(Wanted::Date(date), Settings::current())?;
    warn_of(&report);
    Ok(name)
}

/// The same for the period that holds `partition_instant` in the policy's time zone. The argument has a
/// name of its own, so that callers who name arguments (PostgREST) can choose between the two.
///
/// # Errors
///
/// As the form that takes a date.
#[pg_extern(name = "create_workflow_events_partition", volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn create_workflow_events_partition_at(
    partition_instant: Option<TimestampWithTimeZone>,
) -> Result<String, ErrorReport> {
    let at = required(partition_instant, "partition_instant")?;
    let (name, report) = create::one(Wanted::Instant(at), Settings::current())?;
    warn_of(&report);
    Ok(name)
}

/// Makes every partition that is missing from now to the policy's premake, and gives their names. What
/// stands in the way of one is a WARNING. On a standby it does nothing and says so in a NOTICE.
///
/// # Errors
///
/// 42P01 before `setup_workflow_events()`, 55P03 where a lock could not be had in time, 42501 where the
/// caller may not act as the owner, 25006 in a read-only transaction on a primary.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn maintain_workflow_events_partitions() -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let Some(report) = maintain::partitions(Settings::current())? else {
        notice!(
            "nothing was done: this server is a standby, and is maintained through its primary"
        );
        return Ok(SetOfIterator::empty());
    };
    warn_of(&report);
    Ok(SetOfIterator::new(report.created))
}

/// Tells the caller what did not stop the rest.
fn warn_of(report: &Report) {
    report.problems.iter().for_each(warn);
    for note in &report.notes {
        warning!("{note}");
    }
}

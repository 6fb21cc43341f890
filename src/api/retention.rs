//! Functions that retire partitions, hold them, and put them back.

use pgrx::datum::Interval;
use pgrx::iter::SetOfIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{required, warn};
use crate::lifecycle::retire::{self, How};
use crate::lifecycle::{hold, restore};
use crate::settings::Settings;

/// Drops the partitions whose whole range lies before the first day of the month `retention_months`
/// before the current one, and gives their names. What is kept though it is old enough is a WARNING.
///
/// A partition that holds events of a run that is not finished is kept, unless `force` is true. With a `grace` they are
/// detached and parked for that long, which is a NOTICE; so they are where the policy wants an archive, and a further call
/// archives and drops them. What is parked and whose time has come is dropped too.
///
/// # Errors
///
/// 22004 for NULL, 22023 for less than 1 month or a negative grace, 55P03 where `workflow_events` could not be locked in
/// time, 42501 where the caller may not act as the owner, 25006 where nothing can be written.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn drop_old_workflow_events_partitions(
    retention_months: default!(Option<i32>, 12),
    force: default!(Option<bool>, false),
    grace: default!(Option<Interval>, "NULL"),
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let retention_months = required(retention_months, "retention_months")?;
    let how = How { retention_months, force: required(force, "force")?, grace };
    let report = retire::outdated(how, Settings::current())?;
    for (name, error) in &report.kept {
        warn(&error.clone().kept(name));
    }
    for name in &report.parked {
        notice!("partition \"{name}\" is parked; restore_workflow_events_partition() puts it back");
    }
    for name in &report.to_archive {
        notice!("partition \"{name}\" is parked; a further call archives and drops it");
    }
    Ok(SetOfIterator::new(report.dropped))
}

/// Keeps a partition, attached or parked, whatever its age: nothing retires or drops it until it is released. Several holds
/// of one partition are independent of each other.
///
/// # Errors
///
/// 22004 for NULL, 22023 for an empty reason, 42P01 where there is no such partition, 55P03 where a drop that is under way
/// doesn't end in time, 42501 where the caller may not act as the owner, 25006 where nothing can be written.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn hold_workflow_events_partition(
    partition_name: Option<&str>,
    reason: Option<&str>,
) -> Result<(), ErrorReport> {
    let name = required(partition_name, "partition_name")?;
    Ok(hold::add(name, required(reason, "reason")?, Settings::current())?)
}

/// Takes away the holds of a partition, or those with that reason alone, and gives how many there were.
///
/// # Errors
///
/// 22004 for a NULL name, 42501 where the caller may not act as the owner, 25006 where nothing can be written.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn release_workflow_events_partition(
    partition_name: Option<&str>,
    reason: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    let name = required(partition_name, "partition_name")?;
    Ok(hold::remove(name, reason, Settings::current())?)
}

/// Puts back a partition that is parked, or archived in a table or a file, and holds it, so that retention doesn't take it out
/// again. One row: `restored`, or `prepared` where a further call has to go on, in a transaction of its own, because otherwise
/// others would have to wait; where the rows came from; how many came from an archive; and how many events were left out because
/// their run is gone.
///
/// # Errors
///
/// 22004 for NULL, 42P01 where nothing of that name is parked or archived, 55P03 where a lock could not be had in time, 42501
/// where the caller may not act as the owner, 25006 where nothing can be written.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn restore_workflow_events_partition(
    partition_name: Option<&str>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(status, &'static str),
            name!(location, String),
            name!(row_count, Option<i64>),
            name!(left_out, i64),
        ),
    >,
    ErrorReport,
> {
    let name = required(partition_name, "partition_name")?;
    let r = restore::by_hand(name, Settings::current())?;
    for note in &r.notes {
        warning!("{note}");
    }
    Ok(TableIterator::once((r.status(), r.location, r.rows, r.left_out)))
}

//! Functions that show what maintenance would do, how far the partitions reach, and how a replay reads them.

use pgrx::Uuid;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::lifecycle::coverage::timestamp_of;
use crate::lifecycle::{coverage, growth, plan};
use crate::read::run_events::explain;
use crate::settings::Settings;

/// What maintenance would do now: a row a step, in the order in which it would be done, with the range, the
/// estimated rows and the bytes of the partition, why, which locks it takes, and who is in the way. The rows `keep`
/// say what is not done, and why. Changes nothing, and waits for nobody.
///
/// # Errors
///
/// 42P01 before `setup_workflow_events()`, 42809 for a plain table.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn plan_workflow_events_maintenance() -> Result<
    TableIterator<
        'static,
        (
            name!(step, i32),
            name!(action, String),
            name!(partition_name, Option<String>),
            name!(range_start, Option<TimestampWithTimeZone>),
            name!(range_end, Option<TimestampWithTimeZone>),
            name!(row_estimate, Option<i64>),
            name!(size_bytes, Option<i64>),
            name!(reason, String),
            name!(locks, Option<String>),
            name!(blockers, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let steps = plan::steps(Settings::current())?;
    Ok(TableIterator::new((1..).zip(steps).map(|(number, step)| {
        let (start, end) = step.range.map(|range| (range.lower, range.upper)).unzip();
        (
            number,
            step.action.to_owned(),
            step.partition,
            start.and_then(timestamp_of),
            end.and_then(timestamp_of),
            step.row_estimate,
            step.size_bytes,
            step.reason,
            step.locks,
            step.blockers,
        )
    })))
}

/// How far the partitions reach from now on: one row. `covered_until` is where the first hole begins, or the end
/// of the last partition, NULL where none holds the present; `wanted_until` is the end of the last period that the
/// policy wants; the first hole before that is NULL where there is none. `runway_periods` counts the periods after the
/// current one that are held without a hole, NULL where a partition reaches to MAXVALUE.
///
/// # Errors
///
/// 42P01 before `setup_workflow_events()`, 42809 for a plain table.
#[pg_extern(stable, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn workflow_events_coverage() -> Result<
    TableIterator<
        'static,
        (
            name!(covered_until, Option<TimestampWithTimeZone>),
            name!(wanted_until, Option<TimestampWithTimeZone>),
            name!(first_hole_start, Option<TimestampWithTimeZone>),
            name!(first_hole_end, Option<TimestampWithTimeZone>),
            name!(runway_periods, Option<i32>),
        ),
    >,
    ErrorReport,
> {
    let found = coverage::current()?;
    let hole = found.holes.first();
    Ok(TableIterator::once((
        found.covered_until.and_then(timestamp_of),
        timestamp_of(found.wanted_until),
        hole.map(|hole| hole.lower).and_then(timestamp_of),
        hole.map(|hole| hole.upper).and_then(timestamp_of),
        found.runway.and_then(|periods| i32::try_from(periods).ok()),
    )))
}

/// How the partition grows that holds the present: one row, or none where no partition holds it. `elapsed` is the part of
/// its range that has gone by, from 0 to 1. `projected_size_bytes` is its size at the end of its range if it goes on
/// growing as it has, NULL before a tenth of the range has gone by. Both are NULL where the range has no beginning or no
/// end. `recommended_granularity` is the policy's where all partitions are below its `size_warning_bytes` and are to stay
/// so; otherwise the longest with which they would be. Sizes are with indexes and TOAST.
///
/// # Errors
///
/// 42P01 before `setup_workflow_events()`, 42809 for a plain table.
#[pg_extern(stable, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn workflow_events_growth() -> Result<
    TableIterator<
        'static,
        (
            name!(partition_name, String),
            name!(range_start, Option<TimestampWithTimeZone>),
            name!(range_end, Option<TimestampWithTimeZone>),
            name!(size_bytes, i64),
            name!(elapsed, Option<f64>),
            name!(projected_size_bytes, Option<i64>),
            name!(recommended_granularity, &'static str),
        ),
    >,
    ErrorReport,
> {
    let found = growth::current()?;
    Ok(TableIterator::new(found.into_iter().map(|growth| {
        (
            growth.name,
            timestamp_of(growth.range.lower),
            timestamp_of(growth.range.upper),
            growth.bytes,
            growth.elapsed,
            growth.projected,
            growth.recommended.as_str(),
        )
    })))
}

/// What `get_workflow_run_events` does with each partition for the same arguments, in the order of their ranges: `skipped`
/// by its bounds; `no hit` in its index; `native`, read without a query, with the number of events; or `query`, with the
/// reason why. It reads the events to find out.
///
/// # Errors
///
/// 42P01 where there is no `workflow_events`.
#[pg_extern(stable, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn explain_workflow_run_events(
    p_run_id: Option<Uuid>,
    p_start_ts: default!(Option<TimestampWithTimeZone>, "NULL"),
    p_end_ts: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(partition_name, String),
            name!(range_start, Option<TimestampWithTimeZone>),
            name!(range_end, Option<TimestampWithTimeZone>),
            name!(access, &'static str),
            name!(events, Option<i64>),
            name!(reason, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let lines = explain::explain(p_run_id, p_start_ts, p_end_ts)?;
    Ok(TableIterator::new(lines.into_iter().map(|line| {
        let (start, end) = line.range.map(|range| (range.lower, range.upper)).unzip();
        (
            line.partition,
            start.and_then(timestamp_of),
            end.and_then(timestamp_of),
            line.access,
            line.events,
            line.reason,
        )
    })))
}

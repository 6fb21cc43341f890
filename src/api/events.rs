//! Functions that read.

use pgrx::datum::{Date, TimestampWithTimeZone};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};

use crate::read::{partition_stats, run_events};

/// The events of one run from `p_start_ts` to `p_end_ts`, both included, ordered by ts and id; NULL
/// leaves an end open. Needs the privileges of the plain SELECT.
///
/// It has no search_path of its own: policies of row level security run under the caller's, as in the
/// plain SELECT. Everything in its own query is qualified.
///
/// # Errors
///
/// 42P01 where there is no `workflow_events`.
#[pg_extern(sql = "
CREATE FUNCTION get_workflow_run_events(
    p_run_id uuid, p_start_ts timestamptz DEFAULT NULL, p_end_ts timestamptz DEFAULT NULL)
RETURNS TABLE (id bigint, run_id uuid, ts timestamptz, type text, payload jsonb, created_at timestamptz)
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn get_workflow_run_events(
    p_run_id: Option<Uuid>,
    p_start_ts: Option<TimestampWithTimeZone>,
    p_end_ts: Option<TimestampWithTimeZone>,
    call: pg_sys::FunctionCallInfo,
) -> Result<(), ErrorReport> {
    // SAFETY: the server makes this call now, and the statement above declares it to return a set.
    Ok(unsafe { run_events::replay(p_run_id, p_start_ts, p_end_ts, call) }?)
}

/// Each partition with its dates, its exact number of rows and its size, in the order of their ranges.
/// Needs SELECT on every partition. Counts what the calling statement sees, in the partitions that there are when it runs.
///
/// # Errors
///
/// 42P01 where there is no `workflow_events`, 42809 where it is not partitioned, 42501 where a
/// partition may not be read.
#[pg_extern(volatile, parallel_restricted)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn get_workflow_events_partition_stats() -> Result<
    TableIterator<
        'static,
        (
            name!(partition_name, String),
            name!(start_date, Option<Date>),
            name!(end_date, Option<Date>),
            name!(row_count, i64),
            name!(size_bytes, i64),
            name!(size_pretty, String),
        ),
    >,
    ErrorReport,
> {
    let rows = partition_stats::all()?;
    Ok(TableIterator::new(
        rows.into_iter().map(|s| (s.name, s.start, s.end, s.rows, s.bytes, s.pretty)),
    ))
}

//! Functions that set up, check, and wake the worker.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::lifecycle::{setup, verify};
use crate::pg::board;
use crate::settings::{Settings, WorkerSettings};

/// Makes `workflow_events` with its partitions, or takes over the partitioned table that is there; may
/// be called again at any time. A row for each thing: what was `made`, `kept`, `repaired`, or
/// `differs` from the document and was left so.
///
/// # Errors
///
/// 42P01 without a `workflow_runs`, 42809 for a plain table, 42P16 for one that is partitioned
/// otherwise, 55P03, 42501 and 25006 as the other functions.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn setup_workflow_events() -> Result<
    TableIterator<
        'static,
        (
            name!(object_name, String),
            name!(status, String),
            name!(detail, String),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let steps = setup::event_log(Settings::current())?;
    Ok(TableIterator::new(
        steps.into_iter().map(|s| (s.object, s.done.as_str().to_owned(), s.detail, s.hint)),
    ))
}

/// The health check: a row a check, with status `ok`, `warning` or `failed`. Changes nothing. With `recompute` the rows of
/// every sealed partition are read, counted and digested again, which takes as long as reading them does.
///
/// # Errors
///
/// 22004 for NULL, 42501 where the caller may not act as the owner.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn verify_workflow_events(
    recompute: default!(Option<bool>, false),
) -> Result<
    TableIterator<
        'static,
        (
            name!(check_name, String),
            name!(status, String),
            name!(detail, String),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let recompute = super::required(recompute, "recompute")?;
    let findings = verify::event_log(Settings::current(), &WorkerSettings::current(), recompute)?;
    Ok(TableIterator::new(
        findings
            .into_iter()
            .map(|f| (f.check.to_owned(), f.status.as_str().to_owned(), f.detail, f.hint)),
    ))
}

#[pg_schema]
mod meshhook_events {
    use super::{board, pg_extern};
    use pgrx::prelude::*;

    /// Asks the background worker to look at this database once the current transaction has committed.
    /// Gives whether there is a worker: without preload there is none, and nothing happens.
    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn wake_worker() -> bool {
        board::wake_launcher_at_commit();
        board::exists()
    }
}

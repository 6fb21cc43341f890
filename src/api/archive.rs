//! Functions that archive partitions, and bring them back.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::required;
use crate::lifecycle::archive;
use crate::settings::Settings;

/// Archives an attached or parked partition as the policy says, and gives where its rows are, how many, how large the
/// archive is, and the digest over them.
///
/// # Errors
///
/// 22004 for NULL, 42P01 where there is no such partition, 55000 where the policy wants no archive, 42501 where the
/// caller may not act as the owner, 25006 where nothing can be written; where the file can't be written, why.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[expect(
    clippy::type_complexity,
    reason = "the columns of a SQL function are spelled out in its type"
)]
fn archive_workflow_events_partition(
    partition_name: Option<String>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(kind, String),
            name!(location, String),
            name!(row_count, i64),
            name!(size_bytes, i64),
            name!(digest, String),
        ),
    >,
    ErrorReport,
> {
    let name = required(partition_name, "partition_name")?;
    let a = archive::by_hand(&name, Settings::current())?;
    Ok(TableIterator::once((a.kind.as_str().to_owned(), a.location, a.rows, a.bytes, a.digest)))
}

#[pg_schema]
mod meshhook_events {
    use pgrx::PgLogLevel;
    use pgrx::pg_sys::panic::ErrorReport;
    use pgrx::prelude::*;

    use super::archive::{PolicyRow, require_permitted};

    /// Refuses a policy by which the server would write files for a role that may not have it do so.
    #[pg_trigger]
    fn check_archive_policy<'a>(
        trigger: &'a PgTrigger<'a>,
    ) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, ErrorReport> {
        let new = trigger.new();
        let checked = match &new {
            Some(new) => require_permitted(&row(new), trigger.old().as_ref().map(row).as_ref()),
            None => Ok(()),
        };
        if let Err(error) = checked {
            // What is given back here would lose its SQLSTATE.
            ErrorReport::from(error).report(PgLogLevel::ERROR);
        }
        Ok(new)
    }

    fn row(tuple: &PgHeapTuple<'_, impl WhoAllocated>) -> PolicyRow {
        let text = |column: &str| tuple.get_by_name::<String>(column).ok().flatten();
        PolicyRow {
            archive: text("archive").unwrap_or_default(),
            format: text("archive_format").unwrap_or_default(),
            directory: text("archive_directory"),
        }
    }
}

//! The events of one run, in order: what a replay reads. The one door to it, natively where that gives exactly what the
//! query gives, and by the query everywhere else.

mod native;
mod query;

pub mod explain;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{Uuid, pg_sys};

use crate::db::catalog::EVENTS;
use crate::db::ident::Qualified;
use crate::domain::instant::Instant;
use crate::error::{Error, Result};
use crate::pg::result_set::{self, ResultSet};
use crate::pg::server;

/// What is asked for: the events of a run from one `ts` to another, both included; without an end where it is `None`.
#[derive(Clone, Copy)]
struct Question {
    table: pg_sys::Oid,
    schema: pg_sys::Oid,
    run: Uuid,
    from: Option<Instant>,
    to: Option<Instant>,
}

/// Gives the events of `run` from `from` to `to`, both included, ordered by ts and id, as the result of
/// the SQL function called through `call`.
///
/// It gives what the plain query would give its caller: it needs the same privileges, obeys row level security, sees the
/// caller's snapshot, and works on a standby. A table that isn't partitioned (yet) is read as well.
///
/// # Errors
///
/// [`Error::NotSetUp`] where there is no event log.
///
/// # Safety
///
/// `call` must be the call that the server makes now, of a function that is declared to return a set.
pub unsafe fn replay(
    run: Option<Uuid>,
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
    call: pg_sys::FunctionCallInfo,
) -> Result<()> {
    // SAFETY: as this function requires.
    let (mut result, schema) =
        unsafe { (ResultSet::begin(call), result_set::schema_of_function(call)) };
    // No run has the id NULL: the comparison gives no rows, as it does in plain SQL.
    let Some(question) = question(schema, run, from, to)? else { return Ok(()) };
    if native::read(&question, &mut result).is_err() {
        result.clear();
        query::read(&question, &mut result)?;
    }
    Ok(())
}

/// The question about the event log in `schema`; `None` where no event can answer it.
fn question(
    schema: pg_sys::Oid,
    run: Option<Uuid>,
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
) -> Result<Option<Question>> {
    // The function lies in the schema of the extension, which can't be moved: no query is needed to
    // find the table beside it.
    let Some(table) = server::find_relation(schema, EVENTS) else {
        let schema = server::schema_name(schema).ok_or(Error::NotInstalled)?;
        return Err(Error::NotSetUp { table: Qualified { schema: &schema, name: EVENTS }.plain() });
    };
    let Some(run) = run else { return Ok(None) };
    let at = |at: Option<TimestampWithTimeZone>| at.map(|at| Instant(at.into_inner()));
    Ok(Some(Question { table, schema, run, from: at(from), to: at(to) }))
}

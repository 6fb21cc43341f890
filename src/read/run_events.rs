//! The events of one run, in order: what a replay reads.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{IntoDatum, Uuid, pg_sys};

use crate::db::catalog::EVENTS;
use crate::db::ident::Qualified;
use crate::error::{Error, Result};
use crate::pg::result_set::{self, Parameter};
use crate::pg::server;

/// Gives the events of `run` from `from` to `to`, both included, ordered by ts and id, as the result of
/// the SQL function called through `call`.
///
/// The query is that of the caller: it needs the caller's privileges, obeys row level security, sees
/// the caller's snapshot, and works on a standby. Bounds that are not given are left out of it, so that
/// partitions are excluded by those that are. A table that isn't partitioned (yet) is read as well.
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
    // The function lies in the schema of the extension, which can't be moved: no query is needed to
    // find the table beside it.
    // SAFETY: as this function requires.
    let schema_oid = unsafe { result_set::schema_of_function(call) };
    let schema = server::schema_name(schema_oid).ok_or(Error::NotInstalled)?;
    let events = Qualified { schema: &schema, name: EVENTS };
    let table = server::find_relation(schema_oid, EVENTS)
        .ok_or_else(|| Error::NotSetUp { table: events.plain() })?;
    // An older form of the table has no created_at.
    let created_at = if server::has_column(table, "created_at") { "created_at" } else { "NULL" };
    let mut query = format!(
        "SELECT id::pg_catalog.int8, run_id::pg_catalog.uuid, ts::pg_catalog.timestamptz, \
                type::pg_catalog.text, payload::pg_catalog.jsonb, {created_at}::pg_catalog.timestamptz \
         FROM {events} WHERE run_id OPERATOR(pg_catalog.=) $1"
    );
    let mut parameters = Vec::with_capacity(3);
    // No run has the id NULL: the comparison gives no rows, as it does in plain SQL.
    let Some(run) = run.and_then(IntoDatum::into_datum) else {
        let none = "SELECT NULL::pg_catalog.int8, NULL::pg_catalog.uuid, NULL::pg_catalog.timestamptz, \
                           NULL::pg_catalog.text, NULL::pg_catalog.jsonb, NULL::pg_catalog.timestamptz \
                    WHERE false";
        // SAFETY: as this function requires.
        return unsafe { result_set::return_query(call, none, &[]) };
    };
    parameters.push(Parameter { type_oid: pg_sys::UUIDOID, value: run });
    for (operator, bound) in [(">=", from), ("<=", to)] {
        if let Some(value) = bound.and_then(IntoDatum::into_datum) {
            parameters.push(Parameter { type_oid: pg_sys::TIMESTAMPTZOID, value });
            query.push_str(&format!(
                " AND ts OPERATOR(pg_catalog.{operator}) ${}",
                parameters.len()
            ));
        }
    }
    query.push_str(" ORDER BY ts, id");
    // SAFETY: as this function requires.
    unsafe { result_set::return_query(call, &query, &parameters) }
}

//! The events of a run by a query, under the caller's privileges, snapshot and policies.

use pgrx::{IntoDatum, pg_sys};

use super::Question;
use crate::db::catalog::EVENTS;
use crate::db::ident::Qualified;
use crate::error::{Error, Result};
use crate::pg::result_set::{self, Parameter, ResultSet};
use crate::pg::server;

/// Adds the events to the result. Bounds that are not given are left out of the query, so that partitions are excluded
/// by those that are.
pub fn read(question: &Question, result: &mut ResultSet) -> Result<()> {
    let schema = server::schema_name(question.schema).ok_or(Error::NotInstalled)?;
    let events = Qualified { schema: &schema, name: EVENTS };
    // An older form of the table has no created_at.
    let has_created_at = server::has_column(question.table, "created_at");
    let created_at = if has_created_at { "created_at" } else { "NULL" };
    let mut query = format!(
        "SELECT id::pg_catalog.int8, run_id::pg_catalog.uuid, ts::pg_catalog.timestamptz, \
                type::pg_catalog.text, payload::pg_catalog.jsonb, {created_at}::pg_catalog.timestamptz \
         FROM {events} WHERE run_id OPERATOR(pg_catalog.=) $1"
    );
    let mut parameters = Vec::with_capacity(3);
    if let Some(run) = question.run.into_datum() {
        parameters.push(Parameter { type_oid: pg_sys::UUIDOID, value: run });
    }
    for (operator, bound) in [(">=", question.from), ("<=", question.to)] {
        if let Some(bound) = bound {
            parameters.push(Parameter { type_oid: pg_sys::TIMESTAMPTZOID, value: bound.0.into() });
            query.push_str(&format!(
                " AND ts OPERATOR(pg_catalog.{operator}) ${}",
                parameters.len()
            ));
        }
    }
    query.push_str(" ORDER BY ts, id");
    result_set::put_query(result, &query, &parameters)
}

//! The queue of events that were changed while they are copied. To be called as the extension's owner.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use crate::db::query;
use crate::error::Result;

/// An event that is to be copied again.
#[derive(Clone, Debug)]
pub struct Change {
    /// The number of the change.
    pub seq: i64,
    /// The table that was changed.
    pub relation: Oid,
    /// Its `id`; `None` where all events were removed at once.
    pub id: Option<i64>,
    /// Its `ts`.
    pub ts: Option<TimestampWithTimeZone>,
    /// Whether it was inserted.
    pub is_insert: bool,
}

/// The first changes of the queue, as many as are asked for at most.
pub fn first(count: i64) -> Result<Vec<Change>> {
    let sql = "SELECT seq, relation, id, ts, is_insert FROM meshhook_events.migration_queue ORDER BY seq LIMIT $1";
    query::read(sql, &[count.into()], |row| {
        Ok(Change {
            seq: row.get(1)?,
            relation: row.get(2)?,
            id: row.nullable(3)?,
            ts: row.nullable(4)?,
            is_insert: row.get(5)?,
        })
    })
}

/// Removes these changes, and no other: one of a smaller number may be committed later.
pub fn remove(changes: &[Change]) -> Result<()> {
    let numbers: Vec<i64> = changes.iter().map(|change| change.seq).collect();
    query::execute(
        "DELETE FROM meshhook_events.migration_queue WHERE seq = ANY ($1)",
        &[numbers.into()],
    )
}

/// Adds events to it, as if they had been changed in a table.
pub fn add(relation: Oid, ids: &[i64]) -> Result<()> {
    let sql = "INSERT INTO meshhook_events.migration_queue (relation, id, ts, is_insert) \
               SELECT $1, id, NULL, false FROM pg_catalog.unnest($2::bigint[]) id";
    query::execute(sql, &[relation.into(), ids.to_vec().into()])
}

/// Whether one of these tables was changed.
pub fn has_change_of(tables: &[Oid]) -> Result<bool> {
    let sql =
        "SELECT EXISTS (SELECT FROM meshhook_events.migration_queue WHERE relation = ANY ($1))";
    Ok(query::read_one(sql, &[tables.to_vec().into()], |row| row.get(1))?.unwrap_or(false))
}

/// How many changes there are, counted to `limit`.
pub fn length(limit: i64) -> Result<i64> {
    let sql =
        "SELECT pg_catalog.count(*) FROM (SELECT FROM meshhook_events.migration_queue LIMIT $1) q";
    Ok(query::read_one(sql, &[limit.into()], |row| row.get(1))?.unwrap_or(0))
}

/// The ids in the queue from one, excluded, to another, included; without end where there is none.
pub fn ids(after: Option<i64>, to: Option<i64>) -> Result<Vec<i64>> {
    let sql = "SELECT DISTINCT id FROM meshhook_events.migration_queue \
               WHERE id IS NOT NULL AND ($1 IS NULL OR id > $1) AND ($2 IS NULL OR id <= $2)";
    query::read(sql, &[after.into(), to.into()], |row| row.get(1))
}

/// Removes all changes that are committed now.
pub fn clear() -> Result<()> {
    query::execute("DELETE FROM meshhook_events.migration_queue", &[])
}

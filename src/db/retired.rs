//! What was decided to be retired and is not gone yet: `meshhook_events.retired_partition`.
//!
//! A detached partition is an ordinary table, and nothing in the catalogs says why. It is dropped only where this
//! table says that we have detached it; it is keyed by OID, and a dump leaves it out.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use crate::db::catalog::Table;
use crate::db::{calendar, query};
use crate::domain::instant::Instant;
use crate::domain::maintenance::{Retired, RetiredState};
use crate::domain::partition::{Bound, Range};
use crate::domain::plan::Retirement;
use crate::error::Result;

/// Notes that we detach a partition, to drop it; in the transaction in which the detach begins.
pub fn note(schema: &str, partition: &Retirement) -> Result<()> {
    let sql = "INSERT INTO meshhook_events.retired_partition \
                   (relation, schema_name, partition_name, range_start, range_end, state, noted_at) \
               VALUES ($1, $2, $3, $4, $5, 'detaching', pg_catalog.clock_timestamp()) \
               ON CONFLICT (relation) DO UPDATE \
               SET schema_name = EXCLUDED.schema_name, partition_name = EXCLUDED.partition_name, \
                   range_start = EXCLUDED.range_start, range_end = EXCLUDED.range_end, \
                   state = EXCLUDED.state, noted_at = EXCLUDED.noted_at";
    let arguments = [
        Oid::from(partition.oid).into(),
        schema.into(),
        partition.name.as_str().into(),
        timestamp(partition.range.lower).into(),
        timestamp(partition.range.upper).into(),
    ];
    query::execute(sql, &arguments)
}

/// Notes that we have detached it: from here on it may be dropped.
pub fn mark_detached(relation: Oid) -> Result<()> {
    let sql = "UPDATE meshhook_events.retired_partition SET state = 'detached' WHERE relation = $1";
    query::execute(sql, &[relation.into()])
}

/// Whether there is an entry for it.
pub fn is_noted(relation: Oid) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM meshhook_events.retired_partition WHERE relation = $1)";
    Ok(query::read_one(sql, &[relation.into()], |row| row.get(1))?.unwrap_or(false))
}

/// Takes the entry of a table that we have detached, to drop it: the schema and the name that it had then. `None` where
/// there is none any more, because somebody wants to keep the table.
pub fn take_detached(relation: Oid) -> Result<Option<(String, String)>> {
    let sql = "DELETE FROM meshhook_events.retired_partition WHERE relation = $1 AND state = 'detached' \
               RETURNING schema_name, partition_name";
    let taken =
        query::execute_returning(sql, &[relation.into()], |row| Ok((row.get(1)?, row.get(2)?)))?;
    Ok(taken.into_iter().next())
}

/// Forgets the entries of which nothing is left to do.
pub fn forget_stale() -> Result<()> {
    let sql = format!("DELETE FROM meshhook_events.retired_partition r WHERE {STALE}");
    query::execute(&sql, &[])
}

/// Its table is gone, or is attached and no detach is pending.
const STALE: &str = "\
    NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = r.relation) \
    OR EXISTS (SELECT FROM pg_catalog.pg_inherits i \
               WHERE i.inhrelid = r.relation AND NOT i.inhdetachpending)";

/// The entries, oldest range first.
pub fn all(table: &Table) -> Result<Vec<Retired>> {
    let sql = format!(
        "SELECT r.relation, r.partition_name, r.range_start, r.range_end, \
                CASE WHEN {STALE} THEN 'over' \
                     WHEN c.relispartition THEN 'attached' \
                     WHEN r.state = 'detached' AND c.relname = r.partition_name \
                          AND n.nspname = r.schema_name AND c.relowner = $1 \
                          AND c.relkind IN ('r', 'p') THEN 'detached' \
                     ELSE 'in doubt' END \
         FROM meshhook_events.retired_partition r \
         LEFT JOIN pg_catalog.pg_class c ON c.oid = r.relation \
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         ORDER BY r.range_start NULLS FIRST, r.relation"
    );
    query::read(&sql, &[table.owner.into()], |row| {
        let at =
            |at: Option<TimestampWithTimeZone>| at.map(|at| Bound::At(Instant(at.into_inner())));
        Ok(Retired {
            partition: Retirement {
                oid: row.get::<Oid>(1)?.to_u32(),
                name: row.get(2)?,
                range: Range {
                    lower: at(row.nullable(3)?).unwrap_or(Bound::MinValue),
                    upper: at(row.nullable(4)?).unwrap_or(Bound::MaxValue),
                },
            },
            state: match row.get::<String>(5)?.as_str() {
                "over" => RetiredState::Over,
                "attached" => RetiredState::Attached,
                "detached" => RetiredState::Detached,
                _ => RetiredState::InDoubt,
            },
        })
    })
}

/// A bound as a column holds it: NULL for MINVALUE and MAXVALUE.
fn timestamp(bound: Bound) -> Option<TimestampWithTimeZone> {
    match bound {
        Bound::At(instant) => calendar::to_timestamp(instant),
        Bound::MinValue | Bound::MaxValue => None,
    }
}

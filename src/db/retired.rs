//! What was decided to be retired and is not gone yet: `meshhook_events.retired_partition`.
//!
//! A detached partition is an ordinary table, and nothing in the catalogs says why. It is dropped only where this
//! table says that we have detached it; it is keyed by OID, and a dump leaves it out.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;

use crate::db::catalog::Table;
use crate::db::{query, range};
use crate::domain::maintenance::{Retired, RetiredState};
use crate::domain::plan::Retirement;
use crate::domain::policy::Policy;
use crate::error::Result;
use crate::pg::server;

/// Notes that we detach a partition, to drop it; in the transaction in which the detach begins.
pub fn note(schema: &str, partition: &Retirement) -> Result<()> {
    insert(schema, partition, "detaching", &Wish::default())
}

/// What was asked for when a partition was retired, where that is not what the policy says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// How long it is parked.
    pub grace: Option<Interval>,
    /// The retention, in months.
    pub retention_months: Option<u32>,
    /// Whether it goes even if runs that are not finished need it.
    pub is_forced: bool,
}

/// Notes that we have detached a partition; in the transaction that does.
pub fn note_detached(schema: &str, partition: &Retirement, wish: &Wish) -> Result<()> {
    insert(schema, partition, "detached", wish)
}

fn insert(schema: &str, partition: &Retirement, state: &str, wish: &Wish) -> Result<()> {
    let sql = "INSERT INTO meshhook_events.retired_partition \
                   (relation, schema_name, partition_name, range_start, range_end, state, noted_at, \
                    detached_at, grace, retention_months, forced) \
               SELECT $1, $2, $3, $4, $5, $6, t, CASE $6 WHEN 'detached' THEN t END, $7, $8, $9 \
               FROM pg_catalog.clock_timestamp() t \
               ON CONFLICT (relation) DO UPDATE \
               SET schema_name = EXCLUDED.schema_name, partition_name = EXCLUDED.partition_name, \
                   range_start = EXCLUDED.range_start, range_end = EXCLUDED.range_end, \
                   state = EXCLUDED.state, noted_at = EXCLUDED.noted_at, \
                   detached_at = EXCLUDED.detached_at, grace = EXCLUDED.grace, \
                   retention_months = EXCLUDED.retention_months, forced = EXCLUDED.forced";
    let months = wish.retention_months.map(|months| i32::try_from(months).unwrap_or(i32::MAX));
    let arguments = [
        Oid::from(partition.oid).into(),
        schema.into(),
        partition.name.as_str().into(),
        range::column(partition.range.lower).into(),
        range::column(partition.range.upper).into(),
        state.into(),
        wish.grace.into(),
        months.into(),
        wish.is_forced.into(),
    ];
    query::execute(sql, &arguments)
}

/// Notes that we have detached it: from here on it is parked, and may be dropped when the grace has passed.
pub fn mark_detached(relation: Oid) -> Result<()> {
    let sql = "UPDATE meshhook_events.retired_partition \
               SET state = 'detached', detached_at = pg_catalog.clock_timestamp() \
               WHERE relation = $1 AND state = 'detaching'";
    query::execute(sql, &[relation.into()])
}

/// Notes that it is cut off from the runs: the schema and the name that it had when it was detached. `None` where there is no
/// entry any more.
pub fn mark_closing(relation: Oid) -> Result<Option<(String, String)>> {
    let sql = "UPDATE meshhook_events.retired_partition SET state = 'closing' \
               WHERE relation = $1 AND state IN ('detached', 'closing') \
               RETURNING schema_name, partition_name";
    name_of(sql, relation)
}

/// Notes that it is connected with the runs again.
pub fn mark_connected(relation: Oid) -> Result<()> {
    let sql = "UPDATE meshhook_events.retired_partition SET state = 'detached' \
               WHERE relation = $1 AND state = 'closing'";
    query::execute(sql, &[relation.into()])
}

fn name_of(sql: &str, relation: Oid) -> Result<Option<(String, String)>> {
    let names =
        query::execute_returning(sql, &[relation.into()], |row| Ok((row.get(1)?, row.get(2)?)))?;
    Ok(names.into_iter().next())
}

/// Whether there is an entry for it.
pub fn is_noted(relation: Oid) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM meshhook_events.retired_partition WHERE relation = $1)";
    Ok(query::read_one(sql, &[relation.into()], |row| row.get(1))?.unwrap_or(false))
}

/// Takes the entry of a table that we have detached, to drop it or to attach it again: the schema and the name that it had
/// then. `None` where there is none any more, because somebody wants to keep the table.
pub fn take_detached(relation: Oid) -> Result<Option<(String, String)>> {
    let sql = "DELETE FROM meshhook_events.retired_partition \
               WHERE relation = $1 AND state IN ('detached', 'closing') \
               RETURNING schema_name, partition_name";
    name_of(sql, relation)
}

/// Keeps others from taking the entry of a table that we have detached, until the end of the transaction; what is in it, as
/// [`take_detached`] gives it.
pub fn lock_detached(relation: Oid) -> Result<Option<(String, String)>> {
    let sql = "SELECT schema_name, partition_name FROM meshhook_events.retired_partition \
               WHERE relation = $1 AND state IN ('detached', 'closing') FOR UPDATE";
    name_of(sql, relation)
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
pub fn all(table: &Table, policy: &Policy) -> Result<Vec<Retired>> {
    // A grace of its own is counted as the policy's: a month is 30 days.
    let sql = format!(
        "SELECT r.relation, r.partition_name, r.range_start, r.range_end, r.retention_months, r.forced, \
                r.detached_at, \
                (1000000 * pg_catalog.date_part('epoch', r.grace))::bigint, \
                CASE WHEN {STALE} THEN 'over' \
                     WHEN c.relispartition THEN 'attached' \
                     WHEN r.state <> 'detaching' AND c.relname = r.partition_name \
                          AND n.nspname = r.schema_name AND c.relowner = $1 \
                          AND c.relkind IN ('r', 'p') THEN r.state \
                     ELSE 'in doubt' END \
         FROM meshhook_events.retired_partition r \
         LEFT JOIN pg_catalog.pg_class c ON c.oid = r.relation \
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         ORDER BY r.range_start NULLS FIRST, r.relation"
    );
    let now = server::now_us();
    query::read(&sql, &[table.owner.into()], |row| {
        let detached_at = row.nullable::<TimestampWithTimeZone>(7)?;
        let grace_us = row.nullable::<i64>(8)?.unwrap_or(policy.grace_us);
        Ok(Retired {
            partition: Retirement {
                oid: row.get::<Oid>(1)?.to_u32(),
                name: row.get(2)?,
                range: range::of_columns(&row, 3)?,
            },
            retention_months: row.nullable::<i32>(5)?.and_then(|months| u32::try_from(months).ok()),
            is_forced: row.get(6)?,
            is_due: detached_at.is_some_and(|at| at.into_inner().saturating_add(grace_us) <= now),
            state: match row.get::<String>(9)?.as_str() {
                "over" => RetiredState::Over,
                "attached" => RetiredState::Attached,
                "detached" => RetiredState::Detached,
                "closing" => RetiredState::Closing,
                _ => RetiredState::InDoubt,
            },
        })
    })
}

//! The statements that make, attach and drop tables.

use pgrx::pg_sys::Oid;

use crate::db::catalog::Table;
use crate::db::ident::{Ident, Qualified};
use crate::db::query;
use crate::domain::partition::{Bound, Range};
use crate::error::Result;

/// Makes the event log as MeshHook's document gives it, without partitions and foreign key.
pub fn create_events(events: Qualified) -> Result<()> {
    let sql = format!(
        "CREATE TABLE {events} (\
            id bigserial, \
            run_id uuid NOT NULL, \
            ts timestamptz NOT NULL DEFAULT pg_catalog.now(), \
            type text NOT NULL, \
            payload jsonb NOT NULL, \
            created_at timestamptz NOT NULL DEFAULT pg_catalog.now(), \
            PRIMARY KEY (id, ts)\
         ) PARTITION BY RANGE (ts)"
    );
    query::execute(&sql, &[])
}

/// Makes an event go with its run. Locks both tables in SHARE ROW EXCLUSIVE mode.
pub fn add_foreign_key(events: Qualified, runs: Qualified) -> Result<()> {
    let sql = format!(
        "ALTER TABLE {events} ADD CONSTRAINT workflow_events_run_id_fkey \
         FOREIGN KEY (run_id) REFERENCES {runs} (id) ON DELETE CASCADE"
    );
    query::execute(&sql, &[])
}

/// Makes a table with the columns, constraints and indexes of the event log, not yet attached: its
/// ACCESS EXCLUSIVE lock is on a table that nobody else sees.
///
/// Identity columns are left out: a partition takes its values from the partitioned table, and one
/// that has an identity of its own cannot be attached (17 on).
pub fn create_like(table: &Table, name: &str) -> Result<()> {
    let partition = Qualified { schema: &table.schema, name };
    let (access_method, tablespace) = storage(table.oid)?;
    let using = access_method.map(|am| format!(" USING {}", Ident(&am))).unwrap_or_default();
    let within = tablespace.map(|ts| format!(" TABLESPACE {}", Ident(&ts))).unwrap_or_default();
    let sql = format!(
        "CREATE TABLE {partition} (LIKE {} INCLUDING ALL EXCLUDING IDENTITY){using}{within}",
        table.qualified()
    );
    query::execute(&sql, &[])
}

/// The access method (17 on) and tablespace that a partitioned table gives to its partitions.
fn storage(table: Oid) -> Result<(Option<String>, Option<String>)> {
    let sql = "SELECT m.amname::text, t.spcname::text FROM pg_catalog.pg_class c \
               LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam \
               LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace \
               WHERE c.oid = $1";
    let row =
        query::read_one(sql, &[table.into()], |row| Ok((row.nullable(1)?, row.nullable(2)?)))?;
    Ok(row.unwrap_or_default())
}

/// Attaches a table as a partition. Locks `workflow_events` in SHARE UPDATE EXCLUSIVE mode, and the
/// tables that its foreign keys point to in SHARE ROW EXCLUSIVE mode.
pub fn attach(table: &Table, partition: Qualified, range: &Range) -> Result<()> {
    let parent = table.qualified();
    query::execute(
        &format!("ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES {range}"),
        &[],
    )
}

/// The command that detaches a partition without a lock that others notice; it runs at the top level alone.
#[must_use]
pub fn detach_concurrently(table: &Table, partition: Qualified) -> String {
    format!("ALTER TABLE {} DETACH PARTITION {partition} CONCURRENTLY", table.qualified())
}

/// Completes a detach that was begun. Waits for every older snapshot of the database.
pub fn finalize(table: &Table, partition: Qualified) -> Result<()> {
    let parent = table.qualified();
    query::execute(&format!("ALTER TABLE {parent} DETACH PARTITION {partition} FINALIZE"), &[])
}

/// The name of the constraint by which a DEFAULT partition proves that it holds nothing of a range.
pub const PROOF: &str = "pg_meshhook_events_proof";

/// Adds the constraint that a table holds nothing of `range`, without looking at its rows.
pub fn add_proof(table: Qualified, range: &Range) -> Result<()> {
    let mut outside = vec!["ts IS NULL".to_owned()];
    outside.extend(match range.lower {
        Bound::MinValue => None,
        lower => Some(format!("ts OPERATOR(pg_catalog.<) {lower}")),
    });
    outside.extend(match range.upper {
        Bound::MaxValue => None,
        upper => Some(format!("ts OPERATOR(pg_catalog.>=) {upper}")),
    });
    let sql = format!(
        "ALTER TABLE {table} ADD CONSTRAINT {} CHECK ({}) NOT VALID",
        Ident(PROOF),
        outside.join(" OR ")
    );
    query::execute(&sql, &[])
}

/// Looks at the rows, under SHARE UPDATE EXCLUSIVE, which neither readers nor writers notice.
pub fn validate_proof(table: Qualified) -> Result<()> {
    query::execute(&format!("ALTER TABLE {table} VALIDATE CONSTRAINT {}", Ident(PROOF)), &[])
}

/// Drops that constraint, where it is there.
pub fn drop_proof(table: Qualified) -> Result<()> {
    let sql = format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {}", Ident(PROOF));
    query::execute(&sql, &[])
}

/// Drops a table; an error where something depends on it.
pub fn drop_table(table: Qualified) -> Result<()> {
    query::execute(&format!("DROP TABLE {table} RESTRICT"), &[])
}

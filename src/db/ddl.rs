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

/// Makes a table with the columns of another, without anything else, that doesn't outlive a crash.
pub fn create_staging(like: Qualified, staging: Qualified) -> Result<()> {
    query::execute(&format!("CREATE UNLOGGED TABLE {staging} (LIKE {like})"), &[])
}

/// The access method (17 on) and tablespace that a partitioned table gives to its partitions.
pub fn storage(table: Oid) -> Result<(Option<String>, Option<String>)> {
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

/// The condition that a row lies in `range`.
#[must_use]
pub fn within(range: &Range) -> String {
    conditions("ts", range)
}

/// The same for the rows of one of several tables.
#[must_use]
pub fn within_of(alias: &str, range: &Range) -> String {
    conditions(&format!("{}.ts", Ident(alias)), range)
}

fn conditions(column: &str, range: &Range) -> String {
    let mut within = vec![format!("{column} IS NOT NULL")];
    within.extend(match range.lower {
        Bound::MinValue => None,
        lower => Some(format!("{column} OPERATOR(pg_catalog.>=) {lower}::pg_catalog.timestamptz")),
    });
    within.extend(match range.upper {
        Bound::MaxValue => None,
        upper => Some(format!("{column} OPERATOR(pg_catalog.<) {upper}::pg_catalog.timestamptz")),
    });
    within.join(" AND ")
}

/// Adds the constraint that a table holds nothing outside of `range`: attaching it then reads no row.
pub fn add_range_check(table: Qualified, range: &Range) -> Result<()> {
    let sql =
        format!("ALTER TABLE {table} ADD CONSTRAINT {} CHECK ({})", Ident(PROOF), within(range));
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

/// Drops the foreign keys of a table. Locks it and the tables that they point to in ACCESS EXCLUSIVE mode.
pub fn drop_foreign_keys(table: Oid, name: Qualified) -> Result<()> {
    let sql = "SELECT conname::text FROM pg_catalog.pg_constraint \
               WHERE conrelid = $1 AND contype = 'f' AND conparentid = 0 ORDER BY conname";
    for key in query::read(sql, &[table.into()], |row| row.get::<String>(1))? {
        query::execute(&format!("ALTER TABLE {name} DROP CONSTRAINT {}", Ident(&key)), &[])?;
    }
    Ok(())
}

/// Detaches a partition under ACCESS EXCLUSIVE on the event log, and SHARE ROW EXCLUSIVE on the tables that its foreign
/// keys point to.
pub fn detach(table: &Table, partition: Qualified) -> Result<()> {
    let parent = table.qualified();
    query::execute(&format!("ALTER TABLE {parent} DETACH PARTITION {partition}"), &[])
}

/// The text of the constraint by which PostgreSQL proves that all rows of a partition lie within its range, as it makes it
/// when it detaches concurrently (`DetachAddConstraintIfNeeded` in commands/tablecmds.c).
fn bounds_text(range: &Range) -> String {
    let mut parts = vec!["(ts IS NOT NULL)".to_owned()];
    if range.lower != Bound::MinValue {
        parts.push(format!("(ts >= {}::timestamp with time zone)", range.lower));
    }
    if range.upper != Bound::MaxValue {
        parts.push(format!("(ts < {}::timestamp with time zone)", range.upper));
    }
    format!("({})", parts.join(" AND "))
}

/// The valid constraints of a table, its own, that prove that all of its rows lie within a range: attaching it there needs no
/// look at the rows.
///
/// To be called with the time zone UTC.
pub fn proofs_of_bounds(table: Oid, range: &Range) -> Result<Vec<String>> {
    let sql = "SELECT conname::text FROM pg_catalog.pg_constraint \
               WHERE conrelid = $1 AND contype = 'c' AND convalidated AND conislocal AND coninhcount = 0 \
                 AND pg_catalog.pg_get_constraintdef(oid) = $2 ORDER BY conname";
    let text = format!("CHECK ({})", bounds_text(range));
    query::read(sql, &[table.into(), text.into()], |row| row.get(1))
}

/// Adds such a constraint to a table that nobody uses, and looks at the rows.
pub fn prove_bounds(table: Qualified, range: &Range) -> Result<()> {
    let mut parts = vec!["ts IS NOT NULL".to_owned()];
    if range.lower != Bound::MinValue {
        parts.push(format!("ts OPERATOR(pg_catalog.>=) {}", range.lower));
    }
    if range.upper != Bound::MaxValue {
        parts.push(format!("ts OPERATOR(pg_catalog.<) {}", range.upper));
    }
    query::execute(&format!("ALTER TABLE {table} ADD CHECK ({})", parts.join(" AND ")), &[])
}

/// Drops constraints of a table.
pub fn drop_constraints(table: Qualified, names: &[String]) -> Result<()> {
    for name in names {
        query::execute(&format!("ALTER TABLE {table} DROP CONSTRAINT {}", Ident(name)), &[])?;
    }
    Ok(())
}

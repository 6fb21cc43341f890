//! Copying rows in batches by their key, and copying those again that were changed. To be called as the tables' owner.

use std::ffi::CStr;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use crate::db::ident::{Ident, Qualified};
use crate::db::query;
use crate::error::{Error, Result};

/// Settings under which each row is found by its key, whatever the statistics say.
pub const BY_KEY: [(&CStr, &CStr); 4] = [
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
];

/// By what the rows of a table are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `PRIMARY KEY (id)`.
    Id,
    /// `PRIMARY KEY (id, ts)`.
    IdAndTs,
}

/// The primary key of a table; `None` where it is another, or there is none.
pub fn key_of(table: Oid) -> Result<Option<Key>> {
    let sql = "SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n) \
               FROM pg_catalog.pg_constraint c \
               CROSS JOIN LATERAL pg_catalog.unnest(c.conkey) WITH ORDINALITY AS k (attnum, n) \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum \
               WHERE c.conrelid = $1 AND c.contype = 'p'";
    let columns = query::read_one(sql, &[table.into()], |row| row.nullable::<Vec<String>>(1))?;
    let columns = columns.flatten().unwrap_or_default();
    Ok(match columns.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["id"] => Some(Key::Id),
        ["id", "ts"] => Some(Key::IdAndTs),
        _ => None,
    })
}

/// The columns that are copied, in double quotes where that is needed: all but those that are computed from others.
pub fn columns(table: Oid) -> Result<Vec<String>> {
    let sql = "SELECT attname::text FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";
    let names = query::read(sql, &[table.into()], |row| row.get::<String>(1))?;
    Ok(names.iter().map(|name| Ident(name).to_string()).collect())
}

/// The last row of a batch: its `id` and `ts`.
pub type Position = (i64, Option<TimestampWithTimeZone>);

/// Rows of a table that follow each other by its key.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    key: Key,
    after: Option<Position>,
    /// The last row.
    pub last: Position,
    /// How many rows there are.
    pub rows: i64,
}

/// The next rows after a position, as many as are asked for at most; `None` where there is none.
pub fn next_batch(
    table: Qualified,
    key: Key,
    after: Option<Position>,
    rows: i64,
) -> Result<Option<Batch>> {
    let (condition, order) = match (key, after.is_some()) {
        (Key::Id, true) => ("id > $1", "id"),
        (Key::IdAndTs, true) => ("(id, ts) > ($1, $2)", "id, ts"),
        (Key::Id, false) => ("true", "id"),
        (Key::IdAndTs, false) => ("true", "id, ts"),
    };
    let sql = format!(
        "SELECT b.id, b.ts, pg_catalog.count(*) OVER () FROM (SELECT id, ts FROM ONLY {table} \
                                 WHERE {condition} AND ($1 IS NULL OR $2 IS NULL OR true) \
                                 ORDER BY {order} LIMIT $3) b \
         ORDER BY b.id DESC, b.ts DESC LIMIT 1"
    );
    let (id, ts) = after.map_or((None, None), |(id, ts)| (Some(id), ts));
    let last = query::read_one(&sql, &[id.into(), ts.into(), rows.into()], |row| {
        Ok(((row.get(1)?, row.nullable(2)?), row.get(3)?))
    })?;
    Ok(last.map(|(last, rows)| Batch { key, after, last, rows }))
}

impl Batch {
    /// The condition for its rows, with `$1` to `$4` for [`Batch::arguments`].
    fn condition(&self) -> &'static str {
        match (self.key, self.after.is_some()) {
            (Key::Id, true) => "id > $1 AND id <= $3 AND ($2 IS NULL OR $4 IS NULL OR true)",
            (Key::Id, false) => "id <= $3 AND ($1 IS NULL OR $2 IS NULL OR $4 IS NULL OR true)",
            (Key::IdAndTs, true) => "(id, ts) > ($1, $2) AND (id, ts) <= ($3, $4)",
            (Key::IdAndTs, false) => "(id, ts) <= ($3, $4) AND ($1 IS NULL OR $2 IS NULL OR true)",
        }
    }

    fn arguments(
        &self,
    ) -> (Option<i64>, Option<TimestampWithTimeZone>, i64, Option<TimestampWithTimeZone>) {
        let (id, ts) = self.after.map_or((None, None), |(id, ts)| (Some(id), ts));
        (id, ts, self.last.0, self.last.1)
    }

    /// The first and the last instant of each day, in a time zone, that rows of it have as `ts`.
    pub fn instants(&self, table: Qualified, zone: &str) -> Result<Vec<Instants>> {
        let sql = format!(
            "SELECT pg_catalog.min(b.ts), pg_catalog.max(b.ts), pg_catalog.min(b.id) \
             FROM (SELECT id, ts FROM ONLY {table} WHERE {}) b \
             GROUP BY CASE WHEN pg_catalog.isfinite(b.ts) THEN (b.ts AT TIME ZONE $5)::date END, b.ts IS NULL, \
                      pg_catalog.isfinite(b.ts)",
            self.condition()
        );
        let (a, b, c, d) = self.arguments();
        query::read(&sql, &[a.into(), b.into(), c.into(), d.into(), zone.into()], instants)
    }

    /// The ids of its rows.
    pub fn ids(&self, table: Qualified) -> Result<Vec<i64>> {
        let sql = format!("SELECT id FROM ONLY {table} WHERE {}", self.condition());
        let (a, b, c, d) = self.arguments();
        query::read(&sql, &[a.into(), b.into(), c.into(), d.into()], |row| row.get(1))
    }

    /// Copies its rows; gives how many. One that is there already is kept: what has changed since is in the queue.
    pub fn copy(&self, from: Qualified, to: Qualified, columns: &[String]) -> Result<i64> {
        let columns = columns.join(", ");
        let sql = format!(
            "INSERT INTO {to} ({columns}) SELECT {columns} FROM ONLY {from} WHERE {} ON CONFLICT DO NOTHING",
            self.condition()
        );
        let (a, b, c, d) = self.arguments();
        query::execute_counting(&sql, &[a.into(), b.into(), c.into(), d.into()])
    }
}

/// The instants of one day.
#[derive(Clone, Copy, Debug)]
pub struct Instants {
    /// The first; `None` where the rows have none.
    pub first: Option<TimestampWithTimeZone>,
    /// The last.
    pub last: Option<TimestampWithTimeZone>,
    /// The least id among these rows.
    pub id: i64,
}

fn instants(row: query::Row) -> Result<Instants> {
    Ok(Instants { first: row.nullable(1)?, last: row.nullable(2)?, id: row.get(3)? })
}

/// The keys of events that were changed.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Their ids.
    pub ids: Vec<i64>,
    /// Their instants, one for each id.
    pub instants: Vec<Option<TimestampWithTimeZone>>,
}

impl Keys {
    /// Adds an event.
    pub fn push(&mut self, id: i64, ts: Option<TimestampWithTimeZone>) {
        self.ids.push(id);
        self.instants.push(ts);
    }
}

const GIVEN: &str =
    "ROWS FROM (pg_catalog.unnest($1::bigint[]), pg_catalog.unnest($2::timestamptz[])) k (id, ts)";

/// The instants at which those of these events lie that are there.
pub fn instants_of(keys: &Keys, table: Qualified) -> Result<Vec<Instants>> {
    let sql = format!(
        "SELECT e.ts, e.ts, e.id FROM {GIVEN} JOIN {table} e ON e.id = k.id AND e.ts IS NOT DISTINCT FROM k.ts"
    );
    let sql = match keys.instants.iter().any(Option::is_none) {
        true => sql,
        // An index serves equality alone.
        false => sql.replace("IS NOT DISTINCT FROM", "="),
    };
    query::read(&sql, &[keys.ids.clone().into(), keys.instants.clone().into()], instants)
}

/// Removes those of these events that are there.
pub fn remove(keys: &Keys, from: Qualified) -> Result<()> {
    let sql = format!("DELETE FROM {from} e USING {GIVEN} WHERE e.id = k.id AND e.ts = k.ts");
    query::execute(&sql, &[keys.ids.clone().into(), keys.instants.clone().into()])
}

/// The same for a table in which an id is unique: whatever their instants.
pub fn remove_by_id(ids: &[i64], from: Qualified) -> Result<()> {
    query::execute(&format!("DELETE FROM {from} WHERE id = ANY ($1)"), &[ids.to_vec().into()])
}

/// Those of these ids that rows of a table have, as often as they have them.
pub fn ids_among(ids: &[i64], table: Qualified) -> Result<Vec<i64>> {
    let sql = format!("SELECT id FROM ONLY {table} WHERE id = ANY ($1) ORDER BY id");
    query::read(&sql, &[ids.to_vec().into()], |row| row.get(1))
}

/// Where the events of these ids lie.
pub fn keys_among(ids: &[i64], table: Qualified) -> Result<Keys> {
    let sql = format!("SELECT id, ts FROM ONLY {table} WHERE id = ANY ($1)");
    let mut keys = Keys::default();
    for (id, ts) in
        query::read(&sql, &[ids.to_vec().into()], |row| Ok((row.get(1)?, row.nullable(2)?)))?
    {
        keys.push(id, ts);
    }
    Ok(keys)
}

/// Copies the events of these ids from a table that keeps rows itself. One that has moved on meanwhile, and was copied from
/// where it is now, is kept: the queue has that change too.
pub fn copy_again_by_id(
    ids: &[i64],
    from: Qualified,
    to: Qualified,
    columns: &[String],
) -> Result<()> {
    let columns = columns.join(", ");
    let sql = format!(
        "INSERT INTO {to} ({columns}) SELECT {columns} FROM ONLY {from} WHERE id = ANY ($1) ON CONFLICT DO NOTHING"
    );
    query::execute(&sql, &[ids.to_vec().into()])
}

/// The first of these ids that more than one row of a table has.
pub fn duplicate_among(ids: &[i64], table: Qualified) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT id FROM {table} WHERE id = ANY ($1) GROUP BY id HAVING pg_catalog.count(*) > 1 ORDER BY id LIMIT 1"
    );
    query::read_one(&sql, &[ids.to_vec().into()], |row| row.get(1))
}

/// Copies those of these events that are there.
pub fn copy_again(keys: &Keys, from: Qualified, to: Qualified, columns: &[String]) -> Result<()> {
    let qualified: Vec<String> = columns.iter().map(|column| format!("e.{column}")).collect();
    let (columns, qualified) = (columns.join(", "), qualified.join(", "));
    let sql = format!(
        "INSERT INTO {to} ({columns}) \
         SELECT {qualified} FROM (SELECT DISTINCT k.id, k.ts FROM {GIVEN}) k \
         JOIN {from} e ON e.id = k.id AND e.ts = k.ts ON CONFLICT DO NOTHING"
    );
    query::execute(&sql, &[keys.ids.clone().into(), keys.instants.clone().into()])
}

/// Has the planner look at a table, and at all of its partitions.
pub fn analyze(table: Qualified) -> Result<()> {
    query::execute(&format!("ANALYZE {table}"), &[])
}

/// An event that no partition can hold, as an error.
pub fn unplaceable(id: i64, ts: Option<TimestampWithTimeZone>) -> Error {
    let ts = match ts {
        None => "NULL".to_owned(),
        Some(ts) => ts.to_string(),
    };
    crate::error::migration::MigrationFault::NoPlace { id, ts }.into()
}

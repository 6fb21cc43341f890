//! Comparing the rows of two tables by counts and digests, in ranges of ids. To be called as the tables' owner.

use pgrx::pg_sys::Oid;

use crate::db::ident::{Ident, Qualified};
use crate::db::query;
use crate::error::{Error, Result};

/// How many rows a range of ids holds, and their digest, which does not depend on their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// How many rows there are.
    pub rows: i64,
    /// The sum of two hashes of each row.
    pub digest: String,
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows with digest {}", self.rows, self.digest)
    }
}

/// A row for the server's hash of records: each column that both tables have, as it is where its type has a hash, otherwise
/// as text.
pub fn hashed_row(table: Oid, other: Oid) -> Result<String> {
    let sql = "SELECT a.attname::text, EXISTS ( \
                   SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod \
                   WHERE m.amname = 'hash' AND o.opcdefault AND o.opcintype = a.atttypid) \
               FROM pg_catalog.pg_attribute a \
               WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND EXISTS ( \
                   SELECT FROM pg_catalog.pg_attribute o WHERE o.attrelid = $2 AND o.attname = a.attname \
                     AND o.atttypid = a.atttypid AND NOT o.attisdropped) \
               ORDER BY a.attname";
    let columns = query::read(sql, &[table.into(), other.into()], |row| {
        let (name, has_hash): (String, bool) = (row.get(1)?, row.get(2)?);
        let cast = if has_hash { "" } else { "::text" };
        Ok(format!("e.{}{cast}", Ident(&name)))
    })?;
    Ok(format!("ROW({})", columns.join(", ")))
}

/// The last id of the next range after one, of about so many rows; `None` where it is the last range.
pub fn end_of_range(table: Qualified, after: Option<i64>, rows: i64) -> Result<Option<i64>> {
    let sql = format!(
        "SELECT b.id FROM (SELECT id FROM {table} WHERE ($1 IS NULL OR id > $1) ORDER BY id OFFSET $2 LIMIT 1) b"
    );
    let sql = if after.is_some() { sql.replace("($1 IS NULL OR id > $1)", "id > $1") } else { sql };
    query::read_one(&sql, &[after.into(), rows.into()], |row| row.get(1))
}

/// What two tables hold from one id, excluded, to another, included, without the events of these ids: as one statement
/// sees them.
pub fn contents(
    tables: [Qualified; 2],
    rows: &[String; 2],
    after: Option<i64>,
    to: i64,
    without: Vec<i64>,
) -> Result<[Content; 2]> {
    let content = |table: Qualified, row: &str| {
        format!(
            "(SELECT pg_catalog.count(*) AS n, \
                     pg_catalog.sum(pg_catalog.hash_record_extended({row}, 1))::text || '/' || \
                     pg_catalog.sum(pg_catalog.hash_record_extended({row}, 2))::text AS digest \
              FROM {table} e \
              WHERE e.id > $1 AND e.id <= $2 AND e.id <> ALL ($3))"
        )
    };
    let sql = format!(
        "SELECT a.n, a.digest, b.n, b.digest FROM {} a, {} b",
        content(tables[0], &rows[0]),
        content(tables[1], &rows[1])
    );
    let arguments = [after.unwrap_or(i64::MIN).into(), to.into(), without.into()];
    let one = |row: &query::Row, n: usize| {
        let digest = row.nullable::<String>(n + 1)?.unwrap_or_default();
        Ok::<_, Error>(Content { rows: row.get(n)?, digest })
    };
    query::read_one(&sql, &arguments, |row| Ok([one(&row, 1)?, one(&row, 3)?]))?
        .ok_or_else(|| Error::Internal("two counts gave no row".to_owned()))
}

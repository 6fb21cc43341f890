//! The standard indexes of a table: which there are, what they are called, how they are attached.

use pgrx::pg_sys::Oid;

use crate::db::ident::{Ident, List, Qualified};
use crate::db::query;
use crate::domain::name::StandardIndex;
use crate::error::Result;

/// An index of a table.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it can be used (`pg_index.indisvalid`): a partitioned index is once every partition has
    /// its part.
    pub valid: bool,
    /// The partitioned index it is attached to.
    pub parent: Option<Oid>,
}

/// The plain B-tree indexes of `table` over exactly these columns, without expression or predicate;
/// attached and valid ones first.
pub fn on_columns(table: Oid, columns: &[&str]) -> Result<Vec<Index>> {
    let sql = "SELECT n.nspname::text, c.relname::text, i.indisvalid, h.inhparent \
               FROM pg_catalog.pg_index i \
               JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_catalog.pg_am m ON m.oid = c.relam AND m.amname = 'btree' \
               LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid \
               WHERE i.indrelid = $1 AND i.indpred IS NULL AND i.indexprs IS NULL \
                 AND NOT i.indisunique AND i.indnatts = i.indnkeyatts \
                 AND (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n) \
                      FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
                      JOIN pg_catalog.pg_attribute a \
                        ON a.attrelid = i.indrelid AND a.attnum = k.attnum) = $2 \
               ORDER BY h.inhparent IS NULL, NOT i.indisvalid, c.oid";
    let columns: Vec<&str> = columns.to_vec();
    query::read(sql, &[table.into(), columns.into()], |row| {
        Ok(Index {
            schema: row.get(1)?,
            name: row.get(2)?,
            valid: row.get(3)?,
            parent: row.nullable(4)?,
        })
    })
}

/// Builds a standard index on an ordinary table, or on a partitioned one with all its partitions.
pub fn create(standard: &StandardIndex, table: Qualified) -> Result<()> {
    query::execute(&definition(standard, table, ""), &[])
}

/// Builds a standard index on a partitioned table alone: it becomes valid when each partition's own
/// index has been attached.
pub fn create_on_parent_only(standard: &StandardIndex, table: Qualified) -> Result<()> {
    query::execute(&definition(standard, table, "ONLY "), &[])
}

/// The statement that builds a standard index on a partition while it is written to.
#[must_use]
pub fn statement(standard: &StandardIndex, table: Qualified) -> String {
    let name = standard.name_on(table.name);
    format!("CREATE INDEX CONCURRENTLY {} ON {table} ({})", Ident(&name), List(standard.columns))
}

fn definition(standard: &StandardIndex, table: Qualified, only: &str) -> String {
    let name = standard.name_on(table.name);
    format!("CREATE INDEX {} ON {only}{table} ({})", Ident(&name), List(standard.columns))
}

/// Attaches a partition's index to the partitioned index.
pub fn attach(parent: Qualified, index: Qualified) -> Result<()> {
    query::execute(&format!("ALTER INDEX {parent} ATTACH PARTITION {index}"), &[])
}

/// Gives an index another name.
pub fn rename(index: Qualified, name: &str) -> Result<()> {
    query::execute(&format!("ALTER INDEX {index} RENAME TO {}", Ident(name)), &[])
}

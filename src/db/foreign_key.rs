//! The foreign keys of the event log on a table that isn't part of it yet.

use pgrx::pg_sys::Oid;

use crate::db::ident::{Ident, Qualified};
use crate::db::query;
use crate::error::{Error, Result};

/// A foreign key.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    name: String,
    /// What follows its name, as PostgreSQL writes it.
    definition: String,
    referenced: (String, String),
    /// The columns, and those that they point to.
    columns: Vec<(String, String)>,
}

/// The foreign keys of a table, by name.
pub fn of(table: Oid) -> Result<Vec<ForeignKey>> {
    let sql = "SELECT k.conname::text, pg_catalog.pg_get_constraintdef(k.oid), n.nspname::text, c.relname::text, \
                      (SELECT pg_catalog.array_agg(a.attname::text ORDER BY t.n) \
                       FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS t (attnum, n) \
                       JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = t.attnum), \
                      (SELECT pg_catalog.array_agg(a.attname::text ORDER BY t.n) \
                       FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS t (attnum, n) \
                       JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = t.attnum) \
               FROM pg_catalog.pg_constraint k \
               JOIN pg_catalog.pg_class c ON c.oid = k.confrelid \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE k.conrelid = $1 AND k.contype = 'f' \
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint p \
                                 WHERE p.oid = k.conparentid AND p.conrelid = k.conrelid) \
               ORDER BY k.conname";
    query::read(sql, &[table.into()], |row| {
        let (from, to): (Vec<String>, Vec<String>) = (row.get(5)?, row.get(6)?);
        Ok(ForeignKey {
            name: row.get(1)?,
            definition: row.get(2)?,
            referenced: (row.get(3)?, row.get(4)?),
            columns: from.into_iter().zip(to).collect(),
        })
    })
}

impl ForeignKey {
    /// Gives a table the same one. Locks the referenced table in SHARE ROW EXCLUSIVE mode.
    pub fn add_to(&self, table: Qualified) -> Result<()> {
        let (name, definition) = (Ident(&self.name), &self.definition);
        query::execute(&format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"), &[])
    }

    /// Gives a table the same one without looking at its rows. Locks the referenced table in SHARE ROW EXCLUSIVE mode.
    pub fn add_unchecked_to(&self, table: Qualified) -> Result<()> {
        let suffix = if self.definition.ends_with(" NOT VALID") { "" } else { " NOT VALID" };
        let (name, definition) = (Ident(&self.name), &self.definition);
        query::execute(
            &format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}{suffix}"),
            &[],
        )
    }

    /// Looks at the rows. Locks the referenced table in ROW SHARE mode, which neither readers nor writers notice.
    pub fn validate(&self, table: Qualified) -> Result<()> {
        query::execute(
            &format!("ALTER TABLE {table} VALIDATE CONSTRAINT {}", Ident(&self.name)),
            &[],
        )
    }

    /// Whether it points to the same table as another one.
    #[must_use]
    pub fn points_as(&self, other: &Self) -> bool {
        self.referenced == other.referenced
    }

    /// Removes the rows of `table` that point to nothing; gives how many there were.
    pub fn remove_orphans(&self, table: Qualified) -> Result<i64> {
        if self.columns.is_empty() {
            return Err(Error::Internal("a foreign key has no columns".to_owned()));
        }
        let (schema, name) = (self.referenced.0.as_str(), self.referenced.1.as_str());
        let referenced = Qualified { schema, name };
        let pairs = self.columns.iter();
        let (points, same): (Vec<String>, Vec<String>) = pairs
            .map(|(from, to)| {
                let (from, to) = (Ident(from), Ident(to));
                (format!("e.{from} IS NOT NULL"), format!("r.{to} = e.{from}"))
            })
            .unzip();
        let sql = format!(
            "WITH gone AS ( \
                 DELETE FROM {table} e WHERE {} AND NOT EXISTS (SELECT FROM {referenced} r WHERE {}) RETURNING 1) \
             SELECT pg_catalog.count(*) FROM gone",
            points.join(" AND "),
            same.join(" AND ")
        );
        let counts = query::execute_returning(&sql, &[], |row| row.get(1))?;
        Ok(counts.into_iter().next().unwrap_or(0))
    }
}

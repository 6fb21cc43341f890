//! The swap of the names, and of what goes by the table itself and not by its name.

use pgrx::pg_sys::Oid;

use super::{OLD, SHADOW};
use crate::db::catalog::{EVENTS, Table};
use crate::db::ident::{Ident, List, Qualified};
use crate::db::{index, query};
use crate::error::Result;

/// Gives the table in use and its indexes other names, and the shadow and its indexes theirs. As the owner; both tables
/// are locked in ACCESS EXCLUSIVE mode.
pub fn names(live: &Table, shadow: &str, indexes: &[(String, String)]) -> Result<()> {
    let schema = live.schema.as_str();
    let taken_away = |number: usize| format!("{OLD}_{number}");
    for (number, (_, name)) in indexes.iter().enumerate() {
        if relation_is_index_of(live.oid, name)? {
            index::rename(Qualified { schema, name }, &taken_away(number))?;
        }
    }
    rename(live.qualified(), OLD)?;
    rename(Qualified { schema, name: shadow }, EVENTS)?;
    for (now, name) in indexes {
        index::rename(Qualified { schema, name: now }, name)?;
    }
    Ok(())
}

/// Makes the table that was replaced, and its indexes, a shadow by name, where a migration is turned round; gives the pairs
/// of names that its indexes have and get. As the owner.
pub fn make_shadow(old: &Table, indexes: &[(String, String)]) -> Result<Vec<(String, String)>> {
    let schema = old.schema.as_str();
    rename(old.qualified(), SHADOW)?;
    let mut pairs = Vec::new();
    for (number, (_, name)) in indexes.iter().enumerate() {
        let now = format!("{OLD}_{number}");
        if relation_is_index_of(old.oid, &now)? {
            let shadow = format!("{SHADOW}_{number}");
            index::rename(Qualified { schema, name: &now }, &shadow)?;
            pairs.push((shadow, name.clone()));
        }
    }
    Ok(pairs)
}

/// The other way: a shadow that was replaced once has the names of the table that was replaced again.
pub fn make_old(shadow: &Table, indexes: &[(String, String)]) -> Result<()> {
    let schema = shadow.schema.as_str();
    rename(shadow.qualified(), OLD)?;
    for (number, (now, _)) in indexes.iter().enumerate() {
        index::rename(Qualified { schema, name: now }, &format!("{OLD}_{number}"))?;
    }
    Ok(())
}

fn relation_is_index_of(table: Oid, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i \
               JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
               WHERE i.indrelid = $1 AND c.relname = $2::name)";
    Ok(query::read_one(sql, &[table.into(), name.into()], |row| row.get(1))?.unwrap_or(false))
}

fn rename(table: Qualified, name: &str) -> Result<()> {
    query::execute(&format!("ALTER TABLE {table} RENAME TO {}", Ident(name)), &[])
}

/// Hands the sequences of one table's columns to another's. As their owner.
pub fn hand_over_sequences(from: Oid, to: Qualified) -> Result<()> {
    let sql = "SELECT n.nspname::text, s.relname::text, a.attname::text \
               FROM pg_catalog.pg_depend d \
               JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
               JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass \
                 AND d.refobjid = $1 AND d.deptype = 'a' ORDER BY s.oid";
    let owned = query::read(sql, &[from.into()], |row| {
        Ok((row.get::<String>(1)?, row.get::<String>(2)?, row.get::<String>(3)?))
    })?;
    for (schema, name, column) in owned {
        let sequence = Qualified { schema: &schema, name: &name };
        query::execute(
            &format!("ALTER SEQUENCE {sequence} OWNED BY {to}.{}", Ident(&column)),
            &[],
        )?;
    }
    Ok(())
}

/// A publication of a table.
#[derive(Clone, Debug)]
pub struct Publication {
    name: String,
    columns: Option<Vec<String>>,
    filter: Option<String>,
    /// Whether changes in partitions are published as those of the table.
    via_root: bool,
    /// Whether another partitioned table is in it.
    has_other_partitioned: bool,
}

/// The publications that a table was added to by its name.
pub fn publications(table: Oid) -> Result<Vec<Publication>> {
    let sql = "SELECT p.pubname::text, \
                      (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
                       WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])), \
                      pg_catalog.pg_get_expr(r.prqual, r.prrelid), p.pubviaroot, \
                      EXISTS (SELECT FROM pg_catalog.pg_publication_rel o \
                              JOIN pg_catalog.pg_class c ON c.oid = o.prrelid AND c.relkind = 'p' \
                              WHERE o.prpubid = p.oid AND o.prrelid <> r.prrelid) \
               FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid \
               WHERE r.prrelid = $1 ORDER BY p.pubname";
    query::read(sql, &[table.into()], |row| {
        Ok(Publication {
            name: row.get(1)?,
            columns: row.nullable(2)?,
            filter: row.nullable(3)?,
            via_root: row.get(4)?,
            has_other_partitioned: row.get(5)?,
        })
    })
}

impl Publication {
    /// Publishes one table in the place of another; as a superuser. Where the new one is partitioned, its changes go on
    /// being published as its own.
    pub fn hand_over(&self, from: Qualified, to: Qualified, to_partitioned: bool) -> Result<()> {
        let name = Ident(&self.name);
        query::execute(&format!("ALTER PUBLICATION {name} DROP TABLE {from}"), &[])?;
        if to_partitioned && !self.via_root && !self.has_other_partitioned {
            let sql = format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true)");
            query::execute(&sql, &[])?;
        }
        let columns = self.columns.as_ref().map(|columns| {
            let names: Vec<&str> = columns.iter().map(String::as_str).collect();
            format!(" ({})", List(&names))
        });
        let filter = self.filter.as_ref().map(|filter| format!(" WHERE ({filter})"));
        let (columns, filter) = (columns.unwrap_or_default(), filter.unwrap_or_default());
        query::execute(&format!("ALTER PUBLICATION {name} ADD TABLE {to}{columns}{filter}"), &[])
    }
}

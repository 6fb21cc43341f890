//! What the catalogs say about the extension, its table and the partitions.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::query;
use crate::domain::partition::{Kind, Partition};
use crate::error::{Error, Result};
use crate::pg::bound::StoredBound;
use crate::pg::{bound, server, subtransaction};

/// The name of the event log.
pub const EVENTS: &str = "workflow_events";

/// The name of the table of runs that its foreign key points to.
pub const RUNS: &str = "workflow_runs";

/// The extension as installed in this database.
#[derive(Clone, Debug)]
pub struct Extension {
    /// The schema of its functions, and of the event log.
    pub schema: String,
    /// That schema's OID.
    pub schema_oid: Oid,
    /// The version of its SQL objects.
    pub version: String,
    /// The role that owns it.
    pub owner: Oid,
}

/// The extension as installed in this database; `None` where it is not.
pub fn find_extension() -> Result<Option<Extension>> {
    let sql = "SELECT n.nspname::text, n.oid, e.extversion, e.extowner \
               FROM pg_catalog.pg_extension e \
               JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
               WHERE e.extname = 'pg_meshhook_events'";
    query::read_one(sql, &[], |row| {
        Ok(Extension {
            schema: row.get(1)?,
            schema_oid: row.get(2)?,
            version: row.get(3)?,
            owner: row.get(4)?,
        })
    })
}

/// The extension as installed in this database.
///
/// # Errors
///
/// [`Error::NotInstalled`] where it is not.
pub fn extension() -> Result<Extension> {
    find_extension()?.ok_or(Error::NotInstalled)
}

/// The name of this database.
pub fn current_database() -> Result<String> {
    let name =
        query::read_one("SELECT pg_catalog.current_database()::text", &[], |row| row.get(1))?;
    name.ok_or_else(|| Error::Internal("the database has no name".to_owned()))
}

/// The event log: a table partitioned by range of `ts`.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its OID.
    pub oid: Oid,
    /// Its schema.
    pub schema: String,
    /// That schema's OID.
    pub schema_oid: Oid,
    /// The role that owns it.
    pub owner: Oid,
    /// That role's name.
    pub owner_name: String,
}

impl Table {
    /// Its qualified name.
    #[must_use]
    pub fn qualified(&self) -> Qualified<'_> {
        Qualified { schema: &self.schema, name: EVENTS }
    }
}

/// A row of `pg_class` by the name `workflow_events`.
struct Candidate {
    table: Table,
    kind: String,
    /// The partition key, where it isn't a range of `ts`.
    other_key: Option<String>,
    key_type: Option<String>,
    missing_column: Option<String>,
}

/// The columns without which events can be neither kept nor read.
const NEEDED_COLUMNS: [&str; 5] = ["id", "run_id", "ts", "type", "payload"];

const FIND_EVENTS: &str = "\
    SELECT c.oid, c.relkind::text, c.relowner, pg_catalog.pg_get_userbyid(c.relowner)::text, \
           CASE WHEN p.partrelid IS NOT NULL \
                     AND (p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = 'ts') IS NOT TRUE \
                THEN pg_catalog.pg_get_partkeydef(c.oid) END, \
           pg_catalog.format_type(a.atttypid, NULL), \
           (SELECT w.name FROM pg_catalog.unnest($2) WITH ORDINALITY AS w (name, n) \
            WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute x \
                              WHERE x.attrelid = c.oid AND x.attname = w.name AND x.attnum > 0) \
            ORDER BY w.n LIMIT 1) \
    FROM pg_catalog.pg_class c \
    LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid \
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] \
    WHERE c.relnamespace = $1 AND c.relname = 'workflow_events'";

/// The event log; `None` where there is no relation of its name.
///
/// # Errors
///
/// Where the relation of that name is not a table partitioned by range of `ts`, what it is instead.
pub fn find_events(extension: &Extension) -> Result<Option<Table>> {
    let arguments = [extension.schema_oid.into(), NEEDED_COLUMNS.to_vec().into()];
    let found = query::read_one(FIND_EVENTS, &arguments, |row| {
        Ok(Candidate {
            table: Table {
                oid: row.get(1)?,
                schema: extension.schema.clone(),
                schema_oid: extension.schema_oid,
                owner: row.get(3)?,
                owner_name: row.get(4)?,
            },
            kind: row.get(2)?,
            other_key: row.nullable(5)?,
            key_type: row.nullable(6)?,
            missing_column: row.nullable(7)?,
        })
    })?;
    let Some(found) = found else { return Ok(None) };
    let name = found.table.qualified().plain();
    match (found.kind.as_str(), found.other_key, found.key_type) {
        ("r", _, _) => Err(Error::NotPartitioned { table: name, rows: None }),
        ("p", Some(key), _) => Err(Error::WrongPartitioning { table: name, key }),
        ("p", _, Some(type_name)) if type_name != "timestamp with time zone" => {
            Err(Error::WrongKeyType { table: name, type_name })
        }
        ("p", _, Some(_)) => match found.missing_column {
            Some(column) => Err(Error::MissingColumn { table: name, column }),
            None => Ok(Some(found.table)),
        },
        _ => Err(Error::NotATable { relation: name }),
    }
}

/// The event log.
///
/// # Errors
///
/// [`Error::NotSetUp`] where there is none; otherwise as [`find_events`].
pub fn events(extension: &Extension) -> Result<Table> {
    find_events(extension)?.ok_or_else(|| Error::NotSetUp {
        table: Qualified { schema: &extension.schema, name: EVENTS }.plain(),
    })
}

/// The OID of an ordinary or partitioned table by its name in a schema.
pub fn find_table(schema: Oid, name: &str) -> Result<Option<Oid>> {
    let sql = "SELECT oid FROM pg_catalog.pg_class \
               WHERE relnamespace = $1 AND relname = $2::name AND relkind IN ('r', 'p')";
    query::read_one(sql, &[schema.into(), name.into()], |row| row.get(1))
}

/// The attached partitions of a table, with their bounds read from the catalog as they are now, whatever snapshot the
/// transaction has.
pub fn partitions(table: &Table) -> Result<Vec<Partition>> {
    let mut partitions = partitions_in_snapshot(table)?;
    // A partition that was detached or dropped since is none any more.
    partitions.retain_mut(|partition| match bound::extent_of(partition.oid.into()) {
        Some(extent) => {
            partition.extent = extent;
            true
        }
        None => false,
    });
    Ok(partitions)
}

/// The attached partitions of a table as the snapshot has them: one query, where there are many, and nothing is
/// decided for good.
pub fn partitions_in_snapshot(table: &Table) -> Result<Vec<Partition>> {
    let sql = "SELECT c.oid, c.relnamespace, c.relname::text, c.relkind, i.inhdetachpending, c.relpartbound \
               FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid \
               WHERE i.inhparent = $1";
    let mut schemas = BTreeMap::from([(table.schema_oid.to_u32(), table.schema.clone())]);
    let rows = query::read(sql, &[table.oid.into()], |row| {
        // A detach that ended meanwhile leaves a row without a bound.
        let Some(bound) = row.nullable::<StoredBound>(6)? else { return Ok(None) };
        let schema = row.get::<Oid>(2)?;
        Ok(Some(Partition {
            oid: row.get::<Oid>(1)?.to_u32(),
            schema: schemas
                .entry(schema.to_u32())
                .or_insert_with(|| server::schema_name(schema).unwrap_or_default())
                .clone(),
            name: row.get(3)?,
            extent: bound.extent(),
            kind: match u8::try_from(row.get::<i8>(4)?) {
                Ok(b'p') => Kind::Partitioned,
                Ok(b'f') => Kind::Foreign,
                _ => Kind::Table,
            },
            detach_pending: row.get(5)?,
        }))
    })?;
    let mut partitions: Vec<Partition> = rows.into_iter().flatten().collect();
    partitions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(partitions)
}

/// The names of all relations of a schema that begin with the event log's.
pub fn relation_names(schema: Oid) -> Result<BTreeSet<String>> {
    let sql = "SELECT relname::text FROM pg_catalog.pg_class \
               WHERE relnamespace = $1 AND pg_catalog.starts_with(relname::text, $2)";
    let names = query::read(sql, &[schema.into(), EVENTS.into()], |row| row.get(1))?;
    Ok(names.into_iter().collect())
}

/// The size of a table's main fork, in bytes.
pub fn heap_bytes(table: Oid) -> Result<i64> {
    let sql = "SELECT pg_catalog.pg_relation_size($1)";
    Ok(query::read_one(sql, &[table.into()], |row| row.get(1))?.unwrap_or(0))
}

/// How many rows a table and its partitions hold as the planner estimates it, and their size with indexes and
/// TOAST in bytes; each `None` where it is not known, as while somebody has it locked.
pub fn estimates(table: Oid) -> Result<(Option<i64>, Option<i64>)> {
    let rows = "SELECT pg_catalog.sum(CASE WHEN l.reltuples < 0::real \
                    THEN pg_catalog.pg_stat_get_live_tuples(l.oid) ELSE l.reltuples::bigint END)::bigint \
                FROM pg_catalog.pg_class l WHERE l.relkind <> 'p' AND (l.oid = $1 OR l.oid IN ( \
                    SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t))";
    let size = "SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(l.oid))::bigint \
                FROM pg_catalog.pg_class l WHERE l.oid = $1 OR l.oid IN ( \
                    SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t)";
    let ask = |sql: &str| {
        subtransaction::run(|| query::read_one(sql, &[table.into()], |row| row.nullable(1)))
    };
    // The size can't be asked for without a lock, however weak.
    Ok((ask(rows).ok().flatten().flatten(), ask(size).ok().flatten().flatten()))
}

/// How many rows a table holds.
pub fn count_rows(table: Qualified) -> Result<i64> {
    let sql = format!("SELECT pg_catalog.count(*) FROM {table}");
    Ok(query::read_one(&sql, &[], |row| row.get(1))?.unwrap_or(0))
}

/// A table that a foreign key points to.
#[derive(Clone, Debug)]
pub struct Referenced {
    /// Its OID.
    pub oid: Oid,
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: Oid,
}

/// The tables that foreign keys of `table` point to, by OID: attaching a partition locks them.
pub fn referenced_tables(table: Oid) -> Result<Vec<Referenced>> {
    let sql = "SELECT DISTINCT k.confrelid, c.relname::text, c.relowner \
               FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.confrelid \
               WHERE k.conrelid = $1 AND k.contype = 'f' ORDER BY k.confrelid";
    query::read(sql, &[table.into()], |row| {
        Ok(Referenced { oid: row.get(1)?, name: row.get(2)?, owner: row.get(3)? })
    })
}

/// Something that isn't part of a table or its partitions and depends on it, as PostgreSQL describes it: a view, a
/// foreign key that points to it. `None` where there is nothing.
///
/// A policy or trigger of the table depends on the columns in its expression as a view does, but goes with the table.
pub fn dependent(table: Oid) -> Result<Option<String>> {
    let sql = "WITH own AS ( \
                   SELECT $1 AS oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t) \
               SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) \
               FROM pg_catalog.pg_depend d \
               WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'n' \
                 AND d.refobjid IN (SELECT oid FROM own) \
                 AND NOT EXISTS ( \
                     SELECT FROM pg_catalog.pg_depend part \
                     WHERE part.classid = d.classid AND part.objid = d.objid \
                       AND part.refclassid = d.refclassid AND part.refobjid IN (SELECT oid FROM own) \
                       AND part.deptype IN ('a', 'i')) \
               ORDER BY 1 LIMIT 1";
    query::read_one(sql, &[table.into()], |row| row.get(1))
}

/// Whether a table has a constraint of that name.
pub fn has_constraint(table: Oid, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND conname = $2::name)";
    Ok(query::read_one(sql, &[table.into(), name.into()], |row| row.get(1))?.unwrap_or(false))
}

/// The role that owns a relation.
pub fn owner_of(relation: Oid) -> Result<Option<(Oid, String)>> {
    let sql = "SELECT relowner, pg_catalog.pg_get_userbyid(relowner)::text \
               FROM pg_catalog.pg_class WHERE oid = $1";
    query::read_one(sql, &[relation.into()], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Whether `role` may create tables in `schema`.
pub fn may_create_in(role: Oid, schema: Oid) -> Result<bool> {
    let sql = "SELECT pg_catalog.has_schema_privilege($1, $2, 'CREATE')";
    Ok(query::read_one(sql, &[role.into(), schema.into()], |row| row.get(1))?.unwrap_or(false))
}

/// A column as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as PostgreSQL writes it.
    pub type_name: String,
    /// Whether it is NOT NULL.
    pub not_null: bool,
    /// Whether it has a default, or is an identity column.
    pub has_default: bool,
}

/// The columns of a table, in order.
pub fn columns(table: Oid) -> Result<Vec<Column>> {
    let sql = "SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod), attnotnull, \
                      atthasdef OR attidentity <> '' \
               FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    query::read(sql, &[table.into()], |row| {
        Ok(Column {
            name: row.get(1)?,
            type_name: row.get(2)?,
            not_null: row.get(3)?,
            has_default: row.get(4)?,
        })
    })
}

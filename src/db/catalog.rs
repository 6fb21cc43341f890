//! What the catalogs say about the extension, its table and the partitions.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys::{Oid, TIMESTAMPTZOID};

use crate::db::ident::Qualified;
use crate::db::query;
use crate::domain::partition::{Kind, Partition, RowSecurity};
use crate::error::{Error, Result};
use crate::pg::inheritance::{self, Child};
use crate::pg::{server, subtransaction};

/// The name of the event log.
pub const EVENTS: &str = "workflow_events";

/// The name of the table of runs that its foreign key points to.
pub const RUNS: &str = "workflow_runs";

/// The extension as installed in this database.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its OID.
    pub oid: Oid,
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
    let sql = "SELECT n.nspname::text, n.oid, e.extversion, e.extowner, e.oid \
               FROM pg_catalog.pg_extension e \
               JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
               WHERE e.extname = 'pg_meshhook_events'";
    query::read_one(sql, &[], |row| {
        Ok(Extension {
            schema: row.get(1)?,
            schema_oid: row.get(2)?,
            version: row.get(3)?,
            owner: row.get(4)?,
            oid: row.get(5)?,
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
    /// Its name: that of the event log, unless it is one that is to take its place.
    pub name: String,
    /// Its schema.
    pub schema: String,
    /// That schema's OID.
    pub schema_oid: Oid,
    /// The role that owns it.
    pub owner: Oid,
    /// That role's name.
    pub owner_name: String,
    /// Its row level security.
    pub row_security: RowSecurity,
    /// Whether it has an index, or had one (`pg_class.relhasindex`). One that never had is not ready: a restore makes
    /// indexes after the data.
    pub has_index: bool,
}

impl Table {
    /// Its qualified name.
    #[must_use]
    pub fn qualified(&self) -> Qualified<'_> {
        Qualified { schema: &self.schema, name: &self.name }
    }
}

/// The columns without which events can be neither kept nor read.
const NEEDED_COLUMNS: [&str; 5] = ["id", "run_id", "ts", "type", "payload"];

/// The event log; `None` where there is no relation of its name.
///
/// # Errors
///
/// Where the relation of that name is not a table partitioned by range of `ts`, what it is instead.
pub fn find_events(extension: &Extension) -> Result<Option<Table>> {
    // Each pass of the worker asks this in a new process: functions of PostgreSQL would cost it more than the query.
    let sql = "SELECT c.oid, c.relkind, c.relowner, \
                      p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = 'ts', a.atttypid, \
                      c.relhasindex, c.relrowsecurity, c.relforcerowsecurity \
               FROM pg_catalog.pg_class c \
               LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid \
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] \
               WHERE c.relnamespace = $1 AND c.relname = 'workflow_events'";
    let found = query::read_one(sql, &[extension.schema_oid.into()], |row| {
        let owner: Oid = row.get(3)?;
        let table = Table {
            oid: row.get(1)?,
            name: EVENTS.to_owned(),
            schema: extension.schema.clone(),
            schema_oid: extension.schema_oid,
            owner,
            owner_name: server::role_name(owner).unwrap_or_else(|| owner.to_u32().to_string()),
            has_index: row.get(6)?,
            row_security: RowSecurity { enabled: row.get(7)?, forced: row.get(8)? },
        };
        let kind = u8::try_from(row.get::<i8>(2)?).unwrap_or(0);
        Ok((table, kind, row.nullable::<bool>(4)?, row.nullable::<Oid>(5)?))
    })?;
    let Some((table, kind, is_range_of_ts, key_type)) = found else { return Ok(None) };
    let name = table.qualified().plain();
    match kind {
        b'p' => {}
        b'r' => return Err(Error::NotPartitioned { table: name, rows: None }),
        _ => return Err(Error::NotATable { relation: name }),
    }
    if is_range_of_ts != Some(true) {
        let sql = "SELECT pg_catalog.pg_get_partkeydef($1)";
        let key = query::read_one(sql, &[table.oid.into()], |row| row.get(1))?.unwrap_or_default();
        return Err(Error::WrongPartitioning { table: name, key });
    }
    if key_type != Some(TIMESTAMPTZOID) {
        let sql = "SELECT pg_catalog.format_type($1, NULL)";
        let type_name = query::read_one(sql, &[key_type.into()], |row| row.get(1))?;
        return Err(Error::WrongKeyType { table: name, type_name: type_name.unwrap_or_default() });
    }
    match NEEDED_COLUMNS.iter().find(|column| !server::has_column(table.oid, column)) {
        Some(column) => Err(Error::MissingColumn { table: name, column: (*column).to_owned() }),
        None => Ok(Some(table)),
    }
}

/// A table by its OID, plain or partitioned, in the extension's schema; `None` where there is none.
pub fn table_of(extension: &Extension, oid: Oid) -> Result<Option<Table>> {
    let sql = "SELECT relname::text, relowner, relhasindex, relrowsecurity, relforcerowsecurity \
               FROM pg_catalog.pg_class WHERE oid = $1 AND relnamespace = $2 AND relkind IN ('r', 'p')";
    query::read_one(sql, &[oid.into(), extension.schema_oid.into()], |row| {
        let owner: Oid = row.get(2)?;
        Ok(Table {
            oid,
            name: row.get(1)?,
            schema: extension.schema.clone(),
            schema_oid: extension.schema_oid,
            owner,
            owner_name: server::role_name(owner).unwrap_or_else(|| owner.to_u32().to_string()),
            has_index: row.get(3)?,
            row_security: RowSecurity { enabled: row.get(4)?, forced: row.get(5)? },
        })
    })
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

/// Whether there is such a relation now.
#[must_use]
pub fn exists(relation: Oid) -> bool {
    server::name_of_relation(relation).is_some()
}

/// The name of a relation, quoted and with its schema, as it is now.
///
/// # Errors
///
/// [`Error::Internal`] where there is no such relation.
pub fn qualified_name(relation: Oid) -> Result<String> {
    let (schema, name) = server::name_of_relation(relation)
        .ok_or_else(|| Error::Internal(format!("there is no relation with OID {relation}")))?;
    Ok(Qualified { schema: &schema, name: &name }.to_string())
}

/// The attached partitions of a table as they are now, whatever snapshot the transaction has.
pub fn partitions(table: &Table) -> Result<Vec<Partition>> {
    let mut schemas = BTreeMap::from([(table.schema_oid.to_u32(), table.schema.clone())]);
    let mut partition = |child: Child| {
        let oid = child.oid.to_u32();
        let schema = schemas
            .entry(child.schema.to_u32())
            .or_insert_with(|| server::schema_name(child.schema).unwrap_or_default());
        Ok(Partition {
            oid,
            schema: schema.clone(),
            name: child.name.ok_or_else(|| {
                Error::Internal(format!("the name of the partition with OID {oid} is not UTF-8"))
            })?,
            extent: child.extent,
            kind: match child.kind {
                b'p' => Kind::Partitioned,
                b'f' => Kind::Foreign,
                _ => Kind::Table,
            },
            detach_pending: child.detach_pending,
            row_security: child.row_security,
            file: child.file.to_u32(),
        })
    };
    let children = inheritance::children(table.oid).into_iter();
    let mut partitions = children.map(&mut partition).collect::<Result<Vec<_>>>()?;
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

/// The path of a table's first file, in the data directory.
pub fn file_path(table: Oid) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.pg_relation_filepath($1)";
    Ok(query::read_one(sql, &[table.into()], |row| row.nullable(1))?.flatten())
}

/// The sizes of tables with their partitions, indexes and TOAST, in the order in which they are given: in bytes, and the
/// same for people.
pub fn sizes(tables: &[Oid]) -> Result<Vec<(i64, String)>> {
    let sql = "SELECT size.bytes, pg_catalog.pg_size_pretty(size.bytes) \
               FROM pg_catalog.unnest($1) WITH ORDINALITY AS t (relid, n), \
               LATERAL (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(p.relid)), 0)::bigint AS bytes \
                        FROM pg_catalog.pg_partition_tree(t.relid) p) size \
               ORDER BY t.n";
    query::read(sql, &[tables.to_vec().into()], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// A size in bytes, for people.
pub fn size_pretty(bytes: i64) -> Result<String> {
    let sql = "SELECT pg_catalog.pg_size_pretty($1)";
    Ok(query::read_one(sql, &[bytes.into()], |row| row.get(1))?.unwrap_or_default())
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

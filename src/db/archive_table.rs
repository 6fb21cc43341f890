//! The table that archived rows go into: `workflow_events_archive`, beside the event log and outside of its partitions.
//!
//! Statements on it are to be run as the log's owner ([`crate::pg::identity::run_as_seeing_all`]).

use pgrx::pg_sys::Oid;

use crate::db::catalog::Table;
use crate::db::ident::{Ident, List, Qualified};
use crate::db::{ddl, protection, query, rows};
use crate::domain::archive::TABLE;
use crate::domain::digest::Digest;
use crate::domain::partition::Range;
use crate::error::archive::ArchiveFault;
use crate::error::{Error, Result};

/// The archive table of an event log.
#[derive(Clone, Debug)]
pub struct ArchiveTable<'a> {
    log: &'a Table,
    oid: Oid,
}

impl<'a> ArchiveTable<'a> {
    /// The one that is there.
    ///
    /// # Errors
    ///
    /// Where the relation of its name is something else.
    pub fn find(log: &'a Table) -> Result<Option<Self>> {
        let sql = "SELECT c.oid, c.relkind = 'r' AND c.relpersistence = 'p', c.relowner = $2, \
                          EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)) \
                   FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND c.relname = $3::name";
        let arguments = [log.schema_oid.into(), log.owner.into(), TABLE.into()];
        let found = query::read_one(sql, &arguments, |row| {
            Ok((row.get::<Oid>(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?;
        let Some((oid, is_table, is_ours, inherits)) = found else { return Ok(None) };
        let archive = Self { log, oid };
        let what = match (is_table, is_ours, inherits) {
            (false, ..) => "not an ordinary table",
            (_, false, _) => "not owned by the owner of workflow_events",
            (.., true) => "part of an inheritance tree",
            _ => return Ok(Some(archive)),
        };
        Err(ArchiveFault::NotTheArchive { relation: archive.name().plain(), what }.into())
    }

    /// The one that is there, or a new one.
    ///
    /// Its columns are those of the log, without defaults: one that takes its values from the log's sequence would tie the two
    /// together.
    ///
    /// # Errors
    ///
    /// As [`ArchiveTable::find`].
    pub fn find_or_create(log: &'a Table) -> Result<Self> {
        if let Some(found) = Self::find(log)? {
            return Ok(found);
        }
        let name = Qualified { schema: &log.schema, name: TABLE };
        let keys = key_columns(log.oid)?;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let columns = [("_run_ts_idx", &["run_id", "ts"][..]), ("_ts_idx", &["ts"])];
        query::execute(
            &format!(
                "CREATE TABLE {name} (LIKE {} INCLUDING STORAGE INCLUDING COMPRESSION)",
                log.qualified()
            ),
            &[],
        )?;
        query::execute(&format!("ALTER TABLE {name} ADD PRIMARY KEY ({})", List(&keys)), &[])?;
        for (suffix, columns) in columns {
            let index = format!("{TABLE}{suffix}");
            let sql = format!("CREATE INDEX {} ON {name} ({})", Ident(&index), List(columns));
            query::execute(&sql, &[])?;
        }
        let made = Self::find(log)?.ok_or_else(|| {
            Error::Internal(format!("table {name} is not there after its creation"))
        })?;
        protection::copy(log, made.oid, name)?;
        Ok(made)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Qualified<'_> {
        Qualified { schema: &self.log.schema, name: TABLE }
    }

    /// Its columns.
    pub fn columns(&self) -> Result<Vec<String>> {
        stored_columns(self.oid)
    }

    /// The digest of its rows of a range. Only the blocks that they lie in are read: the archive has those of many years.
    pub fn digest(&self, range: &Range) -> Result<Digest> {
        let mut digest = Digest::default();
        if let Some(blocks) = self.blocks(range)? {
            rows::for_each_in_blocks(self.oid, Some(*range), Some(blocks), |row| {
                digest.add(row.columns());
                Ok(())
            })?;
        }
        Ok(digest)
    }

    /// The first and the last block that have rows of a range.
    fn blocks(&self, range: &Range) -> Result<Option<(u32, u32)>> {
        let sql = format!(
            "SELECT (pg_catalog.min(ctid)::text::point)[0]::bigint, (pg_catalog.max(ctid)::text::point)[0]::bigint \
             FROM {} WHERE {}",
            self.name(),
            ddl::within(range)
        );
        let block = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        let found = query::read_one(&sql, &[], |row| {
            Ok((block(row.nullable(1)?), block(row.nullable(2)?)))
        })?;
        Ok(found.and_then(|(first, last)| first.zip(last)))
    }

    /// How large its rows of a range are as they are stored, in bytes.
    pub fn size(&self, range: &Range) -> Result<i64> {
        let columns = stored_columns(self.oid)?;
        let sizes: Vec<String> = columns
            .iter()
            .map(|name| format!("COALESCE(pg_catalog.pg_column_size({}), 0)", Ident(name)))
            .collect();
        // Beside its values, a row has a header.
        let sql = format!(
            "SELECT COALESCE(pg_catalog.sum(24 + {}), 0)::bigint FROM {} WHERE {}",
            sizes.join(" + "),
            self.name(),
            ddl::within(range)
        );
        Ok(query::read_one(&sql, &[], |row| row.get(1))?.unwrap_or(0))
    }

    /// Removes the rows that have the same key as one of `partition`.
    pub fn remove_same(&self, partition: Qualified, range: &Range) -> Result<()> {
        let same: Vec<String> = key_columns(self.log.oid)?
            .iter()
            .map(|key| format!("a.{0} = p.{0}", Ident(key)))
            .collect();
        let sql = format!(
            "DELETE FROM {} a USING {partition} p WHERE {} AND {}",
            self.name(),
            same.join(" AND "),
            ddl::within_of("a", range)
        );
        query::execute(&sql, &[])
    }

    /// Copies the rows of `partition` into it.
    ///
    /// # Errors
    ///
    /// Where it lacks a column, beside the server's.
    pub fn insert(&self, partition: Qualified, partition_oid: Oid) -> Result<()> {
        let columns = stored_columns(partition_oid)?;
        let present = stored_columns(self.oid)?;
        if let Some(missing) = columns.iter().find(|column| !present.contains(column)) {
            let (table, column) = (self.name().plain(), missing.clone());
            return Err(ArchiveFault::LacksColumn { table, column }.into());
        }
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let list = List(&columns);
        let sql = format!("INSERT INTO {} ({list}) SELECT {list} FROM {partition}", self.name());
        query::execute(&sql, &[])
    }

    /// Copies its rows of a range into `partition`, into which values can be given for `columns`.
    pub fn copy_out(&self, range: &Range, partition: Qualified, columns: &[&str]) -> Result<()> {
        let present = stored_columns(self.oid)?;
        let columns: Vec<&str> =
            columns.iter().copied().filter(|c| present.iter().any(|p| p == c)).collect();
        let list = List(&columns);
        let sql = format!(
            "INSERT INTO {partition} ({list}) SELECT {list} FROM {} WHERE {}",
            self.name(),
            ddl::within(range)
        );
        query::execute(&sql, &[])
    }
}

/// The columns whose values are stored, in order.
pub fn stored_columns(table: Oid) -> Result<Vec<String>> {
    let sql = "SELECT attname::text FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v' ORDER BY attnum";
    query::read(sql, &[table.into()], |row| row.get(1))
}

/// The columns that tell rows of the log from each other: those of its primary key.
fn key_columns(log: Oid) -> Result<Vec<String>> {
    let sql = "SELECT a.attname::text FROM pg_catalog.pg_index i, \
               LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attnum = k.attnum \
               WHERE i.indrelid = $1 AND i.indisprimary AND k.n <= i.indnkeyatts ORDER BY k.n";
    let keys: Vec<String> = query::read(sql, &[log.into()], |row| row.get(1))?;
    Ok(if keys.is_empty() { vec!["id".to_owned(), "ts".to_owned()] } else { keys })
}

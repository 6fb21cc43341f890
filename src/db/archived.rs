//! Where the rows of archived partitions are: `meshhook_events.archived_partition`.
//!
//! The table belongs to the extension's owner: to be called inside `identity::run_as` of that role.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use crate::db::catalog::Table;
use crate::db::query::{self, Row};
use crate::db::range::{self, column};
use crate::domain::archive::Kind;
use crate::domain::instant::Instant;
use crate::domain::partition::{Bound, Range};
use crate::domain::plan::Retirement;
use crate::error::{Error, Result};
use crate::pg::identity;

/// What was written, before it has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    /// What it is.
    pub kind: Kind,
    /// The table, or the path or URI of the file.
    pub location: String,
    /// How many rows the partition had.
    pub rows: i64,
    /// How large the archive is, in bytes.
    pub bytes: i64,
    /// The digest over the rows of the partition.
    pub digest: String,
    /// What is to be found at the location.
    pub contents: Contents,
}

/// What is to be found at a location: the rows of the partition, and in a table those of earlier archives of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// How many rows.
    pub rows: i64,
    /// The digest over them.
    pub digest: String,
}

/// For messages: `5 rows with digest …`.
impl std::fmt::Display for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows with digest {}", self.rows, self.digest)
    }
}

/// An archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: i64,
    /// The partition's name.
    pub partition: String,
    /// The partition's range.
    pub range: Range,
    /// What was written.
    pub written: New,
    /// The table that is being filled from it, where a restore has begun.
    pub restoring: Option<Oid>,
}

const COLUMNS: &str = "\
    id, partition_name, range_start, range_end, kind, location, row_count, size_bytes, digest, \
    contents_row_count, contents_digest, restoring";

fn entry(row: Row) -> Result<Entry> {
    let at = |at: Option<TimestampWithTimeZone>| at.map(|at| Bound::At(Instant(at.into_inner())));
    let kind: String = row.get(5)?;
    Ok(Entry {
        id: row.get(1)?,
        partition: row.get(2)?,
        range: Range {
            lower: at(row.nullable(3)?).unwrap_or(Bound::MinValue),
            upper: at(row.nullable(4)?).unwrap_or(Bound::MaxValue),
        },
        written: New {
            kind: Kind::parse(&kind)
                .ok_or_else(|| Error::Internal(format!("\"{kind}\" is no kind of archive")))?,
            location: row.get(6)?,
            rows: row.get(7)?,
            bytes: row.get(8)?,
            digest: row.get(9)?,
            contents: Contents { rows: row.get(10)?, digest: row.get(11)? },
        },
        restoring: row.nullable(12)?,
    })
}

/// The entries of which `condition` is true, the latest one alone.
fn latest(condition: &str, arguments: &[pgrx::datum::DatumWithOid]) -> Result<Option<Entry>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM meshhook_events.archived_partition WHERE {condition} ORDER BY id DESC LIMIT 1"
    );
    query::read_one(&sql, arguments, entry)
}

/// The latest archive of the partition that has this OID and this range.
pub fn of_relation(partition: &Retirement) -> Result<Option<Entry>> {
    let arguments = [
        Oid::from(partition.oid).into(),
        column(partition.range.lower).into(),
        column(partition.range.upper).into(),
    ];
    let condition = "relation = $1 AND range_start IS NOT DISTINCT FROM $2 AND range_end IS NOT DISTINCT FROM $3";
    latest(condition, &arguments)
}

/// The latest archive of a range in the archive table.
pub fn in_table(range: &Range) -> Result<Option<Entry>> {
    let arguments = [column(range.lower).into(), column(range.upper).into()];
    let condition = "kind = 'table' AND range_start IS NOT DISTINCT FROM $1 AND range_end IS NOT DISTINCT FROM $2";
    latest(condition, &arguments)
}

/// The latest archive of a partition of that name.
pub fn of_name(partition: &str) -> Result<Option<Entry>> {
    latest("partition_name = $1", &[partition.into()])
}

/// Notes an archive, for the role that has called us, and gives its number.
pub fn insert(partition: &Retirement, new: &New, role: Oid) -> Result<i64> {
    let sql = "INSERT INTO meshhook_events.archived_partition \
                   (relation, partition_name, range_start, range_end, kind, location, row_count, size_bytes, digest, \
                    contents_row_count, contents_digest, archived_at, role_name) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, pg_catalog.clock_timestamp(), \
                       pg_catalog.pg_get_userbyid($12)::text) \
               RETURNING id";
    let arguments = [
        Oid::from(partition.oid).into(),
        partition.name.as_str().into(),
        column(partition.range.lower).into(),
        column(partition.range.upper).into(),
        new.kind.as_str().into(),
        new.location.as_str().into(),
        new.rows.into(),
        new.bytes.into(),
        new.digest.as_str().into(),
        new.contents.rows.into(),
        new.contents.digest.as_str().into(),
        role.into(),
    ];
    query::execute_returning(sql, &arguments, |row| row.get(1))?
        .pop()
        .ok_or_else(|| Error::Internal("an archive has no number".to_owned()))
}

/// Notes which table is being filled from an archive; `None` where none is any more.
pub fn set_restoring(id: i64, relation: Option<Oid>) -> Result<()> {
    let sql = "UPDATE meshhook_events.archived_partition SET restoring = $2 WHERE id = $1";
    query::execute(sql, &[id.into(), relation.into()])
}

/// The parked partition of that name: a table of the log's owner that we have detached.
pub fn parked(table: &Table, name: &str) -> Result<Option<Retirement>> {
    let sql = "SELECT r.relation, c.relname::text, r.range_start, r.range_end \
               FROM meshhook_events.retired_partition r \
               JOIN pg_catalog.pg_class c ON c.oid = r.relation \
               WHERE r.partition_name = $1 AND r.state <> 'detaching' \
                 AND c.relowner = $2 AND NOT c.relispartition ORDER BY r.noted_at DESC LIMIT 1";
    query::read_one(sql, &[name.into(), table.owner.into()], |row| {
        Ok(Retirement {
            oid: row.get::<Oid>(1)?.to_u32(),
            name: row.get(2)?,
            range: range::of_columns(&row, 3)?,
        })
    })
}

/// Runs `work` as the owner of these tables.
pub fn as_their_owner<T>(
    owner: Oid,
    lock_timeout_ms: i32,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    identity::run_as(owner, || {
        identity::set_lock_timeout(lock_timeout_ms);
        work()
    })
}

//! The events of a run without a query: the index of each partition that may hold some is asked, and only those that have
//! an entry are read, in the order of their ranges.
//!
//! It gives what the plain query gives, in the same order, or it gives nothing and says why ([`Reason`]).

use std::ffi::CStr;
use std::fmt;

use pgrx::pg_sys::Oid;

use super::Question;
use crate::db::catalog::EVENTS;
use crate::domain::instant::Instant;
use crate::pg::partition_descriptor::{self, Piece};
use crate::pg::relation::{self, Relation};
use crate::pg::result_set::{ResultSet, Row};
use crate::pg::run_index::{self, Answer, Keys, Missing, Probe, RowRef};
use crate::pg::snapshot::Snapshot;
use crate::pg::{identity, server, version};

/// The column that an older form of the table has not.
const OPTIONAL: &CStr = c"created_at";

/// Why the query is run instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The statement has no ordinary snapshot.
    Snapshot,
    /// Each read has to be noted for the check of SERIALIZABLE.
    Serializable,
    /// The caller may read some columns at most.
    Privileges,
    /// Row level security applies to the caller.
    RowSecurity,
    /// Rows may be elsewhere.
    Citus,
    /// Not a table, partitioned by range of `ts` or not at all.
    Partitioning,
    /// A column has another type than the result's.
    Columns,
    /// It was replaced or dropped just now.
    Changed,
    /// A partition that can't be read alone.
    Partition { oid: Oid, why: Obstacle },
    /// More events at one instant than are sorted here.
    ManyAtOnce,
}

/// Why a partition can't be read natively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is partitioned itself.
    Partitioned,
    /// It has no valid B-tree index that begins with `run_id, ts`, as a foreign table has none.
    NoIndex,
    /// It is the DEFAULT partition and has events of the run: they may belong between those of the others.
    Default,
    /// A column has another type than the result's.
    Columns,
    /// It was dropped just now.
    Gone,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "the statement has no ordinary snapshot",
            Self::Serializable => "the transaction is SERIALIZABLE",
            Self::Privileges => "the caller has no SELECT on the whole table",
            Self::RowSecurity => "row level security applies to the caller",
            Self::Citus => "Citus is installed and may keep rows elsewhere",
            Self::Partitioning => "the table is not partitioned by range of ts",
            Self::Columns => "a column of the table has another type than the function's",
            Self::Changed => "the table was replaced just now",
            Self::Partition { why, .. } => return why.fmt(f),
            Self::ManyAtOnce => "too many events have the same ts",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Partitioned => "it is partitioned itself",
            Self::NoIndex => "it has no valid B-tree index on (run_id, ts)",
            Self::Default => "it is the DEFAULT partition and has events of the run",
            Self::Columns => "one of its columns has another type than the function's",
            Self::Gone => "it was dropped just now",
        })
    }
}

impl From<Missing> for Obstacle {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Table => Self::Gone,
            Missing::Index => Self::NoIndex,
        }
    }
}

/// What was done with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its index has no entry of the run.
    NoHit,
    /// So many of its events belong to the answer.
    Read(i64),
}

/// Adds the events to the result. Gives the partitions that may hold some, and what was done with each.
///
/// # Errors
///
/// Where the query has to be run instead, why; the result has to be cleared then.
pub fn read(question: &Question, result: &mut ResultSet) -> Result<Vec<(Piece, Access)>, Reason> {
    require_privileges(question)?;
    let table = Relation::open(question.table).ok_or(Reason::Changed)?;
    // While it was waited for, another table may have got the name.
    if server::find_relation(question.schema, EVENTS) != Some(question.table) {
        return Err(Reason::Changed);
    }
    result.projection(&table, OPTIONAL).ok_or(Reason::Columns)?;
    let pieces = pieces(question, &table)?;
    let keys = Keys::new(*question.run.as_bytes(), question.from, question.to);
    let mut probe = Probe::new(keys, Snapshot::active().ok_or(Reason::Snapshot)?);
    // Of a single partition the index need not be asked first.
    let is_only_one = pieces.len() == 1;
    let mut found = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let refuse = |why| Err(Reason::Partition { oid: piece.oid, why });
        if !piece.is_leaf {
            return refuse(Obstacle::Partitioned);
        }
        let is_default = piece.range.is_none() && piece.oid != table.oid();
        let answer = if is_only_one && !is_default { Answer::Hit } else { probe.ask(piece.oid) };
        match answer {
            Answer::NoHit => found.push((piece, Access::NoHit)),
            Answer::Hit if is_default => return refuse(Obstacle::Default),
            Answer::Hit => found.push((piece, Access::Read(0))),
            Answer::None(missing) => return refuse(missing.into()),
        }
    }
    for (piece, access) in &mut found {
        if let Access::Read(count) = access {
            *count = read_partition(piece.oid, &mut probe, result)?;
        }
    }
    Ok(found)
}

/// Refuses where rows are hidden from the caller, or where it must be told what it may not read.
fn require_privileges(question: &Question) -> Result<(), Reason> {
    let role = identity::current_role();
    if relation::transaction_is_serializable() {
        return Err(Reason::Serializable);
    }
    if !version::may_use_schema(question.schema, role)
        || !relation::may_select(question.table, role)
    {
        return Err(Reason::Privileges);
    }
    if relation::row_security_applies(question.table) {
        return Err(Reason::RowSecurity);
    }
    if relation::citus_is_installed() {
        return Err(Reason::Citus);
    }
    Ok(())
}

/// The partitions that may hold an answer; a table that isn't partitioned is the only one.
pub fn pieces(question: &Question, table: &Relation) -> Result<Vec<Piece>, Reason> {
    match table.class().relkind.cast_unsigned() {
        b'r' => Ok(vec![Piece { oid: table.oid(), range: None, is_leaf: true }]),
        b'p' => {
            let (ts, _) = table.column(c"ts").ok_or(Reason::Columns)?;
            if !partition_descriptor::is_by_range_of(table, ts) {
                return Err(Reason::Partitioning);
            }
            let pieces = partition_descriptor::pieces(table, question.from, question.to);
            run_index::learn(table, pieces.iter().filter(|p| p.is_leaf).map(|p| p.oid));
            Ok(pieces)
        }
        _ => Err(Reason::Partitioning),
    }
}

/// How much memory events of one instant may take while they are sorted, in bytes.
const SORT_BYTES: usize = 4 * 1024 * 1024;

/// Adds the events of a partition. The index gives them in the order of `ts`; those of one instant are sorted by id.
fn read_partition(oid: Oid, probe: &mut Probe, result: &mut ResultSet) -> Result<i64, Reason> {
    let refuse = |why| Reason::Partition { oid, why };
    let opened = probe.open(oid).map_err(|missing| refuse(missing.into()))?;
    let projection =
        result.projection(&opened.heap, OPTIONAL).ok_or_else(|| refuse(Obstacle::Columns))?;
    let number = |name| opened.heap.column(name).map(|(number, _)| number);
    let (Some(ts), Some(id)) = (number(c"ts"), number(c"id")) else {
        return Err(refuse(Obstacle::Columns));
    };
    let at = |row: RowRef| row.get(ts).map(|at| Instant(at.value() as i64));
    let id = |row: RowRef| row.get(id).map(|id| id.value() as i64);
    let mut scan = probe.scan(&opened);
    let mut group = Group::default();
    let mut count = 0;
    // A row is added when the next one is seen to be of another instant.
    let mut last = None;
    while let Some(row) = scan.next() {
        let is_of_group = last.is_some_and(|last| at(last) == at(row));
        if let Some(last) = last {
            if is_of_group || !group.is_empty() {
                group.push(id(last), result.row(last, &projection));
            } else {
                result.put(last, &projection);
            }
        }
        if !is_of_group {
            group.flush(result);
        }
        if group.bytes > SORT_BYTES {
            return Err(Reason::ManyAtOnce);
        }
        last = Some(row);
        count += 1;
        if count % 64 == 0 {
            server::check_for_interrupts();
        }
    }
    if let Some(last) = last {
        group.push(id(last), result.row(last, &projection));
    }
    group.flush(result);
    Ok(count)
}

/// The events of one instant.
#[derive(Default)]
struct Group {
    /// With their ids; an id that is null comes last.
    rows: Vec<((bool, Option<i64>), Row)>,
    bytes: usize,
}

impl Group {
    const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn push(&mut self, id: Option<i64>, row: Row) {
        self.bytes += row.bytes();
        self.rows.push(((id.is_none(), id), row));
    }

    fn flush(&mut self, result: &mut ResultSet) {
        self.rows.sort_by_key(|(id, _)| *id);
        for (_, row) in self.rows.drain(..) {
            result.put_row(row);
        }
        self.bytes = 0;
    }
}

//! What a replay does with each partition, for people who ask why it takes long.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{Uuid, pg_sys};

use super::native::{self, Access, Reason};
use super::{Question, question};
use crate::db::catalog;
use crate::domain::partition::Range;
use crate::error::Result;
use crate::pg::partition_descriptor::{self, Piece};
use crate::pg::relation::Relation;
use crate::pg::result_set::ResultSet;
use crate::pg::server;

/// A partition, and what a replay does with it.
#[derive(Debug)]
pub struct Line {
    /// Its name.
    pub partition: String,
    /// What it holds; `None` for the DEFAULT partition, and for a table that isn't partitioned.
    pub range: Option<Range>,
    /// `skipped`, `no hit`, `native` or `query`.
    pub access: &'static str,
    /// How many of its events belong to the answer, where it was read natively.
    pub events: Option<i64>,
    /// Why the query is run.
    pub reason: Option<String>,
}

/// Reads the events as a replay does, and says what was done with each partition, in the order of their ranges.
///
/// # Errors
///
/// Where there is no event log.
pub fn explain(
    run: Option<Uuid>,
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
) -> Result<Vec<Line>> {
    let schema = catalog::extension()?.schema_oid;
    let Some(question) = question(schema, run, from, to)? else { return Ok(Vec::new()) };
    let mut result = ResultSet::scratch(&[
        (c"id", pg_sys::INT8OID),
        (c"run_id", pg_sys::UUIDOID),
        (c"ts", pg_sys::TIMESTAMPTZOID),
        (c"type", pg_sys::TEXTOID),
        (c"payload", pg_sys::JSONBOID),
        (c"created_at", pg_sys::TIMESTAMPTZOID),
    ]);
    let outcome = native::read(&question, &mut result);
    result.clear();
    Ok(all_pieces(&question).iter().map(|piece| line(piece, &question, &outcome)).collect())
}

/// All partitions; the table itself where it has none.
fn all_pieces(question: &Question) -> Vec<Piece> {
    let Some(table) = Relation::open(question.table) else { return Vec::new() };
    let everything = Question { from: None, to: None, ..*question };
    native::pieces(&everything, &table)
        .unwrap_or_else(|_| vec![Piece { oid: table.oid(), range: None, is_leaf: false }])
}

fn line(piece: &Piece, question: &Question, outcome: &Outcome) -> Line {
    let (access, events, reason) = match outcome {
        _ if !partition_descriptor::may_hold(piece, question.from, question.to) => {
            ("skipped", None, None)
        }
        Ok(found) => match found.iter().find(|(other, _)| other.oid == piece.oid) {
            Some((_, Access::Read(events))) => ("native", Some(*events), None),
            Some((_, Access::NoHit)) | None => ("no hit", Some(0), None),
        },
        Err(reason) => ("query", None, Some(why(piece, reason))),
    };
    Line {
        partition: server::name_of_relation(piece.oid).map_or_else(String::new, |(_, name)| name),
        range: piece.range,
        access,
        events,
        reason,
    }
}

type Outcome = std::result::Result<Vec<(Piece, Access)>, Reason>;

/// Why the query reads this partition: often because another one can't be read natively.
fn why(piece: &Piece, reason: &Reason) -> String {
    match reason {
        Reason::Partition { oid, .. } if *oid != piece.oid => {
            let name = server::name_of_relation(*oid).map_or_else(String::new, |(_, name)| name);
            format!("partition \"{name}\": {reason}")
        }
        reason => reason.to_string(),
    }
}

//! Ranges in our own tables: two columns, NULL for MINVALUE and MAXVALUE.

use pgrx::datum::TimestampWithTimeZone;

use crate::db::calendar;
use crate::db::query::Row;
use crate::domain::instant::Instant;
use crate::domain::partition::{Bound, Range};
use crate::error::Result;

/// The range in column `first` and the one after it.
///
/// # Errors
///
/// Where they are not of type `timestamptz`.
pub fn of_columns(row: &Row, first: usize) -> Result<Range> {
    let at = |at: Option<TimestampWithTimeZone>| at.map(|at| Bound::At(Instant(at.into_inner())));
    Ok(Range {
        lower: at(row.nullable(first)?).unwrap_or(Bound::MinValue),
        upper: at(row.nullable(first + 1)?).unwrap_or(Bound::MaxValue),
    })
}

/// A bound as a column holds it.
#[must_use]
pub fn column(bound: Bound) -> Option<TimestampWithTimeZone> {
    match bound {
        Bound::At(instant) => calendar::to_timestamp(instant),
        Bound::MinValue | Bound::MaxValue => None,
    }
}

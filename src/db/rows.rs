//! The rows of a table: all of them, as text, and their digest.

use pgrx::pg_sys::Oid;

use crate::domain::digest::Digest;
use crate::domain::partition::Range;
use crate::error::{Error, Result};
use crate::pg::relation::Relation;
use crate::pg::table_rows::{self, Row};

/// Calls `each` with every row of a table, or with those whose `ts` lies in `range`, as the active snapshot sees them, in no
/// particular order. The text of a value doesn't depend on the session's settings.
///
/// It takes ACCESS SHARE on the table until the transaction ends. To be called as the table's owner: no privilege is
/// looked at, and no policy of row level security.
///
/// # Errors
///
/// What `each` gives; [`Error::Internal`] where the table is gone or keeps no rows.
pub fn for_each(
    table: Oid,
    range: Option<Range>,
    each: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    for_each_in_blocks(table, range, None, each)
}

/// The same for the rows in some blocks of the table, from the first to the last one given: where rows of a range lie
/// together in a large table.
///
/// # Errors
///
/// As [`for_each`].
pub fn for_each_in_blocks(
    table: Oid,
    range: Option<Range>,
    blocks: Option<(u32, u32)>,
    each: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let opened = Relation::open(table)
        .ok_or_else(|| Error::Internal(format!("table {} is gone", table.to_u32())))?;
    table_rows::for_each(&opened, range, blocks, each)
}

/// The digest of the same rows.
///
/// # Errors
///
/// As [`for_each`].
pub fn digest(table: Oid, range: Option<Range>) -> Result<Digest> {
    let mut digest = Digest::default();
    for_each(table, range, |row| {
        digest.add(row.columns());
        Ok(())
    })?;
    Ok(digest)
}

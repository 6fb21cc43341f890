//! Running a statement and reading its rows.

use pgrx::datum::DatumWithOid;
use pgrx::spi::{Spi, SpiHeapTupleData};
use pgrx::{FromDatum, IntoDatum};

use crate::error::{Error, Result};

/// One row of a result.
pub struct Row<'a>(SpiHeapTupleData<'a>);

impl Row<'_> {
    /// Column `ordinal`, counted from 1; `None` where it is null.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] where the column is not of that type.
    pub fn nullable<T: FromDatum + IntoDatum>(&self, ordinal: usize) -> Result<Option<T>> {
        Ok(self.0.get::<T>(ordinal)?)
    }

    /// Column `ordinal`, counted from 1.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] where the column is null or not of that type.
    pub fn get<T: FromDatum + IntoDatum>(&self, ordinal: usize) -> Result<T> {
        self.nullable(ordinal)?
            .ok_or_else(|| Error::Internal(format!("column {ordinal} of a row is null")))
    }
}

/// Runs a query that only reads, and maps its rows.
///
/// It takes no transaction number, so it works on a standby and costs an idle worker no WAL. Within a
/// transaction that has already written it sees what was written ([`begin_writing`]).
pub fn read<T>(
    sql: &str,
    arguments: &[DatumWithOid],
    map: impl FnMut(Row) -> Result<T>,
) -> Result<Vec<T>> {
    Spi::connect(|client| client.select(sql, None, arguments)?.map(Row).map(map).collect())
}

/// Runs a query that only reads and gives one row, or none.
pub fn read_one<T>(
    sql: &str,
    arguments: &[DatumWithOid],
    map: impl FnMut(Row) -> Result<T>,
) -> Result<Option<T>> {
    Ok(read(sql, arguments, map)?.pop())
}

/// Makes this transaction a writing one: from here on every query takes a snapshot of its own and sees
/// what others have committed while we waited for a lock (in READ COMMITTED).
pub fn begin_writing() -> Result<()> {
    Spi::connect_mut(|client| client.update("SELECT 1", None, &[]).map(|_| ()))?;
    Ok(())
}

/// Runs a statement that writes.
pub fn execute(sql: &str, arguments: &[DatumWithOid]) -> Result<()> {
    Spi::connect_mut(|client| client.update(sql, None, arguments).map(|_| ()))?;
    Ok(())
}

/// Runs a statement that writes; gives how many rows it has written.
pub fn execute_counting(sql: &str, arguments: &[DatumWithOid]) -> Result<i64> {
    let rows =
        Spi::connect_mut(|client| client.update(sql, None, arguments).map(|rows| rows.len()))?;
    Ok(i64::try_from(rows).unwrap_or(i64::MAX))
}

/// Runs a statement that writes, and maps the rows that it returns.
pub fn execute_returning<T>(
    sql: &str,
    arguments: &[DatumWithOid],
    map: impl FnMut(Row) -> Result<T>,
) -> Result<Vec<T>> {
    Spi::connect_mut(|client| client.update(sql, None, arguments)?.map(Row).map(map).collect())
}

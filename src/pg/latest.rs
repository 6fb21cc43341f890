//! Queries that see what is committed now, in a transaction whose snapshot may be older (REPEATABLE READ), and that may
//! have written already.

use std::ffi::{CString, c_char};

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum, Uuid};

use crate::error::{Error, Result};
use crate::pg::snapshot;

/// Runs a query that only reads and gives rows of a `uuid` and a `bigint`, neither of them NULL; `$1` is `of`, a `uuid[]`.
///
/// As checks of foreign keys do (src/backend/utils/adt/ri_triggers.c, `ri_PerformCheck`).
///
/// # Errors
///
/// [`Error::Internal`] where the query gives something else. What the server raises is raised.
pub fn uuids(sql: String, of: &[Uuid]) -> Result<Vec<(Uuid, i64)>> {
    let unexpected = || Error::Internal("a query gave no row of uuid and bigint".to_owned());
    let argument = of.to_vec().into_datum().ok_or_else(unexpected)?;
    rows(sql, Some(argument), |table, tuple| {
        // SAFETY: the tuple is one of the table's; the columns are of the types that the caller promises.
        unsafe { Some((value(table, tuple, 1)?, value(table, tuple, 2)?)) }
    })
}

/// Runs a query that only reads and gives rows of a `text`, not NULL.
///
/// # Errors
///
/// As [`uuids`].
pub fn texts(sql: String) -> Result<Vec<String>> {
    // SAFETY: the tuple is one of the table's; the column is of the type that the caller promises.
    rows(sql, None, |table, tuple| unsafe { value(table, tuple, 1) })
}

/// A column of a row.
///
/// # Safety
///
/// The tuple is a row of the table, and the column is of the type that stands for `T`.
unsafe fn value<T: FromDatum>(
    table: &pg_sys::SPITupleTable,
    tuple: pg_sys::HeapTuple,
    column: i32,
) -> Option<T> {
    let mut is_null = false;
    // SAFETY: as the caller promises; the flag outlives the call.
    let datum = unsafe { pg_sys::SPI_getbinval(tuple, table.tupdesc, column, &raw mut is_null) };
    // SAFETY: the value is of the type that the caller promises, or NULL.
    unsafe { T::from_datum(datum, is_null) }
}

/// Runs a query with at most one argument, a `uuid[]`, and maps its rows.
fn rows<T>(
    sql: String,
    argument: Option<Datum>,
    map: impl Fn(&pg_sys::SPITupleTable, pg_sys::HeapTuple) -> Option<T>,
) -> Result<Vec<T>> {
    let sql = CString::new(sql).map_err(|error| Error::Internal(error.to_string()))?;
    // An error of the server doesn't run destructors of what lies below it: the text is given back by hand.
    let sql = sql.into_raw();
    let rows = snapshot::with_latest(|| {
        // SAFETY: what is begun here is ended by SPI_finish, or by the abort that follows an error.
        if unsafe { pg_sys::SPI_connect() } != pg_sys::SPI_OK_CONNECT as i32 {
            return None;
        }
        let rows = run(sql, argument, map);
        // SAFETY: connected above; what `rows` holds is copied.
        unsafe { pg_sys::SPI_finish() };
        rows
    });
    // SAFETY: made by `into_raw` above, and given back once.
    drop(unsafe { CString::from_raw(sql) });
    rows.ok_or_else(|| Error::Internal("a query gave other rows than it can give".to_owned()))
}

fn run<T>(
    sql: *const c_char,
    argument: Option<Datum>,
    map: impl Fn(&pg_sys::SPITupleTable, pg_sys::HeapTuple) -> Option<T>,
) -> Option<Vec<T>> {
    let mut types: [Oid; 1] = [pg_sys::UUIDARRAYOID];
    let mut values = [argument.unwrap_or(Datum::null())];
    let count = i32::from(argument.is_some());
    // SAFETY: SPI is connected; the text, and one type and one value where there is an argument, outlive the call. Read
    // only, so that the active snapshot is the one that it reads with.
    let status = unsafe {
        pg_sys::SPI_execute_with_args(
            sql,
            count,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            true,
            0,
        )
    };
    if status != pg_sys::SPI_OK_SELECT as i32 {
        return None;
    }
    // SAFETY: a SELECT has left its rows and their number there, until SPI_finish.
    let (table, count) = unsafe { (pg_sys::SPI_tuptable.as_ref()?, pg_sys::SPI_processed) };
    // SAFETY: the index is less than the number of rows.
    let row = |i: usize| map(table, unsafe { *table.vals.add(i) });
    (0..usize::try_from(count).ok()?).map(row).collect()
}

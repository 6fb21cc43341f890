//! Hands the rows of a query to the caller of a set-returning function as they are, without turning
//! them into Rust values and back.

use std::ffi::{CString, c_char};

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// A parameter of the query.
#[derive(Clone, Copy)]
pub struct Parameter {
    /// Its type.
    pub type_oid: pg_sys::Oid,
    /// Its value, alive as long as the call.
    pub value: pg_sys::Datum,
}

/// How many rows are in memory at once, before they go to the result, which spills to disk.
const BATCH_ROWS: i64 = 1_000;

/// A connection to the server programming interface, finished when dropped.
struct Connection;

impl Connection {
    fn open() -> Result<Self> {
        // SAFETY: Drop closes it; after an error the abort does.
        match unsafe { pg_sys::SPI_connect() } {
            code if code == pg_sys::SPI_OK_CONNECT as i32 => Ok(Self),
            code => Err(Error::Internal(format!("SPI_connect gave {code}"))),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: open() has connected.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// Runs `query`, read only and under the caller's snapshot, and gives its rows as the result of the
/// function called through `call`. The columns must be exactly those that the function declares.
///
/// # Safety
///
/// `call` must be the call that the server makes now, of a function that is declared to return a set.
pub unsafe fn return_query(
    call: pg_sys::FunctionCallInfo,
    query: &str,
    parameters: &[Parameter],
) -> Result<()> {
    let query = CString::new(query).map_err(|e| Error::Internal(e.to_string()))?;
    let mut types: Vec<pg_sys::Oid> = parameters.iter().map(|p| p.type_oid).collect();
    let mut values: Vec<pg_sys::Datum> = parameters.iter().map(|p| p.value).collect();
    let count = i32::try_from(parameters.len()).map_err(|e| Error::Internal(e.to_string()))?;
    // SAFETY: `call` is the current call of a set-returning function, as this function requires; the
    // server raises an error where the caller takes no set.
    let store = unsafe {
        pg_sys::InitMaterializedSRF(call, 0);
        (*(*call).resultinfo.cast::<pg_sys::ReturnSetInfo>()).setResult
    };
    let connection = Connection::open()?;
    // SAFETY: the arrays have `count` elements and outlive the portal; no nulls means that every
    // parameter has a value. Each batch is read before the next is fetched; tuplestore_puttuple copies.
    unsafe {
        let nulls: *const c_char = std::ptr::null();
        let portal = pg_sys::SPI_cursor_open_with_args(
            std::ptr::null(),
            query.as_ptr(),
            count,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls,
            true,
            0,
        );
        loop {
            pg_sys::SPI_cursor_fetch(portal, true, BATCH_ROWS);
            let rows = pg_sys::SPI_processed as usize;
            let table = pg_sys::SPI_tuptable;
            if rows == 0 || table.is_null() {
                break;
            }
            for row in 0..rows {
                pg_sys::tuplestore_puttuple(store, *(*table).vals.add(row));
            }
            pg_sys::SPI_freetuptable(table);
        }
        pg_sys::SPI_cursor_close(portal);
    }
    drop(connection);
    Ok(())
}

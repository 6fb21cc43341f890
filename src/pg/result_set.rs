//! Hands the rows of a query to the caller of a set-returning function as they are, without turning
//! them into Rust values and back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// A parameter of the query.
#[derive(Clone, Copy)]
pub struct Parameter {
    /// Its type; the same for the same place in the same query.
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

/// How many plans a session keeps: there are a few forms of a query, and a table may be renamed.
const KEPT_PLANS: usize = 16;

thread_local! {
    /// The session's plans by their query; the server plans again when a table has changed.
    static PLANS: RefCell<HashMap<String, pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// The plan of `query`, made at its first call in this session.
///
/// It is a generic plan: with many partitions, planning for the values of each call costs more than
/// running, and partitions are excluded when the plan starts.
///
/// To be called while connected.
fn plan(query: &str, parameters: &[Parameter]) -> Result<pg_sys::SPIPlanPtr> {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(query).copied()) {
        return Ok(plan);
    }
    let text = CString::new(query).map_err(|e| Error::Internal(e.to_string()))?;
    let mut types: Vec<pg_sys::Oid> = parameters.iter().map(|p| p.type_oid).collect();
    let count = i32::try_from(types.len()).map_err(|e| Error::Internal(e.to_string()))?;
    let options = pg_sys::CURSOR_OPT_GENERIC_PLAN as i32;
    // SAFETY: text and types outlive the call; a plan that is kept lives until it is freed.
    let plan = unsafe {
        let plan = pg_sys::SPI_prepare_cursor(text.as_ptr(), count, types.as_mut_ptr(), options);
        if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
            let code = pg_sys::SPI_result;
            return Err(Error::Internal(format!("SPI_prepare gave {code}")));
        }
        plan
    };
    let outdated = PLANS.with_borrow_mut(|plans| {
        let full = plans.len() >= KEPT_PLANS;
        let outdated = if full { std::mem::take(plans) } else { HashMap::new() };
        plans.insert(query.to_owned(), plan);
        outdated
    });
    for plan in outdated.into_values() {
        // SAFETY: it was kept, and is in the map no more; a portal that runs has its own reference.
        unsafe { pg_sys::SPI_freeplan(plan) };
    }
    Ok(plan)
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
    // SAFETY: `call` is the current call of a set-returning function, as this function requires; the
    // server raises an error where the caller takes no set.
    let store = unsafe {
        pg_sys::InitMaterializedSRF(call, 0);
        (*(*call).resultinfo.cast::<pg_sys::ReturnSetInfo>()).setResult
    };
    let connection = Connection::open()?;
    let plan = plan(query, parameters)?;
    let mut values: Vec<pg_sys::Datum> = parameters.iter().map(|p| p.value).collect();
    // SAFETY: there is a value for each parameter, and they outlive the portal; no nulls means that
    // every one is given. Each batch is read before the next is fetched; tuplestore_puttuple copies.
    unsafe {
        let nulls: *const c_char = std::ptr::null();
        let portal =
            pg_sys::SPI_cursor_open(std::ptr::null(), plan, values.as_mut_ptr(), nulls, true);
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

/// The schema of the function that is called through `call`.
///
/// # Safety
///
/// `call` must be the call that the server makes now.
pub unsafe fn schema_of_function(call: pg_sys::FunctionCallInfo) -> pg_sys::Oid {
    // SAFETY: a call has the function's OID; the lookup goes through the system cache.
    unsafe { pg_sys::get_func_namespace((*(*call).flinfo).fn_oid) }
}

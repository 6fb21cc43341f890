//! Hands the rows of a query to the caller of a set-returning function as they are, without turning
//! them into Rust values and back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::relation::Relation;
use crate::pg::run_index::RowRef;
use crate::pg::version;

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

/// How many columns a projection has: those of an event.
const COLUMNS: usize = 6;

/// The result of a set-returning function, which spills to disk where it is large.
pub struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    row_type: pg_sys::TupleDesc,
}

impl ResultSet {
    /// Begins the result of the function that is called through `call`.
    ///
    /// # Safety
    ///
    /// `call` must be the call that the server makes now, of a function that is declared to return a set; the result lives
    /// as long as it.
    pub unsafe fn begin(call: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: as this function requires; the server raises an error where the caller takes no set.
        unsafe {
            pg_sys::InitMaterializedSRF(call, 0);
            let result = (*call).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Self { store: (*result).setResult, row_type: (*result).setDesc }
        }
    }

    /// A result that nobody gets, of rows with these columns.
    #[must_use]
    pub fn scratch(columns: &[(&CStr, pg_sys::Oid)]) -> Self {
        // SAFETY: the row type has a column for each; names are copied; store and row type go with their memory
        // context, at the end of the call at the latest, and the store's files with the transaction.
        unsafe {
            let row_type = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
            for ((name, type_oid), number) in columns.iter().zip(1..) {
                pg_sys::TupleDescInitEntry(row_type, number, name.as_ptr(), *type_oid, -1, 0);
            }
            let store = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
            Self { store, row_type }
        }
    }

    /// Takes back all rows.
    pub fn clear(&mut self) {
        // SAFETY: the store is the result's.
        unsafe { pg_sys::tuplestore_clear(self.store) }
    }

    /// Where the result's columns stand in a table, by their names; `None` where one of them has another type there, or
    /// is missing though it is not `may_be_missing`.
    #[must_use]
    pub fn projection(&self, table: &Relation, may_be_missing: &CStr) -> Option<Projection> {
        let mut columns = [None; COLUMNS];
        // SAFETY: the result's row type lives as long as the call; each column read is one of it, and a name is a C string
        // within its 64 bytes.
        unsafe {
            if (*self.row_type).natts as usize != COLUMNS {
                return None;
            }
            for (i, column) in columns.iter_mut().enumerate() {
                let wanted = &*version::attribute(self.row_type, i);
                let name = CStr::from_ptr((&raw const wanted.attname.data).cast());
                *column = match table.column(name) {
                    Some((number, given)) if is_same(given, wanted.atttypid) => Some(number),
                    None if name == may_be_missing => None,
                    _ => return None,
                };
            }
        }
        // SAFETY: the row type lives as long as the table is open.
        let is_same_width = unsafe { (*table.row_type()).natts as usize == COLUMNS };
        let in_order = columns.iter().zip(1..).all(|(column, number)| *column == Some(number));
        Some(Projection { columns, is_whole_row: is_same_width && in_order })
    }

    /// Adds a row of the table that the projection was made for.
    pub fn put(&mut self, from: RowRef, projection: &Projection) {
        if projection.is_whole_row
            && let Some(tuple) = from.stored_with(COLUMNS as u16)
        {
            // SAFETY: the tuple has the result's columns, and no others; it is copied.
            return unsafe { pg_sys::tuplestore_puttuple(self.store, tuple) };
        }
        let (mut values, mut nulls) = projection.apply(from);
        // SAFETY: there is a value of its type for each column (`projection`); they are copied.
        unsafe {
            let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::tuplestore_putvalues(self.store, self.row_type, values, nulls);
        }
    }

    /// Makes a row that is to be added later ([`ResultSet::put_row`]).
    #[must_use]
    pub fn row(&self, from: RowRef, projection: &Projection) -> Row {
        let (mut values, mut nulls) = projection.apply(from);
        // SAFETY: as for `put`.
        Row(unsafe {
            pg_sys::heap_form_tuple(self.row_type, values.as_mut_ptr(), nulls.as_mut_ptr())
        })
    }

    /// Adds a row that was made before.
    pub fn put_row(&mut self, row: Row) {
        // SAFETY: the row is of the result's type, and is copied.
        unsafe { pg_sys::tuplestore_puttuple(self.store, row.0) }
    }
}

/// Whether values of one type are values of the other as they are.
fn is_same(given: pg_sys::Oid, wanted: pg_sys::Oid) -> bool {
    given == wanted || (given == pg_sys::VARCHAROID && wanted == pg_sys::TEXTOID)
}

/// Where the columns of a result stand in a table.
pub struct Projection {
    columns: [Option<i16>; COLUMNS],
    /// Whether a row of the table is one of the result as it stands, unless it is older than a column.
    is_whole_row: bool,
}

impl Projection {
    /// The values for the result's columns, and which of them are null.
    fn apply(&self, row: RowRef) -> ([pg_sys::Datum; COLUMNS], [bool; COLUMNS]) {
        row.unpack(self.columns.iter().flatten().copied().max().unwrap_or(0));
        let values = self.columns.map(|column| column.and_then(|number| row.get(number)));
        let datums = values.map(|value| value.unwrap_or(pg_sys::Datum::null()));
        (datums, values.map(|value| value.is_none()))
    }
}

/// A row that is not in the result yet.
pub struct Row(pg_sys::HeapTuple);

impl Row {
    /// How much memory it takes, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        // SAFETY: the tuple lives as long as this.
        unsafe { (*self.0).t_len as usize }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by heap_form_tuple, freed once; after an error its memory goes with its context.
            unsafe { pg_sys::heap_freetuple(self.0) }
        }
    }
}

/// Runs `query`, read only and under the caller's snapshot, and adds its rows to a result. The columns must be exactly
/// the result's.
pub fn put_query(result: &mut ResultSet, query: &str, parameters: &[Parameter]) -> Result<()> {
    let store = result.store;
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

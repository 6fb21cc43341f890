//! The rows of a table as text, straight from its pages: nothing is planned, so no code of the table's owner is run, and no
//! policy of row level security hides a row.
//!
//! Besides the table's access method, only output functions of types are called, which superusers alone can make.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;

use crate::domain::instant::Instant;
use crate::domain::partition::Range;
use crate::error::{Error, Result};
use crate::pg::relation::Relation;
use crate::pg::snapshot::Snapshot;
use crate::pg::{identity, version};

/// Functions that are called for each row, all of them behind one guard.
mod c {
    use std::ffi::{c_char, c_int};

    use super::pg_sys;

    unsafe extern "C-unwind" {
        pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, count: c_int);
        pub fn OutputFunctionCall(
            function: *mut pg_sys::FmgrInfo,
            value: pg_sys::Datum,
        ) -> *mut c_char;
        pub fn pg_server_to_any(text: *const c_char, length: c_int, encoding: c_int)
        -> *mut c_char;
        pub fn MemoryContextReset(context: pg_sys::MemoryContext);
    }
}

/// With these a value has the same text in every session. What [`identity`] pins is among them.
const TEXT_SETTINGS: [(&CStr, &CStr); 8] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"DateStyle", c"ISO, YMD"),
    (c"TimeZone", c"UTC"),
    (c"IntervalStyle", c"postgres"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
    (c"quote_all_identifiers", c"off"),
];

/// How many rows are read between two looks for an interrupt: output functions look for none.
const ROWS_BETWEEN_INTERRUPTS: u32 = 256;

/// A column whose values are stored.
struct Column {
    name: Vec<u8>,
    /// Where it stands in a row, from 0.
    place: usize,
    output: pg_sys::FmgrInfo,
}

/// A row: its columns in the order of their names, as bytes.
pub struct Row<'a> {
    columns: &'a [Column],
    values: &'a [*const c_char],
}

impl<'a> Row<'a> {
    /// The names and the values of its columns, in UTF-8 (unless the database is in `SQL_ASCII`); `None` is null.
    pub fn columns(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        self.columns.iter().zip(self.values).map(|(column, value)| {
            // SAFETY: a value that isn't null is a C string in the memory of the row, which lives as long as this.
            let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(*value) }.to_bytes());
            (column.name.as_slice(), value)
        })
    }
}

/// Calls `each` with every row of `table` that the active snapshot sees and, where a range is given, whose `ts` lies in it;
/// where blocks are given, with those alone that lie in one from the first to the last.
///
/// Virtual generated columns have no stored values and are left out. The caller's privileges are not looked at.
///
/// # Errors
///
/// What `each` gives; [`Error::Internal`] where there is no ordinary snapshot, the relation keeps no rows, or has no `ts` to
/// choose by.
pub fn for_each(
    table: &Relation,
    range: Option<Range>,
    blocks: Option<(u32, u32)>,
    mut each: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let snapshot = Snapshot::active()
        .ok_or_else(|| Error::Internal("no ordinary snapshot is active".to_owned()))?;
    let wanted = match range {
        None => None,
        Some(range) => match table.column(c"ts") {
            Some((number, pg_sys::TIMESTAMPTZOID)) => Some((number as usize - 1, range)),
            _ => return Err(Error::Internal("the table has no ts to choose rows by".to_owned())),
        },
    };
    with_text_settings(|| {
        let mut scan = Scan::begin(table, &snapshot, blocks)?;
        let mut columns = stored_columns(table);
        let mut values = vec![std::ptr::null(); columns.len()];
        let mut count = 0_u32;
        while scan.next(wanted, &mut columns, &mut values) {
            each(Row { columns: &columns, values: &values })?;
            count = count.wrapping_add(1);
            if count.is_multiple_of(ROWS_BETWEEN_INTERRUPTS) {
                pgrx::check_for_interrupts!();
            }
        }
        Ok(())
    })
}

/// Runs `work` with the settings under which a text is read as the value that it was written from.
pub fn with_text_settings<R>(work: impl FnOnce() -> R) -> R {
    identity::with_settings(&TEXT_SETTINGS, work)
}

/// The columns of a table whose values are stored, in the order of their names.
fn stored_columns(table: &Relation) -> Vec<Column> {
    let row_type = table.row_type();
    let convert = is_foreign_encoding();
    // SAFETY: the row type lives as long as the table is open; each column read is one of it; a name is a C string within
    // its 64 bytes. What a function keeps is allocated in the current context, which outlives the scan.
    let mut columns: Vec<Column> = unsafe {
        (0..(*row_type).natts as usize)
            .map(|place| (place, &*version::attribute(row_type, place)))
            .filter(|(_, column)| {
                !column.attisdropped && column.attgenerated.cast_unsigned() != b'v'
            })
            .map(|(place, column)| {
                let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(column.atttypid, &raw mut function, &raw mut is_varlena);
                let mut output = pg_sys::FmgrInfo::default();
                pg_sys::fmgr_info(function, &raw mut output);
                let name = (&raw const column.attname.data).cast::<c_char>();
                let name = pg_guard_ffi_boundary(|| in_utf8(name, convert));
                let name = CStr::from_ptr(name).to_bytes().to_vec();
                Column { name, place, output }
            })
            .collect()
    };
    columns.sort_by(|a, b| a.name.cmp(&b.name));
    columns
}

/// Whether text has to be converted to be in UTF-8: not where it is, or where nobody knows in what it is.
fn is_foreign_encoding() -> bool {
    // SAFETY: reads a variable of the backend.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    encoding != pg_sys::pg_enc::PG_UTF8 as i32 && encoding != pg_sys::pg_enc::PG_SQL_ASCII as i32
}

/// `text` in UTF-8.
///
/// # Safety
///
/// `text` is a C string; to be called behind a guard.
unsafe fn in_utf8(text: *const c_char, convert: bool) -> *const c_char {
    if !convert {
        return text;
    }
    // SAFETY: as this function requires; a result is a C string in the current context, or the text itself.
    unsafe {
        let length = CStr::from_ptr(text).count_bytes() as i32;
        c::pg_server_to_any(text, length, pg_sys::pg_enc::PG_UTF8 as i32)
    }
}

/// A sequential scan, ended when dropped.
struct Scan {
    scan: pg_sys::TableScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    next: unsafe extern "C-unwind" fn(
        pg_sys::TableScanDesc,
        pg_sys::ScanDirection::Type,
        *mut pg_sys::TupleTableSlot,
    ) -> bool,
    /// How many columns a row has.
    width: i32,
    convert: bool,
    /// The memory of one row.
    memory: pg_sys::MemoryContext,
}

impl Scan {
    fn begin(table: &Relation, snapshot: &Snapshot, blocks: Option<(u32, u32)>) -> Result<Self> {
        // SAFETY: the table is open, as is asked first it has an access method; the snapshot is registered, and both outlive
        // the scan, as `for_each` sees to. Drop ends it, or the abort that follows an error.
        unsafe {
            let routine = (*table.raw()).rd_tableam;
            let next = routine.as_ref().and_then(|routine| match blocks {
                Some(_) => routine.scan_getnextslot_tidrange,
                None => routine.scan_getnextslot,
            });
            let Some(next) = next else {
                return Err(Error::Internal("the relation keeps no rows".to_owned()));
            };
            let slot = pg_sys::table_slot_create(table.raw(), std::ptr::null_mut());
            let scan = match blocks {
                Some((first, last)) => {
                    let (mut first, mut last) = (tuple_id(first, 0), tuple_id(last, u16::MAX));
                    pg_sys::table_beginscan_tidrange(
                        table.raw(),
                        snapshot.raw(),
                        &raw mut first,
                        &raw mut last,
                    )
                }
                None => {
                    pg_sys::table_beginscan(table.raw(), snapshot.raw(), 0, std::ptr::null_mut())
                }
            };
            let memory = pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"pg_meshhook_events row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            let width = (*table.row_type()).natts;
            Ok(Self { scan, slot, next, width, convert: is_foreign_encoding(), memory })
        }
    }

    /// Goes to the next row that is wanted and puts the text of its columns into `values`; `false` at the end.
    fn next(
        &mut self,
        wanted: Option<(usize, Range)>,
        columns: &mut [Column],
        values: &mut [*const c_char],
    ) -> bool {
        // SAFETY: the scan is under way and the slot is one of its table; the columns are the table's and `values` as many,
        // each output function the one of its column's type. Within the guard are plain values alone, and nothing that
        // panics or needs dropping; the memory of the row before isn't used any more.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let slot = self.slot;
                loop {
                    if !(self.next)(self.scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                        return false;
                    }
                    if i32::from((*slot).tts_nvalid) < self.width {
                        c::slot_getsomeattrs_int(slot, self.width);
                    }
                    if wanted.is_none_or(|(place, range)| is_within(slot, place, &range)) {
                        break;
                    }
                }
                c::MemoryContextReset(self.memory);
                let before = pg_sys::CurrentMemoryContext;
                pg_sys::CurrentMemoryContext = self.memory;
                for (column, value) in columns.iter_mut().zip(values) {
                    *value = if *(*slot).tts_isnull.add(column.place) {
                        std::ptr::null()
                    } else {
                        let datum = *(*slot).tts_values.add(column.place);
                        let text = c::OutputFunctionCall(&raw mut column.output, datum);
                        in_utf8(text, self.convert)
                    };
                }
                pg_sys::CurrentMemoryContext = before;
                true
            })
        }
    }
}

/// The place of a row: its block, and its number in it.
const fn tuple_id(block: u32, number: u16) -> pg_sys::ItemPointerData {
    let ip_blkid = pg_sys::BlockIdData { bi_hi: (block >> 16) as u16, bi_lo: block as u16 };
    pg_sys::ItemPointerData { ip_blkid, ip_posid: number }
}

/// Whether the `timestamptz` at `place` lies in `range`.
///
/// # Safety
///
/// The slot holds a row with such a column.
unsafe fn is_within(slot: *mut pg_sys::TupleTableSlot, place: usize, range: &Range) -> bool {
    // SAFETY: as this function requires.
    unsafe {
        !*(*slot).tts_isnull.add(place)
            && range.holds(Instant((*(*slot).tts_values.add(place)).value() as i64))
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: begun by `begin`, ended once; after an error the abort cleans up.
            unsafe {
                pg_sys::table_endscan(self.scan);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::MemoryContextDelete(self.memory);
            }
        }
    }
}

//! The index over a run's id and `ts` of each partition: found, remembered, and asked alone whether it holds
//! anything, so that a partition without events of the run is neither opened nor kept locked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::domain::instant::Instant;
use crate::pg::btree::Strange;
use crate::pg::index::{depends_on_snapshot, indexes_of, is_complete};
use crate::pg::relation::Relation;
use crate::pg::run_descent::{Root, Wanted};
use crate::pg::snapshot::Snapshot;
use crate::pg::{inheritance, version};

/// The operator families of the default classes for uuid and timestamptz (src/include/catalog/pg_opfamily.dat).
const UUID_OPS: u32 = 2968;
const DATETIME_OPS: u32 = 434;

/// What is looked for: one run, from and to a `ts`, both included.
pub struct Keys {
    keys: [pg_sys::ScanKeyData; 3],
    count: i32,
    wanted: Wanted,
    /// What the first key points to.
    run: Box<[u8; 16]>,
}

impl Keys {
    /// Of the run with these bytes as its id.
    #[must_use]
    pub fn new(run: [u8; 16], from: Option<Instant>, to: Option<Instant>) -> Self {
        let (wanted, run) = (Wanted::new(run, from, to), Box::new(run));
        let mut keys = Self { keys: Default::default(), count: 0, wanted, run };
        // A uuid is passed as a pointer to its 16 bytes.
        let run = pg_sys::Datum::from(keys.run.as_mut_ptr());
        keys.push(1, pg_sys::BTEqualStrategyNumber, pg_sys::F_UUID_EQ, run);
        if let Some(from) = from {
            let strategy = pg_sys::BTGreaterEqualStrategyNumber;
            keys.push(2, strategy, pg_sys::F_TIMESTAMPTZ_GE, from.0.into());
        }
        if let Some(to) = to {
            let strategy = pg_sys::BTLessEqualStrategyNumber;
            keys.push(2, strategy, pg_sys::F_TIMESTAMPTZ_LE, to.0.into());
        }
        keys
    }

    fn push(&mut self, column: i16, strategy: u32, function: u32, value: pg_sys::Datum) {
        if let Some(key) = self.keys.get_mut(self.count as usize) {
            let strategy = strategy as pg_sys::StrategyNumber;
            // SAFETY: the key is ours; the function is one of the server's, of the column's type.
            unsafe { pg_sys::ScanKeyInit(key, column, strategy, function.into(), value) }
            self.count += 1;
        }
    }
}

/// What is known of a table.
struct Known {
    found: Found,
    root: Option<Root>,
}

/// The index of a table, and the columns of the table that it begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Found {
    index: pg_sys::Oid,
    columns: [i16; 2],
    /// Whether it was seen to be usable. The session is told when that changes.
    is_usable: bool,
}

impl Found {
    const fn known(self) -> Known {
        Known { found: self, root: None }
    }
}

thread_local! {
    /// The index of each table, as far as this session has looked for it. It is never borrowed across a call of the
    /// server, in which `forget` may be called.
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Known>> = RefCell::default();
    static IS_TOLD: Cell<bool> = const { Cell::new(false) };
}

/// Forgets what may have changed about a relation, or about all.
#[pg_guard]
extern "C-unwind" fn forget(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    KNOWN.with_borrow_mut(|known| {
        if relation == pg_sys::InvalidOid {
            known.clear();
        } else if known.remove(&relation).is_none() {
            known.retain(|_, known| known.found.index != relation);
        }
    });
}

/// Has the server tell this session of every change (`CacheRegisterRelcacheCallback`).
fn listen() {
    if !IS_TOLD.replace(true) {
        // SAFETY: the function lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::null()) }
    }
}

fn known(table: pg_sys::Oid) -> Option<Found> {
    KNOWN.with_borrow(|known| known.get(&table).map(|known| known.found))
}

/// The index of `table` as it is known now, opened by `open`; `None` where none is known that can be used.
fn open_known(
    table: pg_sys::Oid,
    open: impl Fn(pg_sys::Oid) -> Option<Relation>,
) -> Option<Relation> {
    let before = known(table)?;
    let index = open(before.index)?;
    // Waiting for the lock, the session may have been told that something has changed.
    if known(table) == Some(before) {
        if before.is_usable {
            return Some(index);
        }
        if is_usable(&index, table, before.columns) {
            // Where it depends on the snapshot, it is asked again.
            let is_usable = !depends_on_snapshot(&index);
            KNOWN.with_borrow_mut(|known| {
                if let Some(known) = known.get_mut(&table) {
                    known.found.is_usable = is_usable;
                }
            });
            return Some(index);
        }
    }
    index.unlock();
    None
}

/// Looks through the indexes of a table that is open, and remembers the one that can be used. Gives whether there is one.
fn look_for(table: &Relation) -> bool {
    let (Some((run_id, _)), Some((ts, _))) = (table.column(c"run_id"), table.column(c"ts")) else {
        return false;
    };
    let columns = [run_id, ts];
    for oid in indexes_of(table) {
        let Some(index) = Relation::open(oid) else { continue };
        let is_usable = is_usable(&index, table.oid(), columns);
        index.unlock();
        if is_usable {
            let found = Found { index: oid, columns, is_usable: false };
            KNOWN.with_borrow_mut(|known| known.insert(table.oid(), found.known()));
            return true;
        }
    }
    false
}

/// How many partitions are looked at one by one, before all are.
const FEW: usize = 8;

/// Remembers the indexes of all partitions of `parent` that belong to its own index over run and `ts`, where many of
/// `partitions` are not known yet: to open each partition would cost a new session most of its first call.
pub fn learn(parent: &Relation, partitions: impl Iterator<Item = pg_sys::Oid>) {
    listen();
    let unknown =
        KNOWN.with_borrow(|known| partitions.filter(|oid| !known.contains_key(oid)).count());
    let columns = (parent.column(c"run_id"), parent.column(c"ts"));
    let (true, (Some((run_id, _)), Some((ts, _)))) = (unknown > FEW, columns) else { return };
    let is_ours = |index: &pg_sys::Oid| key_of(*index).is_some_and(|(_, key)| key == [run_id, ts]);
    let Some(own) = indexes_of(parent).into_iter().find(is_ours) else { return };
    for index in inheritance::child_oids(own) {
        // An attached index has the columns of its parent, wherever the partition has them
        // (src/backend/catalog/index.c, CompareIndexInfo).
        if let Some((table, columns)) = key_of(index) {
            let found = Found { index, columns, is_usable: false };
            KNOWN.with_borrow_mut(|known| {
                known.entry(table).or_insert(found.known());
            });
        }
    }
}

/// The table of an index and the first two columns of its key; `None` where it is gone or has only one.
fn key_of(index: pg_sys::Oid) -> Option<(pg_sys::Oid, [i16; 2])> {
    // SAFETY: INDEXRELID is the cache keyed by pg_index.indexrelid; the row is read before it is released; indkey is
    // within its fixed part and holds indnatts numbers.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::INDEXRELID as i32;
        let row = pg_sys::SearchSysCache1(cache, index.into());
        if row.is_null() {
            return None;
        }
        let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>();
        let numbers = (&raw const form.indkey.values).cast::<i16>();
        let key = (form.indnkeyatts >= 2).then(|| (form.indrelid, [*numbers, *numbers.add(1)]));
        pg_sys::ReleaseSysCache(row);
        key
    }
}

/// Whether an index gives all rows of a run in the order of `ts`.
fn is_usable(index: &Relation, table: pg_sys::Oid, columns: [i16; 2]) -> bool {
    // SAFETY: a B-tree that is open has its row of pg_index, and for each of its key columns, of which there are at least
    // two, a number, an operator family and options.
    is_complete(index, table)
        && unsafe {
            let raw = &*index.raw();
            let row = &*raw.rd_index;
            let numbers = (&raw const row.indkey.values).cast::<i16>();
            row.indnkeyatts >= 2
                && [*numbers, *numbers.add(1)] == columns
                && [*raw.rd_indoption, *raw.rd_indoption.add(1)] == [0, 0]
                && [(*raw.rd_opfamily).to_u32(), (*raw.rd_opfamily.add(1)).to_u32()]
                    == [UUID_OPS, DATETIME_OPS]
        }
}

/// What the index of a partition says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has entries; whether the rows are visible only the table can tell.
    Hit,
    /// It has none.
    NoHit,
    /// It could not be asked.
    None(Missing),
}

impl Answer {
    const fn of(has_entry: bool) -> Self {
        if has_entry { Self::Hit } else { Self::NoHit }
    }
}

/// Asks the indexes of partitions.
pub struct Probe {
    keys: Keys,
    snapshot: Snapshot,
}

impl Probe {
    /// Asks with that snapshot.
    #[must_use]
    pub fn new(keys: Keys, snapshot: Snapshot) -> Self {
        listen();
        Self { keys, snapshot }
    }

    /// Asks the index of `table`. Its lock is given back: the entries that the snapshot sees stay.
    pub fn ask(&self, table: pg_sys::Oid) -> Answer {
        let open = || open_known(table, Relation::open_uncounted);
        let index = match open() {
            Some(index) => index,
            None => {
                // A table is locked before its indexes, as everybody does.
                let Some(heap) = Relation::open(table) else { return Answer::None(Missing::Table) };
                let found = look_for(&heap);
                let index = if found { open() } else { None };
                heap.unlock();
                match index {
                    Some(index) => index,
                    None => return Answer::None(Missing::Index),
                }
            }
        };
        let found = self.has_entry(&index, table);
        index.unlock();
        // The query may know such pages, or says what is wrong with them.
        found.map_or(Answer::None(Missing::Index), Answer::of)
    }

    fn has_entry(&self, index: &Relation, table: pg_sys::Oid) -> Result<bool, Strange> {
        let before = KNOWN.with_borrow(|known| known.get(&table)?.root);
        let mut root = before;
        let found = self.keys.wanted.has_entry(index, &mut root)?;
        if root != before {
            KNOWN.with_borrow_mut(|known| {
                // It is locked, and so the same one, unless the session has been told of a change.
                if let Some(known) = known.get_mut(&table).filter(|k| k.found.index == index.oid())
                {
                    known.root = root;
                }
            });
        }
        Ok(found)
    }

    /// # Safety
    ///
    /// The scan is one of an index for which `is_usable` holds, begun with as many keys.
    unsafe fn rescan(&mut self, scan: pg_sys::IndexScanDesc) {
        let keys = self.keys.keys.as_mut_ptr();
        // SAFETY: as this function requires; the keys are copied.
        unsafe { pg_sys::index_rescan(scan, keys, self.keys.count, std::ptr::null_mut(), 0) }
    }

    /// Opens a partition for reading, with its index; both stay locked until the transaction ends.
    ///
    /// # Errors
    ///
    /// Where it is gone, or has no such index.
    pub fn open(&self, table: pg_sys::Oid) -> Result<Opened, Missing> {
        let heap = Relation::open(table).ok_or(Missing::Table)?;
        let open = || open_known(table, Relation::open);
        let index = open().or_else(|| if look_for(&heap) { open() } else { None });
        Ok(Opened { index: index.ok_or(Missing::Index)?, heap })
    }

    /// Begins to read the rows of an opened partition.
    #[must_use]
    pub fn scan<'a>(&'a mut self, opened: &'a Opened) -> Scan<'a> {
        // SAFETY: both are open as long as the scan, and the snapshot is registered as long as this; Drop ends the scan
        // and frees the slot.
        unsafe {
            let (heap, index) = (opened.heap.raw(), opened.index.raw());
            let slots = [
                pg_sys::table_slot_create(heap, std::ptr::null_mut()),
                pg_sys::table_slot_create(heap, std::ptr::null_mut()),
            ];
            let scan = version::index_beginscan(heap, index, self.snapshot.raw(), self.keys.count);
            self.rescan(scan);
            Scan { scan, slots, opened: std::marker::PhantomData }
        }
    }
}

/// What is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The table: it was dropped just now.
    Table,
    /// An index that can be used.
    Index,
}

/// A partition and its index.
pub struct Opened {
    index: Relation,
    /// The partition.
    pub heap: Relation,
}

/// The rows of a run in one partition, in the order of `ts`.
pub struct Scan<'a> {
    scan: pg_sys::IndexScanDesc,
    /// That of the last row, and the other.
    slots: [*mut pg_sys::TupleTableSlot; 2],
    opened: std::marker::PhantomData<&'a Opened>,
}

impl Scan<'_> {
    /// The next row that the snapshot sees; it stays until the call after the next one.
    pub fn next(&mut self) -> Option<RowRef> {
        self.slots.swap(0, 1);
        let [slot, _] = self.slots;
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        // SAFETY: the slot is one for the table that is scanned.
        let found = unsafe { pg_sys::index_getnext_slot(self.scan, forward, slot) };
        found.then_some(RowRef(slot))
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: all were made by `scan` and are freed once; after an error the abort releases what they hold.
            unsafe {
                pg_sys::index_endscan(self.scan);
                self.slots.iter().for_each(|slot| pg_sys::ExecDropSingleTupleTableSlot(*slot));
            }
        }
    }
}

/// A row under the cursor of a scan, or the one before it.
#[derive(Clone, Copy)]
pub struct RowRef(*mut pg_sys::TupleTableSlot);

impl RowRef {
    /// Takes the row apart up to column `number`, counted from 1: once for all is quicker than column by column.
    pub fn unpack(&self, number: i16) {
        // SAFETY: the slot holds a row of the table that it was made for, which has that column.
        unsafe {
            if (*self.0).tts_nvalid < number {
                pg_sys::slot_getsomeattrs_int(self.0, i32::from(number));
            }
        }
    }

    /// The row as it is stored, where it is stored with so many columns. It lives as long as the row is under the cursor.
    #[must_use]
    pub fn stored_with(&self, columns: u16) -> Option<pg_sys::HeapTuple> {
        // SAFETY: the slot holds a row; where it is of PostgreSQL's own kind of table, that is a tuple with a header.
        unsafe {
            if !std::ptr::eq((*self.0).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple) {
                return None;
            }
            let tuple = (*self.0.cast::<pg_sys::HeapTupleTableSlot>()).tuple;
            let stored = (*(*tuple).t_data).t_infomask2 & pg_sys::HEAP_NATTS_MASK as u16;
            (stored == columns).then_some(tuple)
        }
    }

    /// Column `number`, counted from 1; `None` where it is null. It lives as long as the row is under the cursor.
    #[must_use]
    pub fn get(&self, number: i16) -> Option<pg_sys::Datum> {
        let i = usize::try_from(number - 1).ok()?;
        self.unpack(number);
        // SAFETY: the column's value and whether it is null have been read.
        unsafe { (!*(*self.0).tts_isnull.add(i)).then(|| *(*self.0).tts_values.add(i)) }
    }
}

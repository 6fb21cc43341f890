//! The partitions of a table as the catalogs have them, read without SQL: a worker's pass in a new process would
//! spend most of its time on planning and running that query.

use pgrx::pg_sys;

use crate::domain::partition::{Extent, RowSecurity};
use crate::pg::{bound, version};

/// `pg_inherits` as `pg_sys` doesn't have it (src/include/catalog/pg_inherits.h, alike in 15 to 18).
mod c {
    use super::pg_sys::Oid;

    pub const INHERITS: Oid = Oid::from_u32(2611);
    pub const INHERITS_PARENT_INDEX: Oid = Oid::from_u32(2187);

    #[repr(C)]
    pub struct Inherits {
        pub inhrelid: Oid,
        pub inhparent: Oid,
        pub inhseqno: i32,
        pub inhdetachpending: bool,
    }
}

/// A row of `pg_inherits` with the partition's row of `pg_class`.
pub struct Child {
    /// The partition.
    pub oid: pg_sys::Oid,
    /// Its schema.
    pub schema: pg_sys::Oid,
    /// Its name; `None` where it is no UTF-8.
    pub name: Option<String>,
    /// Its `relkind`.
    pub kind: u8,
    /// Whether it is being detached (`inhdetachpending`).
    pub detach_pending: bool,
    /// Its row level security.
    pub row_security: RowSecurity,
    /// The file that its rows are in (`relfilenode`).
    pub file: pg_sys::Oid,
    /// What it may hold.
    pub extent: Extent,
}

/// The partitions of `parent` as they are now, whatever snapshot the transaction has, in no particular order.
///
/// It takes no lock on them (src/backend/catalog/pg_inherits.c, find_inheritance_children, takes one on each).
#[must_use]
pub fn children(parent: pg_sys::Oid) -> Vec<Child> {
    let inherits = Catalog::open(c::INHERITS, c::INHERITS_PARENT_INDEX);
    let class = Catalog::open(pg_sys::RelationRelationId, pg_sys::ClassOidIndexId.into());
    let snapshot = CatalogSnapshot::take();
    let mut rows = Scan::begin(&inherits, &snapshot);
    let mut partition = Scan::begin(&class, &snapshot);
    rows.find(parent);
    let mut children = Vec::new();
    while let Some(row) = rows.next() {
        let (oid, detach_pending) = link(row);
        partition.find(oid);
        if let Some(row) = partition.next() {
            children.extend(child(oid, detach_pending, row, &class));
        }
    }
    children
}

/// The OIDs of what inherits from `parent` now: the partitions of a table, or of an index.
#[must_use]
pub fn child_oids(parent: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let inherits = Catalog::open(c::INHERITS, c::INHERITS_PARENT_INDEX);
    let snapshot = CatalogSnapshot::take();
    let mut rows = Scan::begin(&inherits, &snapshot);
    rows.find(parent);
    std::iter::from_fn(|| rows.next().map(|row| link(row).0)).collect()
}

/// What a row of `pg_inherits` says: the child, and whether it is being detached.
fn link(row: pg_sys::HeapTuple) -> (pg_sys::Oid, bool) {
    // SAFETY: the row is of pg_inherits, whose columns are all fixed and not null, so that the struct is its layout.
    unsafe {
        let row = pg_sys::GETSTRUCT(row).cast::<c::Inherits>();
        ((*row).inhrelid, (*row).inhdetachpending)
    }
}

fn child(
    oid: pg_sys::Oid,
    detach_pending: bool,
    row: pg_sys::HeapTuple,
    class: &Catalog,
) -> Option<Child> {
    // SAFETY: the row is of pg_class, the columns read are among the fixed ones at its beginning, and a name is a C
    // string within its 64 bytes.
    let (schema, name, kind, row_security, file) = unsafe {
        let row = pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>();
        let name = std::ffi::CStr::from_ptr((&raw const (*row).relname.data).cast());
        let row_security =
            RowSecurity { enabled: (*row).relrowsecurity, forced: (*row).relforcerowsecurity };
        let name = name.to_str().ok().map(str::to_owned);
        let kind = (*row).relkind.cast_unsigned();
        ((*row).relnamespace, name, kind, row_security, (*row).relfilenode)
    };
    let number = pg_sys::Anum_pg_class_relpartbound as i32;
    let mut is_null = true;
    // SAFETY: the row is of pg_class, and relpartbound is one of its columns.
    let bound = unsafe { pg_sys::heap_getattr(row, number, (*class.table).rd_att, &mut is_null) };
    if is_null {
        // Both rows are of one snapshot; should they ever disagree, it is no partition any more.
        return None;
    }
    // SAFETY: the value is of relpartbound, not null, and lives as long as the row.
    let extent = unsafe { bound::stored_extent(bound) };
    Some(Child { oid, schema, name, kind, detach_pending, row_security, file, extent })
}

/// A catalog and the index to find its rows by, both open.
struct Catalog {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
}

impl Catalog {
    /// Opens both under ACCESS SHARE, which nobody holds up: only a superuser can lock a catalog.
    fn open(table: pg_sys::Oid, index: pg_sys::Oid) -> Self {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: both are catalogs that every database has; they are closed by Drop.
        unsafe {
            Self { table: pg_sys::table_open(table, mode), index: pg_sys::index_open(index, mode) }
        }
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: opened by `open`, and no scan of them is left: it borrows this.
        unsafe {
            pg_sys::index_close(self.index, mode);
            pg_sys::table_close(self.table, mode);
        }
    }
}

/// What is committed now, and what this transaction has done itself.
struct CatalogSnapshot(pg_sys::Snapshot);

impl CatalogSnapshot {
    fn take() -> Self {
        // SAFETY: a transaction is open wherever our code reads; registering makes a copy, which Drop unregisters.
        // For pg_inherits, of which no invalidations are sent, it is never one that was kept.
        unsafe {
            let snapshot = pg_sys::GetCatalogSnapshot(c::INHERITS);
            Self(pg_sys::RegisterSnapshot(snapshot))
        }
    }
}

impl Drop for CatalogSnapshot {
    fn drop(&mut self) {
        // SAFETY: registered by `take`, and no scan in it is left: it borrows this.
        unsafe { pg_sys::UnregisterSnapshot(self.0) }
    }
}

/// An index scan of a catalog, used again and again.
struct Scan<'a> {
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    catalog: std::marker::PhantomData<&'a Catalog>,
}

impl<'a> Scan<'a> {
    fn begin(catalog: &'a Catalog, snapshot: &'a CatalogSnapshot) -> Self {
        // SAFETY: both relations stay open, and the snapshot registered, as long as this borrows them; the scan and
        // the slot are freed by Drop.
        unsafe {
            let slot = pg_sys::table_slot_create(catalog.table, std::ptr::null_mut());
            let scan = version::index_beginscan(catalog.table, catalog.index, snapshot.0, 1);
            Self { scan, slot, catalog: std::marker::PhantomData }
        }
    }

    /// Goes before the first row whose first index column is `oid`.
    fn find(&mut self, oid: pg_sys::Oid) {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: the key lives during the calls, which copy it; the index's first column is an oid.
        unsafe {
            pg_sys::ScanKeyInit(
                &raw mut key,
                1,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::F_OIDEQ.into(),
                oid.into(),
            );
            pg_sys::index_rescan(self.scan, &raw mut key, 1, std::ptr::null_mut(), 0);
        }
    }

    /// The next row found; it stays until the next call.
    fn next(&mut self) -> Option<pg_sys::HeapTuple> {
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        // SAFETY: the slot is one for the table that is scanned, so that its tuple is a heap tuple, and stays
        // the slot's own.
        unsafe {
            pg_sys::index_getnext_slot(self.scan, forward, self.slot)
                .then(|| pg_sys::ExecFetchSlotHeapTuple(self.slot, false, std::ptr::null_mut()))
        }
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made by `begin` and are freed once.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
        }
    }
}

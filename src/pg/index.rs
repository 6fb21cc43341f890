//! The indexes of a table: which there are, and whether they are complete.

use pgrx::pg_sys;

use crate::pg::page;
use crate::pg::relation::Relation;

/// The indexes of a table that is open.
#[must_use]
pub fn indexes_of(table: &Relation) -> Vec<pg_sys::Oid> {
    // SAFETY: the table is open; the list is a copy, of OIDs.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table.raw());
        let length = if list.is_null() { 0 } else { (*list).length as usize };
        (0..length).map(|i| (*(*list).elements.add(i)).oid_value).collect()
    }
}

/// Whether a row of `pg_index` is of an index over all rows.
///
/// # Safety
///
/// The row is one of `pg_index`.
unsafe fn has_no_predicate(row: pg_sys::HeapTuple) -> bool {
    // SAFETY: as this function requires; the column may be null, and no row descriptor is needed for that.
    unsafe {
        pg_sys::heap_attisnull(row, pg_sys::Anum_pg_index_indpred as i32, std::ptr::null_mut())
    }
}

/// An index that was built over broken HOT chains gives to older snapshots what they must not see
/// (src/backend/optimizer/util/plancat.c, `get_relation_info`, asks the same).
///
/// # Safety
///
/// The row is one of a catalog.
unsafe fn was_made_before_our_snapshots(row: pg_sys::HeapTuple) -> bool {
    // SAFETY: as this function requires; a row in a table has a heap header with xmin.
    unsafe {
        let header = &*(*row).t_data;
        let is_frozen =
            u32::from(header.t_infomask) & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN;
        is_frozen
            || pg_sys::TransactionIdPrecedes(header.t_choice.t_heap.t_xmin, pg_sys::TransactionXmin)
    }
}

/// Whether it depends on the snapshot if an index is complete: it was built over broken HOT chains.
#[must_use]
pub fn depends_on_snapshot(index: &Relation) -> bool {
    // SAFETY: an open index has its row of pg_index.
    unsafe { (*(*index.raw()).rd_index).indcheckxmin }
}

/// Whether an index is a B-tree with an entry for each row of the table that our snapshots see.
#[must_use]
pub fn is_complete(index: &Relation, table: pg_sys::Oid) -> bool {
    let class = index.class();
    if class.relkind.cast_unsigned() != pg_sys::RELKIND_INDEX || class.relam != pg_sys::BTREE_AM_OID
    {
        return false;
    }
    // SAFETY: an open index has its row of pg_index.
    unsafe {
        let raw = &*index.raw();
        let row = &*raw.rd_index;
        row.indrelid == table
            && row.indisvalid
            && row.indisready
            && has_no_predicate(raw.rd_indextuple)
            && (!row.indcheckxmin || was_made_before_our_snapshots(raw.rd_indextuple))
    }
}

/// The B-tree of the fewest pages that has an entry for each row of the table, open, and how many pages it has.
#[must_use]
pub fn smallest_btree(table: &Relation) -> Option<(Relation, u32)> {
    let mut best: Option<(Relation, u32)> = None;
    for oid in indexes_of(table) {
        let Some(index) = Relation::open(oid) else { continue };
        let pages = page::count(&index);
        let is_better = best.as_ref().is_none_or(|(_, fewest)| pages < *fewest);
        if is_better && is_complete(&index, table.oid()) {
            if let Some((other, _)) = best.replace((index, pages)) {
                other.unlock();
            }
        } else {
            index.unlock();
        }
    }
    best
}

//! Counting the rows that a snapshot sees: of a whole page of a table, or the one that an entry of an index points to.

use pgrx::pg_sys;
use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;

use crate::pg::btree::Tid;
use crate::pg::page::{self, Pin, Ring};
use crate::pg::relation::Relation;
use crate::pg::snapshot::Snapshot;

/// Functions that are called for each row, all of them behind one guard: `pg_sys` puts a guard around each call, which
/// costs as much as the call.
mod c {
    use super::pg_sys;

    unsafe extern "C-unwind" {
        pub fn HeapTupleSatisfiesVisibility(
            tuple: pg_sys::HeapTuple,
            snapshot: pg_sys::Snapshot,
            buffer: pg_sys::Buffer,
        ) -> bool;
    }
}

/// A table of PostgreSQL's own kind, whose rows are counted.
pub struct Heap<'a> {
    table: &'a Relation,
    snapshot: &'a Snapshot,
    ring: Ring,
}

impl<'a> Heap<'a> {
    /// `table` must be one of PostgreSQL's own kind: `relam` is `HEAP_TABLE_AM_OID`.
    #[must_use]
    pub fn new(table: &'a Relation, snapshot: &'a Snapshot) -> Self {
        Self { table, snapshot, ring: Ring::for_scan(page::count(table)) }
    }

    /// Has the system fetch a page that will be read soon.
    pub fn prefetch(&self, block: u32) {
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        // SAFETY: the table is open.
        unsafe { pg_sys::PrefetchBuffer(self.table.raw(), main, block) };
    }

    /// How many rows of a page the snapshot sees. Each row has one version that it sees at most, and that doesn't go away
    /// as long as the snapshot is held.
    #[must_use]
    pub fn count(&self, block: u32) -> u64 {
        let pin = Pin::of_scan(self.table, block, &self.ring);
        let (buffer, snapshot) = (pin.buffer(), self.snapshot.raw());
        let trusts_page = !self.snapshot.is_of_recovery();
        let table = self.table.oid();
        pin.share(|page| {
            // SAFETY: the page is pinned and locked; a page of a table is laid out like that; within the guard are plain
            // values alone, and nothing that panics.
            unsafe {
                pg_guard_ffi_boundary(|| visible(page, block, table, snapshot, buffer, trusts_page))
            }
        })
    }

    /// Whether the snapshot sees the row, in any of its versions on that page, that an entry of an index points to.
    #[must_use]
    pub fn sees(&self, tid: &Tid) -> bool {
        let [a, b, c, d, e, f] = *tid;
        let mut tid = pg_sys::ItemPointerData {
            ip_blkid: pg_sys::BlockIdData {
                bi_hi: u16::from_ne_bytes([a, b]),
                bi_lo: u16::from_ne_bytes([c, d]),
            },
            ip_posid: u16::from_ne_bytes([e, f]),
        };
        let pin = Pin::main(self.table, super::btree::block(&[a, b, c, d, e, f]));
        let mut tuple = pg_sys::HeapTupleData::default();
        let (table, snapshot, buffer) = (self.table.raw(), self.snapshot.raw(), pin.buffer());
        pin.share(|_| {
            // SAFETY: the page is pinned and locked, the table open, the snapshot registered; the rest is ours.
            unsafe {
                pg_sys::heap_hot_search_buffer(
                    &raw mut tid,
                    table,
                    buffer,
                    snapshot,
                    &raw mut tuple,
                    std::ptr::null_mut(),
                    true,
                )
            }
        })
    }
}

/// How many rows of a page the snapshot sees.
///
/// Where a page says that all its rows are visible to all, its items are counted, but not if the snapshot is of a standby:
/// there the page may say so too early (src/backend/access/heap/heapam.c, heapgetpage).
///
/// # Safety
///
/// `page` is a page of a table, in `buffer`, which is pinned and locked; the snapshot is registered.
unsafe fn visible(
    page: *const u8,
    block: u32,
    table: pg_sys::Oid,
    snapshot: pg_sys::Snapshot,
    buffer: pg_sys::Buffer,
    trusts_page: bool,
) -> u64 {
    // SAFETY: as this function requires; the line pointers that the header counts lie in the page, and normal ones point
    // to rows in it.
    unsafe {
        let header = page.cast::<pg_sys::PageHeaderData>();
        let items = page.add(page::HEADER).cast::<u32>();
        let used = usize::from((*header).pd_lower).saturating_sub(page::HEADER) / 4;
        let used = if used < page::MOST_ITEMS { used } else { page::MOST_ITEMS };
        let is_all = trusts_page && u32::from((*header).pd_flags) & pg_sys::PD_ALL_VISIBLE != 0;
        let mut tuple = std::mem::zeroed::<pg_sys::HeapTupleData>();
        tuple.t_tableOid = table;
        tuple.t_self.ip_blkid.bi_hi = (block >> 16) as u16;
        tuple.t_self.ip_blkid.bi_lo = block as u16;
        let mut count = 0_u64;
        let mut i = 0;
        while i < used {
            let item = items.add(i).read();
            i = i.wrapping_add(1);
            if (item >> 15) & 3 != pg_sys::LP_NORMAL {
                continue;
            }
            tuple.t_self.ip_posid = i as u16;
            tuple.t_data = page.add((item & 0x7fff) as usize).cast_mut().cast();
            tuple.t_len = item >> 17;
            if is_all || c::HeapTupleSatisfiesVisibility(&raw mut tuple, snapshot, buffer) {
                count = count.wrapping_add(1);
            }
        }
        count
    }
}

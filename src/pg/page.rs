//! Pages of a relation: read, pinned, copied. What their bytes mean is said where they are used.

use pgrx::pg_sys;

use crate::pg::relation::Relation;

/// The size of a page, in bytes.
pub const SIZE: usize = pg_sys::BLCKSZ as usize;

/// The size of its header (src/include/storage/bufpage.h, `SizeOfPageHeaderData`): line pointers, or what else a page holds,
/// come after it.
pub const HEADER: usize = 24;

/// How many line pointers have room in a page at most.
pub const MOST_ITEMS: usize = (SIZE - HEADER) / size_of::<pg_sys::ItemIdData>();

// Line pointers are bit fields, and so are the bits of a visibility map's words; pgrx knows no other machines anyway.
const _: () = assert!(cfg!(target_endian = "little"));

/// How many pages of `relation` there are now.
#[must_use]
pub fn count(relation: &Relation) -> u32 {
    let main = pg_sys::ForkNumber::MAIN_FORKNUM;
    // SAFETY: the relation is open, and has its main fork, as tables and indexes do.
    unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation.raw(), main) }
}

/// How many pages of its visibility map there are now.
#[must_use]
pub fn count_of_map(relation: &Relation) -> u32 {
    let fork = pg_sys::ForkNumber::VISIBILITYMAP_FORKNUM;
    // SAFETY: the relation is open; a fork is asked for its size only where it exists.
    unsafe {
        let smgr = pg_sys::RelationGetSmgr(relation.raw());
        if pg_sys::smgrexists(smgr, fork) { pg_sys::smgrnblocks(smgr, fork) } else { 0 }
    }
}

/// A page that stays in its buffer until this is dropped. It borrows nothing: a pin needs no open relation.
pub struct Pin(pg_sys::Buffer);

impl Pin {
    /// Reads a page of an index, or of a table, into a buffer.
    #[must_use]
    pub fn main(relation: &Relation, block: u32) -> Self {
        Self::of_scan(relation, block, &Ring::none())
    }

    /// Reads a page of a table that is read from one end to the other.
    #[must_use]
    pub fn of_scan(relation: &Relation, block: u32, ring: &Ring) -> Self {
        let (fork, mode) = (pg_sys::ForkNumber::MAIN_FORKNUM, pg_sys::ReadBufferMode::RBM_NORMAL);
        Self::read(relation, fork, block, mode, ring)
    }

    /// Reads a page of a table's visibility map; one that is broken is all zeros, as for the server
    /// (src/backend/access/heap/visibilitymap.c, `vm_readbuf`).
    #[must_use]
    pub fn of_map(relation: &Relation, block: u32) -> Self {
        let fork = pg_sys::ForkNumber::VISIBILITYMAP_FORKNUM;
        let mode = pg_sys::ReadBufferMode::RBM_ZERO_ON_ERROR;
        Self::read(relation, fork, block, mode, &Ring::none())
    }

    fn read(
        relation: &Relation,
        fork: pg_sys::ForkNumber::Type,
        block: u32,
        mode: pg_sys::ReadBufferMode::Type,
        ring: &Ring,
    ) -> Self {
        // SAFETY: the relation is open; a page that isn't there is an error; Drop gives the pin back.
        let buffer =
            unsafe { pg_sys::ReadBufferExtended(relation.raw(), fork, block, mode, ring.0) };
        Self(buffer)
    }

    /// The number of the buffer; valid as long as this.
    #[must_use]
    pub const fn buffer(&self) -> pg_sys::Buffer {
        self.0
    }

    /// The page itself, `SIZE` bytes; valid as long as this. Others may write to it unless it is locked.
    #[must_use]
    pub fn raw(&self) -> *mut u8 {
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::BufferGetPage(self.0).cast() }
    }

    /// Calls `look` with the page while nobody writes to it.
    pub fn look<T>(&self, look: impl FnOnce(&Shared) -> T) -> T {
        self.share(|page| look(&Shared(page)))
    }

    /// Calls `read` while nobody writes to the page.
    pub fn share<T>(&self, read: impl FnOnce(*const u8) -> T) -> T {
        // SAFETY: the buffer is pinned, and not locked by us: `read` has no way to this. After an error the abort
        // unlocks it.
        unsafe { pg_sys::LockBuffer(self.0, pg_sys::BUFFER_LOCK_SHARE as i32) }
        let value = read(self.raw());
        // SAFETY: locked above.
        unsafe { pg_sys::LockBuffer(self.0, pg_sys::BUFFER_LOCK_UNLOCK as i32) }
        value
    }

    /// When the page was last changed ([`Bytes::version`]).
    #[must_use]
    pub fn version(&self) -> u64 {
        self.look(Bytes::version)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pinned by `read`, given back once; after an error the abort does it.
            unsafe { pg_sys::ReleaseBuffer(self.0) }
        }
    }
}

/// A few buffers that a large scan uses again and again, so that it doesn't push out what others use.
pub struct Ring(pg_sys::BufferAccessStrategy);

impl Ring {
    /// No ring: pages are kept like all others.
    const fn none() -> Self {
        Self(std::ptr::null_mut())
    }

    /// One for a table of so many pages, where that is large, as the server has it for its own scans
    /// (src/backend/access/heap/heapam.c, initscan).
    #[must_use]
    pub fn for_scan(pages: u32) -> Self {
        // SAFETY: reads a variable of the server, and makes a ring that Drop frees.
        unsafe {
            if i64::from(pages) > i64::from(pg_sys::NBuffers) / 4 {
                Self(pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_BULKREAD))
            } else {
                Self::none()
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.0.is_null() && !std::thread::panicking() {
            // SAFETY: made by `for_scan`, freed once; after an error its memory goes with its context.
            unsafe { pg_sys::FreeAccessStrategy(self.0) }
        }
    }
}

/// The bytes of a page.
pub trait Bytes {
    /// The bytes from `at` on, `None` past the end.
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Two bytes as a number.
    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_ne_bytes)
    }

    /// Four bytes as a number.
    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_ne_bytes)
    }

    /// How many line pointers the page has (src/include/storage/bufpage.h, `PageGetMaxOffsetNumber`).
    fn items(&self) -> usize {
        let lower = self.u16(12).map_or(0, usize::from);
        (lower.saturating_sub(HEADER) / size_of::<pg_sys::ItemIdData>()).min(MOST_ITEMS)
    }

    /// Where an item begins, its flags (`LP_NORMAL`, …) and its length; items are counted from 1.
    fn pointer(&self, number: usize) -> Option<(usize, u32, usize)> {
        let pointer =
            self.u32(HEADER + size_of::<pg_sys::ItemIdData>() * number.checked_sub(1)?)?;
        Some((pointer as usize & 0x7fff, (pointer >> 15) & 3, pointer as usize >> 17))
    }

    /// When the page was last changed: its LSN, whose halves are swapped, so that it can only be compared.
    fn version(&self) -> u64 {
        self.bytes(0).map_or(0, u64::from_ne_bytes)
    }

    /// Where what belongs to the access method begins (`pd_special`).
    fn special(&self) -> Option<usize> {
        self.u16(16).map(usize::from)
    }
}

/// A page in its buffer, locked against all writers but those of single flags that are mere hints.
pub struct Shared(*const u8);

impl Bytes for Shared {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let is_within = at.checked_add(N)? <= SIZE;
        // SAFETY: the page is pinned and locked as long as this lives (`Pin::look`), and these bytes are within it.
        is_within.then(|| unsafe { self.0.add(at).cast::<[u8; N]>().read() })
    }
}

/// A copy of a page.
pub struct Copy(Box<[u8; SIZE]>);

impl Default for Copy {
    fn default() -> Self {
        Self(Box::new([0; SIZE]))
    }
}

impl Copy {
    /// Copies a page as it is now.
    pub fn take(&mut self, pin: &Pin) {
        let to = self.0.as_mut_ptr();
        // SAFETY: both are SIZE bytes; those in the buffer aren't written to now, apart from single flags that are mere
        // hints, of which either state will do.
        pin.share(|page| unsafe { page.copy_to_nonoverlapping(to, SIZE) });
    }

    /// The flags (`LP_NORMAL`, …) and the bytes of an item, counted from 1; `None` where there is no such.
    #[must_use]
    pub fn item(&self, number: usize) -> Option<(u32, &[u8])> {
        let (offset, flags, length) = self.pointer(number)?;
        Some((flags, self.0.get(offset..offset + length)?))
    }
}

impl Bytes for Copy {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }
}

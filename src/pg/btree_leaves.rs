//! The leaves of a B-tree from left to right, and the row pointers (TIDs) in them.
//!
//! The layout is that of src/include/access/nbtree.h, alike in 15 to 18; pgrx doesn't have it.

use crate::pg::page::{self, Copy, Pin};
use crate::pg::relation::Relation;

/// A row pointer: a block number as two halves, and the number of an item (src/include/storage/itemptr.h).
pub type Tid = [u8; 6];

/// The block of a row pointer.
#[must_use]
pub const fn block(tid: &Tid) -> u32 {
    let [a, b, c, d, _, _] = *tid;
    (u16::from_ne_bytes([a, b]) as u32) << 16 | u16::from_ne_bytes([c, d]) as u32
}

/// A page that isn't as this file knows pages: a broken one, or one of a form to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strange;

/// The first page of an index, and where in it `BTMetaPageData` has what is read here.
const META_PAGE: u32 = 0;
const META_MAGIC: usize = page::HEADER;
const META_VERSION: usize = page::HEADER + 4;
const META_ROOT: usize = page::HEADER + 8;
const MAGIC: u32 = 0x05_3162;
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=4;

/// No page (`P_NONE`).
const NONE: u32 = 0;

/// `btpo_flags`.
const LEAF: u16 = 1 << 0;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const HALF_DEAD: u16 = 1 << 4;

/// The size of `BTPageOpaqueData`, which stands at the end of a page.
const OPAQUE_SIZE: usize = 16;

/// In `t_info` of an index tuple: its TID is none of a row (`INDEX_ALT_TID_MASK`).
const ALTERNATIVE_TID: u16 = 0x2000;
/// In the item number of such a TID: it is that of a posting list (`BT_IS_POSTING`), which has so many TIDs
/// (`BT_OFFSET_MASK`).
const POSTING: u16 = 0x2000;
const POSTING_COUNT: u16 = 0x0fff;

/// `lp_flags` of an item that is known to be dead.
const DEAD: u32 = pgrx::pg_sys::LP_DEAD;

/// What a page says of itself.
struct Opaque {
    next: u32,
    level: u32,
    flags: u16,
}

impl Opaque {
    fn of(page: &Copy) -> Result<Self, Strange> {
        let at = page.special().filter(|at| *at == page::SIZE - OPAQUE_SIZE).ok_or(Strange)?;
        let read = || {
            Some(Self {
                next: page.u32(at + 4)?,
                level: page.u32(at + 8)?,
                flags: page.u16(at + 12)?,
            })
        };
        read().filter(|opaque| opaque.flags & META == 0).ok_or(Strange)
    }

    /// Whether it holds nothing, and only its link to the right counts (`P_IGNORE`).
    const fn is_ignored(&self) -> bool {
        self.flags & (DELETED | HALF_DEAD) != 0
    }

    /// The first item that is no high key (`P_FIRSTDATAKEY`).
    const fn first_item(&self) -> usize {
        if self.next == NONE { 1 } else { 2 }
    }
}

/// The leaves of an index, of which the last that was read stays pinned.
///
/// A leaf's right neighbour is the one that it had when it was read: splits move entries to the right only, to pages
/// between the two, and what was moved there has been read already. A page is deleted only when it is empty, and keeps its
/// link; it isn't used again before the snapshots that are held now are gone (src/backend/access/nbtree/README).
pub struct Leaves<'a> {
    index: &'a Relation,
    page: Copy,
    pin: Option<Pin>,
    next: u32,
    with_dead: bool,
}

impl<'a> Leaves<'a> {
    /// Goes before the leftmost leaf. The caller holds a snapshot until the last one is read.
    ///
    /// `with_dead`: also gives the TIDs that are marked as dead. On a standby that may only mean that a snapshot of the
    /// primary sees their rows no more.
    ///
    /// # Errors
    ///
    /// Where a page is not as expected.
    pub fn begin(index: &'a Relation, with_dead: bool) -> Result<Self, Strange> {
        let mut page = Copy::default();
        page.take(&Pin::main(index, META_PAGE));
        let version = page.u32(META_VERSION).ok_or(Strange)?;
        if page.u32(META_MAGIC) != Some(MAGIC) || !VERSIONS.contains(&version) {
            return Err(Strange);
        }
        let mut next = page.u32(META_ROOT).ok_or(Strange)?;
        while next != NONE {
            page.take(&Pin::main(index, next));
            let opaque = Opaque::of(&page)?;
            if opaque.is_ignored() {
                next = opaque.next;
            } else if opaque.level == 0 {
                break;
            } else {
                let (_, first) = page.item(opaque.first_item()).ok_or(Strange)?;
                next = first.first_chunk().map(block).ok_or(Strange)?;
            }
            crate::pg::server::check_for_interrupts();
        }
        Ok(Self { index, page, pin: None, next, with_dead })
    }

    /// Reads the next leaf, and keeps it pinned; `false` after the last. VACUUM takes each leaf for itself before it
    /// forgets a row that an entry points to, so what the TIDs point to stays known as long as the pin.
    ///
    /// # Errors
    ///
    /// Where a page is not as expected.
    pub fn advance(&mut self) -> Result<bool, Strange> {
        self.pin = None;
        if self.next == NONE {
            return Ok(false);
        }
        let pin = self.pin.insert(Pin::main(self.index, self.next));
        self.page.take(pin);
        self.next = Opaque::of(&self.page)?.next;
        Ok(true)
    }

    /// Reads the leaf again if it has changed since it was read, which is told then.
    ///
    /// # Errors
    ///
    /// Where a page is not as expected.
    pub fn refresh(&mut self) -> Result<bool, Strange> {
        let Some(pin) = &self.pin else { return Ok(false) };
        if pin.version() == self.page.version() {
            return Ok(false);
        }
        self.page.take(pin);
        self.next = Opaque::of(&self.page)?.next;
        Ok(true)
    }

    /// The TIDs of the leaf: of each entry one, or a list in ascending order.
    ///
    /// # Errors
    ///
    /// Where the page is not as expected.
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<&[Tid], Strange>>, Strange> {
        let opaque = Opaque::of(&self.page)?;
        let (first, last) = if opaque.is_ignored() {
            (1, 0)
        } else if opaque.flags & LEAF != 0 && opaque.level == 0 {
            (opaque.first_item(), self.page.items())
        } else {
            return Err(Strange);
        };
        let entries = (first..=last).map(|number| {
            let (flags, tuple) = self.page.item(number).ok_or(Strange)?;
            if flags == DEAD && !self.with_dead { Ok(&[][..]) } else { tids(tuple).ok_or(Strange) }
        });
        Ok(entries)
    }
}

/// The TIDs of an index tuple (`IndexTupleData`: a TID, `t_info`, the key; a posting list stands after the key).
fn tids(tuple: &[u8]) -> Option<&[Tid]> {
    let (tid, rest) = tuple.split_first_chunk::<6>()?;
    let info = u16::from_ne_bytes(*rest.first_chunk()?);
    if info & ALTERNATIVE_TID == 0 {
        return Some(std::slice::from_ref(tid));
    }
    let [_, _, _, _, a, b] = *tid;
    let number = u16::from_ne_bytes([a, b]);
    if number & POSTING == 0 {
        return None;
    }
    let list = tuple.get(block(tid) as usize..)?;
    list.as_chunks::<6>().0.get(..usize::from(number & POSTING_COUNT))
}

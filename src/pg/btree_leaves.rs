//! The leaves of a B-tree from left to right, and the row pointers (TIDs) in them.

use crate::pg::btree::{
    ALTERNATIVE_COUNT, ALTERNATIVE_TID, META_PAGE, NONE, Opaque, POSTING, Roots, Strange, Tid,
    block, number,
};
use crate::pg::page::{Bytes, Copy, Pin};
use crate::pg::relation::Relation;

/// `lp_flags` of an item that is known to be dead.
const DEAD: u32 = pgrx::pg_sys::LP_DEAD;

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
        let mut next = Roots::of(&page)?.top;
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

    /// The TIDs of the leaf: of each entry one, or a list in ascending order. `tids_of` finds them in an entry:
    /// [`tids`], or in tests what leaves a rule out.
    ///
    /// # Errors
    ///
    /// Where the page is not as expected.
    pub fn entries(
        &self,
        tids_of: impl Fn(&[u8]) -> Option<&[Tid]>,
    ) -> Result<impl Iterator<Item = Result<&[Tid], Strange>>, Strange> {
        let opaque = Opaque::of(&self.page)?;
        let (first, last) = if opaque.is_ignored() {
            (1, 0)
        } else if opaque.is_leaf() {
            (opaque.first_item(), self.page.items())
        } else {
            return Err(Strange);
        };
        let entries = (first..=last).map(move |number| {
            let (flags, tuple) = self.page.item(number).ok_or(Strange)?;
            if flags == DEAD && !self.with_dead {
                Ok(&[][..])
            } else {
                tids_of(tuple).ok_or(Strange)
            }
        });
        Ok(entries)
    }
}

/// The TIDs of an index tuple (`IndexTupleData`: a TID, `t_info`, the key; a posting list stands after the key).
#[must_use]
pub fn tids(tuple: &[u8]) -> Option<&[Tid]> {
    let (tid, rest) = tuple.split_first_chunk::<6>()?;
    let info = u16::from_ne_bytes(*rest.first_chunk()?);
    if info & ALTERNATIVE_TID == 0 {
        return Some(std::slice::from_ref(tid));
    }
    let number = number(tid);
    if number & POSTING == 0 {
        return None;
    }
    let list = tuple.get(block(tid) as usize..)?;
    list.as_chunks::<6>().0.get(..usize::from(number & ALTERNATIVE_COUNT))
}

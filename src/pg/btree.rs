//! How the pages of a B-tree are laid out: what a page says of itself, and where the tree begins.
//!
//! The layout is that of src/include/access/nbtree.h, alike in 15 to 18; pgrx doesn't have it.

use crate::pg::page::{self, Bytes};

/// A row pointer: a block number as two halves, and the number of an item (src/include/storage/itemptr.h).
pub type Tid = [u8; 6];

/// The block of a row pointer; in an item of an inner page, the page below.
#[must_use]
pub const fn block(tid: &Tid) -> u32 {
    let [a, b, c, d, _, _] = *tid;
    (u16::from_ne_bytes([a, b]) as u32) << 16 | u16::from_ne_bytes([c, d]) as u32
}

/// The number of the item that a row pointer has.
#[must_use]
pub const fn number(tid: &Tid) -> u16 {
    let [_, _, _, _, a, b] = *tid;
    u16::from_ne_bytes([a, b])
}

/// A page that isn't as this file knows pages: a broken one, or one of a form to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strange;

/// The first page of an index, and where in it `BTMetaPageData` has what is read here.
pub const META_PAGE: u32 = 0;
const META_MAGIC: usize = page::HEADER;
const META_VERSION: usize = page::HEADER + 4;
const META_ROOT: usize = page::HEADER + 8;
const META_FAST_ROOT: usize = page::HEADER + 16;
const META_FAST_LEVEL: usize = page::HEADER + 20;
const MAGIC: u32 = 0x05_3162;
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=4;

/// No page (`P_NONE`).
pub const NONE: u32 = 0;

/// `btpo_flags`.
const LEAF: u16 = 1 << 0;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const HALF_DEAD: u16 = 1 << 4;

/// The size of `BTPageOpaqueData`, which stands at the end of a page.
const OPAQUE_SIZE: usize = 16;

/// In `t_info` of an index tuple: its TID is none of a row (`INDEX_ALT_TID_MASK`).
pub const ALTERNATIVE_TID: u16 = 0x2000;
/// In the item number of such a TID: it is that of a posting list (`BT_IS_POSTING`).
pub const POSTING: u16 = 0x2000;
/// In the same: how many TIDs the list has; otherwise how many columns the tuple has (`BT_OFFSET_MASK`).
pub const ALTERNATIVE_COUNT: u16 = 0x0fff;

/// Where a search begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The page at the top; `NONE` where the index is empty.
    pub top: u32,
    /// The lowest page that is alone on its level (`btm_fastroot`).
    pub fast: u32,
    /// How far that is from the leaves.
    pub fast_level: u32,
}

impl Roots {
    /// Reads them from the first page of an index.
    ///
    /// # Errors
    ///
    /// Where the page is not as expected.
    pub fn of(page: &impl Bytes) -> Result<Self, Strange> {
        let version = page.u32(META_VERSION).ok_or(Strange)?;
        if page.u32(META_MAGIC) != Some(MAGIC) || !VERSIONS.contains(&version) {
            return Err(Strange);
        }
        let at = |at| page.u32(at).ok_or(Strange);
        let (top, fast) = (at(META_ROOT)?, at(META_FAST_ROOT)?);
        Ok(Self { top, fast, fast_level: at(META_FAST_LEVEL)? })
    }
}

/// What a page says of itself.
#[derive(Clone, Copy)]
pub struct Opaque {
    /// Its left neighbour.
    pub previous: u32,
    /// Its right neighbour.
    pub next: u32,
    /// How far it is from the leaves.
    pub level: u32,
    flags: u16,
}

impl Opaque {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Where the page is not as expected.
    pub fn of(page: &impl Bytes) -> Result<Self, Strange> {
        let at = page.special().filter(|at| *at == page::SIZE - OPAQUE_SIZE).ok_or(Strange)?;
        let read = || {
            Some(Self {
                previous: page.u32(at)?,
                next: page.u32(at + 4)?,
                level: page.u32(at + 8)?,
                flags: page.u16(at + 12)?,
            })
        };
        read().filter(|opaque| opaque.flags & META == 0).ok_or(Strange)
    }

    /// Whether it holds nothing, and only its link to the right counts (`P_IGNORE`).
    #[must_use]
    pub const fn is_ignored(&self) -> bool {
        self.flags & (DELETED | HALF_DEAD) != 0
    }

    /// Whether its items are entries.
    #[must_use]
    pub const fn is_leaf(&self) -> bool {
        self.flags & LEAF != 0 && self.level == 0
    }

    /// Whether it is alone on its level.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.previous == NONE && self.next == NONE
    }

    /// The first item that is no high key (`P_FIRSTDATAKEY`).
    #[must_use]
    pub const fn first_item(&self) -> usize {
        if self.next == NONE { 1 } else { 2 }
    }
}

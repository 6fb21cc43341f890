//! The visibility map of a table: which of its pages hold only rows that everybody sees.
//!
//! A page has two bits, of which the lower one says that; the map's pages hold nothing but bits after their header
//! (src/backend/access/heap/visibilitymap.c). Here the bits are handled in words of 64, that is, of 32 pages.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::pg::page::{self, Pin};
use crate::pg::relation::Relation;

/// How many pages of the table a word is about.
pub const PER_WORD: u32 = 32;

/// How many words a page of the map has.
const WORDS: usize = (page::SIZE - page::HEADER) / size_of::<u64>();

/// The lower bit of each page.
pub const ALL: u64 = 0x5555_5555_5555_5555;

/// The bits of the map, by words.
pub trait Map {
    /// Word `number`, where the bits besides those of [`ALL`] mean nothing.
    fn word(&mut self, number: usize) -> u64;
}

/// The map of a table as it was at some time, for the pages that the table had before.
pub struct Copy {
    words: Vec<u64>,
    blocks: u32,
}

impl Copy {
    /// Asks for the size of the table, then copies the map; `None` where there is no memory for it.
    #[must_use]
    pub fn take(table: &Relation) -> Option<Self> {
        let blocks = page::count(table);
        let length = blocks.div_ceil(PER_WORD) as usize;
        let mut words = Vec::new();
        words.try_reserve_exact(length).ok()?;
        words.resize(length, 0);
        let pages = page::count_of_map(table);
        for (block, words) in (0..pages).zip(words.chunks_mut(WORDS)) {
            Pin::of_map(table, block).share(|page| {
                // SAFETY: a page has that many words after its header, and isn't written to while it is shared; a
                // buffer is aligned.
                let bits = unsafe {
                    std::slice::from_raw_parts(page.add(page::HEADER).cast::<u64>(), words.len())
                };
                for (word, bits) in words.iter_mut().zip(bits) {
                    *word = bits & ALL;
                }
            });
        }
        // What lies past the table's end is of no page.
        if let (Some(last), 1..) = (words.last_mut(), blocks % PER_WORD) {
            *last &= (1 << (2 * (blocks % PER_WORD))) - 1;
        }
        Some(Self { words, blocks })
    }

    /// How many pages the table had.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Whether the bit of a page is set; not where the table hadn't that page.
    #[must_use]
    pub fn is_set(&self, block: u32) -> bool {
        is_set(self.word(block_word(block)), block)
    }

    /// A word of it, in which only the bits of [`ALL`] are set.
    #[must_use]
    pub fn word(&self, number: usize) -> u64 {
        self.words.get(number).copied().unwrap_or(0)
    }

    /// How many pages the table had whose bit wasn't set.
    #[must_use]
    pub fn count_unset(&self) -> u32 {
        self.blocks - self.words.iter().map(|word| word.count_ones()).sum::<u32>()
    }

    /// Those pages, in ascending order.
    pub fn unset(&self) -> impl Iterator<Item = u32> + Clone {
        let words = (0..).step_by(PER_WORD as usize).zip(&self.words);
        let unset = words.flat_map(|(base, word)| {
            let mut left = !word & ALL;
            std::iter::from_fn(move || {
                let lowest = left.trailing_zeros();
                (left != 0).then(|| {
                    left &= left - 1;
                    base + lowest / 2
                })
            })
        });
        unset.take_while(|block| *block < self.blocks)
    }
}

/// The word that a page's bit is in.
#[must_use]
pub const fn block_word(block: u32) -> usize {
    (block / PER_WORD) as usize
}

/// Whether a word has the bit of a page set.
#[must_use]
pub const fn is_set(word: u64, block: u32) -> bool {
    word >> (2 * (block % PER_WORD)) & 1 != 0
}

/// The map of a table as it is when it is asked, without a lock, as an index-only scan reads it.
///
/// A word may be older than what a transaction did that isn't known to have ended; src/backend/executor/nodeIndexonlyscan.c
/// says at length why that doesn't matter to whoever has read the index before.
pub struct Current<'a> {
    table: &'a Relation,
    /// The pages of the map that have been asked for: where their words begin, null before.
    bits: Vec<*mut u64>,
    pins: Vec<Pin>,
}

/// How many pages of the map are held at most: each stands for 255 MB of the table, and for one buffer that nobody else
/// can use meanwhile.
const MOST_PINS: usize = 64;

impl<'a> Current<'a> {
    /// The map of `table`.
    #[must_use]
    pub fn of(table: &'a Relation) -> Self {
        let bits = vec![std::ptr::null_mut(); page::count_of_map(table) as usize];
        Self { table, bits, pins: Vec::new() }
    }

    #[cold]
    fn pin(&mut self, block: usize) -> *mut u64 {
        // SAFETY: reads a variable of the server.
        let buffers = unsafe { pgrx::pg_sys::NBuffers } as usize;
        if self.pins.len() >= MOST_PINS.min(buffers / 256).max(1) {
            self.bits.fill(std::ptr::null_mut());
            self.pins.clear();
        }
        let pin = Pin::of_map(self.table, block as u32);
        // SAFETY: the words begin after the page's header.
        let bits = unsafe { pin.raw().add(page::HEADER) }.cast();
        self.pins.push(pin);
        if let Some(slot) = self.bits.get_mut(block) {
            *slot = bits;
        }
        bits
    }
}

impl Map for Current<'_> {
    fn word(&mut self, number: usize) -> u64 {
        let (block, at) = (number / WORDS, number % WORDS);
        let bits = match self.bits.get(block) {
            Some(bits) if !bits.is_null() => *bits,
            Some(_) => self.pin(block),
            None => return 0,
        };
        // SAFETY: the page is pinned, has that many words, aligned, and others write to it in single bytes: each byte is
        // the one before or the one after.
        unsafe { AtomicU64::from_ptr(bits.add(at)) }.load(Ordering::Relaxed)
    }
}

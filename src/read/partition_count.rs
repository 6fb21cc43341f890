//! How many rows of one partition the caller's snapshot sees, counted without a query and mostly without its rows: from the
//! row pointers in an index, and the visibility map.
//!
//! It gives what `SELECT count(*)` gives under the same snapshot, or nothing, where the query has to be run. docs/decisions.md
//! says what is trusted and why.

use pgrx::pg_sys::{HEAP_TABLE_AM_OID, Oid, RELKIND_RELATION, RELPERSISTENCE_PERMANENT};

use crate::pg::btree::{self, Strange, Tid};
use crate::pg::btree_leaves::{self, Leaves};
use crate::pg::heap_count::Heap;
use crate::pg::relation::{self, Relation};
use crate::pg::snapshot::Snapshot;
use crate::pg::visibility_map::{self, ALL, Copy, Current, Map, PER_WORD, block_word};
use crate::pg::{identity, index, server, version};

/// Counts the rows of `partition`, which the caller has locked; `None` where the query has to be run.
#[must_use]
pub fn native(partition: Oid) -> Option<u64> {
    let table = Relation::open(partition)?;
    let count = Count::begin(&table)?;
    count.finish(&mut Current::of(&table))
}

/// Whether the rows may be counted past the query: it would read a table of PostgreSQL's own kind, hide nothing from the
/// caller, and note nothing.
fn is_countable(table: &Relation) -> bool {
    let class = table.class();
    let role = identity::current_role();
    class.relkind.cast_unsigned() == RELKIND_RELATION
        && class.relpersistence.cast_unsigned() == RELPERSISTENCE_PERMANENT
        && class.relam == HEAP_TABLE_AM_OID
        && version::may_use_schema(class.relnamespace, role)
        && relation::may_select(table.oid(), role)
        && !relation::row_security_applies(table.oid())
        && !relation::transaction_is_serializable()
        && !relation::citus_is_installed()
        && !version::snapshots_may_get_too_old()
}

/// A count that has been begun: what is counted by pages, and what by the index, is settled.
pub struct Count<'a> {
    table: &'a Relation,
    snapshot: Snapshot,
    /// The visibility map, copied after the snapshot was taken. Pages that it has not are counted by themselves, whatever the
    /// map says later; row pointers into them are passed over, and so no row is counted twice. No row that the snapshot sees
    /// is in a page that was added since.
    copy: Copy,
}

impl<'a> Count<'a> {
    /// Begins with the active snapshot; `None` where the query has to be run.
    #[must_use]
    pub fn begin(table: &'a Relation) -> Option<Self> {
        if !is_countable(table) {
            return None;
        }
        let snapshot = Snapshot::active()?;
        let copy = Copy::take(table)?;
        Some(Self { table, snapshot, copy })
    }

    /// Counts. `map` is the visibility map as it is after a leaf was read.
    pub fn finish(&self, map: &mut impl Map) -> Option<u64> {
        self.finish_with(map, btree_leaves::tids)
    }

    /// The same, with what finds the row pointers in an entry of the index: a test takes another.
    pub fn finish_with(
        &self,
        map: &mut impl Map,
        tids_of: impl Fn(&[u8]) -> Option<&[Tid]>,
    ) -> Option<u64> {
        let unset = self.copy.count_unset();
        if let Some(most) = self.copy.blocks().checked_sub(unset).filter(|most| *most > 0)
            && let Some((index, pages)) = index::smallest_btree(self.table)
        {
            let count =
                if pages < most { self.by_index(&index, map, tids_of) } else { Ok(self.by_page()) };
            index.unlock();
            return count.ok();
        }
        Some(self.by_page())
    }

    /// Counts all pages by themselves.
    fn by_page(&self) -> u64 {
        self.pages(0..self.copy.blocks())
    }

    fn by_index(
        &self,
        index: &Relation,
        map: &mut impl Map,
        tids_of: impl Fn(&[u8]) -> Option<&[Tid]>,
    ) -> Result<u64, Strange> {
        let with_dead = self.snapshot.is_of_recovery();
        let mut leaves = Leaves::begin(index, with_dead)?;
        let mut tally =
            Tally { heap: Heap::new(self.table, &self.snapshot), copy: &self.copy, map };
        let mut count = 0;
        while leaves.advance()? {
            let mut of_leaf = tally.leaf(&leaves, &tids_of)?;
            // A standby doesn't wait for each pin, only for those of leaves from which it takes entries, and not always: the
            // map may already be that of a time without them. It comes after their removal, which shows in the leaf.
            while with_dead && leaves.refresh()? {
                server::check_for_interrupts();
                of_leaf = tally.leaf(&leaves, &tids_of)?;
            }
            count += of_leaf;
            server::check_for_interrupts();
        }
        Ok(count + self.pages(self.copy.unset()))
    }

    /// Counts pages by themselves, in the order of the file.
    fn pages(&self, blocks: impl Iterator<Item = u32> + Clone) -> u64 {
        let heap = Heap::new(self.table, &self.snapshot);
        let mut ahead = blocks.clone().zip(blocks.clone().skip(1)).fuse();
        let mut fetched = 0;
        let mut count = 0;
        for (done, block) in blocks.enumerate() {
            while fetched < done + AHEAD
                && let Some((before, block)) = ahead.next()
            {
                fetched += 1;
                // The system reads ahead by itself where one page follows another.
                if block != before + 1 {
                    heap.prefetch(block);
                }
            }
            server::check_for_interrupts();
            count += heap.count(block);
        }
        count
    }
}

/// How many pages are fetched ahead of the one that is counted.
const AHEAD: usize = 32;

/// Counts row pointers.
struct Tally<'a, M> {
    heap: Heap<'a>,
    copy: &'a Copy,
    map: &'a mut M,
}

impl<M: Map> Tally<'_, M> {
    /// The rows that the entries of a leaf point to. The leaf was read before, and is still pinned.
    fn leaf(
        &mut self,
        leaves: &Leaves,
        tids_of: impl Fn(&[u8]) -> Option<&[Tid]>,
    ) -> Result<u64, Strange> {
        let mut count = 0;
        for entry in leaves.entries(tids_of)? {
            count += match entry? {
                [tid] => self.one(tid),
                tids => self.list(tids),
            };
        }
        Ok(count)
    }

    /// The rows that a list points to, in ascending order. Most often the map says the same of all their pages, which a look
    /// at few words tells.
    fn list(&mut self, tids: &[Tid]) -> u64 {
        let (Some(first), Some(last)) = (tids.first(), tids.last()) else { return 0 };
        match self.range(btree::block(first), btree::block(last), tids.len()) {
            Range::All => tids.len() as u64,
            Range::AsCopied => tids.iter().map(|tid| u64::from(self.is_copied(tid))).sum(),
            Range::Mixed => tids.iter().map(|tid| self.one(tid)).sum(),
        }
    }

    /// The row that a pointer points to, unless it is in a page that is counted by itself.
    fn one(&mut self, tid: &Tid) -> u64 {
        if !self.is_copied(tid) {
            return 0;
        }
        let block = btree::block(tid);
        let is_visible = visibility_map::is_set(self.map.word(block_word(block)), block);
        u64::from(is_visible || self.heap.sees(tid))
    }

    fn is_copied(&self, tid: &Tid) -> bool {
        self.copy.is_set(btree::block(tid))
    }

    /// What the map says of the pages from one to another, both included; no more words are looked at than `worth`.
    fn range(&mut self, first: u32, last: u32, worth: usize) -> Range {
        let words = block_word(first)..=block_word(last);
        if first > last || words.end() - words.start() >= worth {
            return Range::Mixed;
        }
        let mut is_all = true;
        for number in words.clone() {
            let mut mask = ALL;
            if number == *words.start() {
                mask &= ALL << (2 * (first % PER_WORD));
            }
            if number == *words.end() {
                mask &= ALL >> (2 * (PER_WORD - 1 - last % PER_WORD));
            }
            let copied = self.copy.word(number) & mask;
            if copied & !self.map.word(number) != 0 {
                return Range::Mixed;
            }
            is_all &= copied == mask;
        }
        if is_all { Range::All } else { Range::AsCopied }
    }
}

/// What the map says of some pages in a row.
enum Range {
    /// All are visible to all, and were when it was copied.
    All,
    /// Those that were still are.
    AsCopied,
    /// Each has to be looked at.
    Mixed,
}

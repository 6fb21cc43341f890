//! The partitions of a table partitioned by range of `ts`, in the order of their bounds, as a SELECT that is planned now
//! would find them.

use pgrx::pg_sys;

use crate::domain::instant::Instant;
use crate::domain::partition::{Bound, Range};
use crate::pg::relation::Relation;

/// What `pg_sys` doesn't have (src/include/catalog/pg_partitioned_table.h, alike in 15 to 18).
#[repr(C)]
struct PartitionedTable {
    partrelid: pg_sys::Oid,
    partstrat: std::ffi::c_char,
    partnatts: i16,
    partdefid: pg_sys::Oid,
    partattrs: pg_sys::int2vector,
}

/// A partition of the descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// What it holds; `None` for the DEFAULT partition.
    pub range: Option<Range>,
    /// Whether it is not partitioned itself.
    pub is_leaf: bool,
}

/// Whether `parent` is partitioned by range of the column with that number alone.
#[must_use]
pub fn is_by_range_of(parent: &Relation, column: i16) -> bool {
    // SAFETY: PARTRELID is the cache keyed by pg_partitioned_table.partrelid; the row is read before it is released, its
    // columns up to partattrs are fixed, and partattrs holds partnatts values.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PARTRELID as i32;
        let row = pg_sys::SearchSysCache1(cache, parent.oid().into());
        if row.is_null() {
            return false;
        }
        let key = pg_sys::GETSTRUCT(row).cast::<PartitionedTable>();
        let is_range = (*key).partstrat.cast_unsigned() == b'r'
            && (*key).partnatts == 1
            && *(&raw const (*key).partattrs.values).cast::<i16>() == column;
        pg_sys::ReleaseSysCache(row);
        is_range
    }
}

/// The partitions that may hold a `ts` from `from` to `to`, both included, in the order of their ranges; the DEFAULT
/// partition, which may hold any, comes last.
///
/// One that is being detached belongs to them as it does to a SELECT with the active snapshot
/// (src/backend/partitioning/partdesc.c, `RelationGetPartitionDesc`).
///
/// `parent` is partitioned by range of one column of type timestamptz.
#[must_use]
pub fn pieces(parent: &Relation, from: Option<Instant>, to: Option<Instant>) -> Vec<Piece> {
    // SAFETY: the relation is open, and keeps this descriptor as long as it is, even where another one takes its place
    // meanwhile. A range partitioned table with partitions has bounds; there is a kind and a datum for each bound, and
    // each index is -1 or counts the descriptor's arrays.
    unsafe {
        let descriptor = &*pg_sys::RelationGetPartitionDesc(parent.raw(), true);
        if descriptor.nparts == 0 {
            return Vec::new();
        }
        let bounds = &*descriptor.boundinfo;
        let piece = |index: i32, range| {
            usize::try_from(index).ok().map(|index| Piece {
                oid: *descriptor.oids.add(index),
                range,
                is_leaf: *descriptor.is_leaf.add(index),
            })
        };
        let count = bounds.ndatums as usize;
        let bound = |i: usize| bound(*(*bounds.kind.add(i)), *(*bounds.datums.add(i)));
        // The partition with index i ends where bound i lies, excluded: the first ends at the first bound after `from`.
        let first = from.map_or(0, |from| first_beyond(count, |i| bound(i) > Bound::At(from)));
        // Beyond the last bound nothing is held.
        let mut pieces = Vec::new();
        for i in first.max(1)..count {
            let range = Range { lower: bound(i - 1), upper: bound(i) };
            if to.is_some_and(|to| range.lower > Bound::At(to)) {
                break;
            }
            pieces.extend(piece(*bounds.indexes.add(i), Some(range)));
        }
        pieces.extend(piece(bounds.default_index, None));
        pieces
    }
}

/// Whether a partition may hold a `ts` from `from` to `to`, both included.
#[must_use]
pub fn may_hold(piece: &Piece, from: Option<Instant>, to: Option<Instant>) -> bool {
    piece.range.is_none_or(|range| {
        from.is_none_or(|from| Bound::At(from) < range.upper)
            && to.is_none_or(|to| range.lower <= Bound::At(to))
    })
}

/// The first of `count` bounds that lies beyond; `count` where none does. Those beyond come after all others.
fn first_beyond(count: usize, is_beyond: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if is_beyond(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

fn bound(kind: pg_sys::PartitionRangeDatumKind::Type, datum: pg_sys::Datum) -> Bound {
    use pg_sys::PartitionRangeDatumKind as Kind;
    match kind {
        Kind::PARTITION_RANGE_DATUM_MINVALUE => Bound::MinValue,
        Kind::PARTITION_RANGE_DATUM_MAXVALUE => Bound::MaxValue,
        // A timestamptz is passed by value, as its 64 bits.
        _ => Bound::At(Instant(datum.value() as i64)),
    }
}

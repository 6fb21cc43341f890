//! A partition's bound as the catalog holds it (`pg_class.relpartbound`), without going through text.

use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;
use pgrx::{FromDatum, pg_sys};

use crate::domain::bound_text;
use crate::domain::instant::Instant;
use crate::domain::partition::{Bound, Extent, Range};

/// A function that `pg_sys` doesn't have. It raises errors, so it is called behind the guard that turns
/// them into unwinding.
mod c {
    use super::pg_sys;

    unsafe extern "C-unwind" {
        pub fn get_partition_parent(relation: pg_sys::Oid, even_if_detached: bool) -> pg_sys::Oid;
    }
}

/// The table that `relation` is attached to now, whatever snapshot the transaction has; `None` where it
/// is gone or is no partition.
#[must_use]
pub fn parent_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    extent_of(relation)?;
    // SAFETY: the relation is a partition, as its bound says; the call is guarded.
    Some(unsafe { pg_guard_ffi_boundary(|| c::get_partition_parent(relation, true)) })
}

/// A tuple of the system cache, released when dropped.
struct CachedTuple(pg_sys::HeapTuple);

impl CachedTuple {
    /// The row of `pg_class` of `relation`.
    fn of_relation(relation: pg_sys::Oid) -> Option<Self> {
        // SAFETY: RELOID is the cache keyed by pg_class.oid; the tuple is released by Drop.
        let tuple = unsafe {
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, relation.into())
        };
        // Only a tuple that is there may be wrapped: dropping the wrapper releases it.
        if tuple.is_null() { None } else { Some(Self(tuple)) }
    }
}

impl Drop for CachedTuple {
    fn drop(&mut self) {
        // SAFETY: the tuple came from SearchSysCache1 and is released once.
        unsafe { pg_sys::ReleaseSysCache(self.0) }
    }
}

/// What the catalog says now that `relation` may hold; `None` where it is gone or is no partition.
///
/// It reads through the system cache, so that it sees what is committed, whatever snapshot the
/// transaction has: under a lock on the relation the answer stays true.
#[must_use]
pub fn extent_of(relation: pg_sys::Oid) -> Option<Extent> {
    let tuple = CachedTuple::of_relation(relation)?;
    let mut is_null = true;
    // SAFETY: the tuple is of pg_class, and relpartbound is one of its columns.
    let bound = unsafe {
        pg_sys::SysCacheGetAttr(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            tuple.0,
            pg_sys::Anum_pg_class_relpartbound as pg_sys::AttrNumber,
            &raw mut is_null,
        )
    };
    if is_null {
        return None;
    }
    // SAFETY: the column is not null, and is a pg_node_tree, which has the layout of text; text_to_cstring copies it.
    Some(parse(unsafe { pg_sys::text_to_cstring(bound.cast_mut_ptr()) }))
}

/// What a `relpartbound` says, by PostgreSQL's own reader.
fn parse(text: *mut std::ffi::c_char) -> Extent {
    // SAFETY: the text was written by nodeToString, and what it holds for a partition is a
    // PartitionBoundSpec (catalog/heap.c, StorePartitionBound).
    let spec = unsafe { &*pg_sys::stringToNode(text).cast::<pg_sys::PartitionBoundSpec>() };
    extent(spec)
}

/// What a `relpartbound` says, quickly where it is a usual one.
///
/// # Safety
///
/// `bound` is a value of `pg_class.relpartbound`, not null, and lives during the call.
pub unsafe fn stored_extent(bound: pg_sys::Datum) -> Extent {
    // SAFETY: as the caller promises; a pg_node_tree has the layout of text.
    let text = unsafe { <&str>::from_datum(bound, false) };
    match text.and_then(bound_text::read) {
        Some(range) => Extent::Range(range),
        // SAFETY: as above; text_to_cstring copies it.
        None => parse(unsafe { pg_sys::text_to_cstring(bound.cast_mut_ptr()) }),
    }
}

fn extent(spec: &pg_sys::PartitionBoundSpec) -> Extent {
    if spec.is_default {
        return Extent::Default;
    }
    match (bound(spec.lowerdatums), bound(spec.upperdatums)) {
        (Ok(lower), Ok(upper)) => Extent::Range(Range { lower, upper }),
        (Err(reason), _) | (_, Err(reason)) => Extent::Unreadable(reason.to_owned()),
    }
}

/// One end of a range over a single column of type timestamptz.
fn bound(datums: *mut pg_sys::List) -> Result<Bound, &'static str> {
    use pg_sys::PartitionRangeDatumKind as Kind;
    // SAFETY: null is an empty list; otherwise it is a list of pointers, of which the first is read.
    let datum = unsafe {
        if datums.is_null() || (*datums).length != 1 {
            return Err("it is not a range over one column");
        }
        &*(*(*datums).elements).ptr_value.cast::<pg_sys::PartitionRangeDatum>()
    };
    match datum.kind {
        Kind::PARTITION_RANGE_DATUM_MINVALUE => Ok(Bound::MinValue),
        Kind::PARTITION_RANGE_DATUM_MAXVALUE => Ok(Bound::MaxValue),
        Kind::PARTITION_RANGE_DATUM_VALUE => {
            // SAFETY: a value in a stored bound is a node; its tag is looked at before the cast.
            let value = unsafe {
                if datum.value.is_null() || (*datum.value).type_ != pg_sys::NodeTag::T_Const {
                    return Err("its value is not a constant");
                }
                &*datum.value.cast::<pg_sys::Const>()
            };
            if value.consttype != pg_sys::TIMESTAMPTZOID || value.constisnull {
                return Err("its value is not a timestamp with time zone");
            }
            // A timestamptz is passed by value, as its 64 bits.
            Ok(Bound::At(Instant(value.constvalue.value() as i64)))
        }
        _ => Err("its value is of an unknown kind"),
    }
}

//! What differs between PostgreSQL 15, 16, 17 and 18 in the functions that native reads call.

use pgrx::pg_sys;

/// Begins a scan of `index` that fetches rows from `heap`, with `keys` conditions.
///
/// # Safety
///
/// Both relations are open under a lock, the index belongs to the table, and the snapshot stays registered or active as long
/// as the scan.
pub unsafe fn index_beginscan(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as this function requires.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        pg_sys::index_beginscan(heap, index, snapshot, keys, 0)
    }
    // SAFETY: as this function requires; nothing is instrumented.
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::index_beginscan(heap, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}

/// Column `i`, counted from 0, of a row type.
///
/// # Safety
///
/// `desc` is a row type with more than `i` columns; the result lives as long as it.
pub unsafe fn attribute(desc: pg_sys::TupleDesc, i: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: as this function requires.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        (*desc).attrs.as_ptr().add(i)
    }
    // SAFETY: as this function requires.
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::TupleDescAttr(desc, i as i32)
    }
}

/// Whether `role` may look up names in `schema`.
#[must_use]
pub fn may_use_schema(schema: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    let mode = pg_sys::ACL_USAGE as pg_sys::AclMode;
    // SAFETY: reads the catalogs; a schema that is gone raises an error.
    #[cfg(feature = "pg15")]
    let result = unsafe { pg_sys::pg_namespace_aclcheck(schema, role, mode) };
    // SAFETY: as above.
    #[cfg(not(feature = "pg15"))]
    let result =
        unsafe { pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, mode) };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// Whether this server may take rows away from a snapshot that is in use (`old_snapshot_threshold`, gone since 17).
#[must_use]
pub fn snapshots_may_get_too_old() -> bool {
    // SAFETY: reads a variable of the server.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    return unsafe { pg_sys::old_snapshot_threshold >= 0 };
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    return false;
}

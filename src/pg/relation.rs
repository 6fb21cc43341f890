//! A relation that is read: open under ACCESS SHARE, the lock that a SELECT takes.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::version;

const MODE: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// A relation, closed when dropped; its lock stays until the transaction ends, unless it is given back.
pub struct Relation(pg_sys::Relation);

impl Relation {
    /// Opens it, once whoever has it locked lets go; `None` where it is gone.
    #[must_use]
    pub fn open(relation: pg_sys::Oid) -> Option<Self> {
        // SAFETY: takes the lock, and looks then whether it is there; Drop closes it.
        let relation = unsafe { pg_sys::try_relation_open(relation, MODE) };
        (!relation.is_null()).then_some(Self(relation))
    }

    /// The same for an index that is only asked whether it has an entry: it is not counted as used in the statistics, in
    /// which a session would have to find and write a number for each of a thousand partitions.
    #[must_use]
    pub fn open_uncounted(index: pg_sys::Oid) -> Option<Self> {
        // SAFETY: takes the lock, and looks then whether it is there, as try_relation_open does
        // (src/backend/access/common/relation.c); Drop closes it.
        unsafe {
            pg_sys::LockRelationOid(index, MODE);
            let relation = pg_sys::RelationIdGetRelation(index);
            if relation.is_null() {
                pg_sys::UnlockRelationOid(index, MODE);
                return None;
            }
            Some(Self(relation))
        }
    }

    /// Closes it and gives its lock back: for what is looked at, and turns out not to matter.
    pub fn unlock(self) {
        let relation = self.0;
        std::mem::forget(self);
        // SAFETY: opened by `open` under this lock, and closed once, because Drop is not run.
        unsafe { pg_sys::relation_close(relation, MODE) }
    }

    /// For the server's functions; valid as long as this.
    #[must_use]
    pub const fn raw(&self) -> pg_sys::Relation {
        self.0
    }

    /// Its OID.
    #[must_use]
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: it is open.
        unsafe { (*self.0).rd_id }
    }

    /// Its row of `pg_class`.
    #[must_use]
    pub fn class(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: it is open, and the row isn't replaced while it is.
        unsafe { &*(*self.0).rd_rel }
    }

    /// Its row type.
    #[must_use]
    pub fn row_type(&self) -> pg_sys::TupleDesc {
        // SAFETY: it is open.
        unsafe { (*self.0).rd_att }
    }

    /// The number, counted from 1, and the type of the column of that name; no type where its values aren't stored (a
    /// virtual generated column).
    #[must_use]
    pub fn column(&self, name: &CStr) -> Option<(i16, pg_sys::Oid)> {
        let row_type = self.row_type();
        // SAFETY: the row type lives as long as the relation is open; each column read is one of it, and a name is a C
        // string within its 64 bytes.
        unsafe {
            (0..(*row_type).natts as usize)
                .map(|i| version::attribute(row_type, i))
                .find(|column| {
                    !(**column).attisdropped
                        && CStr::from_ptr((&raw const (**column).attname.data).cast()) == name
                })
                .map(|column| {
                    let is_stored = (*column).attgenerated.cast_unsigned() != b'v';
                    let type_oid = if is_stored { (*column).atttypid } else { pg_sys::InvalidOid };
                    ((*column).attnum, type_oid)
                })
        }
    }
}

impl Drop for Relation {
    fn drop(&mut self) {
        // SAFETY: opened by `open`; the lock stays.
        unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// Whether `role` may read all columns of `relation`.
#[must_use]
pub fn may_select(relation: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalogs; a relation that is gone raises an error.
    let result =
        unsafe { pg_sys::pg_class_aclcheck(relation, role, pg_sys::ACL_SELECT as pg_sys::AclMode) };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// Whether row level security hides rows of `relation` from the current role, or forbids it to read them.
#[must_use]
pub fn row_security_applies(relation: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalogs.
    let found = unsafe { pg_sys::check_enable_rls(relation, pg_sys::InvalidOid, true) };
    found == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
}

/// Whether this transaction is SERIALIZABLE: each read has to be noted then.
#[must_use]
pub fn transaction_is_serializable() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// Whether Citus may keep the rows of a table elsewhere: the table itself looks like any other then, and is empty.
///
/// Told by its catalog `pg_catalog.pg_dist_partition`.
#[must_use]
pub fn citus_is_installed() -> bool {
    let name = c"pg_dist_partition";
    // SAFETY: looks up the system cache; the string lives during the call.
    let relation =
        unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::PG_CATALOG_NAMESPACE.into()) };
    relation != pg_sys::InvalidOid
}

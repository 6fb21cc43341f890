//! Locks on relations by OID, and the settings that limit how long one waits for them.

use pgrx::pg_sys;

/// How strong a lock is (PostgreSQL manual, "Table-Level Locks").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "these are PostgreSQL's names")]
pub enum Mode {
    /// Conflicts with nothing but dropping and rewriting: what a reader takes.
    AccessShare,
    /// Conflicts with other maintenance, not with reading or writing.
    ShareUpdateExclusive,
    /// Conflicts with writing, not with itself.
    Share,
    /// Conflicts with writing, and with itself.
    ShareRowExclusive,
    /// Conflicts with everything.
    AccessExclusive,
}

impl Mode {
    const fn number(self) -> pg_sys::LOCKMODE {
        match self {
            Self::AccessShare => pg_sys::AccessShareLock as pg_sys::LOCKMODE,
            Self::ShareUpdateExclusive => pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE,
            Self::Share => pg_sys::ShareLock as pg_sys::LOCKMODE,
            Self::ShareRowExclusive => pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE,
            Self::AccessExclusive => pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        }
    }

    /// Its name in SQL.
    #[must_use]
    pub const fn as_sql(self) -> &'static str {
        match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }

    /// The modes, as `pg_locks` names them, that conflict with it.
    #[must_use]
    pub const fn conflicts(self) -> &'static [&'static str] {
        match self {
            Self::AccessShare => &["AccessExclusiveLock"],
            Self::ShareUpdateExclusive => &[
                "ShareUpdateExclusiveLock",
                "ShareLock",
                "ShareRowExclusiveLock",
                "ExclusiveLock",
                "AccessExclusiveLock",
            ],
            Self::Share => &[
                "RowExclusiveLock",
                "ShareUpdateExclusiveLock",
                "ShareRowExclusiveLock",
                "ExclusiveLock",
                "AccessExclusiveLock",
            ],
            Self::ShareRowExclusive => &[
                "RowExclusiveLock",
                "ShareUpdateExclusiveLock",
                "ShareLock",
                "ShareRowExclusiveLock",
                "ExclusiveLock",
                "AccessExclusiveLock",
            ],
            Self::AccessExclusive => &[
                "AccessShareLock",
                "RowShareLock",
                "RowExclusiveLock",
                "ShareUpdateExclusiveLock",
                "ShareLock",
                "ShareRowExclusiveLock",
                "ExclusiveLock",
                "AccessExclusiveLock",
            ],
        }
    }
}

/// Locks `relation` until the end of the transaction.
///
/// Waits for at most the setting `lock_timeout`, then raises 55P03. The OID may be that of a relation
/// that is gone: whoever decides under the lock looks again.
pub fn relation(relation: pg_sys::Oid, mode: Mode) {
    // SAFETY: takes a heavyweight lock by number; any OID will do, and the transaction's end lets go.
    unsafe { pg_sys::LockRelationOid(relation, mode.number()) }
}

/// A lock on a relation that outlives transactions: it keeps the relation from being dropped or renamed from one
/// step to the next. Released when dropped.
pub struct SessionLock(pg_sys::LockRelId);

impl SessionLock {
    /// Locks `relation`, of this database, in ACCESS SHARE mode.
    ///
    /// Waits for at most the setting `lock_timeout`, then raises 55P03.
    #[must_use]
    pub fn take(relation: pg_sys::Oid) -> Self {
        // SAFETY: reads a variable of the backend.
        let mut id = pg_sys::LockRelId { relId: relation, dbId: unsafe { pg_sys::MyDatabaseId } };
        // SAFETY: takes a heavyweight lock by number; the identity is copied.
        unsafe { pg_sys::LockRelationIdForSession(&raw mut id, SESSION_MODE) };
        Self(id)
    }
}

impl SessionLock {
    /// The transaction was aborted: that lets go of the locks of the session too (`ProcReleaseLocks` in
    /// `storage/lmgr/proc.c`).
    pub fn was_released_by_abort(self) {
        std::mem::forget(self);
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // SAFETY: the lock was taken by `take`, and is released once.
        unsafe { pg_sys::UnlockRelationIdForSession(&raw mut self.0, SESSION_MODE) };
    }
}

const SESSION_MODE: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

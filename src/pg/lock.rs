//! Locks on relations by OID, and the settings that limit how long one waits for them.

use pgrx::pg_sys;

/// How strong a lock is (PostgreSQL manual, "Table-Level Locks").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "these are PostgreSQL's names")]
pub enum Mode {
    /// Conflicts with other maintenance, not with reading or writing.
    ShareUpdateExclusive,
    /// Conflicts with writing.
    ShareRowExclusive,
    /// Conflicts with everything.
    AccessExclusive,
}

impl Mode {
    const fn number(self) -> pg_sys::LOCKMODE {
        match self {
            Self::ShareUpdateExclusive => pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE,
            Self::ShareRowExclusive => pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE,
            Self::AccessExclusive => pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
        }
    }

    /// The modes, as `pg_locks` names them, that conflict with it.
    #[must_use]
    pub const fn conflicts(self) -> &'static [&'static str] {
        match self {
            Self::ShareUpdateExclusive => &[
                "ShareUpdateExclusiveLock",
                "ShareLock",
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

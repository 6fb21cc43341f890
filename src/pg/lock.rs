//! Locks on relations by OID, and the settings that limit how long one waits for them.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use crate::pg::server;

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

/// A lock that the session keeps beyond its transactions. It is released by itself with a transaction that is aborted
/// (`ProcReleaseLocks` in `storage/lmgr/proc.c`), and with the session.
#[derive(Clone, Copy)]
struct Kept {
    tag: pg_sys::LOCKTAG,
    mode: pg_sys::LOCKMODE,
}

impl Kept {
    /// One on a relation of this database.
    fn on(relation: pg_sys::Oid, mode: Mode) -> Self {
        let fields = [server::database().to_u32(), relation.to_u32(), 0];
        Self { tag: tag(fields, pg_sys::LockTagType::LOCKTAG_RELATION), mode: mode.number() }
    }

    /// Takes it; whether the session has it now. Without waiting, unless it `waits`, for at most the setting `lock_timeout`.
    fn take(&self, waits: bool) -> bool {
        // SAFETY: takes a heavyweight lock by its tag, which is copied, for the session.
        let result = unsafe { pg_sys::LockAcquire(&raw const self.tag, self.mode, true, !waits) };
        let is_taken = result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL;
        if is_taken && !IS_REGISTERED.swap(true, Ordering::Relaxed) {
            // A session that ends outside of a transaction would leave the lock behind for ever.
            // SAFETY: the function stays loaded as long as the process runs.
            unsafe { pg_sys::before_shmem_exit(Some(release_at_exit), pg_sys::Datum::null()) };
        }
        is_taken
    }

    /// Whether the session has it, or its transaction.
    fn is_held(&self) -> bool {
        // SAFETY: looks into this process's table of locks.
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        unsafe {
            pg_sys::LockHeldByMe(&raw const self.tag, self.mode)
        }
        // SAFETY: the same.
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        unsafe {
            pg_sys::LockHeldByMe(&raw const self.tag, self.mode, false)
        }
    }

    /// Lets go of it, if the session has it.
    fn release(&self) {
        if self.is_held() {
            // SAFETY: lets go of a lock by its tag; one that the session doesn't have is a warning.
            unsafe { pg_sys::LockRelease(&raw const self.tag, self.mode, true) };
        }
    }
}

/// Whether this process lets go of what it holds when it ends.
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn release_at_exit(_code: c_int, _argument: pg_sys::Datum) {
    // SAFETY: lets go of the locks that the process holds beyond transactions, and of no others.
    unsafe { pg_sys::LockReleaseSession(pg_sys::DEFAULT_LOCKMETHOD as pg_sys::LOCKMETHODID) };
}

fn tag(fields: [u32; 3], kind: pg_sys::LockTagType::Type) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: fields[0],
        locktag_field2: fields[1],
        locktag_field3: fields[2],
        locktag_field4: 0,
        locktag_type: kind as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

/// The turn of a session at work that takes many transactions: one session at a time has it. It ends by itself with a
/// transaction that is aborted, and with the session.
///
/// It is a lock on the extension, not on a table: no maintenance of tables is kept waiting, and `DROP EXTENSION` waits for its end.
#[derive(Clone, Copy)]
pub struct Turn(Kept);

impl Turn {
    /// The turn that belongs to the extension of that OID.
    #[must_use]
    pub fn of(extension: pg_sys::Oid) -> Self {
        let class = pg_sys::ExtensionRelationId.to_u32();
        let fields = [server::database().to_u32(), class, extension.to_u32()];
        let tag = tag(fields, pg_sys::LockTagType::LOCKTAG_OBJECT);
        Self(Kept { tag, mode: Mode::ShareUpdateExclusive.number() })
    }

    /// Takes it without waiting; whether this session has it now.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.is_held() || self.0.take(false)
    }

    /// Ends it, if this session has it.
    pub fn end(&self) {
        self.0.release();
    }
}

/// A lock on a relation that outlives transactions: it keeps the relation from being dropped or renamed from one
/// step to the next. Released when dropped.
pub struct SessionLock(Kept);

impl SessionLock {
    /// Locks `relation`, of this database, in ACCESS SHARE mode.
    ///
    /// Waits for at most the setting `lock_timeout`, then raises 55P03.
    #[must_use]
    pub fn take(relation: pg_sys::Oid) -> Self {
        let kept = Kept::on(relation, Mode::AccessShare);
        kept.take(true);
        Self(kept)
    }

    /// The transaction was aborted: that lets go of the locks of the session too (`ProcReleaseLocks` in
    /// `storage/lmgr/proc.c`).
    pub fn was_released_by_abort(self) {
        std::mem::forget(self);
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A lock on a relation that the transaction has, kept by the session beyond it: nobody gets it between two transactions.
/// It is released by itself with a transaction that is aborted, and with the session.
#[derive(Clone, Copy)]
pub struct KeptLock(Kept);

impl KeptLock {
    /// Keeps a lock on `relation`, of this database, that the transaction has.
    #[must_use]
    pub fn keep(relation: pg_sys::Oid, mode: Mode) -> Self {
        let kept = Kept::on(relation, mode);
        kept.take(true);
        Self(kept)
    }

    /// Whether it is still kept, at the beginning of a transaction that has no lock of its own on the relation.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Lets go of it.
    pub fn release(&self) {
        self.0.release();
    }
}

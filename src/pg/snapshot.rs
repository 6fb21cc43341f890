//! The snapshot that the running statement reads with.

use pgrx::pg_sys;

/// Runs `work`, whose queries that only read see what is committed now, also in a transaction whose snapshot is older
/// (REPEATABLE READ), and what this transaction has done so far.
///
/// As checks of foreign keys do (src/backend/utils/adt/ri_triggers.c, `ri_PerformCheck`).
pub fn with_latest<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: we are inside a transaction, and not in a parallel worker; the snapshot is copied when it is pushed, and
    // popped below, or by the abort that follows an error.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
    }
    let result = work();
    // SAFETY: the active snapshot is the one pushed above: `work` has popped what it has pushed.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// An ordinary snapshot, registered: what it sees isn't taken away until this is dropped.
pub struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    /// The active one; `None` where there is none, or it is of a special kind.
    #[must_use]
    pub fn active() -> Option<Self> {
        // SAFETY: an active snapshot is there, as is asked first; it is read, and registered where it is of the kind
        // that may be; Drop gives it back.
        unsafe {
            if !pg_sys::ActiveSnapshotSet() {
                return None;
            }
            let active = pg_sys::GetActiveSnapshot();
            let is_ordinary = (*active).snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC;
            is_ordinary.then(|| Self(pg_sys::RegisterSnapshot(active)))
        }
    }

    /// For the server's functions; valid as long as this.
    #[must_use]
    pub const fn raw(&self) -> pg_sys::Snapshot {
        self.0
    }

    /// Whether hints in pages may come from a server whose snapshots this one is older than: it was taken on a standby, or
    /// its transaction began there (src/backend/access/heap/heapam.c, heapgetpage; src/backend/access/index/genam.c,
    /// `RelationGetIndexScan`).
    #[must_use]
    pub fn is_of_recovery(&self) -> bool {
        // SAFETY: it is registered; the function reads a variable of the transaction.
        unsafe { (*self.0).takenDuringRecovery || pg_sys::TransactionStartedDuringRecovery() }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered by `active`, given back once; after an error the abort does it.
            unsafe { pg_sys::UnregisterSnapshot(self.0) }
        }
    }
}

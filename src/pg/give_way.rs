//! Giving way to whoever needs a lock that this process holds, as an autovacuum does.
//!
//! A process that is marked as an autovacuum is cancelled by any session that has waited for one of its locks for
//! `deadlock_timeout`, and ended by DROP DATABASE and by CREATE DATABASE from its database as a template
//! (src/backend/storage/lmgr/proc.c, `ProcSleep`; deadlock.c; src/backend/storage/ipc/procarray.c, `CountOtherDBBackends`).
//! Nothing else in the server goes by the mark.

use pgrx::pg_sys;

/// The number of `ProcArrayLock` (src/include/storage/lwlocklist.h, lwlocknames.txt before 17), the same in 15 to 18.
const PROC_ARRAY_LOCK: usize = 4;

/// Marks this process, or takes the mark away. To be called outside a transaction.
pub fn mark(gives_way: bool) {
    let flag = pg_sys::PROC_IS_AUTOVACUUM as u8;
    // SAFETY: the process has its entry in shared memory, and its place in the array of flags, which are changed together
    // under this lock, as vacuum_rel does (src/backend/commands/vacuum.c); nothing between can raise an error.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(PROC_ARRAY_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let process = &mut *pg_sys::MyProc;
        if gives_way {
            process.statusFlags |= flag;
        } else {
            process.statusFlags &= !flag;
        }
        *(*pg_sys::ProcGlobal).statusFlags.add(process.pgxactoff as usize) = process.statusFlags;
        pg_sys::LWLockRelease(lock);
        if !gives_way {
            // Somebody may have asked at the last moment for what we have given back already.
            (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
        }
    }
}

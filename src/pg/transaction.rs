//! The transactions of a background worker: the only place that starts, commits or aborts one.

use std::ffi::{CStr, c_int};
use std::panic::AssertUnwindSafe;

use pgrx::{PgTryBuilder, pg_sys};

use crate::error::{Error, Result};
use crate::pg::subtransaction::failure;
use crate::pg::{give_way, identity, process, top_level};

/// A memory context below the top one, for what must outlive transactions; deleted when dropped.
pub struct Home(pg_sys::MemoryContext);

impl Home {
    /// Makes the context and switches to it.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: TopMemoryContext lives as long as the process; the sizes are PostgreSQL's defaults.
        let context = unsafe {
            pg_sys::AllocSetContextCreateExtended(
                pg_sys::TopMemoryContext,
                c"pg_meshhook_events worker".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        // SAFETY: the context was made just now.
        unsafe { pg_sys::MemoryContextSwitchTo(context) };
        Self(context)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // SAFETY: nothing of ours points into the context any more when its owner is dropped, and
        // nothing is allocated in it once the current context is another.
        unsafe {
            pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            pg_sys::MemoryContextDelete(self.0);
        }
    }
}

/// How long one step may take, in milliseconds: code of a table's owner that never ends must not keep a
/// worker for ever. The server arms `statement_timeout` for clients only.
const STEP_LIMIT_MS: c_int = 30_000;

/// How long a step that reads a large table may take, in milliseconds.
const LONG_STEP_LIMIT_MS: c_int = 600_000;

/// When a process that took no cancel is ended, in milliseconds after that: code can catch a cancel, but not this.
const END_AFTER_MS: c_int = 5_000;

/// How long a command at the top level may take, in milliseconds: less than the 5 s that DROP DATABASE waits.
const COMMAND_LIMIT_MS: c_int = 3_000;

/// How long such a command may wait for one lock, in milliseconds.
pub const COMMAND_LOCK_LIMIT_MS: c_int = COMMAND_LIMIT_MS - 500;

/// Runs `step` in a transaction of its own, with a snapshot: committed where it gives `Ok`, aborted
/// where it gives `Err`, the server raises an error, or Rust code panics.
///
/// Whatever happens, the process is outside any transaction afterwards, with the identity it had.
/// A FATAL error (SIGTERM) is not caught: the process ends. A step that takes longer than
/// [`STEP_LIMIT_MS`] is cancelled (57014).
pub fn attempt<T>(home: &Home, step: impl FnOnce() -> Result<T>) -> Result<T> {
    attempt_within(home, STEP_LIMIT_MS, step)
}

/// The same for a step that holds no lock that others notice, and may take [`LONG_STEP_LIMIT_MS`].
pub fn attempt_long<T>(home: &Home, step: impl FnOnce() -> Result<T>) -> Result<T> {
    attempt_within(home, LONG_STEP_LIMIT_MS, step)
}

/// The same for a step of which it is known that it may take `limit_ms`.
pub fn attempt_limited<T>(
    home: &Home,
    limit_ms: c_int,
    step: impl FnOnce() -> Result<T>,
) -> Result<T> {
    attempt_within(home, limit_ms, step)
}

/// The same for a step that may take `limit_ms`, and is cancelled where somebody has waited for one of its locks for
/// `deadlock_timeout`.
pub fn attempt_yielding<T>(
    home: &Home,
    limit_ms: c_int,
    step: impl FnOnce() -> Result<T>,
) -> Result<T> {
    yielding(|| attempt_within(home, limit_ms, step))
}

/// Runs `work`, which begins and ends transactions, so that it gives way to others.
fn yielding<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    give_way::mark(true);
    let result = work();
    give_way::mark(false);
    result
}

fn attempt_within<T>(home: &Home, limit_ms: c_int, step: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded(home, || {
        // SAFETY: no transaction is open: every earlier one was ended by `guarded`.
        unsafe {
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        process::arm_step_timers(limit_ms, limit_ms + END_AFTER_MS);
        let value = step()?;
        process::disarm_timers();
        // SAFETY: the snapshot and the transaction are those begun above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    })
}

/// Runs one command at the top level as `role`, restricted as in [`identity::run_as`]; it may commit inside. What `first`
/// does as the worker belongs to the transaction in which the command begins: to its first commit.
///
/// Otherwise as [`attempt`]. The settings are those of the session: to be pinned before. It is cancelled after
/// [`COMMAND_LIMIT_MS`].
pub fn attempt_command(
    home: &Home,
    role: pg_sys::Oid,
    command: &CStr,
    first: impl FnOnce() -> Result<()>,
) -> Result<()> {
    command_within(home, COMMAND_LIMIT_MS, role, command, first)
}

/// The same for a command that may take `limit_ms`, and is cancelled where somebody has waited for one of its locks for
/// `deadlock_timeout`.
pub fn attempt_yielding_command(
    home: &Home,
    role: pg_sys::Oid,
    command: &CStr,
    limit_ms: c_int,
) -> Result<()> {
    yielding(|| command_within(home, limit_ms, role, command, || Ok(())))
}

fn command_within(
    home: &Home,
    limit_ms: c_int,
    role: pg_sys::Oid,
    command: &CStr,
    first: impl FnOnce() -> Result<()>,
) -> Result<()> {
    guarded(home, || {
        // SAFETY: no transaction is open.
        unsafe {
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        first()?;
        // SAFETY: the snapshot is the one pushed above; the identity stays over commits inside, and `guarded`
        // restores it. The context outlives the transactions.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommandCounterIncrement();
            pg_sys::SetUserIdAndSecContext(role, identity::RESTRICTION as c_int);
            pg_sys::MemoryContextSwitchTo(home.0);
        }
        process::arm_step_timers(limit_ms, limit_ms + END_AFTER_MS);
        top_level::run(command);
        process::disarm_timers();
        // SAFETY: the transaction that the command has left open is the current one.
        unsafe { pg_sys::CommitTransactionCommand() };
        Ok(())
    })
}

/// Runs `work`, which begins and commits transactions, and cleans up after it whatever happens.
fn guarded<T>(home: &Home, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (mut role, mut security_context): (pg_sys::Oid, c_int) = (pg_sys::InvalidOid, 0);
    // SAFETY: both pointers are to locals that outlive the call.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut role, &raw mut security_context);
        pg_sys::SetCurrentStatementStartTimestamp();
    }
    let result = PgTryBuilder::new(AssertUnwindSafe(work))
        .catch_others(|error| Err(Error::Server(failure(&error))))
        .execute();
    process::disarm_timers();
    // SAFETY: cleans up what the work left. A cancel that came late must not hit the next step; the
    // abort also does the right thing where no transaction is open; an abort alone does not always
    // restore the identity (it restores that of the transaction's start).
    unsafe {
        if result.is_err() {
            (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
            pg_sys::AbortOutOfAnyTransaction();
        }
        pg_sys::SetUserIdAndSecContext(role, security_context);
        pg_sys::MemoryContextSwitchTo(home.0);
        pg_sys::pgstat_report_stat(true);
    }
    result
}

/// Settings that hold for a worker, whatever `ALTER DATABASE … SET` or `ALTER ROLE … SET` say: an
/// owner of a database must neither stop the maintenance of it nor steer code that runs as superuser.
const PINNED: &[(&CStr, &CStr)] = &[
    (c"role", c"none"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, YMD"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    (c"row_security", c"on"),
    (c"synchronous_commit", c"local"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
    (c"quote_all_identifiers", c"off"),
    (c"default_tablespace", c""),
    (c"default_table_access_method", c"heap"),
    (c"deadlock_timeout", identity::DEADLOCK_TIMEOUT),
];

/// Brings all settings back to known values; to be called before every step of a worker, because
/// code of a table's owner may have set some in the step before.
pub fn pin_settings(lock_timeout_ms: i32) {
    // SAFETY: outside a transaction, as PostgreSQL's own DISCARD ALL does.
    unsafe { pg_sys::ResetAllOptions() };
    let set = |name: &CStr, value: &CStr| {
        // SAFETY: both are C strings that live during the call; the value is copied by the server.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    };
    for (name, value) in PINNED {
        set(name, value);
    }
    if let Ok(value) = std::ffi::CString::new(lock_timeout_ms.to_string()) {
        set(c"lock_timeout", &value);
    }
}

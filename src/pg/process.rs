//! The life of a background worker's process: signals, sleep, connection, what others see of it.

use std::ffi::{CString, c_int};
use std::sync::OnceLock;
use std::time::Duration;

use pgrx::pg_sys;

/// PostgreSQL's own signal handlers. `pg_sys` has Rust wrappers of the same names, which have the
/// wrong calling convention for a handler.
mod handler {
    use std::ffi::c_int;

    unsafe extern "C-unwind" {
        pub fn die(signal: c_int);
        pub fn SignalHandlerForConfigReload(signal: c_int);
    }

    /// Does nothing.
    pub extern "C-unwind" fn ignore(_signal: c_int) {}
}

/// The timers of `utils/timeout.h`, which `pg_sys` doesn't have. They raise nothing.
mod timer {
    use std::ffi::c_int;

    /// `STATEMENT_TIMEOUT` of the enum TimeoutId, the same in 15 to 18.
    pub const STATEMENT: c_int = 3;
    /// `USER_TIMEOUT`, or one above it: from there on RegisterTimeout gives the first that is free.
    pub const USER: c_int = 13;

    unsafe extern "C-unwind" {
        pub fn RegisterTimeout(id: c_int, handler: extern "C-unwind" fn()) -> c_int;
        pub fn enable_timeout_after(id: c_int, delay_ms: c_int);
        pub fn disable_all_timeouts(keep_indicators: bool);
    }
}

/// Functions of the C library.
mod os {
    use std::ffi::{c_int, c_long};

    unsafe extern "C" {
        pub fn kill(pid: c_int, signal: c_int) -> c_int;
        pub fn clock() -> c_long;
    }
}

/// Cancels what runs after `cancel_ms`, as `statement_timeout` does for a client, and ends the process
/// after `end_ms`: PL/pgSQL code can catch a cancel (`WHEN query_canceled`), and go on.
pub fn arm_step_timers(cancel_ms: c_int, end_ms: c_int) {
    static END: OnceLock<c_int> = OnceLock::new();
    // SAFETY: the handler is async-signal-safe, and registered once in this process.
    let end = *END.get_or_init(|| unsafe { timer::RegisterTimeout(timer::USER, end_process) });
    // SAFETY: InitPostgres has registered the first timer, whose handler sends SIGINT to this process;
    // the other was registered above.
    unsafe {
        timer::enable_timeout_after(timer::STATEMENT, cancel_ms);
        timer::enable_timeout_after(end, end_ms);
    }
}

/// As SIGTERM: the process ends, with FATAL, at the next check for interrupts, and nothing can catch that.
extern "C-unwind" fn end_process() {
    // SAFETY: it sets flags and the latch of this process.
    unsafe { handler::die(pg_sys::SIGTERM as c_int) }
}

/// Disarms every timer.
pub fn disarm_timers() {
    // SAFETY: as above; a timer that isn't armed is left alone.
    unsafe { timer::disable_all_timeouts(false) }
}

/// Whether `pid` is a background worker of this server that is connected to `database`: another process may have been
/// given the number of one that has ended.
#[must_use]
pub fn is_worker_of(pid: i32, database: u32) -> bool {
    if pid == 0 {
        return false;
    }
    // SAFETY: looks through the array of processes under its lock; an entry stays allocated, and what it says of another
    // process that has just taken its place is true of that one.
    unsafe {
        let Some(process) = pg_sys::BackendPidGetProc(pid).as_ref() else { return false };
        #[cfg(not(feature = "pg18"))]
        let is_worker = process.isBackgroundWorker;
        #[cfg(feature = "pg18")]
        let is_worker = !process.isRegularBackend;
        is_worker && process.databaseId.to_u32() == database
    }
}

/// What a cancel request (`pg_cancel_backend`) does to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCancel {
    /// It ends the current statement with an error; `lock_timeout` needs that too.
    EndStatement,
    /// Nothing: there are no statements, and an error would end the process.
    Ignore,
}

/// Tells a worker of ours to end, as `pg_terminate_backend` does.
pub fn terminate(pid: i32) {
    // SAFETY: sends a signal; that the process is gone already is no error.
    unsafe { os::kill(pid, pg_sys::SIGTERM as c_int) };
}

/// The processor time that this process has used, in milliseconds.
#[must_use]
pub fn cpu_ms() -> f64 {
    // SAFETY: reads a counter. POSIX has a million of its ticks make a second.
    unsafe { os::clock() as f64 / 1_000.0 }
}

/// Installs the signal handlers and lets signals in.
///
/// SIGTERM is `die`: a wait for a lock or a long statement ends at once, with FATAL and exit code 1.
/// SIGHUP sets a flag that [`sleep`] looks at.
pub fn install_signal_handlers(on_cancel: OnCancel) {
    set_handler(pg_sys::SIGTERM as c_int, handler::die);
    set_handler(pg_sys::SIGHUP as c_int, handler::SignalHandlerForConfigReload);
    if on_cancel == OnCancel::Ignore {
        set_handler(pg_sys::SIGINT as c_int, handler::ignore);
    }
    // SAFETY: the handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

fn set_handler(signal: c_int, handler: unsafe extern "C-unwind" fn(c_int)) {
    // SAFETY: the handlers above are async-signal-safe: PostgreSQL's own, and one that does nothing.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(signal, Some(handler));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}

/// Connects to the shared catalogs only.
pub fn connect_to_no_database() {
    // SAFETY: the first call of a worker registered for database connections.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
    // What a server's administrator sets for sessions would end the launcher.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: both are C strings; the value is copied by the server.
    unsafe {
        pg_sys::SetConfigOption(
            c"transaction_timeout".as_ptr(),
            c"0".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Connects to a database as the bootstrap superuser; FATAL where it no longer exists.
pub fn connect_to_database(database: pg_sys::Oid) {
    // SAFETY: the first call of a worker registered for database connections.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    }
}

/// What `pg_stat_activity.application_name` shows.
pub fn report_application_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: the string is copied into shared memory.
        unsafe { pg_sys::pgstat_report_appname(name.as_ptr()) };
    }
}

/// What `pg_stat_activity.state` and `query` show.
pub fn report_activity(running: bool, what: &str) {
    let state = if running {
        pg_sys::BackendState::STATE_RUNNING
    } else {
        pg_sys::BackendState::STATE_IDLE
    };
    if let Ok(what) = CString::new(what) {
        // SAFETY: the string is copied into shared memory.
        unsafe { pg_sys::pgstat_report_activity(state, what.as_ptr()) };
    }
}

/// Sleeps until `at_most` has passed or the latch is set; ends the process on SIGTERM or when the
/// postmaster has died; re-reads the configuration files after SIGHUP.
pub fn sleep(at_most: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = i64::try_from(at_most.as_millis()).unwrap_or(i64::MAX).max(1);
    // SAFETY: MyLatch is this process's own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as c_int, milliseconds, wait_event());
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
    reload_if_asked();
}

/// Re-reads the configuration files if SIGHUP has come.
fn reload_if_asked() {
    // SAFETY: the flag is set by the signal handler, hence volatile; this is the main loop, outside
    // any transaction.
    unsafe {
        let pending = &raw mut pg_sys::ConfigReloadPending;
        if pending.read_volatile() != 0 {
            pending.write_volatile(0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// What `pg_stat_activity.wait_event` shows while the process sleeps.
fn wait_event() -> u32 {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    {
        static EVENT: OnceLock<u32> = OnceLock::new();
        // SAFETY: the name is a static C string.
        *EVENT.get_or_init(|| unsafe {
            pg_sys::WaitEventExtensionNew(c"PgMeshhookEventsMain".as_ptr())
        })
    }
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    pg_sys::PG_WAIT_EXTENSION
}

/// Sets the latch of process `pid`, if there is such a process of this server.
pub fn wake(pid: i32) {
    // SAFETY: the entry of a process stays allocated when it ends; setting the latch of another one
    // that has taken its place does no harm: every latch's owner looks before it acts.
    unsafe {
        if let Some(process) = pg_sys::BackendPidGetProc(pid).as_mut() {
            pg_sys::SetLatch(&raw mut process.procLatch);
        }
    }
}

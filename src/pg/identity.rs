//! Acting as another role: the identity, restricted, together with settings that nobody planted.

use std::ffi::{CStr, CString, c_int};

use pgrx::pg_sys;

/// Settings under which code of ours, and code that a table's owner may have planted, is run.
///
/// A table's owner can put functions into index expressions, CHECK constraints and defaults, and they
/// run during our DDL: nothing they look up may depend on what the caller, or an earlier step, set.
const PINNED: [(&CStr, &CStr); 8] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, YMD"),
    (c"default_tablespace", c""),
    (c"default_table_access_method", c"heap"),
    (c"row_security", c"on"),
    (c"standard_conforming_strings", c"on"),
    (c"quote_all_identifiers", c"off"),
];

/// What keeps code that runs as another role from becoming anybody else.
pub const RESTRICTION: u32 =
    pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_LOCAL_USERID_CHANGE;

/// How soon maintenance that waits for a lock tells an autovacuum that holds it to give way, and looks for a deadlock;
/// with the default of a second it would have given up before.
pub const DEADLOCK_TIMEOUT: &CStr = c"10ms";

/// The identity and the settings to go back to.
struct Previous {
    role: pg_sys::Oid,
    security_context: c_int,
    setting_level: c_int,
}

impl Previous {
    fn enter(role: pg_sys::Oid, restriction: u32) -> Self {
        let mut previous = Self { role: pg_sys::InvalidOid, security_context: 0, setting_level: 0 };
        // SAFETY: both pointers are to fields that outlive the call.
        unsafe {
            pg_sys::GetUserIdAndSecContext(
                &raw mut previous.role,
                &raw mut previous.security_context,
            );
        }
        // SAFETY: opens a level of settings; leave() or the abort of the (sub)transaction closes it.
        previous.setting_level = unsafe { pg_sys::NewGUCNestLevel() };
        for (name, value) in PINNED {
            set(name, value);
        }
        if restriction != 0 {
            set_as_superuser(c"deadlock_timeout", DEADLOCK_TIMEOUT);
        }
        // SAFETY: `role` is an existing role's OID; Drop, or the abort, goes back to the old pair.
        unsafe {
            pg_sys::SetUserIdAndSecContext(role, previous.security_context | restriction as c_int);
        }
        previous
    }
}

impl Drop for Previous {
    fn drop(&mut self) {
        // SAFETY: restores what enter() read.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.security_context) };
        if !std::thread::panicking() {
            // While an error unwinds, the abort that follows undoes the settings; undoing them here
            // would run assign hooks inside error handling.
            // SAFETY: the level was opened by enter(), and every level above it is closed again.
            unsafe { pg_sys::AtEOXact_GUC(false, self.setting_level) };
        }
    }
}

/// Runs `work` as `role`, under `SECURITY_RESTRICTED_OPERATION`, with the settings pinned.
///
/// Code that runs inside cannot become anybody else (`SET ROLE`, `SET SESSION AUTHORIZATION` are
/// refused), and whatever it sets is undone at the end, also what it sets beyond the transaction.
/// An error inside must be followed by the abort of the (sub)transaction, as every error in
/// PostgreSQL is.
///
/// See `RestrictSearchPath` and `index_build` in PostgreSQL's `catalog/index.c` for the same pattern.
pub fn run_as<R>(role: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let previous = Previous::enter(role, RESTRICTION);
    let result = work();
    drop(previous);
    result
}

/// The same for work that must see every row: row level security that is forced on the owner too doesn't hide any, as in
/// the server's own checks of foreign keys; what would still hide some is an error.
///
/// `role` is the owner of the tables that are read, and could lift it anyway.
pub fn run_as_seeing_all<R>(role: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let previous = Previous::enter(role, RESTRICTION | pg_sys::SECURITY_NOFORCE_RLS);
    set(c"row_security", c"off");
    let result = work();
    drop(previous);
    result
}

/// The same for copying rows from one table of `role` to another: every row is seen, and neither the triggers of users nor
/// those of foreign keys fire (`session_replication_role`).
///
/// To be used where no code but the server's own runs in the statements: other code could change other tables without their
/// triggers.
pub fn run_as_copying<R>(role: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let previous = Previous::enter(role, RESTRICTION | pg_sys::SECURITY_NOFORCE_RLS);
    set(c"row_security", c"off");
    set_as_superuser(c"session_replication_role", c"replica");
    let result = work();
    drop(previous);
    result
}

/// Whether the current role may have the server write files.
#[must_use]
pub fn may_write_server_files() -> bool {
    has_privileges_of(current_role(), pg_sys::ROLE_PG_WRITE_SERVER_FILES.into())
}

/// Runs `work` as the current role, with the settings pinned; they come back at the end.
pub fn pinned<R>(work: impl FnOnce() -> R) -> R {
    let mut unchanged = (pg_sys::InvalidOid, 0);
    // SAFETY: both pointers are to locals that outlive the call.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut unchanged.0, &raw mut unchanged.1) };
    let previous = Previous::enter(unchanged.0, 0);
    let result = work();
    drop(previous);
    result
}

/// Runs `work` with these settings, which are anybody's to set; they come back at the end.
pub fn with_settings<R>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> R) -> R {
    let level = SettingLevel::open();
    for (name, value) in settings {
        set(name, value);
    }
    let result = work();
    drop(level);
    result
}

/// A level of settings, closed when dropped.
struct SettingLevel(c_int);

impl SettingLevel {
    fn open() -> Self {
        // SAFETY: Drop or the abort of the (sub)transaction closes it.
        Self(unsafe { pg_sys::NewGUCNestLevel() })
    }
}

impl Drop for SettingLevel {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // While an error unwinds, the abort that follows undoes the settings, as for `Previous`.
            // SAFETY: the level was opened by `open`, and every level above it is closed again.
            unsafe { pg_sys::AtEOXact_GUC(false, self.0) };
        }
    }
}

/// Sets `name` until the level of settings that is open now is closed.
fn set(name: &CStr, value: &CStr) {
    set_in(name, value, pg_sys::GucContext::PGC_USERSET);
}

/// The same for a setting that is a superuser's, to a value of ours.
fn set_as_superuser(name: &CStr, value: &CStr) {
    set_in(name, value, pg_sys::GucContext::PGC_SUSET);
}

fn set_in(name: &CStr, value: &CStr, context: pg_sys::GucContext::Type) {
    // SAFETY: both are C strings that live during the call; the value is copied by the server.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            context,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Limits how long a lock is waited for, in milliseconds, until [`run_as`] ends.
pub fn set_lock_timeout(milliseconds: i32) {
    if let Ok(value) = CString::new(milliseconds.to_string()) {
        set(c"lock_timeout", &value);
    }
}

/// Has names looked up in one schema, given in double quotes where it needs them, until [`run_as`] ends:
/// for what runs triggers of the table's owner, who may rely on it. SQL text of ours is qualified.
pub fn set_search_path(schema: &str) {
    if let Ok(value) = CString::new(schema) {
        set(c"search_path", &value);
    }
}

/// The role whose privileges count now.
#[must_use]
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetUserId() }
}

/// Whether `role` is a superuser.
#[must_use]
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: reads the role cache.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether `role` has the privileges of `owner`: is it, is a member of it, or is a superuser.
#[must_use]
pub fn has_privileges_of(role: pg_sys::Oid, owner: pg_sys::Oid) -> bool {
    // SAFETY: reads the role membership cache.
    unsafe { pg_sys::has_privs_of_role(role, owner) }
}

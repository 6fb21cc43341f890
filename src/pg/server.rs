//! What state the server and this backend are in.

use std::ffi::CString;

use pgrx::pg_sys;

/// Whether this server is a standby, or still recovers.
#[must_use]
pub fn in_recovery() -> bool {
    // SAFETY: reads shared state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether this transaction must not write.
#[must_use]
pub fn transaction_is_read_only() -> bool {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::XactReadOnly }
}

/// Whether every statement of this transaction sees what is committed when it begins.
#[must_use]
pub fn is_read_committed() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::XactIsoLevel <= pg_sys::XACT_READ_COMMITTED as i32 }
}

/// The database of this backend.
#[must_use]
pub fn database() -> pg_sys::Oid {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::MyDatabaseId }
}

/// This process.
#[must_use]
pub fn process_id() -> i32 {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::MyProcPid }
}

/// Whether the libraries of `shared_preload_libraries` are being loaded: the only time at which a
/// worker can be registered and shared memory be asked for.
#[must_use]
pub fn is_preloading() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether `pg_upgrade` runs this server: nothing may be changed behind its back.
#[must_use]
pub fn is_binary_upgrade() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether the server was built with assertions (the setting `debug_assertions`).
#[must_use]
pub fn has_assertions() -> bool {
    // SAFETY: reads a setting that every server has; the text is compared before anything can change it.
    unsafe {
        let value = pg_sys::GetConfigOption(c"debug_assertions".as_ptr(), true, false);
        !value.is_null() && std::ffi::CStr::from_ptr(value) == c"on"
    }
}

/// Whether `relation` has a column of that name.
#[must_use]
pub fn has_column(relation: pg_sys::Oid, column: &str) -> bool {
    let Ok(column) = CString::new(column) else {
        return false;
    };
    // SAFETY: looks up the attribute cache; the string lives during the call.
    let number = unsafe { pg_sys::get_attnum(relation, column.as_ptr()) };
    number != pg_sys::InvalidAttrNumber as pg_sys::AttrNumber
}

/// The relation of that name in a schema, whatever it is; through the system cache.
#[must_use]
pub fn find_relation(schema: pg_sys::Oid, name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: looks up the system cache; the string lives during the call.
    let relation = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (relation != pg_sys::InvalidOid).then_some(relation)
}

/// The schema and name that a relation has now, whatever snapshot the transaction has; `None` where it
/// is gone. Under a lock on the relation the answer stays true.
#[must_use]
pub fn name_of_relation(relation: pg_sys::Oid) -> Option<(String, String)> {
    // SAFETY: looks up the system cache; the result is null or a palloc'd C string, which is copied.
    let (schema, name) = unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return None;
        }
        let name = std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned();
        (pg_sys::get_rel_namespace(relation), name)
    };
    Some((schema_name(schema)?, name))
}

/// The name of a schema; `None` where it is gone.
#[must_use]
pub fn schema_name(schema: pg_sys::Oid) -> Option<String> {
    // SAFETY: the result is null or a palloc'd C string, which is copied.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        if name.is_null() {
            None
        } else {
            Some(std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }
}

/// The setting `deadlock_timeout`, in milliseconds.
#[must_use]
pub fn deadlock_timeout_ms() -> i32 {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::DeadlockTimeout }
}

/// Now, in microseconds of PostgreSQL's epoch.
#[must_use]
pub fn now_us() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// When the current transaction began (`now()`), in microseconds of PostgreSQL's epoch.
#[must_use]
pub fn transaction_start_us() -> i64 {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// The name of a role; `None` where it is gone.
#[must_use]
pub fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: the result is null or a palloc'd C string, which is copied.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Ends the call with an error where somebody has asked for that: a cancel, a shutdown, a time limit.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

//! Check hooks of settings: a bad value is refused when it is set, with the reason as DETAIL.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::{pg_guard, pg_sys};

use crate::domain::schedule::Schedule;
use crate::pg::time_zone;

/// Refuses anything but a cron expression of five fields.
///
/// # Safety
///
/// To be called by the server as a `GucStringCheckHook` only.
#[pg_guard]
pub unsafe extern "C-unwind" fn check_schedule(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes a pointer to the new value.
    unsafe { check(value, |text| Schedule::parse(text).map(|_| ())) }
}

/// Refuses anything but a time zone that the server knows.
///
/// # Safety
///
/// To be called by the server as a `GucStringCheckHook` only.
#[pg_guard]
pub unsafe extern "C-unwind" fn check_time_zone(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let known = |text: &str| {
        if time_zone::exists(text) {
            Ok(())
        } else {
            Err("The time zone is not recognized.".into())
        }
    };
    // SAFETY: the server passes a pointer to the new value.
    unsafe { check(value, known) }
}

/// Refuses a list of names that is not well formed.
///
/// # Safety
///
/// To be called by the server as a `GucStringCheckHook` only.
#[pg_guard]
pub unsafe extern "C-unwind" fn check_databases(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let well_formed =
        |text: &str| split_names(text).map(|_| ()).ok_or("List syntax is invalid.".to_owned());
    // SAFETY: the server passes a pointer to the new value.
    unsafe { check(value, well_formed) }
}

/// # Safety
///
/// `value` is null or points to a pointer that is null or points to a C string.
unsafe fn check(value: *mut *mut c_char, test: impl FnOnce(&str) -> Result<(), String>) -> bool {
    // SAFETY: as this function requires.
    let text = unsafe {
        match value.as_ref() {
            Some(text) if !text.is_null() => CStr::from_ptr(*text),
            _ => return true,
        }
    };
    let result = text.to_str().map_err(|e| e.to_string()).and_then(test);
    let Err(reason) = result else { return true };
    if let Ok(reason) = CString::new(reason) {
        // SAFETY: what GUC_check_errdetail() does in C: a palloc'd string in the variable that the
        // server reads when the hook has returned false.
        unsafe { pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(reason.as_ptr()) };
    }
    false
}

/// Splits a list of names as PostgreSQL's own settings do: separated by commas, folded to lower case
/// unless in double quotes; `None` where the list is not well formed.
#[must_use]
pub fn split_names(list: &str) -> Option<Vec<String>> {
    let list = CString::new(list).ok()?;
    let mut names: *mut pg_sys::List = std::ptr::null_mut();
    // SAFETY: the function scribbles on a palloc'd copy; the names point into it, and are copied out
    // before either is freed.
    unsafe {
        let copy = pg_sys::pstrdup(list.as_ptr());
        let well_formed = pg_sys::SplitIdentifierString(copy, b',' as c_char, &raw mut names);
        let mut result = Vec::new();
        if !names.is_null() {
            for i in 0..(*names).length {
                let name = (*(*names).elements.add(i as usize)).ptr_value.cast::<c_char>();
                result.push(CStr::from_ptr(name).to_string_lossy().into_owned());
            }
            pg_sys::list_free(names);
        }
        pg_sys::pfree(copy.cast());
        well_formed.then_some(result)
    }
}

/// Refuses any other setting that begins with `pg_meshhook_events.`, so that a misspelt one is noted.
pub fn reserve_prefix() {
    // SAFETY: a static C string, copied by the server.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_meshhook_events".as_ptr()) };
}

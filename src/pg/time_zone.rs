//! The server's time zones: whether one exists, and what its clock shows.

use std::ffi::CString;

use chrono::{NaiveDate, NaiveDateTime};
use pgrx::pg_sys;

/// Seconds from the Unix epoch to PostgreSQL's.
const EPOCH_OFFSET_S: i64 = 946_684_800;

fn load(name: &str) -> Option<*mut pg_sys::pg_tz> {
    let name = CString::new(name).ok()?;
    // SAFETY: the string lives during the call; the result, if any, lives as long as the process.
    let zone = unsafe { pg_sys::pg_tzset(name.as_ptr()) };
    (!zone.is_null()).then_some(zone)
}

/// Whether this server knows a time zone of that name.
#[must_use]
pub fn exists(name: &str) -> bool {
    !name.is_empty() && load(name).is_some()
}

/// What a clock in that zone shows, to the second, at `instant_us` microseconds of PostgreSQL's epoch;
/// `None` where the zone is not known or the time out of reach.
#[must_use]
pub fn civil_time(zone: &str, instant_us: i64) -> Option<NaiveDateTime> {
    let zone = load(zone)?;
    let seconds: pg_sys::pg_time_t = instant_us.div_euclid(1_000_000) + EPOCH_OFFSET_S;
    // SAFETY: both pointers are valid; the result points to a static that is copied from at once.
    let tm = unsafe { pg_sys::pg_localtime(&raw const seconds, zone).as_ref()? };
    let part = |n: std::ffi::c_int| u32::try_from(n).ok();
    NaiveDate::from_ymd_opt(tm.tm_year + 1900, part(tm.tm_mon + 1)?, part(tm.tm_mday)?)?
        .and_hms_opt(part(tm.tm_hour)?, part(tm.tm_min)?, part(tm.tm_sec)?.min(59))
}

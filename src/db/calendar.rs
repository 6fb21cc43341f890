//! Time zones: PostgreSQL converts, so that there is one time-zone database.

use chrono::{Datelike, NaiveDate, NaiveDateTime, Timelike};
use pgrx::datum::{Date, TimestampWithTimeZone};

use crate::db::query;
use crate::domain::instant::Instant;
use crate::error::{Error, Result};
use crate::pg::{server, time_zone};

/// Days from chrono's first day (0001-01-01 is day 1) to PostgreSQL's epoch.
const EPOCH_DAYS_FROM_CE: i32 = 730_120;

/// A date of PostgreSQL as a civil date; `None` where it is infinite or beyond the reach of chrono.
#[must_use]
pub fn from_date(date: Date) -> Option<NaiveDate> {
    if !date.is_finite() {
        return None;
    }
    NaiveDate::from_num_days_from_ce_opt(date.into_inner().checked_add(EPOCH_DAYS_FROM_CE)?)
}

/// A civil date as a date of PostgreSQL.
#[must_use]
pub fn to_date(date: NaiveDate) -> Date {
    Date::saturating_from_raw(date.num_days_from_ce() - EPOCH_DAYS_FROM_CE)
}

/// An instant as a timestamp of PostgreSQL; `None` where it lies beyond PostgreSQL's last year.
#[must_use]
pub fn to_timestamp(instant: Instant) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(instant.0).ok()
}

/// The instant at which `date` begins in `zone`.
pub fn midnight(date: NaiveDate, zone: &str) -> Result<Instant> {
    let sql = "SELECT $1::timestamp AT TIME ZONE $2";
    let arguments = [to_date(date).into(), zone.into()];
    query::read_one(sql, &arguments, |row| row.get::<TimestampWithTimeZone>(1))?
        .map(|at| Instant(at.into_inner()))
        .ok_or_else(|| Error::Internal("a date has no midnight".to_owned()))
}

/// The date in `zone` at `instant`; `None` where that is infinite or beyond the reach of chrono.
pub fn date_at(instant: TimestampWithTimeZone, zone: &str) -> Result<Option<NaiveDate>> {
    if !instant.is_finite() {
        return Ok(None);
    }
    let sql = "SELECT ($1 AT TIME ZONE $2)::date";
    let date = query::read_one(sql, &[instant.into(), zone.into()], |row| row.get::<Date>(1))?;
    match date.and_then(from_date) {
        Some(date) => Ok(Some(day_of(date, Instant(instant.into_inner()), zone)?)),
        None => Ok(None),
    }
}

/// The day to which `instant` belongs, where a clock in `zone` shows `date`: the one before, where the clock is set back
/// to midnight and shows the first hour twice. The day begins with the second.
fn day_of(date: NaiveDate, instant: Instant, zone: &str) -> Result<NaiveDate> {
    if zone == "UTC" || !has_midnight(date) {
        return Ok(date);
    }
    match date.pred_opt() {
        Some(before) if midnight(date, zone)? > instant => Ok(before),
        _ => Ok(date),
    }
}

/// Whether the day that `civil` belongs to, as a clock in `zone` shows it, begins at `instant`: at 00:00, or where that is
/// left out at the beginning of summer time, an hour later.
#[must_use]
pub fn begins_a_day(civil: NaiveDateTime, instant: Instant, zone: &str) -> bool {
    let date = civil.date();
    has_midnight(date) && midnight(date, zone).is_ok_and(|midnight| midnight == instant)
}

/// Whether PostgreSQL is sure to have an instant for the beginning of that day, in whatever zone: it has none before its
/// first timestamp.
fn has_midnight(date: NaiveDate) -> bool {
    (1..=9999).contains(&date.year())
}

/// The start of the current transaction, and the date in `zone` at that moment.
///
/// # Errors
///
/// [`Error::DateOutOfRange`] where the server doesn't know the zone, or the clock is out of reach.
pub fn now(zone: &str) -> Result<(Instant, NaiveDate)> {
    let now = server::transaction_start_us();
    let civil = time_zone::civil_time(zone, now)
        .ok_or_else(|| Error::DateOutOfRange { value: "the current date".to_owned() })?;
    // Clocks are set back by two hours at the most.
    let today = match civil.hour() < 2 {
        true => day_of(civil.date(), Instant(now), zone)?,
        false => civil.date(),
    };
    Ok((Instant(now), today))
}

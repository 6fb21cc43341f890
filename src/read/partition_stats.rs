//! What each partition holds: its dates, its exact number of rows, its size.

use chrono::{NaiveDateTime, NaiveTime};
use pgrx::datum::Date;

use crate::db::ident::Qualified;
use crate::db::{calendar, catalog, policy};
use crate::domain::partition::{Bound, Partition};
use crate::error::Result;
use crate::pg::{bound, lock, time_zone};
use crate::read::partition_count;

/// One partition, counted.
#[derive(Debug)]
pub struct Stats {
    /// Its name.
    pub name: String,
    /// The first day it holds in the policy's time zone; `-infinity` where it has no lower bound, `None`
    /// for a DEFAULT partition.
    pub start: Option<Date>,
    /// The first day it no longer holds; `infinity` where it has no upper bound.
    pub end: Option<Date>,
    /// Its rows that the caller's snapshot sees.
    pub rows: i64,
    /// Its size with indexes and TOAST, in bytes.
    pub bytes: i64,
    /// The same for people.
    pub pretty: String,
}

/// Counts every partition, in the order of their ranges. Needs SELECT on each of them.
///
/// # Errors
///
/// Where there is no partitioned event log, or the policy makes no sense.
pub fn all() -> Result<Vec<Stats>> {
    let table = catalog::events(&catalog::extension()?)?;
    let zone = policy::load()?.time_zone;
    let mut partitions = catalog::partitions(&table)?;
    partitions.sort_by_key(|partition| (partition.range().is_none(), partition.range()));
    let mut counted = Vec::new();
    for partition in &partitions {
        let oid = pgrx::pg_sys::Oid::from(partition.oid);
        // As a reader waits for whoever drops it; then it may be gone, which is no error of whoever counts.
        lock::relation(oid, lock::Mode::AccessShare);
        if bound::parent_of(oid) == Some(table.oid) {
            counted.push((partition, oid, count(partition, oid)?));
        }
    }
    let oids: Vec<_> = counted.iter().map(|(_, oid, _)| *oid).collect();
    let sizes = catalog::sizes(&oids)?;
    let stats = counted.into_iter().zip(sizes).map(|((partition, _, rows), (bytes, pretty))| {
        let range = partition.range();
        Stats {
            name: partition.name.clone(),
            start: range.map(|range| date_of(range.lower, &zone, false)),
            end: range.map(|range| date_of(range.upper, &zone, true)),
            rows,
            bytes,
            pretty,
        }
    });
    Ok(stats.collect())
}

/// Natively, where that gives what the query gives.
fn count(partition: &Partition, oid: pgrx::pg_sys::Oid) -> Result<i64> {
    match partition_count::native(oid).map(i64::try_from) {
        Some(Ok(rows)) => Ok(rows),
        _ => catalog::count_rows(Qualified { schema: &partition.schema, name: &partition.name }),
    }
}

/// The date of a bound; an upper bound within a day belongs to the next one, which it doesn't reach.
fn date_of(bound: Bound, zone: &str, round_up: bool) -> Date {
    let instant = match bound {
        Bound::MinValue => return Date::negative_infinity(),
        Bound::MaxValue => return Date::positive_infinity(),
        Bound::At(instant) => instant,
    };
    let infinite = || {
        if instant.0 < 0 { Date::negative_infinity() } else { Date::positive_infinity() }
    };
    let civil = if instant.is_finite() { time_zone::civil_time(zone, instant.0) } else { None };
    let Some(civil) = civil else {
        return infinite();
    };
    let within_a_day = NaiveDateTime::time(&civil) != NaiveTime::MIN
        && !calendar::begins_a_day(civil, instant, zone);
    let date = if round_up && within_a_day { civil.date().succ_opt() } else { Some(civil.date()) };
    date.map_or_else(infinite, calendar::to_date)
}

//! The policy's row: `meshhook_events.policy`.

use crate::db::query;
use crate::domain::policy::Policy;
use crate::error::{Error, Result};
use crate::pg::time_zone;

const SELECT: &str = "\
    SELECT granularity, time_zone, premake::bigint, \
           (12 * pg_catalog.date_part('year', retention) \
               + pg_catalog.date_part('month', retention))::bigint, \
           automatic_creation, automatic_retention, \
           archive, archive_format, archive_directory, final_statuses, \
           (1000000 * pg_catalog.date_part('epoch', grace))::bigint, \
           size_warning_bytes, size_limit_bytes \
    FROM meshhook_events.policy";

/// The policy: the row, or the defaults where there is none.
///
/// # Errors
///
/// Where the row makes no sense, though its constraints should have prevented that, or where this
/// server does not know its time zone.
pub fn load() -> Result<Policy> {
    Ok(load_row()?.unwrap_or_default())
}

/// The policy's row; `None` where there is none: without one the worker does nothing. A dump restores it
/// after the tables.
///
/// # Errors
///
/// As [`load`].
pub fn load_row() -> Result<Option<Policy>> {
    let row = query::read_one(SELECT, &[], |row| {
        let policy = Policy::from_row(
            &row.get::<String>(1)?,
            row.get(2)?,
            row.get(3)?,
            row.nullable(4)?,
            row.get(5)?,
            row.get(6)?,
        )?;
        let (archive, format): (String, String) = (row.get(7)?, row.get(8)?);
        let directory = row.nullable::<String>(9)?;
        let policy = policy.with_retention(row.get(10)?, row.get(11)?);
        let policy = policy.with_sizes(row.get(12)?, row.get(13)?)?;
        Ok(policy.with_archive(&archive, &format, directory.as_deref())?)
    })?;
    let Some(policy) = row else { return Ok(None) };
    // A name without a slash may be an abbreviation too, which SQL prefers to the zone of that name.
    let is_full_name = policy.time_zone == "UTC" || policy.time_zone.contains('/');
    if !is_full_name || !time_zone::exists(&policy.time_zone) {
        return Err(Error::UnknownTimeZone(policy.time_zone));
    }
    Ok(Some(policy))
}

/// Writes the defaults as a row, so that there is one to update; keeps a row that is there.
pub fn ensure_row() -> Result<()> {
    query::execute("INSERT INTO meshhook_events.policy DEFAULT VALUES ON CONFLICT DO NOTHING", &[])
}

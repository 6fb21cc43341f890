//! What is to be kept though it is old enough: `meshhook_events.hold`.

use crate::db::{query, range};
use crate::domain::partition::{Bound, Range};
use crate::domain::plan::{Hold, Obstacle, Retirement};
use crate::error::Result;
use crate::pg::{identity, latest};

/// Holds, and the time of a migration, in which nothing is dropped: rows that were copied from a partition would outlive it.
const HOLDS: &str = "(SELECT id, range_start, range_end, reason FROM meshhook_events.hold \
    UNION ALL SELECT 0, NULL, NULL, 'workflow_events is being migrated' FROM meshhook_events.migration \
    WHERE finished_at IS NULL) h";

/// The holds, oldest first.
pub fn all() -> Result<Vec<Hold>> {
    let sql = format!("SELECT range_start, range_end, reason FROM {HOLDS} ORDER BY id");
    query::read(&sql, &[], |row| {
        Ok(Hold { range: range::of_columns(&row, 1)?, reason: row.get(3)? })
    })
}

/// Holds the range of a partition, for the caller's role.
///
/// To be called as the extension's owner; `role` is the caller's.
pub fn add(partition: &Retirement, reason: &str, role: pgrx::pg_sys::Oid) -> Result<()> {
    let sql = "INSERT INTO meshhook_events.hold \
                   (partition_name, range_start, range_end, reason, role_name, held_at) \
               VALUES ($1, $2, $3, $4, pg_catalog.pg_get_userbyid($5)::text, pg_catalog.clock_timestamp())";
    let arguments = [
        partition.name.as_str().into(),
        range::column(partition.range.lower).into(),
        range::column(partition.range.upper).into(),
        reason.into(),
        role.into(),
    ];
    query::execute(sql, &arguments)
}

/// Takes away the holds of that name, or of that name and reason; gives how many there were.
pub fn remove(partition: &str, reason: Option<&str>) -> Result<i64> {
    let sql = "DELETE FROM meshhook_events.hold \
               WHERE partition_name = $1 AND ($2 IS NULL OR reason = $2) RETURNING id";
    let removed =
        query::execute_returning(sql, &[partition.into(), reason.into()], |row| row.get::<i64>(1))?;
    Ok(i64::try_from(removed.len()).unwrap_or(i64::MAX))
}

/// Refuses where somebody holds a part of the partition's range, as it is now, whatever snapshot the transaction has.
///
/// # Errors
///
/// [`Obstacle::Held`].
pub fn refuse(partition: &Retirement) -> Result<()> {
    let Range { lower, upper } = partition.range;
    let mut conditions = Vec::new();
    if upper != Bound::MaxValue {
        conditions
            .push(format!("(range_start IS NULL OR range_start OPERATOR(pg_catalog.<) {upper})"));
    }
    if lower != Bound::MinValue {
        conditions.push(format!("(range_end IS NULL OR range_end OPERATOR(pg_catalog.>) {lower})"));
    }
    let condition = match conditions.is_empty() {
        true => "true".to_owned(),
        false => conditions.join(" AND "),
    };
    let sql = format!("SELECT reason FROM {HOLDS} WHERE {condition} ORDER BY id LIMIT 1");
    match latest::texts(sql)?.into_iter().next() {
        Some(reason) => Err(Obstacle::Held { partition: partition.name.clone(), reason }.into()),
        None => Ok(()),
    }
}

/// Keeps others from adding a hold until the end of the transaction: what is decided now stays decided. Whoever adds one
/// waits for the decision, and finds what has come of it.
pub fn freeze(lock_timeout_ms: i32) -> Result<()> {
    identity::set_lock_timeout(lock_timeout_ms);
    query::execute("LOCK TABLE ONLY meshhook_events.hold IN SHARE MODE", &[])
}

/// Has whoever is about to drop a partition wait until the end of the transaction, and waits for those who do.
pub fn announce(lock_timeout_ms: i32) -> Result<()> {
    identity::set_lock_timeout(lock_timeout_ms);
    query::execute("LOCK TABLE ONLY meshhook_events.hold IN ROW EXCLUSIVE MODE", &[])
}

//! The ledger of what was done: `meshhook_events.maintenance_log`.
//!
//! A worker's attempt is committed before its work and closed after it; one that a crash left open is
//! closed by the next. A function's call is written at its end, in the caller's transaction.

use pgrx::JsonB;

use crate::db::catalog::Extension;
use crate::db::query;
use crate::error::{Error, Failure, Result};
use crate::pg::{identity, server};

/// How many entries are kept.
const KEPT_ENTRIES: i64 = 1_000;

/// How an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All that was wanted was done.
    Ok,
    /// Something stood in the way of a part of it.
    Warning,
    /// It failed.
    Failed,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// Opens the entry of a worker's attempt and gives its number.
///
/// Must be committed before the work is begun.
pub fn open(task: &str) -> Result<i64> {
    let sql = "INSERT INTO meshhook_events.maintenance_log \
                   (started_at, origin, task, status, role_name, pid) \
               VALUES (pg_catalog.clock_timestamp(), 'worker', $1, 'running', current_user::text, $2) \
               RETURNING id";
    query::execute_returning(sql, &[task.into(), server::process_id().into()], |row| row.get(1))?
        .pop()
        .ok_or_else(|| Error::Internal("an entry of the ledger has no number".to_owned()))
}

/// Closes the entry of a worker's attempt.
pub fn close(
    id: i64,
    status: Status,
    failure: Option<&Failure>,
    message: Option<&str>,
    details: serde_json::Value,
) -> Result<()> {
    let sql = "UPDATE meshhook_events.maintenance_log \
               SET finished_at = pg_catalog.clock_timestamp(), status = $2, \
                   sqlstate = $3, message = $4, details = $5 \
               WHERE id = $1";
    let arguments = [
        id.into(),
        status.as_str().into(),
        failure.map(Failure::sqlstate_text).into(),
        message.into(),
        JsonB(details).into(),
    ];
    query::execute(sql, &arguments)
}

/// Closes the entries that workers left open by ending without a word, and gives how many attempts in
/// a row have now ended that way, and how many seconds ago the last of them began.
///
/// To be called by the only worker of the database.
pub fn close_crashed() -> Result<(u32, i64)> {
    let close = "UPDATE meshhook_events.maintenance_log \
                 SET finished_at = pg_catalog.clock_timestamp(), status = 'crashed', \
                     message = 'the worker ended without a word' \
                 WHERE origin = 'worker' AND status = 'running'";
    query::execute(close, &[])?;
    // The last attempts, newest first, up to one that ended otherwise.
    let sql = "SELECT pg_catalog.count(*)::bigint, \
                      COALESCE(pg_catalog.date_part('epoch', \
                          pg_catalog.clock_timestamp() - pg_catalog.max(started_at)), 0)::bigint \
               FROM meshhook_events.maintenance_log \
               WHERE origin = 'worker' AND status = 'crashed' AND id > COALESCE( \
                   (SELECT pg_catalog.max(id) FROM meshhook_events.maintenance_log \
                    WHERE origin = 'worker' AND status <> 'crashed'), 0)";
    let row = query::read_one(sql, &[], |row| Ok((row.get::<i64>(1)?, row.get::<i64>(2)?)))?;
    let (count, age_s) = row.unwrap_or((0, 0));
    Ok((u32::try_from(count).unwrap_or(u32::MAX), age_s))
}

/// Forgets the oldest entries.
pub fn prune() -> Result<()> {
    let sql = "DELETE FROM meshhook_events.maintenance_log WHERE id <= \
               (SELECT pg_catalog.max(id) FROM meshhook_events.maintenance_log) - $1";
    query::execute(sql, &[KEPT_ENTRIES.into()])
}

/// Writes what a function did, for the caller's role, in the caller's transaction.
///
/// The ledger belongs to the extension's owner, who alone may write it.
pub fn record(
    extension: &Extension,
    task: &str,
    status: Status,
    details: serde_json::Value,
    lock_timeout_ms: i32,
) -> Result<()> {
    let sql = "INSERT INTO meshhook_events.maintenance_log \
                   (started_at, finished_at, origin, task, status, role_name, pid, details) \
               VALUES (pg_catalog.statement_timestamp(), pg_catalog.clock_timestamp(), 'function', \
                       $1, $2, pg_catalog.pg_get_userbyid($3)::text, $4, $5)";
    let arguments = [
        task.into(),
        status.as_str().into(),
        identity::current_role().into(),
        server::process_id().into(),
        JsonB(details).into(),
    ];
    identity::run_as(extension.owner, || {
        // The caller holds locks that others wait for.
        identity::set_lock_timeout(lock_timeout_ms);
        query::execute(sql, &arguments)?;
        prune()
    })
}

/// When a worker last succeeded, and the status and message of its last attempt that ended.
pub struct LastAttempts {
    /// The end of the last attempt that was `ok`.
    pub succeeded_at: Option<String>,
    /// How many seconds ago that was.
    pub succeeded_s_ago: Option<i64>,
    /// The status of the last attempt that ended.
    pub last_status: Option<String>,
    /// Its message.
    pub last_message: Option<String>,
}

/// What the ledger knows of the worker's attempts; `None` where the caller may not read it.
pub fn last_attempts() -> Result<Option<LastAttempts>> {
    let readable =
        "SELECT pg_catalog.has_table_privilege('meshhook_events.maintenance_log', 'SELECT')";
    if !query::read_one(readable, &[], |row| row.get::<bool>(1))?.unwrap_or(false) {
        return Ok(None);
    }
    let sql = "SELECT (SELECT pg_catalog.max(finished_at)::text FROM meshhook_events.maintenance_log \
                       WHERE origin = 'worker' AND status = 'ok'), l.status, l.message, \
                      (SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() \
                           - pg_catalog.max(finished_at))::bigint \
                       FROM meshhook_events.maintenance_log \
                       WHERE origin = 'worker' AND status = 'ok') \
               FROM (SELECT 1) one LEFT JOIN LATERAL ( \
                   SELECT status, message FROM meshhook_events.maintenance_log \
                   WHERE origin = 'worker' AND status <> 'running' ORDER BY id DESC LIMIT 1) l ON true";
    query::read_one(sql, &[], |row| {
        Ok(LastAttempts {
            succeeded_at: row.nullable(1)?,
            last_status: row.nullable(2)?,
            last_message: row.nullable(3)?,
            succeeded_s_ago: row.nullable(4)?,
        })
    })
}

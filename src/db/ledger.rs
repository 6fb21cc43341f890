//! The ledger of what was done: `meshhook_events.maintenance_log`.
//!
//! A worker's attempt is committed before its work and closed after it; one that a crash left open is
//! closed by the next. A function's call is written at its end, in the caller's transaction.

use pgrx::JsonB;
use pgrx::datum::TimestampWithTimeZone;

use crate::db::catalog::Extension;
use crate::db::query;
use crate::domain::queue::Task;
use crate::error::{Error, Result};
use crate::pg::{identity, server};

/// How many entries are kept.
const KEPT_ENTRIES: i64 = 1_000;

/// How long an entry says how things are, in microseconds: twelve hours.
const FRESH_US: i64 = 12 * 3_600 * 1_000_000;

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

/// The state that an attempt ended in, as its entry holds it.
#[derive(Clone, Debug)]
pub struct State {
    /// How it ended.
    pub status: Status,
    /// The SQLSTATE of the first failure.
    pub sqlstate: Option<String>,
    /// The first failure or warning.
    pub message: Option<String>,
    /// What was done, what failed, who was in the way; its member `state` names the state.
    pub details: serde_json::Value,
    /// Whether something was made, detached or dropped.
    pub did_something: bool,
}

impl State {
    /// What makes two states the same: not who is in the way, nor since when.
    #[must_use]
    pub fn key(&self) -> &str {
        self.details.get("state").and_then(serde_json::Value::as_str).unwrap_or_default()
    }
}

/// The last entry of a worker's task.
#[derive(Clone, Debug)]
pub struct Last {
    /// Its status, `running` included.
    pub status: String,
    /// Its details.
    pub details: serde_json::Value,
    /// Whether it was closed in the last twelve hours.
    pub is_fresh: bool,
}

impl Last {
    /// Whether an attempt that ended in `state` has nothing to add to it.
    #[must_use]
    pub fn says(&self, state: &State) -> bool {
        self.status == state.status.as_str()
            && self.details.get("state") == state.details.get("state")
            && self.details.get("blocked_by_pids") == state.details.get("blocked_by_pids")
            && !state.did_something
    }
}

/// What the ledger says of a worker's task.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The last entry.
    pub last: Option<Last>,
    /// How many attempts in a row, up to the last one, ended without a word; one that is still open counts.
    pub crashes: u32,
    /// How many seconds ago the last of them began.
    pub crashed_s_ago: i64,
}

/// What the ledger says of the tasks, in their order.
pub fn histories() -> Result<[History; Task::ALL.len()]> {
    // Each pass of the worker asks this in a new process: times are compared here, because each function and operator
    // that a query names costs that process a look at the catalogs.
    let sql = "SELECT t.task, l.status, l.details, l.started_at, l.finished_at \
               FROM pg_catalog.unnest($1) t (task), \
               LATERAL (SELECT * FROM meshhook_events.maintenance_log o \
                        WHERE o.origin = 'worker' AND o.task = t.task ORDER BY o.id DESC LIMIT 100) l \
               ORDER BY l.id DESC";
    let tasks = Task::ALL.map(Task::as_str);
    let now = server::now_us();
    let age_us = |at: TimestampWithTimeZone| now.saturating_sub(at.into_inner());
    let entries = query::read(sql, &[tasks.to_vec().into()], |row| {
        let details = row.nullable::<JsonB>(3)?.map(|json| json.0).unwrap_or_default();
        let finished_us_ago = row.nullable(5)?.map(age_us);
        let is_fresh = finished_us_ago.is_some_and(|age| (0..=FRESH_US).contains(&age));
        let last = Last { status: row.get(2)?, details, is_fresh };
        Ok((row.get::<String>(1)?, last, age_us(row.get(4)?).div_euclid(1_000_000)))
    })?;
    Ok(tasks.map(|task| {
        // Newest first.
        let mut of_task = entries.iter().filter(|(of, ..)| of == task).peekable();
        let Some((_, last, crashed_s_ago)) = of_task.peek().copied().cloned() else {
            return History::default();
        };
        let is_crash = |last: &Last| matches!(last.status.as_str(), "crashed" | "running");
        // A crash in a row is one that no entry comes after which ended otherwise.
        let crashes = of_task.take_while(|(_, last, _)| is_crash(last)).count();
        let crashes = u32::try_from(crashes).unwrap_or(u32::MAX);
        History { last: Some(last), crashes, crashed_s_ago }
    }))
}

/// Opens the entry of a worker's attempt and gives its number.
///
/// Must be committed before the work is begun.
pub fn open(task: &str) -> Result<i64> {
    let sql = "INSERT INTO meshhook_events.maintenance_log \
                   (started_at, since, origin, task, status, role_name, pid) \
               SELECT t, t, 'worker', $1, 'running', current_user::text, $2 \
               FROM pg_catalog.clock_timestamp() t \
               RETURNING id";
    query::execute_returning(sql, &[task.into(), server::process_id().into()], |row| row.get(1))?
        .pop()
        .ok_or_else(|| Error::Internal("an entry of the ledger has no number".to_owned()))
}

/// Closes the entry of a worker's attempt. Where the one before it of the same task ended in the same state and
/// did nothing, this one takes its place: a state has one entry, however often it was tried. Gives whether
/// the state is a new one.
pub fn close(id: i64, task: &str, state: State) -> Result<bool> {
    let key = state.key().to_owned();
    let repeats = if state.did_something { None } else { take_over(id, task, &key, state.status)? };
    let sql = "UPDATE meshhook_events.maintenance_log \
               SET finished_at = pg_catalog.clock_timestamp(), status = $2, \
                   sqlstate = $3, message = $4, details = $5, attempts = 1 + COALESCE($6, 0), \
                   since = COALESCE($7, since) \
               WHERE id = $1";
    let (attempts, since) = repeats.unzip();
    let arguments = [
        id.into(),
        state.status.as_str().into(),
        state.sqlstate.into(),
        state.message.into(),
        JsonB(state.details).into(),
        attempts.into(),
        since.into(),
    ];
    query::execute(sql, &arguments)?;
    Ok(repeats.is_none())
}

/// Removes the entry before `id` of that task where it is of the same state and nothing was done in it; gives its
/// number of attempts, and since when the state lasts.
fn take_over(
    id: i64,
    task: &str,
    key: &str,
    status: Status,
) -> Result<Option<(i32, TimestampWithTimeZone)>> {
    let sql = "DELETE FROM meshhook_events.maintenance_log \
               WHERE id = (SELECT pg_catalog.max(id) FROM meshhook_events.maintenance_log \
                           WHERE origin = 'worker' AND task = $2 AND id < $1) \
                 AND status = $4 AND details ->> 'state' = $3 AND NOT (details ?| ARRAY['created', 'finalized', 'detached', 'restored', 'archived', 'dropped', 'sealed', 'resealed']) \
               RETURNING attempts, since";
    let arguments = [id.into(), task.into(), key.into(), status.as_str().into()];
    Ok(query::execute_returning(sql, &arguments, |row| Ok((row.get(1)?, row.get(2)?)))?.pop())
}

/// Closes the entries of that task that workers left open by ending without a word.
///
/// To be called by the only worker of the database.
pub fn close_crashed(task: &str) -> Result<()> {
    let sql = "UPDATE meshhook_events.maintenance_log \
               SET finished_at = pg_catalog.clock_timestamp(), status = 'crashed', \
                   message = 'the worker ended without a word' \
               WHERE origin = 'worker' AND task = $1 AND status = 'running'";
    query::execute(sql, &[task.into()])
}

/// Forgets the oldest entries.
pub fn prune() -> Result<()> {
    // By count: numbers have gaps where attempts share an entry.
    let sql = "DELETE FROM meshhook_events.maintenance_log WHERE id <= \
               (SELECT id FROM meshhook_events.maintenance_log ORDER BY id DESC OFFSET $1 LIMIT 1)";
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
                   (started_at, since, finished_at, origin, task, status, role_name, pid, details) \
               VALUES (pg_catalog.statement_timestamp(), pg_catalog.statement_timestamp(), \
                       pg_catalog.clock_timestamp(), 'function', \
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

/// How a worker's task went.
#[derive(Clone, Debug)]
pub struct LastAttempt {
    /// The task.
    pub task: String,
    /// The status of its last attempt that ended.
    pub status: String,
    /// Its message.
    pub message: Option<String>,
    /// How many attempts have ended like this in a row, and since when.
    pub attempts: i32,
    /// Since when it is so, as text.
    pub since: String,
    /// How many seconds ago the last attempt that was `ok` ended.
    pub succeeded_s_ago: Option<i64>,
    /// When that was, as text.
    pub succeeded_at: Option<String>,
}

/// What the ledger knows of the worker's last attempts, a row a task; `None` where the caller may not read it.
pub fn last_attempts() -> Result<Option<Vec<LastAttempt>>> {
    let readable =
        "SELECT pg_catalog.has_table_privilege('meshhook_events.maintenance_log', 'SELECT')";
    if !query::read_one(readable, &[], |row| row.get::<bool>(1))?.unwrap_or(false) {
        return Ok(None);
    }
    let sql = "SELECT DISTINCT ON (l.task) l.task, l.status, l.message, l.attempts, l.since::text, \
                      s.at::text, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - s.at)::bigint \
               FROM meshhook_events.maintenance_log l \
               LEFT JOIN LATERAL ( \
                   SELECT pg_catalog.max(finished_at) AS at FROM meshhook_events.maintenance_log o \
                   WHERE o.origin = 'worker' AND o.task = l.task AND o.status = 'ok') s ON true \
               WHERE l.origin = 'worker' AND l.status <> 'running' ORDER BY l.task, l.id DESC";
    let rows = query::read(sql, &[], |row| {
        Ok(LastAttempt {
            task: row.get(1)?,
            status: row.get(2)?,
            message: row.nullable(3)?,
            attempts: row.get(4)?,
            since: row.get(5)?,
            succeeded_at: row.nullable(6)?,
            succeeded_s_ago: row.nullable(7)?,
        })
    })?;
    Ok(Some(rows))
}

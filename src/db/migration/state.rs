//! The row of `meshhook_events.migration`, and the tables that are copied from. To be called as the extension's owner.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, PgSqlErrorCode as Sqlstate};

use crate::db::query;
use crate::domain::migration::{Direction, Phase};
use crate::error::migration::MigrationFault;
use crate::error::{Error, Failure, Result, sqlstate_of};
use crate::pg::{identity, subtransaction};

/// Where a migration stands.
#[derive(Clone, Debug)]
pub struct State {
    /// Which way it goes.
    pub direction: Direction,
    /// How far it has come.
    pub phase: Phase,
    /// The table in use.
    pub live: Oid,
    /// The table that is built beside it; after the switch, the one that was replaced.
    pub shadow: Option<Oid>,
    /// How the table in use was defined when the shadow was built.
    pub definition: Option<String>,
    /// Pairs of names: of an index of the shadow, and the one that it gets.
    pub indexes: Vec<(String, String)>,
    /// Whether `ts` may be NULL in the plain table.
    pub ts_is_nullable: Option<bool>,
    /// Up to which id the two tables were compared.
    pub verified_to: Option<i64>,
    /// Whether the last step left no change in the queue.
    pub is_caught_up: bool,
    /// Transactions whose snapshots may be older than the copy; `None` before they were looked for.
    pub older_transactions: Option<Vec<String>>,
    /// How often the switch was tried.
    pub tries: i32,
    /// Whether the worker does it.
    pub in_background: bool,
    /// How long it has been in this phase, in seconds.
    pub phase_age_s: i64,
    /// Whether the shadow is a table that was replaced, and is to be put back.
    pub is_turned_round: bool,
}

const COLUMNS: &str = "direction, phase, live, shadow, definition, indexes, ts_is_nullable, verified_to, is_caught_up, \
                       older_transactions, tries, in_background, \
                       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - phase_started_at)::bigint, \
                       is_turned_round";

/// The migration that is under way, or was last; locked against other sessions until the end of the transaction.
///
/// # Errors
///
/// [`MigrationFault::Busy`] where another session has it locked.
pub fn lock() -> Result<Option<State>> {
    let select = format!("SELECT {COLUMNS} FROM meshhook_events.migration FOR UPDATE SKIP LOCKED");
    if let Some(state) = query::execute_returning(&select, &[], from_row)?.pop() {
        return Ok(Some(state));
    }
    match read()? {
        Some(_) => Err(MigrationFault::Busy.into()),
        None => Ok(None),
    }
}

/// How long a step may be waited for that another session is taking, in milliseconds: nobody queues behind.
const STEP_WAIT_MS: i32 = 5_000;

/// The same, after the step that another session is taking.
///
/// # Errors
///
/// [`MigrationFault::Busy`] where that takes long.
pub fn wait_and_lock() -> Result<Option<State>> {
    identity::set_lock_timeout(STEP_WAIT_MS);
    let select = format!("SELECT {COLUMNS} FROM meshhook_events.migration FOR UPDATE");
    match subtransaction::run(|| query::execute_returning(&select, &[], from_row)) {
        Ok(mut found) => Ok(found.pop()),
        Err(error) if error.is_lock_timeout() => Err(MigrationFault::Busy.into()),
        Err(error) => Err(error),
    }
}

/// Keeps all others out until the end of the transaction, who may begin one where none is under way, after the step that one
/// of them is taking.
///
/// # Errors
///
/// [`MigrationFault::Busy`] where that takes long.
pub fn keep_others_out() -> Result<()> {
    identity::set_lock_timeout(STEP_WAIT_MS);
    let lock = "LOCK TABLE meshhook_events.migration IN SHARE ROW EXCLUSIVE MODE";
    match subtransaction::run(|| query::execute(lock, &[])) {
        Err(error) if error.is_lock_timeout() => Err(MigrationFault::Busy.into()),
        done => done,
    }
}

/// The same without locking it.
pub fn read() -> Result<Option<State>> {
    query::read_one(&format!("SELECT {COLUMNS} FROM meshhook_events.migration"), &[], from_row)
}

/// Whether there is one that the worker is to go on with.
pub fn is_for_worker() -> Result<bool> {
    let sql = "SELECT in_background AND finished_at IS NULL FROM meshhook_events.migration";
    Ok(query::read_one(sql, &[], |row| row.get(1))?.unwrap_or(false))
}

fn from_row(row: query::Row) -> Result<State> {
    let unknown = |word: &str| Error::Internal(format!("\"{word}\" is no state of a migration"));
    let (direction, phase): (String, String) = (row.get(1)?, row.get(2)?);
    let indexes = row.get::<JsonB>(6)?.0;
    Ok(State {
        direction: Direction::parse(&direction).ok_or_else(|| unknown(&direction))?,
        phase: Phase::parse(&phase).ok_or_else(|| unknown(&phase))?,
        live: row.get(3)?,
        shadow: row.nullable(4)?,
        definition: row.nullable(5)?,
        indexes: serde_json::from_value(indexes).map_err(|e| Error::Internal(e.to_string()))?,
        ts_is_nullable: row.nullable(7)?,
        verified_to: row.nullable(8)?,
        is_caught_up: row.get(9)?,
        older_transactions: row.nullable(10)?,
        tries: row.get(11)?,
        in_background: row.get(12)?,
        phase_age_s: row.get(13)?,
        is_turned_round: row.get(14)?,
    })
}

/// A migration that begins.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Which way it goes.
    pub direction: Direction,
    /// The table in use.
    pub live: Oid,
    /// Whether `ts` may be NULL in the plain table.
    pub ts_is_nullable: bool,
    /// How many rows it has, as the planner estimates it.
    pub rows_total: Option<i64>,
    /// Its size with indexes and TOAST, in bytes.
    pub bytes_total: Option<i64>,
    /// The role that asked for it.
    pub role: String,
    /// Whether the worker does it.
    pub in_background: bool,
}

/// Writes down that a migration begins, in the place of the last one.
pub fn begin(beginning: Beginning) -> Result<()> {
    for table in ["migration", "migration_source", "migration_queue"] {
        query::execute(&format!("DELETE FROM meshhook_events.{table}"), &[])?;
    }
    let sql = "INSERT INTO meshhook_events.migration \
                   (direction, phase, live, ts_is_nullable, rows_total, bytes_total, role_name, in_background, \
                    started_at, phase_started_at, updated_at) \
               SELECT $1, 'preparing', $2, $3, $4, $5, $6, $7, t, t, t FROM pg_catalog.clock_timestamp() t";
    let arguments = [
        beginning.direction.as_str().into(),
        beginning.live.into(),
        beginning.ts_is_nullable.into(),
        beginning.rows_total.into(),
        beginning.bytes_total.into(),
        beginning.role.into(),
        beginning.in_background.into(),
    ];
    query::execute(sql, &arguments)
}

/// Writes down where it stands after a step that went well.
pub fn save(state: &State) -> Result<()> {
    let sql = "UPDATE meshhook_events.migration \
               SET phase_started_at = CASE WHEN phase = $2 THEN phase_started_at ELSE t.now END, \
                   updated_at = t.now, \
                   finished_at = CASE WHEN $3 THEN COALESCE(finished_at, t.now) END, \
                   direction = $1, phase = $2, live = $4, shadow = $5, definition = $6, indexes = $7, \
                   ts_is_nullable = $8, verified_to = $9, is_caught_up = $10, older_transactions = $11, \
                   tries = $12, in_background = $13, is_turned_round = $14, \
                   blocker = NULL, sqlstate = NULL, message = NULL, detail = NULL, hint = NULL \
               FROM pg_catalog.clock_timestamp() t (now)";
    let indexes =
        serde_json::to_value(&state.indexes).map_err(|e| Error::Internal(e.to_string()))?;
    let arguments = [
        state.direction.as_str().into(),
        state.phase.as_str().into(),
        state.phase.is_end().into(),
        state.live.into(),
        state.shadow.into(),
        state.definition.clone().into(),
        JsonB(indexes).into(),
        state.ts_is_nullable.into(),
        state.verified_to.into(),
        state.is_caught_up.into(),
        state.older_transactions.clone().into(),
        state.tries.into(),
        state.in_background.into(),
        state.is_turned_round.into(),
    ];
    query::execute(sql, &arguments)
}

/// Forgets how much was copied: it begins anew.
pub fn forget_copied() -> Result<()> {
    query::execute("DELETE FROM meshhook_events.migration_source", &[])?;
    query::execute(
        "UPDATE meshhook_events.migration SET rows_done = 0, rows_per_second = NULL",
        &[],
    )
}

/// Forgets what was copied from: the table in use is another now.
pub fn forget_sources() -> Result<()> {
    query::execute("DELETE FROM meshhook_events.migration_source", &[])
}

/// Adds to how many rows were copied, and notes how fast.
pub fn add_copied(rows: i64, rows_per_second: Option<f64>) -> Result<()> {
    let sql = "UPDATE meshhook_events.migration \
               SET rows_done = rows_done + $1, rows_per_second = COALESCE($2, rows_per_second)";
    query::execute(sql, &[rows.into(), rows_per_second.into()])
}

/// Writes down why a step came to nothing: an error, or who was in the way of it.
pub fn note_failure(error: &Error, tries: i32) -> Result<()> {
    let sql = "UPDATE meshhook_events.migration \
               SET updated_at = pg_catalog.clock_timestamp(), is_caught_up = false, tries = $1, \
                   blocker = $2, sqlstate = $3, message = $4, detail = $5, hint = $6";
    let blocker = error.in_the_way().map(|(relation, blockers)| {
        let list: Vec<String> = blockers.iter().map(ToString::to_string).collect();
        format!("{relation}: {}", list.join("; "))
    });
    let failure = if error.in_the_way().is_some() { None } else { Some(error.to_failure()) };
    let arguments = [
        tries.into(),
        blocker.into(),
        failure.as_ref().map(Failure::sqlstate_text).into(),
        failure.as_ref().map(|f| f.message.clone()).into(),
        failure.as_ref().and_then(|f| f.detail.clone()).into(),
        failure.as_ref().and_then(|f| f.hint.clone()).into(),
    ];
    query::execute(sql, &arguments)
}

/// What the last step failed with.
pub fn failure() -> Result<Option<Failure>> {
    let sql = "SELECT sqlstate, message, detail, hint FROM meshhook_events.migration \
               WHERE message IS NOT NULL";
    query::read_one(sql, &[], |row| {
        let sqlstate = row.nullable::<String>(1)?;
        Ok(Failure {
            sqlstate: sqlstate.map_or(Sqlstate::ERRCODE_INTERNAL_ERROR, |text| sqlstate_of(&text)),
            message: row.get(2)?,
            detail: row.nullable(3)?,
            hint: row.nullable(4)?,
        })
    })
}

/// A table that is copied from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The table.
    pub relation: Oid,
    /// The `id` and `ts` of the last row copied.
    pub last: Option<(i64, Option<TimestampWithTimeZone>)>,
    /// Whether all of its rows are copied.
    pub is_copied: bool,
}

/// The tables that are copied from.
pub fn sources() -> Result<Vec<Source>> {
    let sql = "SELECT relation, last_id, last_ts, is_copied FROM meshhook_events.migration_source \
               ORDER BY relation";
    query::read(sql, &[], |row| {
        let (id, ts) = (row.nullable(2)?, row.nullable(3)?);
        Ok(Source { relation: row.get(1)?, last: id.map(|id| (id, ts)), is_copied: row.get(4)? })
    })
}

/// Adds a table to copy from.
pub fn add_source(relation: Oid) -> Result<()> {
    let sql = "INSERT INTO meshhook_events.migration_source (relation) VALUES ($1) ON CONFLICT DO NOTHING";
    query::execute(sql, &[relation.into()])
}

/// Writes down how far a table is copied.
pub fn save_source(source: &Source) -> Result<()> {
    let sql = "UPDATE meshhook_events.migration_source \
               SET last_id = $2, last_ts = $3, is_copied = $4 WHERE relation = $1";
    let (id, ts) = source.last.map_or((None, None), |(id, ts)| (Some(id), ts));
    let arguments = [source.relation.into(), id.into(), ts.into(), source.is_copied.into()];
    query::execute(sql, &arguments)
}

//! Locks under a budget: all locks of a step together wait no longer than it says.

use std::cell::Cell;
use std::time::Instant;

use pgrx::PgSqlErrorCode as Sqlstate;
use pgrx::pg_sys::Oid;

use crate::db::query::{self, Row};
use crate::domain::blocker::Blocker;
use crate::error::{Error, Result};
use crate::pg::{identity, lock, subtransaction};

pub use crate::pg::lock::Mode;

/// How long one maintenance waits for another of the same table, in milliseconds. Neither readers nor
/// writers queue behind it, so it may take its time; less than the 5 s that DROP DATABASE waits for a worker.
const TURN_WAIT_MS: i32 = 3_000;

/// How much of a step is done whatever time it takes: a few milliseconds each, and so many are little
/// beside the budget, while a busy machine would otherwise stop a step half-way now and then.
const DONE_ANYWAY: u32 = 36;

/// The time that the locks of one step may take: to be had, and to be held.
#[derive(Debug)]
pub struct Budget {
    started: Instant,
    total_ms: i32,
    done: Cell<u32>,
}

impl Budget {
    /// A budget of that many milliseconds, beginning now.
    #[must_use]
    pub fn new(total_ms: i32) -> Self {
        Self { started: Instant::now(), total_ms, done: Cell::new(0) }
    }

    /// All of it, in milliseconds.
    #[must_use]
    pub const fn total_ms(&self) -> i32 {
        self.total_ms
    }

    /// Whether one more piece of the step is to be done, while others wait for the locks it holds.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.done.set(self.done.get().saturating_add(1));
        let spent = self.started.elapsed().as_millis() >= u128::from(self.total_ms.unsigned_abs());
        !spent || self.done.get() <= DONE_ANYWAY
    }

    /// Whether less than half of it is left.
    #[must_use]
    pub fn is_half_spent(&self) -> bool {
        self.left_ms() < self.total_ms / 2
    }

    /// Has every wait for a lock from here on end when it ends: for statements that take locks themselves.
    ///
    /// To be called inside [`identity::run_as`], which undoes the setting.
    pub fn limit_waits(&self) {
        identity::set_lock_timeout(self.left_ms());
    }

    /// What is left of it, in milliseconds; at least 1, because 0 means without limit.
    fn left_ms(&self) -> i32 {
        let spent = i32::try_from(self.started.elapsed().as_millis()).unwrap_or(i32::MAX);
        self.total_ms.saturating_sub(spent).max(1)
    }
}

/// Locks a relation until the end of the transaction, within what is left of the budget.
///
/// To be called inside [`identity::run_as`], which undoes the setting.
///
/// # Errors
///
/// [`Error::LockTimeout`], naming who holds the relation; nothing stays locked by this call then.
pub fn take(relation: Oid, name: &str, mode: Mode, budget: &Budget) -> Result<()> {
    take_all(&[(relation, name.to_owned(), mode)], budget)
}

/// The same for several relations, in this order: for a thousand of them a subtransaction each would be too slow.
///
/// # Errors
///
/// [`Error::LockTimeout`], naming who holds the first that can't be had; nothing stays locked by this call then.
pub fn take_all(relations: &[(Oid, String, Mode)], budget: &Budget) -> Result<()> {
    let reached = Cell::new(0);
    let locked = subtransaction::run(|| {
        for (number, (relation, _, mode)) in relations.iter().enumerate() {
            reached.set(number);
            budget.limit_waits();
            lock::relation(*relation, *mode);
        }
        Ok(())
    });
    budget.limit_waits();
    locked.map_err(|error| match relations.get(reached.get()) {
        Some((relation, name, mode)) => {
            explained(error, name, budget, || holders(*relation, *mode, 0))
        }
        None => error,
    })
}

/// How often locks are tried for at the end of work that would be lost otherwise.
const PATIENT_TRIES: u32 = 8;

/// How long others have the locks to themselves between two tries, in milliseconds.
const PAUSE_MS: f64 = 200.0;

/// Takes locks by `take`, each time within a budget of its own, and lets go of all of them in between: for the end of long work.
///
/// # Errors
///
/// That of the last try.
pub fn patiently(budget_ms: i32, mut take: impl FnMut(&Budget) -> Result<()>) -> Result<()> {
    let mut tries = 1;
    loop {
        let taken = subtransaction::run(|| take(&Budget::new(budget_ms)));
        match taken {
            Err(error) if error.is_lock_timeout() && tries < PATIENT_TRIES => {
                tries += 1;
                let pause = [(PAUSE_MS / 1_000.0).into()];
                query::read_one("SELECT pg_catalog.pg_sleep($1)", &pause, |_| Ok(()))?;
            }
            done => {
                identity::set_lock_timeout(budget_ms);
                return done;
            }
        }
    }
}

/// Runs a statement that waits for older snapshots, within what is left of the budget.
///
/// # Errors
///
/// Those of `statement`; where it waited in vain, [`Error::LockTimeout`], naming whose snapshot it was.
pub fn wait_for_snapshots(
    name: &str,
    budget: &Budget,
    statement: impl FnOnce() -> Result<()>,
) -> Result<()> {
    budget.limit_waits();
    let done = subtransaction::run(statement);
    done.map_err(|error| explained(error, name, budget, || snapshot_holders(0)))
}

fn explained(
    error: Error,
    name: &str,
    budget: &Budget,
    blockers: impl FnOnce() -> Result<Vec<Blocker>>,
) -> Error {
    match error {
        Error::Server(failure) if is_lock_failure(failure.sqlstate) => Error::LockTimeout {
            relation: name.to_owned(),
            budget_ms: budget.total_ms,
            blockers: blockers().unwrap_or_default(),
        },
        other => other,
    }
}

/// Whether a lock could not be had in time, or not without a deadlock, in which maintenance gives way.
fn is_lock_failure(sqlstate: Sqlstate) -> bool {
    matches!(
        sqlstate,
        Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE | Sqlstate::ERRCODE_T_R_DEADLOCK_DETECTED
    )
}

/// Waits until no other maintenance of that table is under way, and keeps others out until the end of
/// the transaction: the lock conflicts with itself, and with neither reading nor writing. An advisory
/// lock would do the same, but anybody who can connect could take it and stop all maintenance.
///
/// # Errors
///
/// [`Error::LockTimeout`] after [`TURN_WAIT_MS`]. Other locks are waited for at most `lock_timeout_ms`
/// afterwards: that this one may take longer must not be true of those.
pub fn take_turn(table: Oid, name: &str, lock_timeout_ms: i32) -> Result<()> {
    take(table, name, Mode::ShareUpdateExclusive, &Budget::new(TURN_WAIT_MS))?;
    identity::set_lock_timeout(lock_timeout_ms);
    Ok(())
}

/// Waits as [`take_turn`] does, and lets go again: for a step that needs a stronger lock on the same table. Whoever
/// held the weaker one while waiting for it would be in the way of a client that has read the table and now changes
/// it, and the server would end that client at once, without waiting for any limit.
///
/// # Errors
///
/// As [`take_turn`].
pub fn wait_for_turn(table: Oid, name: &str, lock_timeout_ms: i32) -> Result<()> {
    subtransaction::try_out(|| take_turn(table, name, lock_timeout_ms))?;
    identity::set_lock_timeout(lock_timeout_ms);
    Ok(())
}

/// Something that a step has to wait for.
#[derive(Clone, Debug)]
pub enum Need {
    /// A lock on a relation.
    Lock {
        /// The relation.
        relation: Oid,
        /// Its name.
        name: String,
        /// The lock.
        mode: Mode,
    },
    /// The end of every transaction that has used a relation; no lock is held meanwhile.
    Unused {
        /// The relation.
        relation: Oid,
        /// Its name.
        name: String,
    },
    /// The end of every transaction whose snapshot is older.
    OldSnapshots,
    /// The end of a DETACH that somebody is running, who would fail if it were completed for him.
    RunningDetach,
}

/// How old a transaction must be to count as one that will be in the way for longer, in milliseconds. Shorter
/// ones are waited for within the budget.
pub const LONG_TRANSACTION_MS: i64 = 1_000;

/// Looks, without waiting and without making anybody wait, whether a longer transaction is in the way.
///
/// # Errors
///
/// [`Error::InTheWay`].
pub fn look(needs: &[Need]) -> Result<()> {
    match blocked_for(needs, LONG_TRANSACTION_MS)? {
        Some((relation, blockers)) => Err(Error::InTheWay { relation, blockers }),
        None => Ok(()),
    }
}

/// The first need for which somebody is in the way now, by the name of its relation, and who that is.
pub fn first_blocked(needs: &[Need]) -> Result<Option<(String, Vec<Blocker>)>> {
    blocked_for(needs, 0)
}

fn blocked_for(needs: &[Need], older_than_ms: i64) -> Result<Option<(String, Vec<Blocker>)>> {
    for need in needs {
        let (relation, age_ms) = match need {
            Need::Lock { name, .. } | Need::Unused { name, .. } => (name.as_str(), older_than_ms),
            Need::OldSnapshots => ("the database", older_than_ms),
            // However short it has been running.
            Need::RunningDetach => ("the database", 0),
        };
        let blockers = blockers_of(need, age_ms)?;
        if !blockers.is_empty() {
            return Ok(Some((relation.to_owned(), blockers)));
        }
    }
    Ok(None)
}

/// Who is in the way of what a step needs, for at least that long.
pub fn blockers_of(need: &Need, older_than_ms: i64) -> Result<Vec<Blocker>> {
    match need {
        Need::Lock { relation, mode, .. } => holders(*relation, *mode, older_than_ms),
        Need::Unused { relation, .. } => holders(*relation, Mode::AccessExclusive, older_than_ms),
        Need::OldSnapshots => snapshot_holders(older_than_ms),
        Need::RunningDetach => detaching_sessions(),
    }
}

/// Columns of a blocker: process, prepared transaction, role, application, age and start of the statement.
const BLOCKER_COLUMNS: &str = "\
    a.usename::text, a.application_name, \
    pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp() \
        - COALESCE(a.xact_start, x.prepared))::text, \
    pg_catalog.date_trunc('milliseconds', a.query_start)::text, x.gid";

/// Who holds a lock on `relation` that conflicts with `mode`, in a transaction of at least that age. An
/// autovacuum doesn't count: it gives way to whoever waits for it, unless it prevents a wraparound.
fn holders(relation: Oid, mode: Mode, older_than_ms: i64) -> Result<Vec<Blocker>> {
    // A prepared transaction holds its locks without a process; it is known by the lock on its own number.
    let sql = format!(
        "SELECT l.pid, l.mode, {BLOCKER_COLUMNS} \
         FROM pg_catalog.pg_locks l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN (pg_catalog.pg_locks own JOIN pg_catalog.pg_prepared_xacts x \
                    ON own.locktype = 'transactionid' AND own.transactionid = x.transaction) \
             ON l.pid IS NULL AND own.pid IS NULL \
             AND own.virtualtransaction = l.virtualtransaction \
         WHERE l.locktype = 'relation' AND l.granted AND l.relation = $1 \
           AND l.database = (SELECT oid FROM pg_catalog.pg_database \
                             WHERE datname = pg_catalog.current_database()) \
           AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() AND l.mode = ANY ($2) \
           AND (a.backend_type IS DISTINCT FROM 'autovacuum worker' \
                OR a.query LIKE '%(to prevent wraparound)%') \
           AND COALESCE(a.xact_start, x.prepared, '-infinity') \
               <= pg_catalog.clock_timestamp() - $3 * interval '1 millisecond' \
         ORDER BY a.xact_start, l.pid LIMIT 5"
    );
    let modes: Vec<&str> = mode.conflicts().to_vec();
    query::read(&sql, &[relation.into(), modes.into(), older_than_ms.into()], blocker)
}

/// Whose snapshot has been held for at least that long in this database.
fn snapshot_holders(older_than_ms: i64) -> Result<Vec<Blocker>> {
    let sql = format!(
        "SELECT a.pid, 'a snapshot', {BLOCKER_COLUMNS} \
         FROM pg_catalog.pg_stat_activity a \
         LEFT JOIN pg_catalog.pg_prepared_xacts x ON false \
         WHERE a.datname = pg_catalog.current_database() AND a.backend_xmin IS NOT NULL \
           AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type <> 'autovacuum worker' \
           AND a.xact_start <= pg_catalog.clock_timestamp() - $1 * interval '1 millisecond' \
         ORDER BY a.xact_start, a.pid LIMIT 5"
    );
    query::read(&sql, &[older_than_ms.into()], blocker)
}

/// Which of these processes have held a snapshot for at least that long.
pub fn snapshots_of(pids: &[i32], older_than_ms: i64) -> Result<Vec<Blocker>> {
    let sql = format!(
        "SELECT a.pid, 'a snapshot', {BLOCKER_COLUMNS} \
         FROM pg_catalog.pg_stat_activity a \
         LEFT JOIN pg_catalog.pg_prepared_xacts x ON false \
         WHERE a.pid = ANY ($1) AND a.backend_xmin IS NOT NULL \
           AND a.xact_start <= pg_catalog.clock_timestamp() - $2 * interval '1 millisecond' \
         ORDER BY a.xact_start, a.pid LIMIT 5"
    );
    query::read(&sql, &[pids.to_vec().into(), older_than_ms.into()], blocker)
}

/// Who is running a DETACH in this database. While it waits, it holds nothing that could be looked for.
fn detaching_sessions() -> Result<Vec<Blocker>> {
    let sql = format!(
        "SELECT a.pid, 'a partition that it detaches', {BLOCKER_COLUMNS} \
         FROM pg_catalog.pg_stat_activity a \
         LEFT JOIN pg_catalog.pg_prepared_xacts x ON false \
         WHERE a.datname = pg_catalog.current_database() AND a.state = 'active' \
           AND a.pid <> pg_catalog.pg_backend_pid() AND a.query ~* 'detach\\s+partition' \
         ORDER BY a.xact_start, a.pid LIMIT 5"
    );
    query::read(&sql, &[], blocker)
}

/// A row of the queries above.
fn blocker(row: Row) -> Result<Blocker> {
    Ok(Blocker {
        pid: row.nullable(1)?,
        mode: row.get(2)?,
        role: row.nullable(3)?,
        application: row.nullable(4)?,
        transaction_age: row.nullable(5)?,
        query_start: row.nullable(6)?,
        prepared: row.nullable(7)?,
    })
}

//! Locks under a budget: all locks of a step together wait no longer than it says.

use std::cell::Cell;
use std::time::Instant;

use pgrx::PgSqlErrorCode as Sqlstate;
use pgrx::pg_sys::Oid;

use crate::db::query;
use crate::error::{Blocker, Error, Result};
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
    budget.limit_waits();
    let locked = subtransaction::run(|| {
        lock::relation(relation, mode);
        Ok(())
    });
    budget.limit_waits();
    locked.map_err(|error| match error {
        Error::Server(failure) if failure.sqlstate == Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE => {
            Error::LockTimeout {
                relation: name.to_owned(),
                budget_ms: budget.total_ms,
                blockers: holders(relation, mode).unwrap_or_default(),
            }
        }
        other => other,
    })
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

/// Who holds a lock on `relation` that conflicts with `mode`.
fn holders(relation: Oid, mode: Mode) -> Result<Vec<Blocker>> {
    // A prepared transaction holds its locks without a process; it is known by the lock on its own number.
    let sql = "SELECT l.pid, a.usename::text, a.application_name, l.mode, \
                      pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp() \
                          - COALESCE(a.xact_start, x.prepared))::text, x.gid \
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
               ORDER BY a.xact_start, l.pid LIMIT 5";
    let modes: Vec<&str> = mode.conflicts().to_vec();
    query::read(sql, &[relation.into(), modes.into()], |row| {
        Ok(Blocker {
            pid: row.nullable(1)?,
            prepared: row.nullable(6)?,
            role: row.nullable(2)?,
            application: row.nullable(3)?,
            mode: row.get(4)?,
            transaction_age: row.nullable(5)?,
        })
    })
}

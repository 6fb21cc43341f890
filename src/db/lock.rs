//! Locks under a budget: all locks of a step together wait no longer than it says.

use std::time::Instant;

use pgrx::PgSqlErrorCode as Sqlstate;
use pgrx::pg_sys::Oid;

use crate::db::query;
use crate::error::{Blocker, Error, Result};
use crate::pg::{identity, lock, subtransaction};

pub use crate::pg::lock::Mode;

/// The first key of our advisory locks; the second is the table's OID.
const ADVISORY_CLASS: i32 = 0x4d45_5348;

/// How long one maintenance waits for another of the same table, in milliseconds. Nobody else waits
/// for this lock, so it may take its time; less than the 5 s that DROP DATABASE waits for a worker.
const TURN_WAIT_MS: i32 = 3_000;

/// The time that the locks of one step may take.
#[derive(Debug)]
pub struct Budget {
    started: Instant,
    total_ms: i32,
}

impl Budget {
    /// A budget of that many milliseconds, beginning now.
    #[must_use]
    pub fn new(total_ms: i32) -> Self {
        Self { started: Instant::now(), total_ms }
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.started.elapsed().as_millis() >= u128::from(self.total_ms.unsigned_abs())
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
    identity::set_lock_timeout(budget.left_ms());
    let locked = subtransaction::run(|| {
        lock::relation(relation, mode);
        Ok(())
    });
    identity::set_lock_timeout(budget.left_ms());
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
/// the transaction.
///
/// # Errors
///
/// [`Error::LockTimeout`] after [`TURN_WAIT_MS`].
pub fn take_turn(table: Oid, name: &str) -> Result<()> {
    identity::set_lock_timeout(TURN_WAIT_MS);
    let key = i32::from_ne_bytes(table.to_u32().to_ne_bytes());
    let locked = subtransaction::run(|| {
        let sql = "SELECT pg_catalog.pg_advisory_xact_lock($1, $2)::text";
        query::read(sql, &[ADVISORY_CLASS.into(), key.into()], |_| Ok(()))
    });
    locked.map(|_| ()).map_err(|error| match error {
        Error::Server(failure) if failure.sqlstate == Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE => {
            Error::LockTimeout {
                relation: format!("maintenance of {name}"),
                budget_ms: TURN_WAIT_MS,
                blockers: Vec::new(),
            }
        }
        other => other,
    })
}

/// Makes this session the only worker of the database; `false` where another is. The session's end
/// lets go.
pub fn become_only_worker() -> Result<bool> {
    let sql = "SELECT pg_catalog.pg_try_advisory_lock($1, 0)";
    Ok(query::read_one(sql, &[ADVISORY_CLASS.into()], |row| row.get(1))?.unwrap_or(false))
}

/// Who holds a lock on `relation` that conflicts with `mode`.
fn holders(relation: Oid, mode: Mode) -> Result<Vec<Blocker>> {
    let sql = "SELECT l.pid, a.usename::text, a.application_name, l.mode, \
                      pg_catalog.date_trunc('milliseconds', \
                          pg_catalog.clock_timestamp() - a.xact_start)::text \
               FROM pg_catalog.pg_locks l \
               LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'relation' AND l.granted AND l.relation = $1 \
                 AND l.database = (SELECT oid FROM pg_catalog.pg_database \
                                   WHERE datname = pg_catalog.current_database()) \
                 AND l.pid <> pg_catalog.pg_backend_pid() AND l.mode = ANY ($2) \
               ORDER BY a.xact_start, l.pid LIMIT 5";
    let modes: Vec<&str> = mode.conflicts().to_vec();
    query::read(sql, &[relation.into(), modes.into()], |row| {
        Ok(Blocker {
            pid: row.get(1)?,
            role: row.nullable(2)?,
            application: row.nullable(3)?,
            mode: row.get(4)?,
            transaction_age: row.nullable(5)?,
        })
    })
}

//! A step that may fail without undoing the steps before it.

use std::panic::AssertUnwindSafe;

use pgrx::PgSqlErrorCode as Sqlstate;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_sys};

use crate::error::{Error, Failure, Result};

/// Runs `step` in a subtransaction: committed where it gives `Ok`, rolled back where it gives `Err` or
/// the server raises an error, which then comes back as [`Error::Server`].
///
/// A cancelled query, an administrator's command and a shortage of memory are not the step's failure:
/// they are raised again after the rollback.
///
/// The pattern is that of `exec_stmt_block` in PostgreSQL's `pl_exec.c`.
pub fn run<T>(step: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: reads two variables of the backend, to go back to what they are now.
    let (context, owner) = unsafe { (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) };
    // SAFETY: reads a variable of the backend.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    // SAFETY: we are inside a transaction; one of the two calls below ends the subtransaction.
    unsafe {
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
    }
    let result = PgTryBuilder::new(AssertUnwindSafe(step))
        .catch_others(|error| Err(Error::Server(failure(&error))))
        .execute();
    // SAFETY: the subtransaction begun above is the current one: `step` has ended all that it began,
    // or the error left them for this rollback.
    unsafe {
        if result.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            // Where the rollback of one within it has failed itself, that one is still there.
            while pg_sys::GetCurrentTransactionNestLevel() > level {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    match result {
        Err(Error::Server(failure)) if is_not_the_steps(failure.sqlstate) => {
            pg_sys::panic::ErrorReport::from(Error::Server(failure))
                .report(pgrx::PgLogLevel::ERROR);
            Err(Error::Internal("an error was not raised".to_owned()))
        }
        result => result,
    }
}

/// Runs `trial` in a subtransaction that is rolled back whatever it gives.
pub fn try_out<T>(trial: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut kept = None;
    let rolled_back = run(|| {
        kept = Some(trial()?);
        Err::<(), _>(Error::Internal("rolled back on purpose".to_owned()))
    });
    match (kept, rolled_back) {
        (Some(result), _) => Ok(result),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(Error::Internal("a trial gave nothing".to_owned())),
    }
}

fn is_not_the_steps(sqlstate: Sqlstate) -> bool {
    matches!(
        sqlstate,
        Sqlstate::ERRCODE_QUERY_CANCELED
            | Sqlstate::ERRCODE_ADMIN_SHUTDOWN
            | Sqlstate::ERRCODE_CRASH_SHUTDOWN
            | Sqlstate::ERRCODE_OUT_OF_MEMORY
    )
}

/// What is kept of a caught error.
pub fn failure(error: &CaughtError) -> Failure {
    let report = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    };
    Failure {
        sqlstate: report.sql_error_code(),
        message: report.message().to_owned(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
    }
}

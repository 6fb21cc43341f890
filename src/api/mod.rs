//! The SQL functions: shells over `lifecycle` and `read`. COMMENT, REVOKE and GRANT are in
//! `sql/finalize.sql`.
//!
//! They return `Result<_, ErrorReport>`, spelled out: pgrx reads the type word by word, and only this
//! error type keeps SQLSTATE, DETAIL and HINT.

#![allow(
    clippy::result_large_err,
    reason = "pgrx keeps SQLSTATE, DETAIL and HINT of this type alone"
)]

mod archive;
mod events;
mod insight;
mod migration;
mod partitions;
mod retention;
mod upkeep;

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;

use crate::error::Error;

/// Tells the caller of something that did not stop the rest.
fn warn(error: &Error) {
    ErrorReport::from(error.clone()).report(PgLogLevel::WARNING);
}

/// Refuses NULL for an argument that must be given.
fn required<T>(value: Option<T>, argument: &'static str) -> crate::error::Result<T> {
    value.ok_or(Error::Null { argument })
}

//! The only place that runs SQL text. Values go in as parameters, names through [`ident`].
//!
//! Nothing here reads a setting or decides what is to be done.

pub mod calendar;
pub mod catalog;
pub mod ddl;
pub mod ident;
pub mod index;
pub mod ledger;
pub mod lock;
pub mod policy;
pub mod protection;
pub mod query;
pub mod retired;
pub mod row_security;

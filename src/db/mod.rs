//! The only place that runs SQL text. Values go in as parameters, names through [`ident`].
//!
//! Nothing here reads a setting or decides what is to be done.

pub mod archive_table;
pub mod archived;
pub mod calendar;
pub mod catalog;
pub mod ddl;
pub mod foreign_key;
pub mod hold;
pub mod ident;
pub mod index;
pub mod kept;
pub mod ledger;
pub mod load;
pub mod lock;
pub mod migration;
pub mod parquet;
pub mod policy;
pub mod protection;
pub mod query;
pub mod range;
pub mod replay;
pub mod retired;
pub mod row_security;
pub mod rows;
pub mod seal;

//! The only place that touches the server's C interface: safe wrappers, one concern a file.
//!
//! pgrx turns an error that PostgreSQL raises into an unwinding of the Rust stack, so guards with
//! `Drop` are sound across calls through `pgrx::pg_sys`. Symbols that pgrx does not wrap are declared in
//! [`process`], where they never raise, and in [`bound`], [`expression`], [`heap_count`] and [`table_rows`], where
//! the call is guarded; catalogs that it does not know are in [`inheritance`], index pages in [`btree`].

pub mod board;
pub mod bound;
pub mod btree;
pub mod btree_leaves;
pub mod databases;
pub mod drop_database;
pub mod expression;
pub mod give_way;
pub mod guc;
pub mod heap_count;
pub mod identity;
pub mod index;
pub mod inheritance;
pub mod latest;
pub mod lock;
pub mod memory;
pub mod page;
pub mod partition_descriptor;
pub mod process;
pub mod relation;
pub mod result_set;
pub mod run_descent;
pub mod run_index;
pub mod server;
pub mod snapshot;
pub mod subtransaction;
pub mod table_rows;
pub mod table_stats;
pub mod time_zone;
pub mod top_level;
pub mod transaction;
pub mod version;
pub mod visibility_map;

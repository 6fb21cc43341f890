//! `pg_meshhook_events`: owns the life of MeshHook's append-only event log `workflow_events`.
//!
//! Data flows one way: catalog → facts → plan → actions → ledger. `domain` decides, and knows neither
//! PostgreSQL nor the clock; `db` holds the SQL, `pg` the server's C interface, `storage` the files; `lifecycle` and `read`
//! are the use cases; `api` and `worker` are the two ways in.

mod api;
mod db;
mod domain;
mod error;
mod lifecycle;
mod pg;
#[cfg(any(test, feature = "pg_test"))]
mod pg_tests;
mod read;
mod settings;
mod storage;
mod worker;

#[cfg(not(panic = "unwind"))]
compile_error!("an error of PostgreSQL crosses Rust frames by unwinding: panic must be \"unwind\"");

// The arm of this macro that takes the bare word `version` puts the name in its place on PostgreSQL 18.
pgrx::pg_module_magic!(name = c"pg_meshhook_events", version = VERSION);

/// The version of the crate, which is that of the extension.
const VERSION: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes(),
) {
    Ok(version) => version,
    Err(_) => c"unknown",
};

pgrx::extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
pgrx::extension_sql_file!("../sql/finalize.sql", name = "finalize", finalize);

/// Called by the server when it loads the library.
#[allow(non_snake_case, reason = "the server looks for this name")]
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::init();
    worker::init();
}

/// What `cargo pgrx test` needs to know.
#[cfg(test)]
pub mod pg_test {
    /// Runs once before the tests.
    pub fn setup(_options: Vec<&str>) {}

    /// The server's configuration for the tests.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'pg_meshhook_events'", "pg_meshhook_events.enabled = off"]
    }
}

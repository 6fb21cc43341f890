//! The background worker: a launcher without a database, and a short-lived worker for each database
//! that is due.
//!
//! ```text
//! launcher: START ─ signals ─ connect to no database ─┐
//!           ┌────────────────────────────────────────┘
//!           └─> REAP ended workers ─> DUE? (start, schedule, wake-up, back-off) ─> START workers ─> SLEEP ─┐
//!               ^                                                                                         │
//!               └─────────────────────────────────────────────────────────────────────────────────────────┘
//! database: CHECK (read only) ─> task CREATE ─> task RETIRE ─> task SEAL ─> exit 0
//! task:     PLAN and LOOK who is in the way (read only) ─> nothing to do, or blocked: NOTE it, once a state
//!           └─> CLAIM (committed) ─> each step in transactions of its own ─> RECORD (committed)
//! ```
//!
//! The tasks have their own claims, failures and times; creation comes first.
//!
//! The launcher never returns: an exit code of 0 would unregister it. A worker is registered not to be
//! restarted: the launcher starts the next one.

mod creation;
mod database;
mod launcher;
mod migration;
mod progress;
mod retirement;
mod sealing;

use std::time::Duration;

use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::{pg_guard, pg_sys};

use crate::pg::{board, drop_database, server};

/// The library's name, as the server looks for it.
const LIBRARY: &str = "pg_meshhook_events";

/// How long the server waits before it starts the launcher again after that was terminated.
const LAUNCHER_RESTART: Duration = Duration::from_secs(5);

/// Registers the launcher, where the library is being preloaded. Without preload there is no worker,
/// and every function can be called by hand or from any scheduler.
pub fn init() {
    if !server::is_preloading() || server::is_binary_upgrade() {
        return;
    }
    board::request();
    drop_database::init();
    BackgroundWorkerBuilder::new("pg_meshhook_events launcher")
        .set_type("pg_meshhook_events launcher")
        .set_library(LIBRARY)
        .set_function("pg_meshhook_events_launcher_main")
        // Starts when recovery has ended: on a standby, at its promotion.
        .enable_spi_access()
        .set_restart_time(Some(LAUNCHER_RESTART))
        .load();
}

/// Where the server enters the launcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_meshhook_events_launcher_main(_argument: pg_sys::Datum) {
    launcher::run();
}

/// Where the server enters a database worker; the argument is an [`Assignment`].
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_meshhook_events_database_main(argument: pg_sys::Datum) {
    database::run(Assignment::unpack(argument));
}

/// What a database worker is told: which database, and where on the board to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Assignment {
    database: u32,
    slot: usize,
}

impl Assignment {
    fn pack(self) -> pg_sys::Datum {
        pg_sys::Datum::from((self.slot as u64) << 32 | u64::from(self.database))
    }

    fn unpack(argument: pg_sys::Datum) -> Self {
        let bits = argument.value() as u64;
        Self { database: bits as u32, slot: (bits >> 32) as usize }
    }
}

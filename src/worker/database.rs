//! The worker of one database: one pass over its event log, then it ends.
//!
//! Every step is a transaction of its own, begun with all settings pinned. Steps that touch the user's
//! tables run as their owner; those that run as superuser touch only the catalogs and our own tables.

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};

use pgrx::pg_sys::Oid;
use pgrx::{debug1, log};

use super::{Assignment, creation, migration, progress, retirement, sealing};
use crate::db::catalog::{self, Extension};
use crate::db::ledger::{self, History};
use crate::db::migration::state;
use crate::db::policy;
use crate::domain::plan::Facts;
use crate::domain::queue::{Order, Task};
use crate::domain::retry::Outcome;
use crate::error::{Error, Result};
use crate::lifecycle::context::{self, Context};
use crate::pg::process::{self, OnCancel};
use crate::pg::transaction::{
    COMMAND_LOCK_LIMIT_MS, Home, attempt, attempt_command, attempt_limited, attempt_long,
    attempt_yielding, attempt_yielding_command, pin_settings,
};
use crate::pg::{board, server};
use crate::settings::Settings;

/// Runs one pass.
pub fn run(assignment: Assignment) {
    process::install_signal_handlers(OnCancel::EndStatement);
    process::connect_to_database(assignment.database.into());
    process::report_application_name("pg_meshhook_events worker");
    let before_ms = process::cpu_ms();
    let pid = server::process_id();
    let (orders, said_before) = board::register(assignment.slot, pid, assignment.database);
    let pass = Pass { home: Home::new(), settings: Settings::current() };
    let tell = |task, outcome| board::report(assignment.slot, pid, task, outcome);
    let last_words = match pass.run(&orders, tell) {
        Ok(()) => 0,
        Err(error) => complain(assignment.database, &error, said_before),
    };
    board::leave(assignment.slot, pid, last_words);
    process::report_activity(false, "");
    debug1!(
        "pass of database {}: {:.3} ms of CPU, after {before_ms:.3} ms to start the process",
        assignment.database,
        process::cpu_ms() - before_ms
    );
}

/// Tells the log what stops a whole pass, unless the worker before this one has told it the same. Gives a number
/// for what was said.
fn complain(database: u32, error: &Error, said_before: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    error.to_string().hash(&mut hasher);
    let words = hasher.finish();
    if words != said_before {
        let failure = error.to_failure();
        let also =
            |text: &Option<String>| text.as_ref().map(|t| format!(" {t}")).unwrap_or_default();
        log!(
            "maintenance of database with OID {database} failed with {}: {}{}{}",
            failure.sqlstate_text(),
            failure.message,
            also(&failure.detail),
            also(&failure.hint)
        );
    }
    words
}

/// What all steps of a pass share.
pub struct Pass {
    home: Home,
    /// The settings.
    pub settings: Settings,
}

impl Pass {
    /// A step: settings pinned, a transaction of its own.
    pub fn step<T>(&self, activity: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        pin_settings(self.settings.lock_timeout_ms);
        process::report_activity(true, activity);
        attempt(&self.home, work)
    }

    /// A step that may take ten minutes, and holds no lock that others notice.
    pub fn long_step<T>(&self, activity: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        pin_settings(self.settings.lock_timeout_ms);
        process::report_activity(true, activity);
        attempt_long(&self.home, work)
    }

    /// The same for one that writes and reads a table of that size: ten minutes, and three seconds for every 10 MB.
    pub fn sized_step<T>(
        &self,
        activity: &str,
        bytes: i64,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        pin_settings(self.settings.lock_timeout_ms);
        process::report_activity(true, activity);
        let limit_ms = 600_000 + bytes.max(0) / (10 << 20) * 3_000;
        attempt_limited(&self.home, i32::try_from(limit_ms).unwrap_or(i32::MAX / 2), work)
    }

    /// How long a command at the top level waits for a lock, in milliseconds: less than it may take at all, so that it
    /// says what it has waited for.
    pub fn command_lock_timeout_ms(&self) -> i32 {
        self.settings.lock_timeout_ms.min(COMMAND_LOCK_LIMIT_MS)
    }

    /// A command at the top level: settings pinned, as `role`; `first` is done in the transaction in which it begins.
    pub fn command(
        &self,
        activity: &str,
        role: Oid,
        command: &CStr,
        first: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        pin_settings(self.command_lock_timeout_ms());
        process::report_activity(true, activity);
        attempt_command(&self.home, role, command, first)
    }

    /// A step that may take `limit_ms`, and ends at once where somebody needs a lock that it holds.
    pub fn yielding_step<T>(
        &self,
        activity: &str,
        limit_ms: i32,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        pin_settings(self.settings.lock_timeout_ms);
        process::report_activity(true, activity);
        attempt_yielding(&self.home, limit_ms, work)
    }

    /// The same for a command at the top level, as `role`.
    pub fn yielding_command(
        &self,
        activity: &str,
        role: Oid,
        command: &CStr,
        limit_ms: i32,
    ) -> Result<()> {
        pin_settings(self.settings.lock_timeout_ms);
        process::report_activity(true, activity);
        attempt_yielding_command(&self.home, role, command, limit_ms)
    }

    /// Does what is ordered, and tells of each task how it went. Creation comes first, and nothing about
    /// the others can hold it up.
    fn run(&self, orders: &[Order], tell: impl Fn(Task, Outcome)) -> Result<()> {
        let due = || Task::ALL.into_iter().zip(orders).filter(|(_, order)| order.due);
        let (log, migrates) = match self.step("looking at the event log", Look::take) {
            // The ledger may be another one.
            Err(error @ Error::OtherVersion { .. }) => return Err(error),
            Err(error) => {
                for (task, _) in due() {
                    tell(task, progress::record_failure(self, task, &error)?);
                }
                return Ok(());
            }
            Ok(found) => found,
        };
        let mut result = Ok(());
        for (task, order) in due() {
            let ended = match (task, &log) {
                (Task::Migrate, _) if migrates => migration::run(self),
                (Task::Migrate, _) | (_, None) => Ok(Outcome::Done),
                (Task::Create, Some(look)) => creation::run(self, *order, look),
                (Task::Retire, Some(look)) => retirement::run(self, *order, look),
                (Task::Seal, Some(look)) => sealing::run(self, *order, look),
            };
            match ended {
                Ok(outcome) => tell(task, outcome),
                // It counts as failed, and the other tasks have their turn.
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}

/// What a pass finds when it begins: read once, because a log may have a thousand partitions.
pub struct Look {
    /// The event log and its policy.
    pub context: Context,
    /// What plans are made from, without names.
    pub facts: Facts,
    /// What the ledger says of the tasks.
    pub histories: [History; Task::ALL.len()],
}

impl Look {
    /// Looks; `None` where there is no event log that can be maintained. Beside it, whether a migration is to be gone on with.
    fn take() -> Result<(Option<Self>, bool)> {
        if server::in_recovery() {
            return Ok((None, false));
        }
        let Some(extension) = catalog::find_extension()? else {
            debug1!("the extension is not installed in this database");
            return Ok((None, false));
        };
        context::require_same_version(&extension)?;
        Ok((Self::at_the_log(extension)?, state::is_for_worker()?))
    }

    fn at_the_log(extension: Extension) -> Result<Option<Self>> {
        // A restore brings the policy after the tables, and their indexes after that.
        let Some(policy) = policy::load_row()? else {
            return Ok(None);
        };
        let table = match catalog::find_events(&extension) {
            Ok(Some(table)) if table.has_index => table,
            Ok(_) => return Ok(None),
            // Not ours to maintain: verify_workflow_events() says so.
            Err(
                Error::NotPartitioned { .. }
                | Error::NotATable { .. }
                | Error::WrongPartitioning { .. }
                | Error::WrongKeyType { .. }
                | Error::MissingColumn { .. },
            ) => return Ok(None),
            Err(error) => return Err(error),
        };
        let context = Context { extension, table, policy };
        let facts = context.facts_without_names()?;
        Ok(Some(Self { context, facts, histories: ledger::histories()? }))
    }
}

//! The worker of one database: one pass over its event log, then it ends.
//!
//! Every step is a transaction of its own, begun with all settings pinned. Steps that touch the user's
//! tables run as their owner; those that run as superuser touch only the catalogs and our own tables.

use std::time::Duration;

use pgrx::{debug1, log};
use serde_json::json;

use super::Assignment;
use crate::db::ledger::{self, Status};
use crate::db::{catalog, index, lock, policy, query};
use crate::domain::plan::{self, Creation, Retirement};
use crate::domain::schedule::crash_back_off;
use crate::error::{Error, Failure, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::{adopt, create, inspect, retire};
use crate::pg::process::{self, OnCancel};
use crate::pg::transaction::{Home, attempt, pin_settings};
use crate::pg::{board, identity, server};
use crate::settings::Settings;

/// Runs one pass.
pub fn run(assignment: Assignment) {
    process::install_signal_handlers(OnCancel::EndStatement);
    process::connect_to_database(assignment.database.into());
    process::report_application_name("pg_meshhook_events worker");
    board::register(assignment.slot, server::process_id(), assignment.database);
    let pass = Pass { home: Home::new(), settings: Settings::current() };
    match pass.run() {
        Ok(End::Done) => board::report_done(assignment.slot, server::process_id()),
        Ok(End::TryAgain) => {}
        Err(error) => {
            log_failure(&format!("with OID {}", assignment.database), &error.to_failure());
        }
    }
    process::report_activity(false, "");
}

/// How a pass ends.
enum End {
    /// Nothing is left to do until the next scheduled time.
    Done,
    /// Something failed, and is to be tried again.
    TryAgain,
}

/// What a pass has found to do.
struct Work {
    creations: Vec<Creation>,
    retirements: Vec<Retirement>,
}

/// What a pass has done.
#[derive(Default)]
struct Outcome {
    created: Vec<String>,
    dropped: Vec<String>,
    /// What stands between now and a log without a hole.
    failures: Vec<Failure>,
    /// What somebody should look at.
    warnings: Vec<String>,
    /// Whether something could not be locked in time, and may be another time.
    try_again: bool,
}

struct Pass {
    home: Home,
    settings: Settings,
}

impl Pass {
    /// A step: settings pinned, a transaction of its own.
    fn step<T>(&self, activity: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        pin_settings(self.settings.lock_timeout_ms);
        process::report_activity(true, activity);
        attempt(&self.home, work)
    }

    fn run(&self) -> Result<End> {
        if !self.step("looking for an event log", || self.has_event_log())? {
            return Ok(End::Done);
        }
        let Some(entry) = self.step("claiming the attempt", claim)? else {
            return Ok(End::TryAgain);
        };
        let mut outcome = Outcome::default();
        if let Err(error) = self.work(&mut outcome) {
            outcome.failures.push(error.to_failure());
        }
        self.step("recording the attempt", || record(entry, &outcome))?;
        let done = outcome.failures.is_empty() && !outcome.try_again;
        Ok(if done { End::Done } else { End::TryAgain })
    }

    /// Whether there is an event log here that can be maintained.
    fn has_event_log(&self) -> Result<bool> {
        if server::in_recovery() {
            return Ok(false);
        }
        let Some(extension) = catalog::find_extension()? else {
            debug1!("the extension is not installed in this database");
            return Ok(false);
        };
        // A restore brings the policy after the tables, and their indexes after that.
        if !policy::has_row()? {
            return Ok(false);
        }
        match catalog::find_events(&extension) {
            Ok(Some(table)) => index::exists_on(table.oid),
            Ok(None) => Ok(false),
            // Not ours to maintain: verify_workflow_events() says so.
            Err(
                Error::NotPartitioned { .. }
                | Error::NotATable { .. }
                | Error::WrongPartitioning { .. }
                | Error::WrongKeyType { .. }
                | Error::MissingColumn { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creation comes first, and nothing about retention can hold it up.
    fn work(&self, outcome: &mut Outcome) -> Result<()> {
        let work = self.step("planning", || plan_work(outcome))?;
        for creation in &work.creations {
            let activity = format!("creating partition {}", creation.name);
            let made = self
                .step(&activity, || create::planned(&Context::load()?, creation, self.settings));
            match made {
                Ok(report) => {
                    outcome.created.extend(report.created);
                    outcome.failures.extend(report.problems.iter().map(Error::to_failure));
                    outcome.warnings.extend(report.notes);
                }
                Err(error) => outcome.failures.push(error.to_failure()),
            }
        }
        for retirement in work.retirements {
            let activity = format!("dropping partition {}", retirement.name);
            match self.step(&activity, || drop_one(&retirement, self.settings)) {
                Ok(report) => {
                    outcome.dropped.extend(report.dropped);
                    report.kept.into_iter().for_each(|(name, error)| outcome.keep(&name, error));
                }
                Err(error) => outcome.keep(&retirement.name, error),
            }
        }
        match self.step("comparing protection", || {
            adopt::close_partitions(&Context::load()?, self.settings)
        }) {
            Ok(open) => outcome.warnings.extend(open),
            Err(error) => outcome.warnings.push(format!("protection: {error}")),
        }
        let coverage =
            self.step("proving the coverage", || inspect::coverage(&Context::load()?))?;
        if coverage.status != inspect::Status::Ok {
            outcome.warnings.push(format!("coverage: {}", coverage.detail));
        }
        Ok(())
    }
}

impl Outcome {
    /// A partition that was to go is kept.
    fn keep(&mut self, name: &str, error: Error) {
        self.try_again |= matches!(error, Error::LockTimeout { .. });
        self.warnings.push(error.kept(name).to_string());
    }
}

/// Claims the attempt in the ledger, to be committed before the work. `None` where earlier attempts
/// ended without a word, and it is too soon to try again.
fn claim() -> Result<Option<i64>> {
    let (crashes, age_s) = ledger::close_crashed()?;
    let wait = crash_back_off(crashes);
    // An age below zero comes from a clock that was wrong: nothing is waited for.
    if crashes > 0 && u64::try_from(age_s).is_ok_and(|age| Duration::from_secs(age) < wait) {
        return Ok(None);
    }
    Ok(Some(ledger::open("maintain")?))
}

/// What is to be done, and what stands in its way.
fn plan_work(outcome: &mut Outcome) -> Result<Work> {
    let context = Context::load()?;
    let (policy, facts) = (&context.policy, context.facts()?);
    let mut work = Work { creations: Vec::new(), retirements: Vec::new() };
    if policy.automatic_creation {
        let window = plan::window(&facts, policy, 0)?;
        let (creations, obstacles) = plan::missing(&facts, window, &context.midnights());
        work.creations = creations;
        outcome.failures.extend(create::blocked(obstacles).iter().map(Error::to_failure));
    }
    if let (true, Some(months)) = (policy.automatic_retention, policy.retention_months) {
        let plan = retire::planned(&context, months)?;
        work.retirements = plan.retirements;
        outcome
            .warnings
            .extend(plan.kept.into_iter().map(|(name, error)| error.kept(&name).to_string()));
    }
    Ok(work)
}

/// Drops one partition, in its own transaction, as the owner.
fn drop_one(retirement: &Retirement, settings: Settings) -> Result<retire::Report> {
    let context = Context::load()?;
    identity::run_as(context.table.owner, || {
        lock::take_turn(context.table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        retire::drop_all(&context, std::slice::from_ref(retirement), settings)
    })
}

/// Closes the attempt in the ledger, and tells the log when the state has changed.
fn record(entry: i64, outcome: &Outcome) -> Result<()> {
    let status = match (outcome.failures.is_empty(), outcome.warnings.is_empty()) {
        (false, _) => Status::Failed,
        (true, false) => Status::Warning,
        (true, true) => Status::Ok,
    };
    let before = ledger::last_attempts()?;
    let failure = outcome.failures.first();
    let message = failure.map(|f| f.message.clone()).or_else(|| outcome.warnings.first().cloned());
    let details = json!({
        "created": outcome.created,
        "dropped": outcome.dropped,
        "failures": outcome.failures.iter().map(failure_as_json).collect::<Vec<_>>(),
        "warnings": outcome.warnings,
    });
    ledger::close(entry, status, failure, message.as_deref(), details)?;
    ledger::prune()?;
    let last = before.and_then(|before| before.last_message);
    let database = catalog::current_database()?;
    match failure {
        Some(failure) if last != message => log_failure(&format!("\"{database}\""), failure),
        None if message.is_some() && last != message => {
            log!("maintenance of database \"{database}\": {}", message.unwrap_or_default());
        }
        _ => {}
    }
    if !outcome.created.is_empty() || !outcome.dropped.is_empty() {
        log!(
            "maintenance of database \"{database}\": created {}, dropped {}",
            list(&outcome.created),
            list(&outcome.dropped)
        );
    }
    Ok(())
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn failure_as_json(failure: &Failure) -> serde_json::Value {
    json!({
        "sqlstate": failure.sqlstate_text(),
        "message": failure.message,
        "detail": failure.detail,
        "hint": failure.hint,
    })
}

fn log_failure(database: &str, failure: &Failure) {
    let detail = failure.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    log!(
        "maintenance of database {database} failed with {}: {}{detail}",
        failure.sqlstate_text(),
        failure.message
    );
}

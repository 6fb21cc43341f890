//! What a task of a pass has done and what stood in its way, and how that is written down.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use pgrx::{PgSqlErrorCode as Sqlstate, log};
use serde_json::{Map, Value, json};

use super::database::Pass;
use crate::db::ledger::{self, History, Last, State, Status};
use crate::db::{catalog, retired};
use crate::domain::blocker::Blocker;
use crate::domain::plan::Obstacle;
use crate::domain::queue::Task;
use crate::domain::retry::{Outcome, crash_back_off};
use crate::error::{Error, Failure, Result};

/// What a task has done.
#[derive(Default)]
pub struct Progress {
    /// The names of the partitions made.
    pub created: Vec<String>,
    /// The names of the partitions whose detach was completed.
    pub finalized: Vec<String>,
    /// The names of the partitions detached.
    pub detached: Vec<String>,
    /// The names of the partitions attached again.
    pub restored: Vec<String>,
    /// What was archived, and where.
    pub archived: Vec<String>,
    /// The names of the partitions dropped.
    pub dropped: Vec<String>,
    /// The names of the partitions that are parked, and dropped later.
    pub parked: Vec<String>,
    /// What is kept as somebody wants it.
    kept: Vec<String>,
    /// The partitions sealed for the first time, as the ledger shows them.
    pub sealed: Vec<Value>,
    /// Those sealed anew with other rows.
    pub resealed: Vec<Value>,
    /// What stands between now and what is wanted.
    failures: Vec<Failure>,
    /// What somebody should look at.
    warnings: Vec<String>,
    /// Of what kind each problem is; a lock's is the relation's, whoever holds it.
    kinds: Vec<String>,
    /// Who held what was needed, and what.
    in_the_way: Vec<(String, Blocker)>,
    lock_timeouts: u32,
    blocked: u32,
    /// Whether a step failed for a reason that may be gone soon.
    is_unfinished: bool,
}

impl Progress {
    /// Something failed.
    pub fn fail(&mut self, error: &Error) {
        self.note(error);
        self.failures.push(error.to_failure());
    }

    /// A partition that was to go is kept.
    pub fn keep(&mut self, name: &str, error: Error) {
        self.note(&error);
        if matches!(&error, Error::Blocked(obstacle) if obstacle.is_as_wanted()) {
            self.kept.push(error.to_string());
            return;
        }
        self.is_unfinished |= is_worth_another_try(&error);
        self.warnings.push(error.kept(name).to_string());
    }

    /// Something could not be done and is tried again soon.
    pub fn postpone(&mut self, what: &str, error: &Error) {
        self.note(error);
        self.is_unfinished = true;
        self.warnings.push(format!("could not {what}: {error}"));
    }

    /// Whether a partition was sealed.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        !(self.sealed.is_empty() && self.resealed.is_empty())
    }

    /// Somebody should look at this.
    pub fn warn(&mut self, warning: String) {
        self.kinds.push(warning.clone());
        self.warnings.push(warning);
    }

    fn note(&mut self, error: &Error) {
        self.lock_timeouts += u32::from(error.is_lock_timeout());
        self.blocked += u32::from(error.is_in_the_way());
        match error.in_the_way() {
            Some((relation, blockers)) => {
                self.kinds.push(format!("55P03 {relation}"));
                let named = blockers.iter().map(|blocker| (relation.to_owned(), blocker.clone()));
                self.in_the_way.extend(named);
            }
            None => self.kinds.push(error.to_string()),
        }
    }

    /// How the task has ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            _ if self.lock_timeouts > 0 => Outcome::LockTimeout,
            _ if self.blocked > 0 => Outcome::Blocked,
            _ if !self.failures.is_empty() || self.is_unfinished => Outcome::Failed,
            _ => Outcome::Done,
        }
    }

    fn did_something(&self) -> bool {
        self.done().iter().any(|(_, list)| !list.is_empty()) || self.has_sealed()
    }

    /// What was done, by the words of the ledger.
    fn done(&self) -> [(&'static str, &Vec<String>); 6] {
        [
            ("created", &self.created),
            ("finalized", &self.finalized),
            ("detached", &self.detached),
            ("restored", &self.restored),
            ("archived", &self.archived),
            ("dropped", &self.dropped),
        ]
    }

    /// The state for the ledger.
    fn state(&self) -> State {
        let status = match (self.failures.is_empty(), self.warnings.is_empty()) {
            (false, _) => Status::Failed,
            (true, false) => Status::Warning,
            (true, true) => Status::Ok,
        };
        let mut hasher = DefaultHasher::new();
        self.kinds.hash(&mut hasher);
        self.parked.hash(&mut hasher);
        let mut details = Map::new();
        details.insert("state".to_owned(), json!(format!("{:016x}", hasher.finish())));
        let lists = [("kept", &self.kept), ("parked", &self.parked), ("warnings", &self.warnings)];
        for (name, list) in
            self.done().into_iter().chain(lists).filter(|(_, list)| !list.is_empty())
        {
            details.insert(name.to_owned(), json!(list));
        }
        let mut insert = |name: &str, list: Vec<Value>| {
            if !list.is_empty() {
                details.insert(name.to_owned(), Value::Array(list));
            }
        };
        insert("sealed", self.sealed.clone());
        insert("resealed", self.resealed.clone());
        insert("failures", self.failures.iter().map(failure_as_json).collect());
        insert("blocked_by", self.in_the_way.iter().map(blocker_as_json).collect());
        insert("blocked_by_pids", self.in_the_way.iter().map(|(_, b)| json!(b.pid)).collect());
        let failure = self.failures.first();
        State {
            status,
            sqlstate: failure.map(Failure::sqlstate_text),
            message: failure
                .map(|failure| failure.message.clone())
                .or_else(|| self.warnings.first().or_else(|| self.kept.first()).cloned()),
            details: Value::Object(details),
            did_something: self.did_something(),
        }
    }

    /// Closes an entry with what was done, and tells the log where the state is a new one.
    fn close(&self, entry: i64, task: Task) -> Result<()> {
        let is_new = ledger::close(entry, task.as_str(), self.state())?;
        ledger::prune()?;
        let database = catalog::current_database()?;
        let task = task.as_str();
        if is_new {
            if let Some(failure) = self.failures.first() {
                let detail = failure.detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default();
                log!(
                    "maintenance of database \"{database}\", task {task}, failed with {}: {}{detail}",
                    failure.sqlstate_text(),
                    failure.message
                );
            } else if let Some(warning) = self.warnings.first() {
                let holders: Vec<_> =
                    self.in_the_way.iter().map(|(_, blocker)| blocker.to_string()).collect();
                let detail = match holders.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", holders.join("; ")),
                };
                log!("maintenance of database \"{database}\", task {task}: {warning}{detail}");
            }
        }
        if self.did_something() {
            let verb = |word| if word == "finalized" { "finalized the detach of" } else { word };
            let [sealed, resealed] = [&self.sealed, &self.resealed].map(|list| {
                let names = list.iter().filter_map(|entry| entry.get("partition")?.as_str());
                names.map(str::to_owned).collect::<Vec<_>>()
            });
            let seals = [("sealed", &sealed), ("sealed anew", &resealed)];
            let done: Vec<_> = self
                .done()
                .iter()
                .chain(&seals)
                .filter(|(_, list)| !list.is_empty())
                .map(|(word, list)| format!("{} {}", verb(word), list.join(", ")))
                .collect();
            log!("maintenance of database \"{database}\": {}", done.join("; "));
        }
        Ok(())
    }
}

/// Whether what kept a partition may be gone soon: not an obstacle in the plan, nor something that depends on it or an
/// owner, which are looked at again at the next scheduled time. A detach that has come between is completed first.
fn is_worth_another_try(error: &Error) -> bool {
    match error {
        Error::Blocked(obstacle) => matches!(obstacle, Obstacle::DetachPending { .. }),
        error => !matches!(
            error.sqlstate(),
            Sqlstate::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST
                | Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE
        ),
    }
}

fn failure_as_json(failure: &Failure) -> Value {
    json!({
        "sqlstate": failure.sqlstate_text(),
        "message": failure.message,
        "detail": failure.detail,
        "hint": failure.hint,
    })
}

fn blocker_as_json((relation, blocker): &(String, Blocker)) -> Value {
    json!({
        "relation": relation,
        "pid": blocker.pid,
        "prepared_transaction": blocker.prepared,
        "role": blocker.role,
        "application_name": blocker.application,
        "holds": blocker.mode,
        "query_start": blocker.query_start,
        "transaction_age": blocker.transaction_age,
    })
}

/// What the ledger says of a task before it is tried.
pub struct Before {
    last: Option<Last>,
    crashes: u32,
    /// Whether attempts that ended without a word forbid one now.
    pub is_set_aside: bool,
    /// Whether there are notes of partitions to retire of which nothing is left to do.
    pub has_stale_notes: bool,
}

impl Before {
    /// What it says of `task`.
    #[must_use]
    pub fn of(task: Task, histories: &[History; Task::ALL.len()]) -> Self {
        let History { last, crashes, crashed_s_ago } = histories[task as usize].clone();
        // An age below zero comes from a clock that was wrong: nothing is waited for.
        let age = u64::try_from(crashed_s_ago).ok().map(Duration::from_secs);
        let is_set_aside = crashes > 0 && age.is_some_and(|age| age < crash_back_off(crashes));
        Self { last, crashes, is_set_aside, has_stale_notes: false }
    }

    /// Whether nothing is left to say of it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.has_stale_notes && self.last.as_ref().is_none_or(|last| last.status == "ok")
    }

    /// Whether nothing was ever said of it.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.last.is_none()
    }

    /// Whether an attempt was left open.
    fn has_open(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.status == "running")
    }
}

/// Closes what a crash left open.
///
/// # Errors
///
/// Where the ledger can't be written.
pub fn close_crashed(pass: &Pass, task: Task, before: &Before) -> Result<()> {
    if before.has_open() {
        pass.step("closing an attempt that ended without a word", || {
            ledger::close_crashed(task.as_str())?;
            let (database, task) = (catalog::current_database()?, task.as_str());
            log!(
                "maintenance of database \"{database}\", task {task}: the last {} attempt(s) ended without a word; \
                 the next comes {} s after that",
                before.crashes,
                crash_back_off(before.crashes).as_secs()
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Claims an attempt in the ledger, before the work.
pub fn claim(pass: &Pass, task: Task) -> Result<i64> {
    pass.step("claiming the attempt", || {
        if task == Task::Retire {
            retired::forget_stale()?;
        }
        ledger::open(task.as_str())
    })
}

/// Closes a claimed attempt.
pub fn record(pass: &Pass, task: Task, entry: i64, progress: &Progress) -> Result<Outcome> {
    pass.step("recording the attempt", || progress.close(entry, task))?;
    Ok(progress.outcome())
}

/// Writes down what keeps a task from being looked at at all.
pub fn record_failure(pass: &Pass, task: Task, error: &Error) -> Result<Outcome> {
    let mut progress = Progress::default();
    progress.fail(error);
    let histories = pass.step("reading the ledger", ledger::histories)?;
    let before = Before::of(task, &histories);
    close_crashed(pass, task, &before)?;
    record_look(pass, task, &before, &progress)
}

/// Writes down how things are where there was nothing to try, unless the last entry says so already and is not
/// old.
pub fn record_look(
    pass: &Pass,
    task: Task,
    before: &Before,
    progress: &Progress,
) -> Result<Outcome> {
    let state = progress.state();
    let is_said = before.last.as_ref().is_some_and(|last| last.is_fresh && last.says(&state));
    if !is_said || before.has_stale_notes {
        pass.step("recording the state", || {
            if before.has_stale_notes {
                retired::forget_stale()?;
            }
            progress.close(ledger::open(task.as_str())?, task)
        })?;
    }
    Ok(progress.outcome())
}

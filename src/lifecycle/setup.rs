//! The one call that makes an event log, or takes over the one that is there.

use crate::db::catalog::{self, EVENTS, Extension, RUNS};
use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::{ddl, index, ledger, policy};
use crate::domain::name::STANDARD_INDEXES;
use crate::error::{Error, Result};
use crate::lifecycle::adopt;
use crate::lifecycle::context::{Context, require_privileges_of, require_writable};
use crate::lifecycle::create;
use crate::pg::{board, identity, server, subtransaction};
use crate::settings::Settings;

/// What was done about one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was not there and has been made.
    Made,
    /// It was as it should be.
    Kept,
    /// It was not as it should be, and now is.
    Repaired,
    /// It is not as documented, and was left so.
    Differs,
}

impl Done {
    /// The word that a user sees.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Kept => "kept",
            Self::Repaired => "repaired",
            Self::Differs => "differs",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it is about.
    pub object: String,
    /// What was done.
    pub done: Done,
    /// What was seen.
    pub detail: String,
    /// What to do, where there is something to do.
    pub hint: Option<String>,
}

impl Step {
    /// A line without a hint.
    #[must_use]
    pub fn new(object: impl Into<String>, done: Done, detail: impl Into<String>) -> Self {
        Self { object: object.into(), done, detail: detail.into(), hint: None }
    }
}

/// Makes the event log, or takes over the partitioned one that is there; may be called again at any
/// time.
///
/// # Errors
///
/// Where `workflow_events` is something that cannot be maintained, a plain table among them; where
/// there is no `workflow_runs`; where the caller may not do it. Nothing is changed then.
pub fn event_log(settings: Settings) -> Result<Vec<Step>> {
    require_writable("setup_workflow_events")?;
    // What the catalogs say is compared as text: no setting of the caller's may change how it is written.
    identity::pinned(|| {
        // Writing out constraints and policies locks what they belong to.
        identity::set_lock_timeout(settings.lock_timeout_ms);
        event_log_pinned(settings)
    })
}

fn event_log_pinned(settings: Settings) -> Result<Vec<Step>> {
    let extension = catalog::extension()?;
    let found =
        catalog::find_events(&extension).map_err(|error| with_row_count(error, &extension))?;
    let mut steps = Vec::new();
    let past = match &found {
        Some(table) => {
            require_privileges_of(table.owner, table)?;
            0
        }
        None => {
            make(&extension, settings)?;
            steps.push(Step::new(EVENTS, Done::Made, "partitioned by range of ts"));
            create::PAST_PERIODS
        }
    };
    identity::run_as(extension.owner, || {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        policy::ensure_row()
    })?;
    let context = Context::load()?;
    if found.is_some() {
        steps.push(Step::new(EVENTS, Done::Kept, "adopted as it is"));
        steps.extend(adopt::take_over(&context, settings)?);
    }
    steps.extend(partitions(&context, past, settings)?);
    if found.is_none() {
        add_foreign_key(&context, &extension, settings)?;
        let detail = "workflow_events_run_id_fkey to workflow_runs, deletes cascade";
        steps.insert(1, Step::new("foreign_key", Done::Made, detail));
    }
    record(&context, &steps, settings)?;
    board::wake_launcher_at_commit();
    Ok(steps)
}

/// Counts the rows of a plain table for the error about it.
fn with_row_count(error: Error, extension: &Extension) -> Error {
    match error {
        Error::NotPartitioned { table, .. } => {
            let name = Qualified { schema: &extension.schema, name: EVENTS };
            // A superuser who counts would run what the table's owner has put into its indexes; and a caller
            // who isn't its owner may not be allowed to read it.
            let count = || subtransaction::run(|| catalog::count_rows(name)).ok();
            let owner = server::find_relation(extension.schema_oid, EVENTS)
                .and_then(|oid| catalog::owner_of(oid).ok().flatten());
            let rows = match owner {
                Some((owner, _))
                    if identity::has_privileges_of(identity::current_role(), owner) =>
                {
                    identity::run_as(owner, count)
                }
                _ => count(),
            };
            Error::NotPartitioned { table, rows }
        }
        other => other,
    }
}

/// Makes the event log with its indexes, but without partitions and without its foreign key, which
/// would lock `workflow_runs` while the partitions are built.
///
/// It belongs to the owner of `workflow_runs`: code in that table's indexes runs as the owner of a table
/// whose foreign key points to it, and must not gain by that.
fn make(extension: &Extension, settings: Settings) -> Result<()> {
    let runs = Qualified { schema: &extension.schema, name: RUNS };
    let no_runs = || Error::NoRuns { table: runs.plain() };
    let runs_oid = catalog::find_table(extension.schema_oid, RUNS)?.ok_or_else(no_runs)?;
    let (owner, owner_name) = catalog::owner_of(runs_oid)?.ok_or_else(no_runs)?;
    if !identity::has_privileges_of(identity::current_role(), owner) {
        return Err(Error::NotOwner { table: RUNS.to_owned(), owner: owner_name });
    }
    if !catalog::may_create_in(owner, extension.schema_oid)? {
        let schema = extension.schema.clone();
        return Err(Error::NoCreatePrivilege { role: owner_name, schema });
    }
    let events = Qualified { schema: &extension.schema, name: EVENTS };
    identity::run_as(owner, || {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        ddl::create_events(events)?;
        STANDARD_INDEXES.iter().try_for_each(|standard| index::create(standard, events))
    })
}

fn add_foreign_key(context: &Context, extension: &Extension, settings: Settings) -> Result<()> {
    let runs = Qualified { schema: &extension.schema, name: RUNS };
    let oid = catalog::find_table(extension.schema_oid, RUNS)?;
    let oid = oid.ok_or_else(|| Error::NoRuns { table: runs.plain() })?;
    identity::run_as(context.table.owner, || {
        lock::take(oid, RUNS, Mode::ShareRowExclusive, &Budget::new(settings.lock_timeout_ms))?;
        ddl::add_foreign_key(context.table.qualified(), runs)
    })
}

fn partitions(context: &Context, past: u32, settings: Settings) -> Result<Vec<Step>> {
    let report = create::missing(context, past, settings)?;
    let mut steps: Vec<Step> =
        report.created.iter().map(|name| Step::new(name, Done::Made, "partition")).collect();
    for problem in &report.problems {
        steps.push(Step {
            hint: problem.hint(),
            ..Step::new("partitions", Done::Differs, problem.to_string())
        });
    }
    steps.extend(report.notes.iter().map(|note| Step::new("partitions", Done::Differs, note)));
    Ok(steps)
}

fn record(context: &Context, steps: &[Step], settings: Settings) -> Result<()> {
    let changed = |step: &&Step| matches!(step.done, Done::Made | Done::Repaired);
    if !steps.iter().any(|step| changed(&step)) {
        return Ok(());
    }
    let list: Vec<_> = steps
        .iter()
        .map(|s| serde_json::json!({ "object": s.object, "status": s.done.as_str(), "detail": s.detail }))
        .collect();
    let differs = steps.iter().any(|step| step.done == Done::Differs);
    let status = if differs { ledger::Status::Warning } else { ledger::Status::Ok };
    let details = serde_json::json!({ "steps": list });
    ledger::record(&context.extension, "setup", status, details, settings.lock_timeout_ms)
}

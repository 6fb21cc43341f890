//! Making partitions: each is built apart, where nobody sees it, and attached under short locks.
//!
//! `CREATE TABLE … PARTITION OF` would lock the event log against everybody. A table made LIKE it and
//! then attached takes SHARE UPDATE EXCLUSIVE on the event log, which neither readers nor writers
//! notice, and SHARE ROW EXCLUSIVE on the tables that its foreign keys point to, which writers of runs
//! do: that one is waited for within the budget, and held for the milliseconds of attaching.

use pgrx::datum::{Date, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;

use crate::db::catalog::Table;
use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::{calendar, catalog, ddl, index, ledger, protection, query};
use crate::domain::calendar::Period;
use crate::domain::name::{self, STANDARD_INDEXES};
use crate::domain::plan::{self, Answer, Creation, Obstacle};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::default_partition::DefaultPartition;
use crate::lifecycle::plan::{self as whole_plan, blocked};
use crate::pg::{identity, subtransaction};
use crate::settings::Settings;

/// How many periods before the current one a new event log has: events of the last weeks may still
/// come in late.
pub const PAST_PERIODS: u32 = 2;

/// What came of a wish for partitions.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The names of the partitions made, in order.
    pub created: Vec<String>,
    /// What stood in the way of others, or could not be copied.
    pub problems: Vec<Error>,
    /// What the partitions lack of their parent's protection.
    pub notes: Vec<String>,
}

/// Which period a partition is wanted for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// The one that holds this date.
    Date(Date),
    /// The one that holds this instant, in the policy's time zone.
    Instant(TimestampWithTimeZone),
}

/// Makes sure that one partition holds the whole of the period, and gives its name and what was made.
///
/// # Errors
///
/// Where a partition holds a part of the period only, or the name is taken; where a lock cannot be had.
pub fn one(wanted: Wanted, settings: Settings) -> Result<(String, Report)> {
    const FUNCTION: &str = "create_workflow_events_partition";
    let period_error = |value: String| Error::DateOutOfRange { value };
    let context = Context::load_for_change(FUNCTION)?;
    let (date, text) = match wanted {
        Wanted::Date(date) => (calendar::from_date(date), date.to_string()),
        Wanted::Instant(at) => (calendar::date_at(at, &context.policy.time_zone)?, at.to_string()),
    };
    let period = date
        .and_then(|date| Period::containing(context.policy.granularity, date).ok())
        .ok_or_else(|| period_error(text))?;

    let wanted_name = name::of_period(catalog::EVENTS, period).unwrap_or_default();
    let answer = |context: &Context| {
        plan::for_period(&context.facts()?, period, &context.midnights()).map_err(|obstacle| {
            let obstacle = parked_or(context, obstacle);
            Error::from(obstacle).not_created(&wanted_name)
        })
    };
    // Whatever stands in the way is said below, under the lock: here somebody may be about to end it.
    if let Ok(Answer::Exists(name)) = answer(&context) {
        return Ok((name, Report::default()));
    }
    let (name, report) = as_owner(&context, || {
        lock::take_turn(context.table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        // Decided again: somebody may have made it while we waited.
        match answer(&context)? {
            Answer::Exists(name) => Ok((name, Report::default())),
            Answer::Create(creation) => {
                let built = build_or_explain(&context, &creation)?;
                let report = attach_all(&context, vec![built], settings)?;
                match report.problems.first() {
                    Some(problem) => Err(problem.clone()),
                    None => Ok((creation.name, report)),
                }
            }
        }
    })?;
    record(&context, "create", &report, settings)?;
    Ok((name, report))
}

/// A name that is taken may be that of a parked partition, whose rows nobody should drop for it.
fn parked_or(context: &Context, obstacle: Obstacle) -> Obstacle {
    let Obstacle::NameTaken { name } = &obstacle else { return obstacle };
    let retired = whole_plan::retired(context).unwrap_or_default();
    match retired.iter().find(|r| r.is_detached() && r.partition.name == *name) {
        Some(parked) => Obstacle::Parked { partition: parked.partition.name.clone() },
        None => obstacle,
    }
}

/// Makes all partitions that are missing between two periods. What stands in the way of one of them
/// holds up no other.
///
/// # Errors
///
/// Where a lock cannot be had, so that nothing is made.
pub fn missing(context: &Context, past: u32, settings: Settings) -> Result<Report> {
    let plan = |context: &Context| {
        let facts = context.facts()?;
        let window = plan::window(&facts, &context.policy, past)?;
        Ok::<_, Error>(plan::missing(&facts, window, &context.midnights()))
    };
    let (creations, obstacles) = plan(context)?;
    if creations.is_empty() {
        return Ok(Report { problems: blocked(obstacles), ..Report::default() });
    }
    as_owner(context, || {
        lock::take_turn(context.table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        let (creations, obstacles) = plan(context)?;
        let mut problems = blocked(obstacles);
        let mut built = Vec::new();
        for creation in &creations {
            match build_or_explain(context, creation) {
                Ok(table) => built.push(table),
                Err(error) => problems.push(error),
            }
        }
        let mut report = attach_all(context, built, settings)?;
        report.problems.splice(0..0, problems);
        Ok(report)
    })
}

/// Makes one partition of a plan, in the transaction of a worker.
///
/// # Errors
///
/// Where it cannot be built, or a lock cannot be had.
pub fn planned(context: &Context, creation: &Creation, settings: Settings) -> Result<Report> {
    as_owner(context, || {
        lock::take_turn(context.table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        let window = (creation.period, creation.period);
        let (still_missing, _) = plan::missing(&context.facts()?, window, &context.midnights());
        if !still_missing.contains(creation) {
            // Somebody made it while we waited.
            return Ok(Report::default());
        }
        let built = build_or_explain(context, creation)?;
        let report = attach_all(context, vec![built], settings)?;
        if let Some(default) =
            DefaultPartition::find(context)?.filter(|_| report.problems.is_empty())
        {
            // Attaching has locked it, so this waits for nobody.
            default.drop_proof_in_passing()?;
        }
        Ok(report)
    })
}

/// Runs `work` as the table's owner.
///
/// # Errors
///
/// [`Error::NoCreatePrivilege`] where the owner may not create tables beside its table;
/// [`Error::UnsafeOwner`] as [`require_safe_owner`].
pub fn as_owner<T>(context: &Context, work: impl FnOnce() -> Result<T>) -> Result<T> {
    require_able_owner(context)?;
    identity::run_as(context.table.owner, work)
}

/// Refuses where a partition can't be made and attached as the table's owner.
///
/// # Errors
///
/// As [`as_owner`].
pub fn require_able_owner(context: &Context) -> Result<()> {
    let table = &context.table;
    require_safe_owner(table)?;
    if !catalog::may_create_in(table.owner, table.schema_oid)? {
        return Err(Error::NoCreatePrivilege {
            role: table.owner_name.clone(),
            schema: table.schema.clone(),
        });
    }
    Ok(())
}

/// Refuses a superuser's event log whose foreign key points to a table of somebody who is none.
///
/// Attaching checks the foreign key by a query on the referenced table, and planning it runs functions in
/// that table's index expressions, as the event log's owner. A superuser can undo every restriction.
///
/// # Errors
///
/// [`Error::UnsafeOwner`].
pub fn require_safe_owner(table: &Table) -> Result<()> {
    if !identity::is_superuser(table.owner) {
        return Ok(());
    }
    let others = catalog::referenced_tables(table.oid)?;
    match others.into_iter().find(|other| !identity::is_superuser(other.owner)) {
        Some(other) => Err(Error::UnsafeOwner {
            table: catalog::EVENTS.to_owned(),
            owner: table.owner_name.clone(),
            referenced: other.name,
        }),
        None => Ok(()),
    }
}

/// A table that is ready to be attached.
struct Built {
    oid: Oid,
    creation: Creation,
    notes: Vec<String>,
}

/// Builds a table like the event log, with the standard indexes under their names and the parent's
/// protection. Nobody waits: it locks nothing that others use.
fn build(context: &Context, creation: &Creation) -> Result<Built> {
    let (oid, notes) = build_table(context, &creation.name)?;
    Ok(Built { oid, creation: creation.clone(), notes })
}

/// The same by its name: its OID, and what it lacks of the parent's protection.
pub fn build_table(context: &Context, partition: &str) -> Result<(Oid, Vec<String>)> {
    let table = &context.table;
    let name = Qualified { schema: &table.schema, name: partition };
    ddl::create_like(table, partition)?;
    let oid = catalog::find_table(table.schema_oid, partition)?
        .ok_or_else(|| Error::Internal(format!("table {name} is not there after its creation")))?;
    let mut notes = Vec::new();
    for standard in STANDARD_INDEXES {
        let wanted = standard.name_on(partition);
        match index::on_columns(oid, standard.columns)?.first() {
            None => index::create(&standard, name)?,
            Some(copied) if copied.name != wanted => {
                let copied = Qualified { schema: &copied.schema, name: &copied.name };
                // A partition is worth more than the name of its index.
                if let Err(error) = subtransaction::run(|| index::rename(copied, &wanted)) {
                    notes.push(format!("index \"{}\" keeps its name: {error}", copied.name));
                }
            }
            Some(_) => {}
        }
    }
    notes.extend(protection::copy(table, oid, name)?);
    Ok((oid, notes))
}

/// As [`build`], in a subtransaction, with an error that names the partition.
fn build_or_explain(context: &Context, creation: &Creation) -> Result<Built> {
    subtransaction::run(|| build(context, creation))
        .map_err(|error| error.not_created(&creation.name))
}

/// Attaches what was built. All locks are taken before the first is attached; what cannot be attached
/// is dropped again and holds up no other. Writers of the tables that foreign keys point to wait while it
/// goes on, so it ends when the budget has passed, and a further call goes on.
///
/// # Errors
///
/// Where a lock cannot be had.
fn attach_all(context: &Context, built: Vec<Built>, settings: Settings) -> Result<Report> {
    let table = &context.table;
    let mut report = Report::default();
    if built.is_empty() {
        return Ok(report);
    }
    let budget = Budget::new(settings.lock_timeout_ms);
    lock::take(table.oid, catalog::EVENTS, Mode::ShareUpdateExclusive, &budget)?;
    if let Some(default) = DefaultPartition::find(context)? {
        // Attaching would lock it after the runs, and clients that have read the log then change runs.
        default.lock(&budget)?;
    }
    let referenced = catalog::referenced_tables(table.oid)?;
    for other in &referenced {
        lock::take(other.oid, &other.name, Mode::ShareRowExclusive, &budget)?;
    }
    let held = Budget::new(settings.lock_timeout_ms);
    let mut postponed = 0;
    for Built { oid, creation, notes } in built {
        let name = Qualified { schema: &table.schema, name: &creation.name };
        if !referenced.is_empty() && !held.has_room() {
            ddl::drop_table(name)?;
            postponed += 1;
            continue;
        }
        let attached = subtransaction::run(|| {
            ddl::attach(table, name, &creation.range)?;
            protection::adopt_identity_index(table, oid, name)
        });
        match attached {
            Ok(()) => {
                report.notes.extend(notes);
                report.created.push(creation.name);
            }
            Err(error) => {
                ddl::drop_table(name)?;
                report.problems.push(error.not_created(&creation.name));
            }
        }
    }
    if postponed > 0 {
        let budget_ms = settings.lock_timeout_ms;
        report.problems.push(Error::Postponed { count: postponed, budget_ms });
    }
    Ok(report)
}

/// Writes into the ledger what a function made, if anything.
pub fn record(context: &Context, task: &str, report: &Report, settings: Settings) -> Result<()> {
    if report.created.is_empty() {
        return Ok(());
    }
    let clean = report.problems.is_empty() && report.notes.is_empty();
    let status = if clean { ledger::Status::Ok } else { ledger::Status::Warning };
    ledger::record(&context.extension, task, status, details(report), settings.lock_timeout_ms)
}

/// A report for the ledger.
#[must_use]
pub fn details(report: &Report) -> serde_json::Value {
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    serde_json::json!({ "created": report.created, "problems": problems, "notes": report.notes })
}

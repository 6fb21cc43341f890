//! Retiring partitions by a function: whole ranges that lie before the retention are dropped, or parked.
//!
//! A partition is taken out by its OID, while it is attached to our table and still has the range that
//! the decision was made on; both are looked at again under the lock that it needs, and so is whether a run needs it.

use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;
use serde_json::json;

use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::retired::{self, Wish};
use crate::db::{catalog, ddl, hold, ledger, protection, query};
use crate::domain::maintenance::{RetiredState, Retiring};
use crate::domain::partition::{Extent, Partition};
use crate::domain::plan::{self, Obstacle, Retirement};
use crate::domain::policy::Policy;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::detach;
use crate::lifecycle::plan as whole_plan;
use crate::lifecycle::replay::{self, Replays};
use crate::pg::{bound, identity, server, subtransaction};
use crate::settings::Settings;

/// What came of a retention.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The names of the partitions dropped, oldest first.
    pub dropped: Vec<String>,
    /// The names of the partitions parked.
    pub parked: Vec<String>,
    /// The names of those that a further call archives and drops.
    pub to_archive: Vec<String>,
    /// Where the rows of those dropped are, by their names.
    pub archived: Vec<(String, String)>,
    /// Partitions that were to go and were kept, with the reason.
    pub kept: Vec<(String, Error)>,
}

/// What is to become of the partitions that are old enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// The retention, in months.
    pub retention_months: i32,
    /// Whether they go even if runs that are not finished need them.
    pub force: bool,
    /// How long they are parked first; `None` or nothing: not at all.
    pub grace: Option<Interval>,
}

/// Retires the partitions whose whole range lies before the first day of the month `retention_months` before the
/// current one; and drops what was parked and whose time has come.
///
/// # Errors
///
/// Where the retention is less than 1 month or the grace negative, or the event log cannot be locked.
pub fn outdated(how: How, settings: Settings) -> Result<Report> {
    let months = match u32::try_from(how.retention_months) {
        Ok(months) if months > 0 => months,
        _ => return Err(Error::RetentionTooShort(how.retention_months)),
    };
    let grace_us = how.grace.map_or(0, |grace| grace.as_micros());
    if grace_us < 0 {
        return Err(Error::Argument { argument: "grace", problem: "must not be negative" });
    }
    let context = Context::load_for_change("drop_old_workflow_events_partitions")?;
    // Whatever the worker may do: here somebody asks for it.
    let policy = Policy { automatic_retention: true, ..context.policy.clone() };
    let context = Context { policy, ..context };
    // Without a grace of its own it would be parked for as long as the policy says.
    let none = Interval::new(0, 0, 0).map_err(|error| Error::Internal(error.to_string()))?;
    let grace = Some(how.grace.unwrap_or(none));
    let wish = Wish { grace, retention_months: Some(months), is_forced: how.force };
    let fate = match (grace_us > 0, context.policy.wants_archive()) {
        (true, _) => Fate::Parked { wish, is_closed: false },
        (false, true) => Fate::Parked { wish, is_closed: true },
        (false, false) => Fate::Dropped { is_forced: how.force },
    };
    forget_stale(&context, settings)?;
    // What takes time comes before any lock that others notice: it stays until the caller's transaction ends.
    let parked = archive_parked(&context, settings)?;
    let mut report = attached(&context, months, &fate, settings)?;
    finish_parked(&context, parked, settings, &mut report);
    record(&context, months, &how, &report, settings)?;
    Ok(report)
}

/// Forgets what was parked and somebody has put back himself: should he take it out again, it is his.
fn forget_stale(context: &Context, settings: Settings) -> Result<()> {
    let retired = whole_plan::retired(context)?;
    if !retired.iter().any(|retired| retired.state == RetiredState::Over) {
        return Ok(());
    }
    identity::run_as(context.extension.owner, || {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        retired::forget_stale()
    })
}

fn record(
    context: &Context,
    months: u32,
    how: &How,
    report: &Report,
    settings: Settings,
) -> Result<()> {
    let done = [&report.dropped, &report.parked, &report.to_archive];
    if done.iter().all(|names| names.is_empty()) {
        return Ok(());
    }
    let kept: Vec<_> = report
        .kept
        .iter()
        .map(|(name, error)| json!({ "partition": name, "reason": error.to_string() }))
        .collect();
    let status = if kept.is_empty() { ledger::Status::Ok } else { ledger::Status::Warning };
    let mut details = json!({
        "retention_months": months, "dropped": report.dropped, "kept": kept
    });
    if let Some(details) = details.as_object_mut() {
        if how.force {
            details.insert("force".to_owned(), json!(true));
        }
        for (name, list) in [("parked", &report.parked), ("to_archive", &report.to_archive)] {
            if !list.is_empty() {
                details.insert(name.to_owned(), json!(list));
            }
        }
        if !report.archived.is_empty() {
            let archived: Vec<_> = report
                .archived
                .iter()
                .map(|(name, location)| json!({ "partition": name, "location": location }))
                .collect();
            details.insert("archived".to_owned(), json!(archived));
        }
    }
    ledger::record(&context.extension, "drop", status, details, settings.lock_timeout_ms)
}

/// Retires what is attached and old enough.
fn attached(context: &Context, months: u32, fate: &Fate, settings: Settings) -> Result<Report> {
    let plan = planned(context, months, fate, settings)?;
    if plan.retirements.is_empty() {
        return Ok(Report { kept: plan.kept, ..Report::default() });
    }
    identity::run_as(context.table.owner, || {
        lock::wait_for_turn(context.table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        let plan = planned(context, months, fate, settings)?;
        let mut report = take_out(context, &plan.retirements, fate, settings)?;
        report.kept.splice(0..0, plan.kept);
        Ok(report)
    })
}

/// What was parked before this call.
struct Parked {
    /// What is to be done about those whose time has come, and where their rows are, where they were archived.
    due: Vec<(Retiring, Option<String>)>,
    /// Those kept, with the reason.
    kept: Vec<(String, Error)>,
}

/// Archives what was parked, is cut off from the runs, and whose time has come.
fn archive_parked(context: &Context, settings: Settings) -> Result<Parked> {
    let (steps, kept) = whole_plan::of_parked(context, &context.facts_without_names()?, settings)?;
    let kept = kept
        .into_iter()
        .map(|obstacle| (obstacle.partition().unwrap_or_default().to_owned(), obstacle.into()));
    let mut parked = Parked { due: Vec::new(), kept: kept.collect() };
    for step in steps {
        let archived = match &step {
            Retiring::Archive(partition) if detach::is_closed(context, partition)? => {
                subtransaction::run(|| detach::archive(context, partition, settings))
                    .map(|archived| Some(archived.location))
            }
            _ => Ok(None),
        };
        match archived {
            Ok(location) => parked.due.push((step, location)),
            Err(error) => parked.kept.push((step.partition().name.clone(), error)),
        }
    }
    Ok(parked)
}

/// Drops what was parked and whose time has come. Where an archive is wanted, a partition is cut off from the runs by one
/// call, and archived and dropped by the next: the first takes a lock that others notice, the second takes time.
fn finish_parked(context: &Context, parked: Parked, settings: Settings, report: &mut Report) {
    report.kept.extend(parked.kept);
    for (step, location) in parked.due {
        let partition = step.partition();
        let name = partition.name.clone();
        let is_to_be_closed = matches!(step, Retiring::Archive(_)) && location.is_none();
        // The archive's entry and the drop are committed together, after the archive was read back.
        let finished = subtransaction::run(|| match is_to_be_closed {
            true => detach::close(context, partition, settings),
            false => detach::drop_detached(context, partition, settings),
        });
        match finished {
            Ok(()) if is_to_be_closed => report.to_archive.push(name),
            Ok(()) => {
                report.archived.extend(location.map(|location| (name.clone(), location)));
                report.dropped.push(name);
            }
            Err(error) => report.kept.push((name, error)),
        }
    }
}

/// What a retention means now.
#[derive(Clone, Debug)]
struct Plan {
    /// The partitions to take out.
    retirements: Vec<Retirement>,
    /// Those kept though they are old enough, with the reason.
    kept: Vec<(String, Error)>,
}

/// The partitions to take out now, and those kept though they are old enough.
fn planned(context: &Context, months: u32, fate: &Fate, settings: Settings) -> Result<Plan> {
    let facts = context.facts_without_names()?;
    let (outdated, obstacles) = plan::outdated(&facts, months, &context.midnights())?;
    let kept = obstacles
        .into_iter()
        .map(|obstacle| (obstacle.partition().unwrap_or_default().to_owned(), obstacle.into()));
    let mut plan = Plan { retirements: Vec::new(), kept: kept.collect() };
    if fate.is_forced() || outdated.is_empty() {
        return Ok(Plan { retirements: outdated, ..plan });
    }
    let replays = Replays::now(context, settings);
    for partition in outdated {
        match replays.require_quick(&partition) {
            Ok(()) => plan.retirements.push(partition),
            Err(error) => plan.kept.push((partition.name, error)),
        }
    }
    Ok(plan)
}

/// What becomes of a partition that is taken out.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It is dropped.
    Dropped {
        /// Even if runs that are not finished need it.
        is_forced: bool,
    },
    /// It is parked.
    Parked {
        /// For how long, and what else was asked for.
        wish: Wish,
        /// Whether it is cut off from the runs at once, to be archived.
        is_closed: bool,
    },
}

impl Fate {
    const fn is_forced(&self) -> bool {
        match self {
            Self::Dropped { is_forced } => *is_forced,
            Self::Parked { wish, .. } => wish.is_forced,
        }
    }
}

/// Takes partitions of a plan out of the event log, which is locked once. A partition that can't be locked in what
/// is left of the budget, that something depends on, that is held or needed by a run, is kept; and so are the rest once the
/// budget has passed, because everybody waits meanwhile.
///
/// To be called as the table's owner.
///
/// # Errors
///
/// Where the event log cannot be locked: then nothing is taken out.
pub fn take_out(
    context: &Context,
    retirements: &[Retirement],
    fate: &Fate,
    settings: Settings,
) -> Result<Report> {
    let mut report = Report::default();
    if retirements.is_empty() {
        return Ok(report);
    }
    // What runs go on is asked under a lock that keeps them from changing.
    let runs = if fate.is_forced() { None } else { replay::runs(context)? };
    let (referenced, mode) = match fate {
        Fate::Dropped { .. } => (Vec::new(), Mode::Share),
        Fate::Parked { is_closed, .. } => (
            catalog::referenced_tables(context.table.oid)?,
            if *is_closed { Mode::AccessExclusive } else { Mode::ShareRowExclusive },
        ),
    };
    identity::run_as(context.extension.owner, || hold::freeze(settings.lock_timeout_ms))?;
    let budget = Budget::new(settings.lock_timeout_ms);
    lock::take(context.table.oid, catalog::EVENTS, Mode::AccessExclusive, &budget)?;
    let mut locked = Vec::new();
    for (i, retirement) in retirements.iter().enumerate() {
        if !budget.has_room() {
            // Everybody waits while we go on.
            let count = retirements.len() - i;
            let postponed = Error::Postponed { count, budget_ms: settings.lock_timeout_ms };
            report.kept.push((retirement.name.clone(), postponed));
            break;
        }
        let oid = Oid::from(retirement.oid);
        match lock::take(oid, &retirement.name, Mode::AccessExclusive, &budget) {
            Ok(()) => locked.push(retirement),
            Err(error) => report.kept.push((retirement.name.clone(), error)),
        }
    }
    if locked.is_empty() {
        return Ok(report);
    }
    for other in referenced {
        lock::take(other.oid, &other.name, mode, &budget)?;
    }
    if let Some(runs) = runs {
        lock::take(runs, catalog::RUNS, Mode::Share, &budget)?;
    }
    let replays = runs.map(|_| Replays::now(context, settings));
    let held = Budget::new(settings.lock_timeout_ms);
    for (i, retirement) in locked.iter().enumerate() {
        if !held.has_room() {
            let count = locked.len() - i;
            let postponed = Error::Postponed { count, budget_ms: settings.lock_timeout_ms };
            report.kept.push((retirement.name.clone(), postponed));
            break;
        }
        let taken = subtransaction::run(|| {
            if let Some(need) = replays.as_ref().and_then(|replays| replays.need(retirement)) {
                return Err(need.into());
            }
            take_out_one(context, retirement, fate)
        });
        match (taken, fate) {
            (Ok(name), Fate::Dropped { .. }) => report.dropped.push(name),
            (Ok(name), Fate::Parked { is_closed: true, .. }) => report.to_archive.push(name),
            (Ok(name), Fate::Parked { .. }) => report.parked.push(name),
            (Err(error), _) => report.kept.push((retirement.name.clone(), error)),
        }
    }
    Ok(report)
}

/// Decides again under the lock, from the system caches: the transaction's snapshot may be older than
/// what others have done to the partition, or to its name.
fn take_out_one(context: &Context, retirement: &Retirement, fate: &Fate) -> Result<String> {
    let partition = Oid::from(retirement.oid);
    let changed = || Error::Changed { partition: retirement.name.clone() };
    let is_pending = |p: &Partition| p.oid == retirement.oid && p.detach_pending;
    if bound::parent_of(partition) != Some(context.table.oid)
        || bound::extent_of(partition) != Some(Extent::Range(retirement.range))
        || server::find_relation(context.table.schema_oid, catalog::EVENTS)
            != Some(context.table.oid)
        || catalog::partitions(&context.table)?.iter().any(is_pending)
    {
        return Err(changed());
    }
    let (schema, name) = server::name_of_relation(partition).ok_or_else(changed)?;
    let qualified = Qualified { schema: &schema, name: &name };
    let noted = Retirement { name: name.clone(), ..retirement.clone() };
    identity::run_as(context.extension.owner, || hold::refuse(&noted))?;
    match fate {
        Fate::Dropped { .. } => ddl::drop_table(qualified)?,
        Fate::Parked { wish, is_closed } => {
            if let Some(reason) = whole_plan::undroppable(context, partition)? {
                let partition = retirement.name.clone();
                return Err(Obstacle::Undroppable { partition, reason }.into());
            }
            ddl::detach(&context.table, qualified)?;
            protection::close_to_others(partition, qualified)?;
            if *is_closed {
                ddl::drop_foreign_keys(partition, qualified)?;
            }
            identity::run_as(context.extension.owner, || {
                retired::note_detached(&schema, &noted, wish)?;
                if *is_closed { retired::mark_closing(partition).map(drop) } else { Ok(()) }
            })?;
        }
    }
    Ok(name)
}

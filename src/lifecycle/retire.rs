//! Retiring partitions: whole ranges that lie before the retention are dropped.
//!
//! A partition is dropped by its OID, while it is attached to our table and still has the range that
//! the decision was made on; both are looked at again under the lock that the drop needs.

use pgrx::pg_sys::Oid;
use serde_json::json;

use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::{catalog, ddl, ledger, query};
use crate::domain::partition::{Extent, Partition};
use crate::domain::plan::{self, Retirement};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::pg::{bound, identity, server, subtransaction};
use crate::settings::Settings;

/// What came of a retention.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The names of the partitions dropped, oldest first.
    pub dropped: Vec<String>,
    /// Partitions that were to go and were kept, with the reason.
    pub kept: Vec<(String, Error)>,
}

/// Drops the partitions whose whole range lies before the first day of the month `months` before the
/// current one.
///
/// # Errors
///
/// Where `months` is less than 1, or the event log cannot be locked.
pub fn outdated(months: i32, settings: Settings) -> Result<Report> {
    let months = match u32::try_from(months) {
        Ok(months) if months > 0 => months,
        _ => return Err(Error::RetentionTooShort(months)),
    };
    let context = Context::load_for_change("drop_old_workflow_events_partitions")?;
    let plan = planned(&context, months)?;
    if plan.retirements.is_empty() {
        return Ok(Report { kept: plan.kept, ..Report::default() });
    }
    let report = identity::run_as(context.table.owner, || {
        lock::wait_for_turn(context.table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        let plan = planned(&context, months)?;
        let mut report = drop_all(&context, &plan.retirements, settings)?;
        report.kept.splice(0..0, plan.kept);
        Ok::<_, Error>(report)
    })?;
    if !report.dropped.is_empty() {
        let kept: Vec<_> = report
            .kept
            .iter()
            .map(|(name, error)| json!({ "partition": name, "reason": error.to_string() }))
            .collect();
        let details = json!({
            "retention_months": months, "dropped": report.dropped, "kept": kept
        });
        let status = if kept.is_empty() { ledger::Status::Ok } else { ledger::Status::Warning };
        ledger::record(&context.extension, "drop", status, details, settings.lock_timeout_ms)?;
    }
    Ok(report)
}

/// What a retention means now.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The partitions to drop.
    pub retirements: Vec<Retirement>,
    /// Those kept though they are old enough, with the reason.
    pub kept: Vec<(String, Error)>,
}

/// The partitions to drop now, and those kept though they are old enough.
pub fn planned(context: &Context, months: u32) -> Result<Plan> {
    let facts = context.facts_without_names()?;
    let (retirements, obstacles) =
        plan::outdated(&facts, &context.policy, months, &context.midnights())?;
    let kept = obstacles
        .into_iter()
        .map(|obstacle| (obstacle.partition().unwrap_or_default().to_owned(), obstacle.into()));
    Ok(Plan { retirements, kept: kept.collect() })
}

/// Drops partitions of a plan. The event log is locked once; a partition that can't be locked in what
/// is left of the budget, or that something depends on, is kept; and so are the rest once the budget has
/// passed, because everybody waits meanwhile.
///
/// To be called as the table's owner.
///
/// # Errors
///
/// Where the event log cannot be locked: then nothing is dropped.
pub fn drop_all(
    context: &Context,
    retirements: &[Retirement],
    settings: Settings,
) -> Result<Report> {
    let mut report = Report::default();
    if retirements.is_empty() {
        return Ok(report);
    }
    let budget = Budget::new(settings.lock_timeout_ms);
    lock::take(context.table.oid, catalog::EVENTS, Mode::AccessExclusive, &budget)?;
    for (i, retirement) in retirements.iter().enumerate() {
        if !budget.has_room() {
            // Everybody waits while we go on.
            let count = retirements.len() - i;
            let postponed = Error::Postponed { count, budget_ms: settings.lock_timeout_ms };
            report.kept.push((retirement.name.clone(), postponed));
            break;
        }
        match subtransaction::run(|| drop_one(context, retirement, &budget)) {
            Ok(name) => report.dropped.push(name),
            Err(error) => report.kept.push((retirement.name.clone(), error)),
        }
    }
    Ok(report)
}

/// Decides again under the lock, from the system caches: the transaction's snapshot may be older than
/// what others have done to the partition, or to its name.
fn drop_one(context: &Context, retirement: &Retirement, budget: &Budget) -> Result<String> {
    let partition = Oid::from(retirement.oid);
    lock::take(partition, &retirement.name, Mode::AccessExclusive, budget)?;
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
    ddl::drop_table(Qualified { schema: &schema, name: &name })?;
    Ok(name)
}

//! Taking over a partitioned event log that somebody else made: name what differs, repair what can be
//! repaired without anybody waiting, refuse nothing that works.

use pgrx::pg_sys::Oid;

use crate::db::catalog::{self, EVENTS};
use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::{index, protection, query, row_security};
use crate::domain::name::{STANDARD_INDEXES, StandardIndex};
use crate::domain::partition::{Kind, Partition};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::inspect::{self, Finding, Status};
use crate::lifecycle::setup::{Done, Step};
use crate::pg::{identity, server, subtransaction};
use crate::settings::Settings;

/// A partition up to this size gets a missing index at once: building it takes a few milliseconds.
/// Writers of a larger one would wait for its index, so that is left to CREATE INDEX CONCURRENTLY.
const SMALL_BYTES: i64 = 1 << 20;

/// Repairs indexes and row level security, and names what differs from the document.
///
/// # Errors
///
/// Only where something is wrong with the server; what cannot be repaired is part of the answer.
pub fn take_over(context: &Context, settings: Settings) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    steps.extend(differing(inspect::columns(context)?));
    steps.extend(inspect::keys(context)?.into_iter().filter_map(differing));
    steps.extend(inspect::partitions(context)?.into_iter().filter_map(differing));
    let missing_indexes = inspect::missing_indexes(context)?;
    let unprotected = protection::differences(&context.table)?;
    if missing_indexes.is_empty() && unprotected.is_empty() {
        return Ok(steps);
    }
    identity::run_as(context.table.owner, || {
        lock::take_turn(context.table.oid, EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        // One budget for all: every lock stays until the end of the transaction.
        let budget = Budget::new(settings.lock_timeout_ms);
        for standard in STANDARD_INDEXES {
            if missing_indexes.iter().any(|missing| missing.standard == standard) {
                steps.extend(repair_index(context, &standard, &budget)?);
            }
        }
        steps.extend(repair_protection(context, &unprotected, &budget)?);
        Ok(steps)
    })
}

/// Whether some partition lacks row level security that the event log has.
#[must_use]
pub fn some_is_open(context: &Context, partitions: &[Partition]) -> bool {
    partitions
        .iter()
        .any(|partition| partition.row_security.is_less_than(context.table.row_security))
}

/// Turns row level security on for every partition that lacks it though the event log has it; gives, as
/// text, what could not be changed.
///
/// Policies are left to [`take_over`]: without one, nobody but the owner sees anything in the partition. A
/// restore, in the middle of which this may run, makes them itself and would meet those made here.
///
/// # Errors
///
/// Only where something is wrong with the server.
pub fn close_partitions(context: &Context, settings: Settings) -> Result<Vec<String>> {
    if !some_is_open(context, &catalog::partitions(&context.table)?) {
        return Ok(Vec::new());
    }
    let mut open = protection::differences(&context.table)?;
    open.retain(|difference| difference.what.contains("row level security"));
    if open.is_empty() {
        return Ok(Vec::new());
    }
    identity::run_as(context.table.owner, || {
        lock::take_turn(context.table.oid, EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        let budget = Budget::new(settings.lock_timeout_ms);
        let mut problems = Vec::new();
        for difference in &open {
            let closed = subtransaction::run(|| {
                with_partition_locked(difference, &budget, |name| {
                    row_security::turn_on(context.table.oid, name)
                })
            });
            if let Err(error) = closed {
                problems.push(format!("partition \"{}\" is open: {error}", difference.partition));
            }
        }
        Ok(problems)
    })
}

/// Locks a partition against everybody, and hands its name to `work`.
fn with_partition_locked<T>(
    difference: &protection::Difference,
    budget: &Budget,
    work: impl FnOnce(Qualified) -> Result<T>,
) -> Result<T> {
    let partition = Oid::from(difference.oid);
    take_in_time(partition, &difference.partition, Mode::AccessExclusive, budget)?;
    let (schema, name) = server::name_of_relation(partition)
        .ok_or_else(|| Error::Changed { partition: difference.partition.clone() })?;
    work(Qualified { schema: &schema, name: &name })
}

/// Locks a relation, unless the budget for all of the repairs has passed.
fn take_in_time(relation: Oid, name: &str, mode: Mode, budget: &Budget) -> Result<()> {
    require_room(budget)?;
    lock::take(relation, name, mode, budget)
}

fn require_room(budget: &Budget) -> Result<()> {
    if budget.has_room() {
        Ok(())
    } else {
        Err(Error::Postponed { count: 1, budget_ms: budget.total_ms() })
    }
}

/// A finding that is not ok, as a line of the answer.
fn differing(finding: Finding) -> Option<Step> {
    (finding.status != Status::Ok).then(|| Step {
        hint: finding.hint,
        ..Step::new(finding.check, Done::Differs, finding.detail)
    })
}

/// Gives the event log one standard index: the parts of partitions that have it are attached, small
/// partitions get it, and for the others the statement is given.
fn repair_index(context: &Context, standard: &StandardIndex, budget: &Budget) -> Result<Vec<Step>> {
    let table = &context.table;
    let mut parts = Vec::new();
    let mut steps = Vec::new();
    let partitions = catalog::partitions(table)?;
    for partition in &partitions {
        match part(partition, standard, budget) {
            Ok(Some(index)) => parts.push(index),
            Ok(None) => steps.push(to_be_built(partition, standard)),
            Err(error) => steps.push(Step {
                hint: error.hint(),
                ..Step::new(&partition.name, Done::Differs, error.to_string())
            }),
        }
    }
    // The lock keeps writers out until the end of the transaction, so it comes after the building.
    let repaired = subtransaction::run(|| {
        let on_parent = index::on_columns(table.oid, standard.columns)?;
        let parent = if let Some(index) = on_parent.into_iter().next() {
            index
        } else {
            take_in_time(table.oid, EVENTS, Mode::ShareRowExclusive, budget)?;
            index::create_on_parent_only(standard, table.qualified())?;
            index::on_columns(table.oid, standard.columns)?
                .into_iter()
                .next()
                .ok_or_else(|| Error::Internal("an index is not there after its creation".into()))?
        };
        let parent_name = Qualified { schema: &parent.schema, name: &parent.name };
        for part in parts.iter().filter(|part| part.parent.is_none()) {
            // Locks the partition's index against everybody.
            require_room(budget)?;
            budget.limit_waits();
            index::attach(parent_name, Qualified { schema: &part.schema, name: &part.name })?;
        }
        Ok(parent.name)
    });
    steps.push(match repaired {
        Ok(name) => {
            let (have, all) = (parts.len(), partitions.len());
            let done = if have == all { Done::Repaired } else { Done::Differs };
            Step::new(name, done, format!("{have} of {all} partitions have their part of it"))
        }
        Err(error) => Step {
            hint: error.hint(),
            ..Step::new(standard.name_on(EVENTS), Done::Differs, error.to_string())
        },
    });
    Ok(steps)
}

/// The partition's own index, built where the partition is small; `None` where it would take long.
fn part(
    partition: &Partition,
    standard: &StandardIndex,
    budget: &Budget,
) -> Result<Option<index::Index>> {
    let oid = Oid::from(partition.oid);
    let usable = |oid| Ok(index::on_columns(oid, standard.columns)?.into_iter().find(|i| i.valid));
    if let Some(index) = usable(oid)? {
        return Ok(Some(index));
    }
    if partition.kind != Kind::Table || catalog::heap_bytes(oid)? > SMALL_BYTES {
        return Ok(None);
    }
    subtransaction::run(|| {
        take_in_time(oid, &partition.name, Mode::ShareRowExclusive, budget)?;
        index::create(standard, Qualified { schema: &partition.schema, name: &partition.name })?;
        usable(oid)
    })
}

/// The line that says how to build an index without anybody waiting.
fn to_be_built(partition: &Partition, standard: &StandardIndex) -> Step {
    let table = Qualified { schema: &partition.schema, name: &partition.name };
    let hint =
        format!("{}; then call setup_workflow_events() again.", index::statement(standard, table));
    let detail = format!("has no index on ({})", standard.columns.join(", "));
    Step { hint: Some(hint), ..Step::new(&partition.name, Done::Differs, detail) }
}

/// Turns row level security on where the event log has it, with its policies where a partition has none
/// of its own. Privileges and owners are left as they are: somebody may rely on them.
fn repair_protection(
    context: &Context,
    unprotected: &[protection::Difference],
    budget: &Budget,
) -> Result<Vec<Step>> {
    let repair = |difference: &protection::Difference| {
        subtransaction::run(|| {
            with_partition_locked(difference, budget, |name| {
                row_security::close(context.table.oid, Oid::from(difference.oid), name)
            })
        })
    };
    let repaired: Vec<_> = unprotected.iter().map(repair).collect();
    let remaining = protection::differences(&context.table)?;
    let step = |(difference, repaired): (&protection::Difference, Result<Vec<String>>)| {
        let left = remaining.iter().find(|left| left.oid == difference.oid);
        let name = &difference.partition;
        match (repaired, left) {
            (Ok(_), None) => Step::new(name, Done::Repaired, &difference.what),
            (Ok(notes), Some(left)) => {
                let mut detail = format!("differs from the event log in {}", left.what);
                notes.iter().for_each(|note| detail.push_str(&format!("; {note}")));
                let hint = "Bring them into line by hand where that is not on purpose.";
                Step { hint: Some(hint.to_owned()), ..Step::new(name, Done::Differs, detail) }
            }
            (Err(error), _) => {
                Step { hint: error.hint(), ..Step::new(name, Done::Differs, error.to_string()) }
            }
        }
    };
    Ok(unprotected.iter().zip(repaired).map(step).collect())
}

//! What each step of maintenance has to wait for: the locks it takes, in the order in which it takes them.
//!
//! The order is the same everywhere: the event log, then a partition of it, then the tables that foreign keys
//! point to. The lock that clients feel comes last and is held the shortest. A table that has been detached is no
//! longer part of the log, and comes after them.

use pgrx::pg_sys::Oid;

use crate::db::catalog::{self, EVENTS};
use crate::db::lock::{Mode, Need};
use crate::domain::maintenance::Retiring;
use crate::error::Result;
use crate::lifecycle::context::Context;
use crate::lifecycle::default_partition::DefaultPartition;
use crate::lifecycle::replay;

/// What making a partition needs.
pub fn of_creation(context: &Context) -> Result<Vec<Need>> {
    let mut needs = vec![on_events(context, Mode::ShareUpdateExclusive)];
    // Attaching looks whether it holds rows of the new range.
    needs.extend(DefaultPartition::find(context)?.map(|default| default.need()));
    needs.extend(on_referenced(context.table.oid, Mode::ShareRowExclusive)?);
    Ok(needs)
}

/// What a step of retiring needs.
pub fn of_retiring(context: &Context, step: &Retiring) -> Result<Vec<Need>> {
    let oid = Oid::from(step.partition().oid);
    let partition = lock(oid, &step.partition().name, Mode::AccessExclusive);
    let events = |mode| on_events(context, mode);
    Ok(match step {
        Retiring::Finalize(_) => {
            let first = [
                events(Mode::ShareUpdateExclusive),
                Need::RunningDetach,
                Need::OldSnapshots,
                partition,
            ];
            let runs = on_referenced(context.table.oid, Mode::ShareRowExclusive)?;
            first.into_iter().chain(runs).collect()
        }
        Retiring::Detach(_) => {
            let relation = context.table.oid;
            let unused = Need::Unused { relation, name: EVENTS.to_owned() };
            let first = [events(Mode::ShareUpdateExclusive), unused, partition];
            let runs = on_referenced(context.table.oid, Mode::ShareRowExclusive)?;
            first.into_iter().chain(runs).collect()
        }
        Retiring::DetachLocked(_) => {
            let first = [events(Mode::AccessExclusive), partition];
            let runs = on_referenced(context.table.oid, Mode::ShareRowExclusive)?;
            first.into_iter().chain(runs).collect()
        }
        Retiring::Restore(_) => {
            // It has a foreign key of its own already, which takes more than making one.
            let runs = on_referenced(context.table.oid, Mode::AccessExclusive)?;
            let default = DefaultPartition::find(context)?.map(|default| default.need());
            let first = std::iter::once(events(Mode::ShareUpdateExclusive)).chain(default);
            first.chain(runs).chain(std::iter::once(partition)).collect()
        }
        Retiring::Archive(_) | Retiring::DropDetached(_) => {
            let runs = on_referenced(oid, Mode::AccessExclusive)?;
            let runs = if runs.is_empty() { on_runs(context)? } else { runs };
            runs.into_iter().chain(std::iter::once(partition)).collect()
        }
        Retiring::DropAttached(_) => {
            let first = [events(Mode::AccessExclusive), partition];
            first.into_iter().chain(on_runs(context)?).collect()
        }
    })
}

fn on_events(context: &Context, mode: Mode) -> Need {
    lock(context.table.oid, EVENTS, mode)
}

/// What looking under a lock whether a run goes on needs.
fn on_runs(context: &Context) -> Result<Vec<Need>> {
    let runs = replay::runs(context)?;
    Ok(runs.map(|runs| lock(runs, catalog::RUNS, Mode::Share)).into_iter().collect())
}

fn on_referenced(table: Oid, mode: Mode) -> Result<Vec<Need>> {
    let referenced = catalog::referenced_tables(table)?;
    Ok(referenced.iter().map(|other| lock(other.oid, &other.name, mode)).collect())
}

fn lock(relation: Oid, name: &str, mode: Mode) -> Need {
    Need::Lock { relation, name: name.to_owned(), mode }
}

/// Needs as text, such as `SHARE UPDATE EXCLUSIVE on workflow_events`.
#[must_use]
pub fn describe(needs: &[Need]) -> String {
    let describe = |need: &Need| match need {
        Need::Lock { name, mode, .. } => format!("{} on {name}", mode.as_sql()),
        Need::Unused { name, .. } => {
            format!("no lock, the end of the transactions that use {name}")
        }
        Need::OldSnapshots => "no lock, the end of the transactions that began before".to_owned(),
        Need::RunningDetach => "no lock, the end of a DETACH that somebody is running".to_owned(),
    };
    needs.iter().map(describe).collect::<Vec<_>>().join("; ")
}

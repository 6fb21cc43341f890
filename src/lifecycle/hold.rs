//! Holding a partition: it is neither retired nor dropped until it is released, whatever the policy says.
//!
//! A hold is on a range, not on a table: it outlives a dump and a rename. Whoever is about to drop a partition keeps new
//! holds waiting until it is done ([`hold::freeze`]); a hold that was waiting finds the partition gone.

use pgrx::pg_sys::Oid;
use serde_json::json;

use crate::db::{catalog, hold, ledger, query};
use crate::domain::plan::Retirement;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::plan;
use crate::pg::identity;
use crate::settings::Settings;

/// Holds the attached or parked partition of that name.
///
/// # Errors
///
/// Where the reason is empty, there is no such partition, or it has no range.
pub fn add(name: &str, reason: &str, settings: Settings) -> Result<()> {
    if reason.trim().is_empty() {
        return Err(Error::Argument { argument: "reason", problem: "must not be empty" });
    }
    let context = Context::load_for_change("hold_workflow_events_partition")?;
    let caller = identity::current_role();
    let partition = identity::run_as(context.extension.owner, || {
        query::begin_writing()?;
        hold::announce(settings.lock_timeout_ms)?;
        let partition = find(&context, name)?;
        hold::add(&partition, reason, caller)?;
        Ok::<_, Error>(partition)
    })?;
    let details = json!({ "held": [partition.name], "reason": reason });
    let (extension, timeout_ms) = (&context.extension, settings.lock_timeout_ms);
    ledger::record(extension, "hold", ledger::Status::Ok, details, timeout_ms)
}

/// Takes away the holds of that name, or those with that reason alone; gives how many.
///
/// # Errors
///
/// Where the caller may not act as the owner, or nothing can be written.
pub fn remove(name: &str, reason: Option<&str>, settings: Settings) -> Result<i64> {
    let context = Context::load_for_change("release_workflow_events_partition")?;
    let removed = identity::run_as(context.extension.owner, || {
        hold::announce(settings.lock_timeout_ms)?;
        hold::remove(name, reason)
    })?;
    if removed > 0 {
        let details = json!({ "released": [name], "holds": removed, "reason": reason });
        let (extension, timeout_ms) = (&context.extension, settings.lock_timeout_ms);
        ledger::record(extension, "release", ledger::Status::Ok, details, timeout_ms)?;
    }
    Ok(removed)
}

/// The partition of that name that has a range: attached, or parked.
fn find(context: &Context, name: &str) -> Result<Retirement> {
    let attached = catalog::partitions(&context.table)?.into_iter().filter(|p| p.name == name);
    let ranged = attached.filter_map(|p| {
        let range = p.range()?;
        Some(Retirement { oid: p.oid, name: p.name, range })
    });
    let parked = plan::retired(context)?.into_iter().filter(|r| r.is_detached());
    let parked = parked
        .map(|r| r.partition)
        .filter(|partition| partition.name == name && catalog::exists(Oid::from(partition.oid)));
    let found = ranged.chain(parked).next();
    found.ok_or_else(|| Error::NoPartition { name: name.to_owned() })
}

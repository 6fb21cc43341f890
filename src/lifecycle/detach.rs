//! Retiring without a lock that others notice: a partition is detached concurrently, and dropped when it is a table
//! of its own. A crash or a cancel anywhere leaves a state that the next run goes on from:
//!
//! ```text
//! attached ── DETACH CONCURRENTLY begins, and notes it ──> pending, noted ──> detached ── marked ──> detached, noted as such
//!                                                            │    ^                                    │
//!                                                            └────┘                                    └── DROP ──> gone
//!                                                           FINALIZE, and marked
//! ```
//!
//! Beginning and note are one transaction, so a note means that we have begun. The command itself is the worker's,
//! because it runs at the top level alone.

use std::ffi::CString;

use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode, Need};
use crate::db::{catalog, ddl, query, retired};
use crate::domain::maintenance::Retiring;
use crate::domain::partition::{Extent, Partition};
use crate::domain::plan::{Obstacle, Retirement};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::plan;
use crate::pg::lock::SessionLock;
use crate::pg::{bound, identity, server};
use crate::settings::Settings;

/// A partition that may be detached: its name can't change until this is dropped.
pub struct Detachable {
    /// The command that detaches it.
    pub command: CString,
    /// The role as which it is to run.
    pub owner: Oid,
    schema: String,
    noted: Retirement,
    lock: SessionLock,
}

impl Detachable {
    /// Notes that it is to be retired; in the transaction in which the detach is begun.
    pub fn note(&self) -> Result<()> {
        retired::note(&self.schema, &self.noted)
    }

    /// The command has been run; where it failed, its abort has let go of the name already.
    pub fn release(self, command_failed: bool) {
        if command_failed {
            self.lock.was_released_by_abort();
        }
    }
}

/// Looks once more whether a partition is to be retired and can be, and holds on to its name.
///
/// # Errors
///
/// [`Error::Changed`] where the plan is another one by now; where the table could not be dropped afterwards, why; 55P03
/// where somebody has it locked.
pub fn prepare(partition: &Retirement) -> Result<Detachable> {
    let context = Context::load()?;
    let oid = Oid::from(partition.oid);
    let held = SessionLock::take(oid);
    query::begin_writing()?;
    plan::require(&context, &Retiring::Detach(partition.clone()))?;
    let changed = || Error::Changed { partition: partition.name.clone() };
    if bound::parent_of(oid) != Some(context.table.oid)
        || bound::extent_of(oid) != Some(Extent::Range(partition.range))
    {
        return Err(changed());
    }
    let (schema, name) = server::name_of_relation(oid).ok_or_else(changed)?;
    let noted = Retirement { name: name.clone(), ..partition.clone() };
    let qualified = Qualified { schema: &schema, name: &name };
    let command = CString::new(ddl::detach_concurrently(&context.table, qualified))
        .map_err(|error| Error::Internal(error.to_string()))?;
    Ok(Detachable { command, owner: context.table.owner, schema, noted, lock: held })
}

/// What a command to detach has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// The partition is a table of its own.
    Completely,
    /// The detach was begun, and is to be completed.
    Pending,
    /// Nothing was begun.
    NotAtAll,
}

/// Looks what the command has come to, whether it succeeded or not, and marks the note of a partition that is detached.
pub fn settle(partition: &Retirement, succeeded: bool) -> Result<Detached> {
    let oid = Oid::from(partition.oid);
    let context = Context::load()?;
    let attached: Vec<Partition> = catalog::partitions(&context.table)?;
    match attached.iter().find(|attached| attached.oid == partition.oid) {
        // Somebody else has detached it, or dropped it.
        None if !succeeded => Err(Error::Changed { partition: partition.name.clone() }),
        None => {
            retired::mark_detached(oid)?;
            Ok(Detached::Completely)
        }
        Some(attached) if attached.detach_pending => Ok(Detached::Pending),
        // The note went with the transaction that was to begin it.
        Some(_) => Ok(Detached::NotAtAll),
    }
}

/// Completes a detach that was begun, whoever began it.
///
/// # Errors
///
/// 55P03 where an older transaction goes on, and nothing is changed.
pub fn finalize(partition: &Retirement, settings: Settings) -> Result<()> {
    let context = Context::load()?;
    let oid = Oid::from(partition.oid);
    if !retired::is_noted(oid)? {
        // Somebody else's, who may be about to complete it.
        lock::look(&[Need::RunningDetach])?;
    }
    // In the same transaction: where we began it, it is ours to drop from here on. What runs as superuser comes first.
    retired::mark_detached(oid)?;
    identity::run_as(context.table.owner, || {
        lock::take_turn(context.table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        let changed = || Error::Changed { partition: partition.name.clone() };
        let is_pending = |p: &Partition| p.oid == partition.oid && p.detach_pending;
        if !catalog::partitions(&context.table)?.iter().any(is_pending) {
            return Err(changed());
        }
        let (schema, name) = server::name_of_relation(oid).ok_or_else(changed)?;
        let budget = Budget::new(settings.lock_timeout_ms);
        lock::take(oid, &partition.name, Mode::AccessExclusive, &budget)?;
        // Last, by itself, it locks the tables that foreign keys point to: not before it has waited.
        lock::wait_for_snapshots(&partition.name, &budget, || {
            ddl::finalize(&context.table, Qualified { schema: &schema, name: &name })
        })
    })
}

/// Drops a table that we have detached.
///
/// # Errors
///
/// 55P03 where it, or a table that its foreign keys point to, can't be locked in time; `InDoubt` where it is no
/// longer the table that we have detached.
pub fn drop_detached(partition: &Retirement, settings: Settings) -> Result<()> {
    let context = Context::load()?;
    let oid = Oid::from(partition.oid);
    plan::require(&context, &Retiring::DropDetached(partition.clone()))?;
    let in_doubt = || Error::from(Obstacle::InDoubt { partition: partition.name.clone() });
    // What runs as superuser comes first. Whoever wants to keep the table deletes the entry: from here on that waits.
    let noted = retired::take_detached(oid)?.ok_or_else(in_doubt)?;
    identity::run_as(context.table.owner, || {
        let budget = Budget::new(settings.lock_timeout_ms);
        // It has a foreign key of its own: a client that has changed a run and now deletes it looks for its events
        // in here too. So the runs come first, and then the table, which hardly anybody uses, without waiting.
        for other in catalog::referenced_tables(oid)? {
            lock::take(other.oid, &other.name, Mode::AccessExclusive, &budget)?;
        }
        lock::take(oid, &partition.name, Mode::AccessExclusive, &Budget::new(1))?;
        // Under the lock, from the system caches: still the same table, and nobody has attached it.
        let (schema, name) = server::name_of_relation(oid).ok_or_else(in_doubt)?;
        let owner = catalog::owner_of(oid)?.map(|(owner, _)| owner);
        if (schema.as_str(), name.as_str()) != (noted.0.as_str(), noted.1.as_str())
            || owner != Some(context.table.owner)
            || bound::parent_of(oid).is_some()
        {
            return Err(in_doubt());
        }
        budget.limit_waits();
        ddl::drop_table(Qualified { schema: &schema, name: &name })
    })
}

//! Retiring without a lock that others notice: a partition is detached concurrently, parked, and dropped as a table of
//! its own. A crash or a cancel anywhere leaves a state that the next run goes on from:
//!
//! ```text
//! attached ── DETACH CONCURRENTLY begins, and notes it ──> pending, noted ──> detached ── marked ──> parked
//!    ^                                                       │    ^                                   │  │
//!    │                                                       └────┘                                   │  │
//!    │                                                  FINALIZE, and marked                          │  │
//!    └────────────── restored: a run needs it, or somebody wants it back ─────────────────────────────┘  │
//!    │                                                                                                   │
//!    └── restored ── closing <── cut off from the runs, where an archive is wanted ──────────────────────┤
//!                       │                                                                                │
//!                       └── archived, read back, noted ── DROP ──> gone <── DROP ────────────────────────┘
//! ```
//!
//! Beginning and note are one transaction, so a note means that we have begun. The command itself is the worker's,
//! because it runs at the top level alone.

use std::ffi::CString;

use pgrx::log;
use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode, Need};
use crate::db::{catalog, ddl, hold, protection, query, retired};
use crate::domain::maintenance::{RetiredState, Retiring};
use crate::domain::partition::{Extent, Partition};
use crate::domain::plan::{Obstacle, Retirement};
use crate::error::{Error, Result};
use crate::lifecycle::archive::{self, Archived};
use crate::lifecycle::context::Context;
use crate::lifecycle::plan;
use crate::lifecycle::replay::{self, Replays};
use crate::pg::lock::SessionLock;
use crate::pg::{bound, identity, server, subtransaction};
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
    extension_owner: Oid,
    lock_timeout_ms: i32,
}

impl Detachable {
    /// Notes that it is to be retired, unless it is held; in the transaction in which the detach is begun.
    pub fn note(&self) -> Result<()> {
        identity::run_as(self.extension_owner, || {
            hold::freeze(self.lock_timeout_ms)?;
            retired::note(&self.schema, &self.noted)?;
            hold::refuse(&self.noted)
        })
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
pub fn prepare(partition: &Retirement, settings: Settings) -> Result<Detachable> {
    let context = Context::load()?;
    let oid = Oid::from(partition.oid);
    let held = SessionLock::take(oid);
    query::begin_writing()?;
    plan::require(&context, &Retiring::Detach(partition.clone()), settings)?;
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
    let (owner, extension_owner) = (context.table.owner, context.extension.owner);
    let lock_timeout_ms = settings.lock_timeout_ms;
    Ok(Detachable { command, owner, schema, noted, lock: held, extension_owner, lock_timeout_ms })
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

/// Takes a detached partition out of everybody's sight but its owner's. Where somebody stands in the way of that, it goes
/// on without.
fn park(context: &Context, relation: Oid) -> Result<()> {
    let Some((schema, name)) = server::name_of_relation(relation) else { return Ok(()) };
    let name = Qualified { schema: &schema, name: &name };
    let hidden = subtransaction::run(|| {
        identity::run_as(context.table.owner, || protection::close_to_others(relation, name))
    });
    if let Err(error) = hidden {
        log!("privileges on the parked table {name} could not be revoked: {error}");
    }
    Ok(())
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
            park(&context, oid)?;
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
    let is_ours = retired::is_noted(oid)?;
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
    })?;
    if is_ours { park(&context, oid) } else { Ok(()) }
}

/// What is refused of a table that is no longer the one that we have detached.
fn in_doubt(partition: &Retirement) -> Error {
    Obstacle::InDoubt { partition: partition.name.clone() }.into()
}

/// Drops a table that we have detached, unless a run needs it, or somebody holds it.
///
/// # Errors
///
/// 55P03 where it, or a table that its foreign keys point to, can't be locked in time; `InDoubt` where it is no
/// longer the table that we have detached; [`Obstacle::UnfinishedRuns`], [`Obstacle::Held`].
pub fn drop_detached(context: &Context, partition: &Retirement, settings: Settings) -> Result<()> {
    let oid = Oid::from(partition.oid);
    let is_forced = is_forced(context, partition)?;
    let runs = if is_forced { None } else { replay::runs(context)? };
    if !is_forced {
        Replays::now(context, settings).require_quick(partition)?;
    }
    // What runs as superuser comes first. Whoever wants to keep the table deletes the entry: from here on that waits.
    let noted = identity::run_as(context.extension.owner, || {
        hold::freeze(settings.lock_timeout_ms)?;
        let noted = retired::take_detached(oid)?.ok_or_else(|| in_doubt(partition))?;
        hold::refuse(partition)?;
        Ok::<_, Error>(noted)
    })?;
    identity::run_as(context.table.owner, || {
        let budget = Budget::new(settings.lock_timeout_ms);
        let referenced = lock_detached(partition, &budget)?;
        if let Some(runs) = runs.filter(|runs| !referenced.contains(runs)) {
            // It is cut off from the runs: that none goes on is all that is asked of them.
            lock::take(runs, catalog::RUNS, Mode::Share, &budget)?;
        }
        let name = same_as_noted(context, partition, &noted)?;
        if !is_forced {
            replay::require_unneeded(context, partition, settings)?;
        }
        budget.limit_waits();
        ddl::drop_table(Qualified { schema: &noted.0, name: &name })
    })
}

/// Locks the tables that the foreign keys of a detached table point to, which are given, and the table.
///
/// It has a foreign key of its own: a client that has changed a run and now deletes it looks for its events in here too. So
/// the runs come first, and then the table, which hardly anybody uses, without waiting.
fn lock_detached(partition: &Retirement, budget: &Budget) -> Result<Vec<Oid>> {
    let oid = Oid::from(partition.oid);
    let referenced = catalog::referenced_tables(oid)?;
    for other in &referenced {
        lock::take(other.oid, &other.name, Mode::AccessExclusive, budget)?;
    }
    lock::take(oid, &partition.name, Mode::AccessExclusive, &Budget::new(1))?;
    Ok(referenced.into_iter().map(|other| other.oid).collect())
}

/// The name of a table that we have detached, under its lock, from the system caches: it is still the one that was noted,
/// and nobody has attached it.
fn same_as_noted(
    context: &Context,
    partition: &Retirement,
    noted: &(String, String),
) -> Result<String> {
    let oid = Oid::from(partition.oid);
    let (schema, name) = server::name_of_relation(oid).ok_or_else(|| in_doubt(partition))?;
    let owner = catalog::owner_of(oid)?.map(|(owner, _)| owner);
    let is_same = (schema.as_str(), name.as_str()) == (noted.0.as_str(), noted.1.as_str())
        && owner == Some(context.table.owner)
        && bound::parent_of(oid).is_none();
    if is_same { Ok(name) } else { Err(in_doubt(partition)) }
}

/// Whether somebody wanted it dropped even if a run needs it.
fn is_forced(context: &Context, partition: &Retirement) -> Result<bool> {
    let retired = plan::retired(context)?;
    Ok(retired.iter().any(|r| r.partition.oid == partition.oid && r.is_forced))
}

/// Whether a detached table is cut off from the runs.
///
/// # Errors
///
/// Where the server can't be asked.
pub fn is_closed(context: &Context, partition: &Retirement) -> Result<bool> {
    let retired = plan::retired(context)?;
    Ok(retired.iter().any(|r| r.partition.oid == partition.oid && r.state == RetiredState::Closing))
}

/// Cuts a parked table off from the runs, so that nothing changes it while it is archived: it loses its foreign keys. Where
/// it has none, nothing is done.
///
/// # Errors
///
/// As [`drop_detached`].
pub fn close(context: &Context, partition: &Retirement, settings: Settings) -> Result<()> {
    let oid = Oid::from(partition.oid);
    if !is_forced(context, partition)? {
        replay::require_unneeded(context, partition, settings)?;
    }
    let noted = identity::run_as(context.extension.owner, || {
        hold::freeze(settings.lock_timeout_ms)?;
        let noted = retired::mark_closing(oid)?.ok_or_else(|| in_doubt(partition))?;
        hold::refuse(partition)?;
        Ok::<_, Error>(noted)
    })?;
    identity::run_as(context.table.owner, || {
        let budget = Budget::new(settings.lock_timeout_ms);
        lock_detached(partition, &budget)?;
        let name = same_as_noted(context, partition, &noted)?;
        budget.limit_waits();
        ddl::drop_foreign_keys(oid, Qualified { schema: &noted.0, name: &name })
    })
}

/// Archives a table that is cut off from the runs, under a lock that keeps its rows as they are. To be committed before
/// it is dropped.
///
/// # Errors
///
/// Those of [`archive::archive`]; `InDoubt` where it is no longer the table that we have detached.
pub fn archive(context: &Context, partition: &Retirement, settings: Settings) -> Result<Archived> {
    let oid = Oid::from(partition.oid);
    let noted = identity::run_as(context.extension.owner, || {
        query::begin_writing()?;
        identity::set_lock_timeout(settings.lock_timeout_ms);
        retired::lock_detached(oid)?.ok_or_else(|| in_doubt(partition))
    })?;
    identity::run_as(context.table.owner, || {
        let budget = Budget::new(settings.lock_timeout_ms);
        lock::take(oid, &partition.name, Mode::Share, &budget)?;
        same_as_noted(context, partition, &noted)
    })?;
    if catalog::referenced_tables(oid)?.is_empty() {
        archive::archive(context, partition, settings)
    } else {
        Err(in_doubt(partition))
    }
}

//! Putting a parked month back: it is attached again with its rows, indexes and bounds, and with its parent's protection.
//!
//! It is there whole, and its validated CHECK constraint says that its rows lie within its range, so that nothing is looked
//! through under a lock. One that was cut off from the runs to be archived first gets its foreign key back, and that is
//! checked, in transactions of their own: adding it locks the runs for a moment, checking it takes time and locks nothing
//! that others notice.

use pgrx::pg_sys::Oid;
use serde_json::json;

use crate::db::foreign_key::{self, ForeignKey};
use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::{catalog, ddl, hold, index, ledger, protection, query, retired};
use crate::domain::name::STANDARD_INDEXES;
use crate::domain::plan::Retirement;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::default_partition::DefaultPartition;
use crate::lifecycle::unarchive::{self, Stage};
use crate::lifecycle::{create, plan};
use crate::pg::{identity, server};
use crate::settings::Settings;

/// What came of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Whether it is part of the log again: where it isn't, a further call goes on.
    pub is_attached: bool,
    /// Where the rows came from: the parked table, the archive table, or the path or URI of the file.
    pub location: String,
    /// How many rows came from an archive; `None` for a parked table, whose rows aren't counted.
    pub rows: Option<i64>,
    /// How many events were left out because their run is gone.
    pub left_out: i64,
    /// What the partition lacks of the log's protection.
    pub notes: Vec<String>,
}

impl Restored {
    /// The word that a user sees.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        if self.is_attached { "restored" } else { "prepared" }
    }
}

/// The reason of the hold that keeps retention from taking a restored month out again.
const REASON: &str = "restored by restore_workflow_events_partition()";

/// Puts back the parked or archived partition of that name, and holds it.
///
/// # Errors
///
/// Where there is none, or its range is taken, or a lock can't be had in time.
pub fn by_hand(name: &str, settings: Settings) -> Result<Restored> {
    let context = Context::load_for_change("restore_workflow_events_partition")?;
    let parked = plan::retired(&context)?.into_iter();
    let mut parked = parked.filter(|r| r.is_detached() && r.partition.name == name);
    let restored = match parked.next() {
        Some(parked) => of_parked(&context, &parked.partition, settings)?,
        None => of_archive(&context, name, settings)?,
    };
    if restored.is_attached {
        hold_it(&context, name, settings)?;
    }
    let details = json!({
        "partition": name,
        "status": restored.status(),
        "location": restored.location,
        "rows": restored.rows,
        "left_out": restored.left_out,
        "notes": restored.notes,
    });
    let is_clean = restored.notes.is_empty();
    let status = if is_clean { ledger::Status::Ok } else { ledger::Status::Warning };
    ledger::record(&context.extension, "restore", status, details, settings.lock_timeout_ms)?;
    Ok(restored)
}

/// One transaction: what can be done in it without keeping others waiting.
fn of_parked(context: &Context, partition: &Retirement, settings: Settings) -> Result<Restored> {
    let location = catalog::qualified_name(partition.oid.into())?;
    if let Some(left_out) = reconnect(context, partition, settings)? {
        let notes = Vec::new();
        return Ok(Restored { is_attached: false, location, rows: None, left_out, notes });
    }
    check(context, partition, settings)?;
    let notes = attach(context, partition, settings)?;
    Ok(Restored { is_attached: true, location, rows: None, left_out: 0, notes })
}

fn of_archive(context: &Context, name: &str, settings: Settings) -> Result<Restored> {
    let restored = unarchive::restore(context, name, settings)?
        .ok_or_else(|| Error::NothingToRestore { name: name.to_owned() })?;
    Ok(Restored {
        is_attached: restored.stage == Stage::Attached,
        location: restored.location,
        rows: Some(restored.rows),
        left_out: restored.left_out,
        notes: restored.notes,
    })
}

/// Holds an attached partition, so that retention doesn't take it out again.
fn hold_it(context: &Context, name: &str, settings: Settings) -> Result<()> {
    let caller = identity::current_role();
    let attached = catalog::partitions(&context.table)?.into_iter().find(|p| p.name == name);
    let Some((oid, range)) = attached.and_then(|p| Some((p.oid, p.range()?))) else {
        return Ok(());
    };
    identity::run_as(context.extension.owner, || {
        hold::announce(settings.lock_timeout_ms)?;
        hold::add(&Retirement { oid, name: name.to_owned(), range }, REASON, caller)
    })
}

/// What a table that is to be put back is refused with where it is no longer the one that was parked.
fn changed(partition: &Retirement) -> Error {
    Error::Changed { partition: partition.name.clone() }
}

/// Keeps others from dropping a parked table until the end of the transaction; its schema and name.
fn claim(
    context: &Context,
    partition: &Retirement,
    settings: Settings,
) -> Result<(String, String)> {
    let oid = Oid::from(partition.oid);
    let noted = identity::run_as(context.extension.owner, || {
        query::begin_writing()?;
        identity::set_lock_timeout(settings.lock_timeout_ms);
        retired::lock_detached(oid)
    })?;
    let noted = noted.ok_or_else(|| changed(partition))?;
    let now = server::name_of_relation(oid);
    if now.as_ref() == Some(&noted) { Ok(noted) } else { Err(changed(partition)) }
}

/// Gives a table that was cut off from the runs its foreign keys back, not yet checked, without the events of runs that are
/// gone since; gives how many those were. `None` where it has its foreign keys.
///
/// # Errors
///
/// 55P03 where the runs can't be locked in time.
pub fn reconnect(
    context: &Context,
    partition: &Retirement,
    settings: Settings,
) -> Result<Option<i64>> {
    let oid = Oid::from(partition.oid);
    let present = foreign_key::of(oid)?;
    let is_missing = |key: &ForeignKey| !present.iter().any(|other| other.points_as(key));
    let missing: Vec<_> =
        foreign_key::of(context.table.oid)?.into_iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let (schema, name) = claim(context, partition, settings)?;
    let table = Qualified { schema: &schema, name: &name };
    // Should the restore end here, it is archived or dropped as any parked table, and cut off again before.
    identity::run_as(context.extension.owner, || retired::mark_connected(oid))?;
    create::as_owner(context, || {
        // Without a lock on the runs: one that goes meanwhile is found when the key is checked.
        let mut gone = 0;
        for key in &missing {
            gone += key.remove_orphans(table)?;
        }
        let budget = Budget::new(settings.lock_timeout_ms);
        for other in catalog::referenced_tables(context.table.oid)? {
            lock::take(other.oid, &other.name, Mode::ShareRowExclusive, &budget)?;
        }
        lock::take(oid, &partition.name, Mode::AccessExclusive, &budget)?;
        budget.limit_waits();
        for key in &missing {
            key.add_unchecked_to(table)?;
        }
        Ok(Some(gone))
    })
}

/// Has a parked table prove what attaching would look at under locks: that its rows obey its foreign keys and lie within its
/// range; and makes the standard indexes that it lacks. Where it was detached by the worker, all of that is so already.
///
/// # Errors
///
/// What the server says of rows that don't obey.
pub fn check(context: &Context, partition: &Retirement, settings: Settings) -> Result<()> {
    let oid = Oid::from(partition.oid);
    let (schema, name) = claim(context, partition, settings)?;
    let table = Qualified { schema: &schema, name: &name };
    create::as_owner(context, || {
        for key in foreign_key::of(oid)? {
            key.validate(table)?;
        }
        if ddl::proofs_of_bounds(oid, &partition.range)?.is_empty() {
            ddl::prove_bounds(table, &partition.range)?;
        }
        for standard in STANDARD_INDEXES {
            if !index::on_columns(oid, standard.columns)?.iter().any(|index| index.valid) {
                index::create(&standard, table)?;
            }
        }
        Ok(())
    })
}

/// Attaches a parked table that has been checked; gives, as text, what it lacks of its parent's protection.
///
/// # Errors
///
/// 55P03 where a lock can't be had in time; what the server says where the range is taken.
pub fn attach(
    context: &Context,
    partition: &Retirement,
    settings: Settings,
) -> Result<Vec<String>> {
    let oid = Oid::from(partition.oid);
    let (schema, name) = claim(context, partition, settings)?;
    let qualified = Qualified { schema: &schema, name: &name };
    let table = &context.table;
    let notes = create::as_owner(context, || {
        lock::take_turn(table.oid, catalog::EVENTS, settings.lock_timeout_ms)?;
        query::begin_writing()?;
        let budget = Budget::new(settings.lock_timeout_ms);
        lock::take(table.oid, catalog::EVENTS, Mode::ShareUpdateExclusive, &budget)?;
        if let Some(default) = DefaultPartition::find(context)? {
            default.lock(&budget)?;
        }
        for other in catalog::referenced_tables(table.oid)? {
            // It has a foreign key of its own already, and attaching hands that over to the event log's.
            lock::take(other.oid, &other.name, Mode::AccessExclusive, &budget)?;
        }
        lock::take(oid, &partition.name, Mode::AccessExclusive, &budget)?;
        if server::name_of_relation(oid).as_ref() != Some(&(schema.clone(), name.clone())) {
            return Err(changed(partition));
        }
        let proofs = ddl::proofs_of_bounds(oid, &partition.range)?;
        budget.limit_waits();
        let notes = protection::open_again(table, oid, qualified)?;
        ddl::attach(table, qualified, &partition.range)?;
        protection::adopt_identity_index(table, oid, qualified)?;
        ddl::drop_constraints(qualified, &proofs)?;
        Ok(notes)
    })?;
    identity::run_as(context.extension.owner, || retired::take_detached(oid))?;
    Ok(notes)
}

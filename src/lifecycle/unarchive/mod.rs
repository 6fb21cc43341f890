//! Bringing an archived partition back: a table is built as a new partition is, filled from the archive, compared with what was
//! archived, and attached.
//!
//! Attaching looks whether the run of every event is there, and writers of runs wait meanwhile. For more than
//! [`ROWS_AT_ONCE`] rows that would take too long, so it is done in two transactions: the first fills the table and gives it
//! its foreign key without looking; the second looks, which nobody waits for, and attaches, which reads nothing any more.

mod attach;
mod load;

use pgrx::pg_sys::Oid;

use crate::db::archived::{self, Entry};
use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::{catalog, ddl, foreign_key, load as loading, query};
use crate::domain::partition::Partition;
use crate::error::archive::ArchiveFault;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::create;
use crate::pg::{bound, identity, server};
use crate::settings::Settings;

/// How many rows are looked at while writers of runs wait: some 10 ms.
const ROWS_AT_ONCE: i64 = 1_000;

/// What came of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The partition's name.
    pub name: String,
    /// How far it came.
    pub stage: Stage,
    /// How many rows the partition has.
    pub rows: i64,
    /// How many events were left out because their run is gone.
    pub left_out: i64,
    /// Where the rows came from: the table, or the path or URI of the file.
    pub location: String,
    /// What the partition lacks of the log's protection.
    pub notes: Vec<String>,
}

/// How far a restore came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The rows are in a table of that name, which isn't part of the log yet: a further call attaches it.
    Prepared,
    /// It is part of the log again.
    Attached,
}

/// Brings back the partition of that name from its latest archive; `None` where there is no archive of that name.
///
/// To be called as the caller's own role, or as the superuser of a worker: it acts as the log's owner by itself. Where it gives
/// [`Stage::Prepared`], it is to be called again in another transaction.
///
/// # Errors
///
/// Where an attached partition holds a part of its range, the name is taken, the archive is not what was written, or a
/// lock cannot be had in time.
pub fn restore(
    context: &Context,
    partition_name: &str,
    settings: Settings,
) -> Result<Option<Restored>> {
    let owner = context.extension.owner;
    let entry = archived::as_their_owner(owner, settings.lock_timeout_ms, || {
        archived::of_name(partition_name)
    })?;
    let Some(entry) = entry else { return Ok(None) };
    require_free_range(context, &entry)?;
    create::require_able_owner(context)?;
    let restore = Restore { context, entry: &entry, settings };
    identity::run_as_seeing_all(context.table.owner, || {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        query::begin_writing()?;
        match restore.prepared()? {
            Some(table) => restore.complete(table),
            None => restore.begin(),
        }
    })
    .map(Some)
}

/// Refuses where an attached partition holds a part of the range.
fn require_free_range(context: &Context, entry: &Entry) -> Result<()> {
    let holds = |p: &&Partition| p.range().is_some_and(|range| range.overlaps(&entry.range));
    match catalog::partitions(&context.table)?.iter().find(holds) {
        Some(partition) => Err(ArchiveFault::RangeHeld {
            name: entry.partition.clone(),
            partition: partition.name.clone(),
            range: partition.range().map(|range| range.to_string()).unwrap_or_default(),
        }
        .into()),
        None => Ok(()),
    }
}

/// A restore from one archive.
struct Restore<'a> {
    context: &'a Context,
    entry: &'a Entry,
    settings: Settings,
}

impl Restore<'_> {
    /// The name of the partition to be.
    fn name(&self) -> Qualified<'_> {
        Qualified { schema: &self.context.table.schema, name: &self.entry.partition }
    }

    /// The table that an earlier call has filled, if it is still the same one.
    fn prepared(&self) -> Result<Option<Oid>> {
        let Some(oid) = self.entry.restoring else { return Ok(None) };
        let name = (self.context.table.schema.clone(), self.entry.partition.clone());
        let is_ours = server::name_of_relation(oid) == Some(name)
            && bound::parent_of(oid).is_none()
            && catalog::owner_of(oid)?.map(|(owner, _)| owner) == Some(self.context.table.owner)
            && catalog::has_constraint(oid, ddl::PROOF)?;
        Ok(is_ours.then_some(oid))
    }

    /// Builds and fills the table; attaches it where that is quickly done.
    fn begin(&self) -> Result<Restored> {
        let (log, entry, name) = (&self.context.table, self.entry, self.name());
        if server::find_relation(log.schema_oid, &entry.partition).is_some() {
            return Err(ArchiveFault::NameTaken(entry.partition.clone()).into());
        }
        let (oid, notes) = create::build_table(self.context, &entry.partition)?;
        ddl::add_range_check(name, &entry.range)?;
        load::from_archive(self.context, entry, name, oid)?;
        let rows = entry.written.contents.rows;
        if rows <= ROWS_AT_ONCE || catalog::referenced_tables(log.oid)?.is_empty() {
            return Ok(Restored { notes, ..self.attach(oid, attach::Reads::EveryRow)? });
        }
        self.note_restoring(Some(oid))?;
        let referenced = catalog::referenced_tables(log.oid)?;
        // What was loaded would be lost.
        lock::patiently(self.settings.lock_timeout_ms, |budget| {
            referenced.iter().try_for_each(|other| {
                lock::take(other.oid, &other.name, Mode::ShareRowExclusive, budget)
            })
        })?;
        for key in foreign_key::of(log.oid)? {
            key.add_unchecked_to(name)?;
        }
        Ok(self.restored(Stage::Prepared, rows, notes))
    }

    /// Looks whether the runs are there, and attaches what the first call has filled.
    fn complete(&self, oid: Oid) -> Result<Restored> {
        let budget = Budget::new(self.settings.lock_timeout_ms);
        // Keeps a second restore out; what deletes runs goes on.
        lock::take(oid, &self.entry.partition, Mode::ShareUpdateExclusive, &budget)?;
        if self.prepared()? != Some(oid) {
            return Err(Error::Changed { partition: self.entry.partition.clone() });
        }
        let name = self.name();
        loading::analyze(name)?;
        for key in foreign_key::of(oid)? {
            key.remove_orphans(name)?;
            key.validate(name)?;
        }
        let restored = self.attach(oid, attach::Reads::Nothing)?;
        self.note_restoring(None)?;
        Ok(restored)
    }

    fn note_restoring(&self, relation: Option<Oid>) -> Result<()> {
        let owner = self.context.extension.owner;
        archived::as_their_owner(owner, self.settings.lock_timeout_ms, || {
            archived::set_restoring(self.entry.id, relation)
        })
    }

    fn restored(&self, stage: Stage, rows: i64, notes: Vec<String>) -> Restored {
        Restored {
            name: self.entry.partition.clone(),
            stage,
            rows,
            left_out: self.entry.written.contents.rows.saturating_sub(rows),
            location: self.entry.written.location.clone(),
            notes,
        }
    }
}

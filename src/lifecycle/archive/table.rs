//! Archiving into the table `workflow_events_archive`.
//!
//! Rows that an earlier archive of the same range has put there stay, because the partition that they came from is gone: the
//! month may have been made anew for late events. Those that the partition has too are replaced.

use super::source::{Source, contents};
use super::{Archived, Job};
use crate::db::archive_table::ArchiveTable;
use crate::db::archived::{self, New};
use crate::db::catalog;
use crate::domain::archive::Kind;
use crate::domain::digest::Digest;
use crate::domain::partition::Range;
use crate::error::archive::ArchiveFault;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::pg::snapshot;

/// Copies the rows, and compares.
pub fn write(job: &Job, source: &Source) -> Result<Archived> {
    let log = &job.context.table;
    let range = &job.partition.range;
    if ArchiveTable::find(log)?.is_none() && !catalog::may_create_in(log.owner, log.schema_oid)? {
        let (role, schema) = (log.owner_name.clone(), log.schema.clone());
        return Err(Error::NoCreatePrivilege { role, schema });
    }
    let archive = ArchiveTable::find_or_create(log)?;
    let slice = || snapshot::with_latest(|| archive.digest(range));
    let mut expected = slice()?;
    if expected.rows() > 0 {
        require_ours(job, &archive, &expected)?;
        archive.remove_same(source.qualified(), range)?;
        expected = slice()?;
    }
    let before = source.before()?;
    archive.insert(source.qualified(), source.oid)?;
    let found = slice()?;
    // After the copy: what has changed since it began is noticed.
    let own = source.current()?;
    expected.merge(&own);
    if found != expected {
        let location = archive.name().plain();
        return Err(source.mismatch(&location, (before.as_ref(), &own), (&expected, &found)));
    }
    let (of_partition, contents) = (contents(&own), contents(&found));
    job.note(&New {
        kind: Kind::Table,
        location: archive.name().plain(),
        rows: of_partition.rows,
        bytes: archive.size(range)?,
        digest: of_partition.digest,
        contents,
    })
}

/// Refuses where rows of the range are there that no archiving has put there, or that were changed since.
fn require_ours(job: &Job, archive: &ArchiveTable, present: &Digest) -> Result<()> {
    let present = contents(present);
    let reason = match job.noting(|| archived::in_table(&job.partition.range))? {
        Some(entry) if entry.written.contents == present => return Ok(()),
        Some(entry) => format!(
            "Archive {} has put {} there, and there are {present}.",
            entry.id, entry.written.contents
        ),
        None => format!("There are {present}, and no archive of that range is noted."),
    };
    let (table, partition) = (archive.name().plain(), job.partition.name.clone());
    Err(ArchiveFault::ForeignRows { table, partition, reason }.into())
}

/// What the archive table has of a range.
pub fn digest(context: &Context, range: &Range) -> Result<Digest> {
    match ArchiveTable::find(&context.table)? {
        Some(archive) => snapshot::with_latest(|| archive.digest(range)),
        None => Ok(Digest::default()),
    }
}

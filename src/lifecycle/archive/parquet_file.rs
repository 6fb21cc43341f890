//! Archiving into a file of parquet, through the extension `pg_parquet`: into a directory of the server, or an object store.

use super::csv_file::split;
use super::source::{Source, contents};
use super::{Archived, Job};
use crate::db::archive_table::stored_columns;
use crate::db::archived::{Entry, New};
use crate::db::ident::Qualified;
use crate::db::{catalog, ddl, parquet, rows};
use crate::domain::archive::{Directory, Format, Kind, can_name_file, file_names};
use crate::domain::digest::Digest;
use crate::error::archive::ArchiveFault;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::pg::{snapshot, subtransaction};
use crate::storage::{Folder, Writer};

/// The table that a file is read back into; it is dropped before anybody sees it.
const STAGING: &str = "workflow_events_archive_check";

/// Writes the file, and compares.
pub fn write(job: &Job, source: &Source, directory: &Directory) -> Result<Archived> {
    let name = &job.partition.name;
    if !can_name_file(name) {
        return Err(ArchiveFault::Name(name.clone()).into());
    }
    if !parquet::is_available()? {
        return Err(ArchiveFault::NoParquet.into());
    }
    match directory {
        Directory::Local(path) => write_local(job, source, path),
        Directory::Store(uri) => write_to_store(job, source, uri),
    }
}

/// Another name first, then to disk and in place, as files of CSV.
fn write_local(job: &Job, source: &Source, directory: &str) -> Result<Archived> {
    let folder = Folder::open(directory)?;
    folder.require_writable()?;
    let names = || file_names(&job.partition.name, Format::Parquet);
    let first = names().next().unwrap_or_default();
    let mut taken = None;
    for name in names() {
        if !folder.has(&name)? {
            break;
        }
        // A crash came before it was noted; or it is another one.
        let path = folder.path_of(&name);
        if let Ok(found) = subtransaction::run(|| digest_at(job.context, &path)) {
            let reader = folder.read(&name)?;
            let wanted = match &mut taken {
                Some(digest) => digest,
                none => none.insert(source.current()?),
            };
            if found == *wanted {
                Writer::complete(&folder, &reader, &first)?;
                return job.note(&new(path, reader.size, &found));
            }
        }
    }
    let temporary = Writer::reserve(&folder, &first)?;
    let before = source.before()?;
    copy_out(source, &temporary)?;
    let placed = Writer::adopt(&folder, &first)?.place(names())?;
    let path = folder.path_of(&placed.name);
    let written = require_same(job, source, &path, before.as_ref())?;
    let archived = job.note(&new(path, placed.size, &written))?;
    placed.keep();
    Ok(archived)
}

/// Straight to its name: an object appears as a whole, or not at all.
fn write_to_store(job: &Job, source: &Source, store: &str) -> Result<Archived> {
    for name in file_names(&job.partition.name, Format::Parquet) {
        let uri = format!("{store}/{name}");
        if parquet::exists(&uri)? {
            let found = subtransaction::run(|| digest_at(job.context, &uri));
            let current = source.current()?;
            match found {
                Ok(found) if found == current => return job.note(&new(uri, 0, &found)),
                _ => continue,
            }
        }
        let before = source.before()?;
        copy_out(source, &uri)?;
        let written = require_same(job, source, &uri, before.as_ref())?;
        return job.note(&new(uri, 0, &written));
    }
    Err(ArchiveFault::Name(job.partition.name.clone()).into())
}

fn new(location: String, bytes: i64, digest: &Digest) -> New {
    let contents = contents(digest);
    New {
        kind: Kind::File(Format::Parquet),
        location,
        rows: contents.rows,
        bytes,
        digest: contents.digest.clone(),
        contents,
    }
}

/// Has `pg_parquet` write the rows.
fn copy_out(source: &Source, to: &str) -> Result<()> {
    let columns = stored_columns(source.oid)?;
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    parquet::write(source.qualified(), &columns, to)
}

/// Reads back what was written, and compares it with the partition; the digest.
fn require_same(
    job: &Job,
    source: &Source,
    location: &str,
    before: Option<&Digest>,
) -> Result<Digest> {
    let (found, now) = (digest_at(job.context, location)?, source.current()?);
    if found == now {
        Ok(found)
    } else {
        Err(source.mismatch(location, (before, &now), (&now, &found)))
    }
}

/// The digest of the rows in the file of an archive.
pub fn digest(context: &Context, entry: &Entry) -> Result<Digest> {
    require_plain(entry)?;
    digest_at(context, &entry.written.location)
}

/// Reads the file of an archive into a table of its own, for the time of `work`.
pub fn with_archived_rows<T>(
    context: &Context,
    entry: &Entry,
    work: impl FnOnce(Qualified) -> Result<T>,
) -> Result<T> {
    require_plain(entry)?;
    with_rows(context, &entry.written.location, work)
}

/// Refuses a location that isn't that of a file of the partition, and symbolic links.
fn require_plain(entry: &Entry) -> Result<()> {
    let (folder, name) = split(entry, Format::Parquet)?;
    if !folder.contains("://") {
        Folder::open(folder)?.read(name)?;
    }
    Ok(())
}

fn digest_at(context: &Context, location: &str) -> Result<Digest> {
    with_rows(context, location, |staging| {
        let oid = catalog::find_table(context.table.schema_oid, staging.name)?;
        let oid = oid.ok_or_else(|| Error::Internal(format!("table {staging} is not there")))?;
        snapshot::with_latest(|| rows::digest(oid, None))
    })
}

/// Reads a file into a table of its own, for the time of `work`. A temporary one can't be made in a restricted operation.
fn with_rows<T>(
    context: &Context,
    location: &str,
    work: impl FnOnce(Qualified) -> Result<T>,
) -> Result<T> {
    if !parquet::is_available()? {
        return Err(ArchiveFault::NoParquet.into());
    }
    let staging = Qualified { schema: &context.table.schema, name: STAGING };
    ddl::create_staging(context.table.qualified(), staging)?;
    let columns = stored_columns(context.table.oid)?;
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    parquet::read(staging, &columns, location)?;
    let result = work(staging)?;
    ddl::drop_table(staging)?;
    Ok(result)
}

//! Filling a table from an archive, and comparing it with what was archived.

use std::collections::BTreeSet;

use pgrx::pg_sys::Oid;

use crate::db::archive_table::{ArchiveTable, stored_columns};
use crate::db::archived::Entry;
use crate::db::ident::Qualified;
use crate::db::load::{self, Loader, Target};
use crate::db::rows;
use crate::domain::archive::{Format, Kind};
use crate::domain::digest::Digest;
use crate::error::archive::ArchiveFault;
use crate::error::{Error, Result};
use crate::lifecycle::archive::{self, contents, differs};
use crate::lifecycle::context::Context;
use crate::pg::snapshot;

/// Fills the new table `name`, to be called as the log's owner.
///
/// # Errors
///
/// Where the archive is gone, or doesn't have what was archived any more.
pub fn from_archive(context: &Context, entry: &Entry, name: Qualified, oid: Oid) -> Result<()> {
    let targets = load::targets(oid)?;
    let archived_columns = match entry.written.kind {
        Kind::Table => from_table(context, entry, name, &targets)?,
        Kind::File(Format::Csv) => from_csv(context, entry, name, &targets)?,
        Kind::File(Format::Parquet) => from_parquet(context, entry, name, &targets)?,
    };
    // A column that the log has got since has its default, and the archive knows nothing of it.
    let mut digest = Digest::default();
    snapshot::with_latest(|| {
        rows::for_each(oid, None, |row| {
            digest.add(row.columns().filter(|(column, _)| archived_columns.contains(*column)));
            Ok(())
        })
    })?;
    let found = contents(&digest);
    if found == entry.written.contents {
        Ok(())
    } else {
        Err(differs(&entry.written.location, &entry.written.contents, &found))
    }
}

/// Names of columns, as bytes.
type Columns = BTreeSet<Vec<u8>>;

fn names_of(columns: &[String]) -> Columns {
    columns.iter().map(|name| name.clone().into_bytes()).collect()
}

fn from_table(
    context: &Context,
    entry: &Entry,
    name: Qualified,
    targets: &[Target],
) -> Result<Columns> {
    let Some(archive) = ArchiveTable::find(&context.table)? else {
        return Err(Error::NotSetUp { table: entry.written.location.clone() });
    };
    let columns: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    archive.copy_out(&entry.range, name, &columns)?;
    Ok(names_of(&archive.columns()?))
}

fn from_csv(
    context: &Context,
    entry: &Entry,
    name: Qualified,
    targets: &[Target],
) -> Result<Columns> {
    let known = stored_columns(context.table.oid)?;
    let mut filling: Option<(Loader, Vec<usize>)> = None;
    let mut columns = Columns::new();
    archive::for_each_row(entry, |header, record| {
        let (loader, places) = match &mut filling {
            Some(filling) => filling,
            none => {
                if let Some(column) = header.iter().find(|column| !known.contains(column)) {
                    let (path, column) = (entry.written.location.clone(), column.clone());
                    return Err(ArchiveFault::Column { path, column }.into());
                }
                columns = names_of(header);
                none.insert(loader(name, targets, header)?)
            }
        };
        loader.add(places.iter().map(|place| record.field(*place)))
    })?;
    if let Some((loader, _)) = filling {
        loader.finish()?;
    }
    Ok(columns)
}

/// A loader for the columns that the file has, and where each stands in it.
fn loader(name: Qualified, targets: &[Target], header: &[String]) -> Result<(Loader, Vec<usize>)> {
    let place = |target: &Target| header.iter().position(|column| *column == target.name);
    let (present, places): (Vec<Target>, Vec<usize>) =
        targets.iter().filter_map(|target| Some((target.clone(), place(target)?))).unzip();
    Ok((Loader::new(name, &present)?, places))
}

fn from_parquet(
    context: &Context,
    entry: &Entry,
    name: Qualified,
    targets: &[Target],
) -> Result<Columns> {
    let columns: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    archive::with_parquet_rows(context, entry, |staging| load::copy(staging, name, &columns))?;
    Ok(names_of(&stored_columns(context.table.oid)?))
}

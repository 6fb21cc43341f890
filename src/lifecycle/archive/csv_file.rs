//! Archiving into a file of CSV: written as the rows are read, put in place, and read back from the disk.

use super::source::{Source, contents, differs};
use super::{Archived, Job};
use crate::db::archive_table::stored_columns;
use crate::db::archived::{Entry, New};
use crate::db::rows;
use crate::domain::archive::{Format, Kind, can_name_file, file_names, split_path};
use crate::domain::csv::{self, CsvError, Record};
use crate::domain::digest::Digest;
use crate::error::archive::ArchiveFault;
use crate::error::{Error, Result};
use crate::pg::{server, snapshot};
use crate::storage::{Folder, Reader, Writer};

/// Writes the file, and compares.
pub fn write(job: &Job, source: &Source, directory: &str) -> Result<Archived> {
    let name = &job.partition.name;
    if !can_name_file(name) {
        return Err(ArchiveFault::Name(name.clone()).into());
    }
    let folder = Folder::open(directory)?;
    folder.require_writable()?;
    let names = || file_names(name, Format::Csv);
    let new = |file: &str, bytes: i64, digest: &Digest| {
        let contents = contents(digest);
        New {
            kind: Kind::File(Format::Csv),
            location: folder.path_of(file),
            rows: contents.rows,
            bytes,
            digest: contents.digest.clone(),
            contents,
        }
    };
    let first = names().next().unwrap_or_default();
    if let Some((file, bytes, digest)) = adopted(&folder, source, names(), &first)? {
        return job.note(&new(&file, bytes, &digest));
    }
    let mut writer = Writer::create(&folder, &first)?;
    let written = write_rows(source, &mut writer)?;
    let placed = writer.place(names())?;
    let found = digest_of(&mut folder.read(&placed.name)?)?;
    if found != written {
        let path = folder.path_of(&placed.name);
        return Err(differs(&path, &contents(&written), &contents(&found)));
    }
    source.require_unchanged(&written)?;
    let archived = job.note(&new(&placed.name, placed.size, &written))?;
    placed.keep();
    Ok(archived)
}

/// A file that is there already and has the rows of the partition: a crash came before it was noted.
fn adopted(
    folder: &Folder,
    source: &Source,
    names: impl Iterator<Item = String>,
    first: &str,
) -> Result<Option<(String, i64, Digest)>> {
    let mut wanted = None;
    for name in names {
        if !folder.has(&name)? {
            break;
        }
        // One that isn't ours, or was cut off, is not looked at any further.
        let Ok(mut reader) = folder.read(&name) else { continue };
        let Ok(found) = digest_of(&mut reader) else { continue };
        let wanted = match &mut wanted {
            Some(digest) => digest,
            none => none.insert(source.current()?),
        };
        if found == *wanted {
            Writer::complete(folder, &reader, first)?;
            return Ok(Some((name, reader.size, found)));
        }
    }
    Ok(None)
}

/// Writes header and rows, the columns in the table's order; the digest of what was written.
fn write_rows(source: &Source, writer: &mut Writer) -> Result<Digest> {
    let columns = stored_columns(source.oid)?;
    // Rows come with their columns in the order of their names.
    let order = sorted(&columns);
    let mut place = vec![0; columns.len()];
    for (at, column) in order.iter().enumerate() {
        place[*column] = at;
    }
    let mut line = Vec::new();
    csv::write_record(&mut line, columns.iter().map(|name| Some(name.as_bytes())));
    writer.write(&line)?;
    let mut digest = Digest::default();
    snapshot::with_latest(|| {
        rows::for_each(source.oid, None, |row| {
            digest.add(row.columns());
            let values: Vec<_> = row.columns().map(|(_, value)| value).collect();
            line.clear();
            csv::write_record(&mut line, place.iter().map(|at| values.get(*at).copied().flatten()));
            writer.write(&line)
        })
    })?;
    Ok(digest)
}

/// The places of the names in the order of the names.
fn sorted(names: &[String]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|a, b| names[*a].as_bytes().cmp(names[*b].as_bytes()));
    order
}

/// The file of an archive.
fn open(entry: &Entry) -> Result<Reader> {
    let (folder, name) = split(entry, Format::Csv)?;
    Folder::open(folder)?.read(name)
}

/// The directory and the name of the file of an archive.
///
/// # Errors
///
/// Where its location is not that of a file of its partition: no other file of the server is read.
pub fn split(entry: &Entry, format: Format) -> Result<(&str, &str)> {
    split_path(&entry.written.location, &entry.partition, format).ok_or_else(|| {
        ArchiveFault::Location { id: entry.id, partition: entry.partition.clone() }.into()
    })
}

/// The digest of the rows in the file of an archive.
pub fn digest(entry: &Entry) -> Result<Digest> {
    digest_of(&mut open(entry)?)
}

fn digest_of(reader: &mut Reader) -> Result<Digest> {
    let mut digest = Digest::default();
    let mut order = Vec::new();
    read(reader, |names, record| {
        if record.number == 2 {
            order = sorted(names);
        }
        digest.add(order.iter().map(|at| (names[*at].as_bytes(), record.field(*at))));
        Ok(())
    })?;
    Ok(digest)
}

/// Calls `each` with every row in the file of an archive, and the names of its columns.
pub fn for_each_row(
    entry: &Entry,
    each: impl FnMut(&[String], Record) -> Result<()>,
) -> Result<()> {
    read(&mut open(entry)?, each)
}

/// What reading a file may come to.
enum Stop {
    Csv(CsvError),
    Other(Error),
}

impl From<CsvError> for Stop {
    fn from(error: CsvError) -> Self {
        Self::Csv(error)
    }
}

fn read(reader: &mut Reader, mut each: impl FnMut(&[String], Record) -> Result<()>) -> Result<()> {
    let mut csv = csv::Reader::default();
    let mut names = Vec::new();
    let path = reader.path().to_owned();
    let fault = |reason| Error::from(ArchiveFault::Csv { path: path.clone(), reason });
    reader.for_each(|piece| {
        server::check_for_interrupts();
        let fed = csv.feed(piece, |record| {
            if record.number == 1 {
                let name = |field: Option<&[u8]>| {
                    String::from_utf8_lossy(field.unwrap_or_default()).into_owned()
                };
                names = record.fields().map(name).collect();
                return Ok(());
            }
            each(&names, record).map_err(Stop::Other)
        });
        fed.map_err(|stop| match stop {
            Stop::Csv(reason) => fault(reason),
            Stop::Other(error) => error,
        })
    })?;
    csv.finish().map_err(fault)
}

//! Archiving: the rows of a partition are written somewhere else and read back from there, before it may be dropped.
//!
//! What is noted of an archive in `meshhook_events.archived_partition` was read back and compared with the partition, and is
//! in the same transaction: whoever drops looks for a committed note.

mod csv_file;
mod parquet_file;
mod permission;
mod source;
mod table;

use serde_json::json;

pub use csv_file::for_each_row;
pub use parquet_file::with_archived_rows as with_parquet_rows;
pub use permission::{PolicyRow, require_permitted};
pub use source::{contents, differs};

use self::source::Source;
use crate::db::archived::{self, Contents, Entry, New};
use crate::db::{catalog, ledger, retired};
use crate::domain::archive::{Archive, Directory, Format, Kind};
use crate::domain::partition::{Extent, Partition};
use crate::domain::plan::Retirement;
use crate::error::archive::ArchiveFault;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::pg::{identity, subtransaction};
use crate::settings::Settings;

/// An archive that was read back and is equal to the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// Its number in `meshhook_events.archived_partition`.
    pub id: i64,
    /// What it is.
    pub kind: Kind,
    /// The table, or the path or URI of the file.
    pub location: String,
    /// How many rows of the partition are in it.
    pub rows: i64,
    /// How large it is, in bytes.
    pub bytes: i64,
    /// The digest over the rows of the partition.
    pub digest: String,
}

impl Archived {
    fn of(id: i64, new: &New) -> Self {
        Self {
            id,
            kind: new.kind,
            location: new.location.clone(),
            rows: new.rows,
            bytes: new.bytes,
            digest: new.digest.clone(),
        }
    }
}

/// Archives a partition as the policy says: an attached one, or one that we have detached. One transaction; it must
/// be committed before anything is dropped. What is archived already, and still reads back, is given as it is.
///
/// To be called as the caller's own role, or as the superuser of a worker: it acts as the log's owner by itself.
///
/// # Errors
///
/// Where the policy wants no archive, the rows changed meanwhile, or the archive can't be written or read back; nothing
/// is kept of it then.
pub fn archive(context: &Context, partition: &Retirement, settings: Settings) -> Result<Archived> {
    if context.policy.archive == Archive::None {
        return Err(ArchiveFault::NotWanted.into());
    }
    let role = identity::current_role();
    let job = Job { context, partition, settings, role };
    identity::run_as_seeing_all(context.table.owner, || {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        let source = Source::open(&job)?;
        if let Some(entry) = job.noting(|| archived::of_relation(partition))?
            && reads_back(context, &entry)
            && source.digest()? == (entry.written.rows, entry.written.digest.clone())
        {
            return Ok(Archived::of(entry.id, &entry.written));
        }
        match &context.policy.archive {
            Archive::None => Err(ArchiveFault::NotWanted.into()),
            Archive::Table => table::write(&job, &source),
            Archive::File { format: Format::Csv, directory } => match directory {
                Directory::Local(path) => csv_file::write(&job, &source, path),
                Directory::Store(_) => Err(ArchiveFault::NotWanted.into()),
            },
            Archive::File { format: Format::Parquet, directory } => {
                parquet_file::write(&job, &source, directory)
            }
        }
    })
}

/// Archives the attached or parked partition of that name, for its owner.
///
/// # Errors
///
/// Where there is no partition of that name; otherwise as [`archive`].
pub fn by_hand(partition_name: &str, settings: Settings) -> Result<Archived> {
    let context = Context::load_for_change("archive_workflow_events_partition")?;
    let partition = find(&context, partition_name, settings)?;
    let archived = archive(&context, &partition, settings)?;
    let details = json!({
        "archived": partition.name,
        "kind": archived.kind.as_str(),
        "location": archived.location,
        "rows": archived.rows,
        "bytes": archived.bytes,
        "digest": archived.digest,
    });
    ledger::record(
        &context.extension,
        "archive",
        ledger::Status::Ok,
        details,
        settings.lock_timeout_ms,
    )?;
    Ok(archived)
}

/// The attached partition of that name, or the parked one.
fn find(context: &Context, name: &str, settings: Settings) -> Result<Retirement> {
    let partitions = catalog::partitions(&context.table)?;
    let mut named: Vec<&Partition> = partitions.iter().filter(|p| p.name == name).collect();
    named.sort_by_key(|p| p.schema != context.table.schema);
    match named.first().map(|p| (p.oid, &p.extent)) {
        Some((oid, Extent::Range(range))) => {
            Ok(Retirement { oid, name: name.to_owned(), range: *range })
        }
        Some((_, Extent::Default)) => Err(unsuitable(name, "the DEFAULT partition")),
        Some((_, Extent::Unreadable(_))) => Err(unsuitable(name, "of a range that can't be read")),
        None => {
            let owner = context.extension.owner;
            archived::as_their_owner(owner, settings.lock_timeout_ms, || {
                archived::parked(&context.table, name)
            })?
            .ok_or_else(|| ArchiveFault::NoPartition(name.to_owned()).into())
        }
    }
}

fn unsuitable(partition: &str, what: &'static str) -> Error {
    ArchiveFault::Unsuitable { partition: partition.to_owned(), what }.into()
}

/// Archiving one partition.
struct Job<'a> {
    context: &'a Context,
    partition: &'a Retirement,
    settings: Settings,
    /// The role that has asked for it.
    role: pgrx::pg_sys::Oid,
}

impl Job<'_> {
    /// Runs `work` on the extension's tables.
    fn noting<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        archived::as_their_owner(self.context.extension.owner, self.settings.lock_timeout_ms, work)
    }

    /// Notes what was written and read back.
    fn note(&self, new: &New) -> Result<Archived> {
        let id = self.noting(|| archived::insert(self.partition, new, self.role))?;
        Ok(Archived::of(id, new))
    }

    /// Whether we have detached the partition.
    fn is_noted_as_retired(&self) -> Result<bool> {
        self.noting(|| retired::is_noted(self.partition.oid.into()))
    }
}

/// Whether what was written is still to be found where it was written to.
fn reads_back(context: &Context, entry: &Entry) -> bool {
    // What the server raises says that it isn't.
    subtransaction::run(|| found(context, entry)).is_ok_and(|found| found == entry.written.contents)
}

/// What is to be found at the location of an archive.
fn found(context: &Context, entry: &Entry) -> Result<Contents> {
    let digest = match entry.written.kind {
        Kind::Table => table::digest(context, &entry.range)?,
        Kind::File(Format::Csv) => csv_file::digest(entry)?,
        Kind::File(Format::Parquet) => parquet_file::digest(context, entry)?,
    };
    Ok(contents(&digest))
}

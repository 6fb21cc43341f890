//! The partition that is archived.

use pgrx::pg_sys::Oid;

use super::{Job, unsuitable};
use crate::db::archived::Contents;
use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode};
use crate::db::{catalog, rows};
use crate::domain::digest::Digest;
use crate::domain::partition::Extent;
use crate::error::{Error, Result};
use crate::pg::relation::Relation;
use crate::pg::{bound, server, snapshot};

/// A partition, locked against being dropped or renamed.
pub struct Source {
    /// Its OID.
    pub oid: Oid,
    schema: String,
    name: String,
    /// Whether its rows may change while they are read: it is attached, or goes with its runs still.
    may_change: bool,
}

impl Source {
    /// Locks it as a reader does, and looks whether it is still what was decided on.
    ///
    /// To be called as the log's owner.
    ///
    /// # Errors
    ///
    /// [`Error::Changed`] where it isn't; where its rows are somewhere else, what it is.
    pub fn open(job: &Job) -> Result<Self> {
        let (partition, log) = (job.partition, &job.context.table);
        let oid = Oid::from(partition.oid);
        lock::take(
            oid,
            &partition.name,
            Mode::AccessShare,
            &Budget::new(job.settings.lock_timeout_ms),
        )?;
        let changed = || Error::Changed { partition: partition.name.clone() };
        let (schema, name) = server::name_of_relation(oid).ok_or_else(changed)?;
        let attached = match bound::parent_of(oid) {
            Some(parent) if parent == log.oid => {
                if bound::extent_of(oid) != Some(Extent::Range(partition.range)) {
                    return Err(changed());
                }
                true
            }
            Some(_) => return Err(changed()),
            None if job.is_noted_as_retired()? => false,
            None => return Err(changed()),
        };
        if catalog::owner_of(oid)?.map(|(owner, _)| owner) != Some(log.owner) {
            return Err(unsuitable(&name, "not owned by the owner of workflow_events"));
        }
        let kind = Relation::open(oid).ok_or_else(changed)?.class().relkind.cast_unsigned();
        match kind {
            b'r' => {}
            b'p' => return Err(unsuitable(&name, "partitioned itself")),
            _ => return Err(unsuitable(&name, "not an ordinary table")),
        }
        let may_change = attached || !catalog::referenced_tables(oid)?.is_empty();
        Ok(Self { oid, schema, name, may_change })
    }

    /// Its name.
    #[must_use]
    pub fn qualified(&self) -> Qualified<'_> {
        Qualified { schema: &self.schema, name: &self.name }
    }

    /// Its rows now.
    pub fn current(&self) -> Result<Digest> {
        snapshot::with_latest(|| rows::digest(self.oid, None))
    }

    /// How many rows it has now, and the digest over them.
    pub fn digest(&self) -> Result<(i64, String)> {
        let Contents { rows, digest } = contents(&self.current()?);
        Ok((rows, digest))
    }

    /// Looks whether its rows are still those that were read.
    ///
    /// # Errors
    ///
    /// [`Error::Changed`].
    pub fn require_unchanged(&self, read: &Digest) -> Result<()> {
        if self.may_change && self.current()? != *read {
            return Err(Error::Changed { partition: self.name.clone() });
        }
        Ok(())
    }

    /// Its rows before something else reads them too, in order to tell then whether they have changed meanwhile; `None`
    /// where they can't.
    pub fn before(&self) -> Result<Option<Digest>> {
        self.may_change.then(|| self.current()).transpose()
    }

    /// What it means that other rows were found at `location` than were expected, where `now` are the rows of the partition
    /// and `before` those that it had before.
    #[must_use]
    pub fn mismatch(
        &self,
        location: &str,
        (before, now): (Option<&Digest>, &Digest),
        (expected, found): (&Digest, &Digest),
    ) -> Error {
        match before {
            Some(before) if before != now => Error::Changed { partition: self.name.clone() },
            _ => differs(location, &contents(expected), &contents(found)),
        }
    }
}

/// What is to be found at `location` is not what should be there.
pub fn differs(location: &str, expected: &Contents, found: &Contents) -> Error {
    crate::error::archive::ArchiveFault::Differs {
        location: location.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
    .into()
}

/// A digest as it is noted.
#[must_use]
pub fn contents(digest: &Digest) -> Contents {
    Contents { rows: i64::try_from(digest.rows()).unwrap_or(i64::MAX), digest: digest.to_string() }
}

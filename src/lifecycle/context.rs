//! What every use case starts from: the extension, its table, the policy; and who may go on.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use pgrx::pg_sys::Oid;

use crate::db::catalog::{self, Extension, Table};
use crate::db::{calendar, hold, policy};
use crate::domain::instant::Instant;
use crate::domain::plan::{Facts, Midnights};
use crate::domain::policy::Policy;
use crate::error::{Error, Result};
use crate::pg::{identity, server};

/// The event log that is to be worked on, and how.
#[derive(Clone, Debug)]
pub struct Context {
    /// The extension as installed.
    pub extension: Extension,
    /// The event log.
    pub table: Table,
    /// What is wanted of it.
    pub policy: Policy,
}

impl Context {
    /// Reads all three from the database.
    ///
    /// # Errors
    ///
    /// Where there is no event log that can be maintained, or the policy makes no sense.
    pub fn load() -> Result<Self> {
        let extension = catalog::extension()?;
        let table = catalog::events(&extension)?;
        Ok(Self { extension, table, policy: policy::load()? })
    }

    /// As [`Context::load`], for a function that writes.
    ///
    /// # Errors
    ///
    /// Beside those of `load`: where the transaction must not write, or the caller may not act as the
    /// table's owner.
    pub fn load_for_change(function: &'static str) -> Result<Self> {
        require_writable(function)?;
        let context = Self::load()?;
        require_privileges_of(context.table.owner, &context.table)?;
        Ok(context)
    }

    /// What a plan is made from, as the catalogs are now.
    pub fn facts(&self) -> Result<Facts> {
        let names = catalog::relation_names(self.table.schema_oid)?;
        Ok(Facts { names, ..self.facts_without_names()? })
    }

    /// The same without the names that are taken, of which there are many: enough to see whether anything is to
    /// be made.
    pub fn facts_without_names(&self) -> Result<Facts> {
        let (_, today) = calendar::now(&self.policy.time_zone)?;
        let parent = catalog::EVENTS.to_owned();
        let partitions = catalog::partitions(&self.table)?;
        // They are the extension's own, and who may see a plan may not be able to read them.
        let holds = identity::run_as(self.extension.owner, hold::all)?;
        let detaches_concurrently = !server::has_assertions();
        Ok(Facts {
            parent,
            today,
            partitions,
            names: BTreeSet::new(),
            holds,
            detaches_concurrently,
        })
    }

    /// Where the policy's midnights lie.
    #[must_use]
    pub const fn midnights(&self) -> PolicyMidnights<'_> {
        PolicyMidnights { zone: self.policy.time_zone.as_str() }
    }
}

/// Midnights in a time zone, converted by PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub struct PolicyMidnights<'a> {
    zone: &'a str,
}

impl Midnights for PolicyMidnights<'_> {
    fn midnight(&self, date: NaiveDate) -> Instant {
        if self.zone == "UTC" {
            return Instant::from_utc(date.into());
        }
        // A date of a period always has one: the zone was checked when the policy was read. Should the
        // server disagree, nothing may be planned on a guess.
        match calendar::midnight(date, self.zone) {
            Ok(instant) => instant,
            Err(error) => {
                pgrx::pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR);
                Instant::INFINITY
            }
        }
    }
}

/// The version of this library.
pub const LIBRARY_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Refuses where the SQL objects are not those of this library: its tables may be others.
///
/// # Errors
///
/// [`Error::OtherVersion`].
pub fn require_same_version(extension: &Extension) -> Result<()> {
    if extension.version == LIBRARY_VERSION {
        return Ok(());
    }
    let installed = extension.version.clone();
    Err(Error::OtherVersion { installed, library: LIBRARY_VERSION })
}

/// Refuses where nothing can be written.
///
/// # Errors
///
/// [`Error::Standby`] or [`Error::ReadOnly`].
pub fn require_writable(function: &'static str) -> Result<()> {
    if server::in_recovery() {
        return Err(Error::Standby { function });
    }
    if server::transaction_is_read_only() {
        return Err(Error::ReadOnly { function });
    }
    Ok(())
}

/// Refuses where the caller may not act as `owner`.
///
/// # Errors
///
/// [`Error::NotOwner`].
pub fn require_privileges_of(owner: Oid, table: &Table) -> Result<()> {
    if identity::has_privileges_of(identity::current_role(), owner) {
        Ok(())
    } else {
        Err(Error::NotOwner { table: catalog::EVENTS.to_owned(), owner: table.owner_name.clone() })
    }
}

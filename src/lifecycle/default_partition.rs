//! A DEFAULT partition that the user made: attaching beside it makes PostgreSQL look through all of its rows, while
//! it is locked against everybody.
//!
//! It needs not, where a CHECK constraint proves that there are none of the new range. The worker adds one that is
//! not yet valid, which takes a moment; validates it, which reads the rows while everybody goes on; attaches, and drops
//! it in the same transaction. The constraint stands for as long as the validation takes, and is dropped by the next
//! pass where a crash left it. Until then, an event of the new range is refused, so this is done for periods
//! that lie ahead only.
//!
//! PostgreSQL manual, ALTER TABLE, ATTACH PARTITION; `QueuePartitionConstraintValidation` in
//! `commands/tablecmds.c`.

use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::lock::{self, Budget, Mode, Need};
use crate::db::{catalog, ddl};
use crate::domain::partition::{Extent, Partition, Range};
use crate::error::Result;
use crate::lifecycle::context::Context;
use crate::lifecycle::create;
use crate::pg::subtransaction;
use crate::settings::Settings;

/// Up to this size it is looked through in a few milliseconds, in bytes.
const SMALL_BYTES: i64 = 8 << 20;

/// The DEFAULT partition.
#[derive(Clone, Debug)]
pub struct DefaultPartition {
    oid: Oid,
    schema: String,
    name: String,
}

impl DefaultPartition {
    /// The DEFAULT partition of the event log, where it has one.
    pub fn find(context: &Context) -> Result<Option<Self>> {
        Ok(Self::among(&catalog::partitions(&context.table)?))
    }

    /// The DEFAULT partition among these.
    #[must_use]
    pub fn among(partitions: &[Partition]) -> Option<Self> {
        let default = partitions.iter().find(|p| p.extent == Extent::Default)?;
        let (oid, schema, name) =
            (default.oid.into(), default.schema.clone(), default.name.clone());
        Some(Self { oid, schema, name })
    }

    const fn qualified(&self) -> Qualified<'_> {
        Qualified { schema: self.schema.as_str(), name: self.name.as_str() }
    }

    /// The lock that attaching takes on it.
    #[must_use]
    pub fn need(&self) -> Need {
        Need::Lock { relation: self.oid, name: self.name.clone(), mode: Mode::AccessExclusive }
    }

    /// Locks it against everybody until the end of the transaction.
    ///
    /// # Errors
    ///
    /// 55P03 where it can't be had in time.
    pub fn lock(&self, budget: &Budget) -> Result<()> {
        lock::take(self.oid, &self.name, Mode::AccessExclusive, budget)
    }

    /// Whether looking through it would take longer than others are to be kept waiting.
    pub fn is_large(&self) -> Result<bool> {
        Ok(catalog::heap_bytes(self.oid)? > SMALL_BYTES)
    }

    /// Whether a proof was left behind.
    pub fn has_proof(&self) -> Result<bool> {
        catalog::has_constraint(self.oid, ddl::PROOF)
    }

    /// Adds the constraint that is to prove that it holds nothing of `range`; not valid yet.
    ///
    /// # Errors
    ///
    /// 55P03 where it can't be locked in time.
    pub fn add_proof(&self, context: &Context, range: &Range, settings: Settings) -> Result<()> {
        self.locked(context, settings, || {
            subtransaction::run(|| ddl::add_proof(self.qualified(), range))
        })
    }

    /// Reads its rows, while others read and write them.
    ///
    /// # Errors
    ///
    /// 23514 where there are rows of the range.
    pub fn validate_proof(&self, context: &Context) -> Result<()> {
        create::as_owner(context, || ddl::validate_proof(self.qualified()))
    }

    /// Drops the constraint.
    ///
    /// # Errors
    ///
    /// 55P03 where it can't be locked in time.
    pub fn drop_proof(&self, context: &Context, settings: Settings) -> Result<()> {
        self.locked(context, settings, || ddl::drop_proof(self.qualified()))
    }

    /// Drops the constraint, where it is there, in a transaction that has the partition locked.
    pub fn drop_proof_in_passing(&self) -> Result<()> {
        if self.has_proof()? { ddl::drop_proof(self.qualified()) } else { Ok(()) }
    }

    fn locked(
        &self,
        context: &Context,
        settings: Settings,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        create::as_owner(context, || {
            let budget = Budget::new(settings.lock_timeout_ms);
            self.lock(&budget)?;
            work()
        })
    }
}

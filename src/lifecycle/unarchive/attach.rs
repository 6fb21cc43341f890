//! Attaching a table that was filled from an archive, under locks that are waited for within the budget.

use std::ffi::CStr;

use pgrx::pg_sys::Oid;

use super::{Restore, Restored, Stage};
use crate::db::catalog::{self, EVENTS};
use crate::db::lock::{self, Mode};
use crate::db::{ddl, foreign_key, protection};
use crate::error::Result;
use crate::lifecycle::default_partition::DefaultPartition;
use crate::pg::identity;

/// A run is looked up for each row, by its key: however many runs there are, they aren't all read.
const ROW_BY_ROW: [(&CStr, &CStr); 3] =
    [(c"enable_hashjoin", c"off"), (c"enable_mergejoin", c"off"), (c"jit", c"off")];

/// What attaching reads while writers of runs wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Every row: the table has no foreign key yet.
    EveryRow,
    /// Nothing: its foreign key was looked at.
    Nothing,
}

impl Restore<'_> {
    /// Attaches the table. The order of the locks is the one that all maintenance has: the log, then the runs; the table
    /// itself last, because whoever deletes a run comes to its events afterwards.
    ///
    /// # Errors
    ///
    /// 55P03 where a lock can't be had in time; the server's where the DEFAULT partition has rows of the range.
    pub(super) fn attach(&self, oid: Oid, reads: Reads) -> Result<Restored> {
        let (log, name) = (&self.context.table, self.name());
        let rows = match reads {
            Reads::EveryRow => None,
            Reads::Nothing => Some(catalog::count_rows(name)?),
        };
        // A further maintenance keeps nobody waiting but others.
        lock::take_turn(log.oid, EVENTS, self.settings.lock_timeout_ms)?;
        super::require_free_range(self.context, self.entry)?;
        let mode = match reads {
            Reads::EveryRow => Mode::ShareRowExclusive,
            Reads::Nothing => Mode::AccessExclusive,
        };
        let (default, referenced) =
            (DefaultPartition::find(self.context)?, catalog::referenced_tables(log.oid)?);
        lock::patiently(self.settings.lock_timeout_ms, |budget| {
            if let Some(default) = &default {
                default.lock(budget)?;
            }
            for other in &referenced {
                lock::take(other.oid, &other.name, mode, budget)?;
            }
            lock::take(oid, name.name, Mode::AccessExclusive, budget)
        })?;
        let rows = identity::with_settings(&ROW_BY_ROW, || {
            self.attach_locked(oid, reads)?;
            rows.map_or_else(|| catalog::count_rows(name), Ok)
        })?;
        Ok(self.restored(Stage::Attached, rows, Vec::new()))
    }

    fn attach_locked(&self, oid: Oid, reads: Reads) -> Result<()> {
        let (log, name) = (&self.context.table, self.name());
        if reads == Reads::EveryRow {
            for key in foreign_key::of(log.oid)? {
                key.remove_orphans(name)?;
            }
        }
        ddl::attach(log, name, &self.entry.range)?;
        protection::adopt_identity_index(log, oid, name)?;
        // Its bound says the same from here on.
        ddl::drop_proof(name)
    }
}

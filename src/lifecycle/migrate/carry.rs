//! The shadow is built, with all that it takes over from the table in use.

use pgrx::pg_sys::Oid;

use super::{SHADOW_NAME, Work, lock_within};
use crate::db::catalog;
use crate::db::ident::Qualified;
use crate::db::lock::Mode;
use crate::db::migration::capture::{self, Writers};
use crate::db::migration::state::State;
use crate::db::migration::{shadow, suitable};
use crate::db::{foreign_key, protection};
use crate::domain::migration::Direction;
use crate::error::migration::MigrationFault;
use crate::error::{Error, Result};

/// Builds the shadow: nobody sees it, and nobody waits but writers of the tables that foreign keys point to, for the
/// milliseconds in which theirs are made.
///
/// # Errors
///
/// Where something can't be made on it, or a lock can't be had.
pub fn build(work: &Work, state: &mut State) -> Result<()> {
    let live = &work.live;
    let name = Qualified { schema: &live.schema, name: SHADOW_NAME };
    if let Some((what, hint)) = suitable::objection(live.oid, state.direction)? {
        // It was altered since the migration began.
        return Err(MigrationFault::NotCarried { what, hint }.into());
    }
    let keys = foreign_key::of(live.oid)?;
    let referenced = catalog::referenced_tables(live.oid)?;
    let (oid, indexes) = work.as_owner(|| {
        shadow::create(live, state.direction, state.ts_is_nullable.unwrap_or(false))?;
        let oid = catalog::find_table(live.schema_oid, SHADOW_NAME)?
            .ok_or_else(|| Error::Internal(format!("{name} is not there after its creation")))?;
        let indexes = shadow::create_indexes(live, state.direction)?;
        if let Some(note) = protection::copy(live, oid, name)?.into_iter().next() {
            let hint = "Without it the table would not be protected as it is.";
            return Err(MigrationFault::NotCarried { what: note, hint }.into());
        }
        shadow::copy_comments(live)?;
        shadow::create_triggers(live)?;
        let budget = work.budget();
        for other in &referenced {
            lock_within(&budget, other.oid, &other.name, Mode::ShareRowExclusive)?;
        }
        shadow::add_foreign_keys(live, &keys)?;
        Ok((oid, indexes))
    })?;
    work.as_extension(|| {
        // Until the switch a run that goes takes its events from the table in use alone: the shadow follows.
        shadow::set_actions(oid, false)?;
        match state.direction {
            // Each partition gets its own.
            Direction::Migrate => Ok(()),
            Direction::Undo => capture::create(name, Writers::WithTriggers),
        }
    })?;
    state.shadow = Some(oid);
    state.indexes = indexes;
    Ok(())
}

/// Gives those tables of the shadow that keep rows the triggers that note changes after the switch.
pub fn capture_shadow(work: &Work, shadow: Oid) -> Result<()> {
    let leaves = suitable::leaves(shadow)?;
    work.as_extension(|| {
        let missing = leaves.iter().filter(|leaf| !leaf.is_captured);
        missing
            .map(suitable::Leaf::qualified)
            .try_for_each(|leaf| capture::create(leaf, Writers::WithTriggers))
    })
}

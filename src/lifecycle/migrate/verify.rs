//! The new table is compared with the one that it has replaced, a range of ids after another.

use super::{Came, Work, lock_within};
use crate::db::catalog;
use crate::db::lock::Mode;
use crate::db::migration::state::State;
use crate::db::migration::{capture, compare, queue, suitable};
use crate::domain::migration::Phase;
use crate::error::Result;
use crate::error::migration::MigrationFault;
use crate::pg::identity;

/// How many rows are compared in one step.
const ROWS: i64 = 50_000;

/// Compares the next range. What was changed since the switch is left out: its key is in the queue.
pub fn step(work: &Work, state: &mut State) -> Result<Came> {
    let new = &work.live;
    let has_part = |leaf: &suitable::Leaf| leaf.is_captured && !leaf.is_captured_always;
    if let Some(leaf) = suitable::leaves(new.oid)?.into_iter().find(has_part) {
        // While rows were copied, changes by the copying had to be left out.
        work.as_extension(|| {
            lock_within(&work.budget(), leaf.oid, &leaf.name, Mode::ShareRowExclusive)?;
            capture::note_all(leaf.qualified())
        })?;
        return Ok(Came::On(0));
    }
    let old = state.shadow.map(|oid| catalog::table_of(&work.extension, oid)).transpose()?;
    let Some(old) = old.flatten() else {
        // Somebody has dropped it, and with it the wish to compare.
        state.phase = Phase::CleaningUp;
        return Ok(Came::On(0));
    };
    let old_leaves: Vec<_> = suitable::leaves(old.oid)?.iter().map(|leaf| leaf.oid).collect();
    if work.as_extension(|| queue::has_change_of(&old_leaves))? {
        return Err(MigrationFault::OldChanged.into());
    }
    let tables = [old.qualified(), new.qualified()];
    let owner = work.live.owner;
    let after = state.verified_to;
    let end = identity::run_as_seeing_all(owner, || compare::end_of_range(tables[0], after, ROWS))?;
    // The last range has no end: the new table has no row beyond the old one's either.
    let (to, is_last) = (end.unwrap_or(i64::MAX), end.is_none());
    let changed = || work.as_extension(|| queue::ids(after, Some(to)));
    let before = changed()?;
    let rows = [compare::hashed_row(old.oid, new.oid)?, compare::hashed_row(new.oid, old.oid)?];
    let [expected, found] = identity::run_as_seeing_all(owner, || {
        compare::contents(tables, &rows, after, to, before.clone())
    })?;
    if expected != found {
        if changed()? != before {
            // Somebody has changed one of them just now.
            return Ok(Came::On(0));
        }
        return Err(MigrationFault::Differs {
            after: after.unwrap_or(0),
            expected: expected.to_string(),
            found: found.to_string(),
        }
        .into());
    }
    state.verified_to = Some(to);
    if is_last {
        state.phase = Phase::CleaningUp;
    }
    Ok(Came::On(0))
}

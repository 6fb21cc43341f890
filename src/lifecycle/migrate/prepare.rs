//! Changes of the table in use are captured, then the shadow is built.

use super::{Came, Work, carry, lock_within};
use crate::db::lock::Mode;
use crate::db::migration::capture::{self, Writers};
use crate::db::migration::definition;
use crate::db::migration::state::{self, State};
use crate::db::migration::suitable::{self, Leaf};
use crate::domain::migration::Phase;
use crate::error::Result;

/// One step: the triggers of one table that keeps rows, or the shadow.
pub fn step(work: &Work, state: &mut State) -> Result<Came> {
    match look_at_sources(work)? {
        Sources::Added => return Ok(Came::On(0)),
        Sources::Gone => {
            state.phase = Phase::StartingOver;
            return Ok(Came::On(0));
        }
        Sources::AsTheyWere => {}
    }
    // Read under no lock: what is altered meanwhile is found before the switch.
    state.definition = Some(work.as_owner(|| definition::of(work.live.oid))?);
    carry::build(work, state)?;
    state.phase = Phase::Copying;
    Ok(Came::On(0))
}

/// How the tables that keep the rows are compared with those that are copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// They are the same.
    AsTheyWere,
    /// There was one more; it is one of them now.
    Added,
    /// One is no longer part of the table in use, and its rows may be in the shadow.
    Gone,
}

/// Whether the rows are still in the tables that are copied from, and nowhere else: partitions come and go.
pub fn compare_sources(work: &Work) -> Result<(Sources, Option<Leaf>)> {
    let known = work.as_extension(state::sources)?;
    let leaves = suitable::leaves(work.live.oid)?;
    if known.iter().any(|source| leaves.iter().all(|leaf| leaf.oid != source.relation)) {
        return Ok((Sources::Gone, None));
    }
    let is_known = |leaf: &Leaf| known.iter().any(|source| source.relation == leaf.oid);
    if leaves.iter().any(|leaf| is_known(leaf) && !leaf.is_captured_always) {
        // Somebody has turned its triggers off, and may have changed rows meanwhile.
        return Ok((Sources::Gone, None));
    }
    let new = leaves.into_iter().find(|leaf| !is_known(leaf));
    Ok(match new {
        Some(leaf) => (Sources::Added, Some(leaf)),
        None => (Sources::AsTheyWere, None),
    })
}

/// The same, and has the changes of one that is new noted. Once they are, all of its rows are copied that are there then.
pub fn look_at_sources(work: &Work) -> Result<Sources> {
    let (sources, leaf) = compare_sources(work)?;
    let Some(leaf) = leaf else { return Ok(sources) };
    work.as_extension(|| {
        if !leaf.is_captured_always {
            lock_within(&work.budget(), leaf.oid, &leaf.name, Mode::ShareRowExclusive)?;
            capture::create(leaf.qualified(), Writers::All)?;
        }
        state::add_source(leaf.oid)?;
        // Changes before the triggers were made are not in the queue.
        state::save_source(&state::Source { relation: leaf.oid, last: None, is_copied: false })
    })?;
    Ok(sources)
}

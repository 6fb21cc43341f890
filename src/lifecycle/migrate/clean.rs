//! What a migration leaves behind is removed: the triggers, and the shadow or the table that was replaced.

use super::{Came, Work, lock_within};
use crate::db::catalog::{self, Table};
use crate::db::ident::Qualified;
use crate::db::lock::Mode;
use crate::db::migration::state::{self, State};
use crate::db::migration::{capture, queue, suitable};
use crate::db::{ddl, ledger};
use crate::domain::migration::Phase;
use crate::error::Result;
use crate::pg::{identity, server};

/// One step: the triggers of one table, or one piece of the other table.
pub fn step(work: &Work, state: &mut State) -> Result<Came> {
    let keeps_triggers = state.phase == Phase::StartingOver;
    if !keeps_triggers && release_one(work, state)? {
        return Ok(Came::On(0));
    }
    let other = state.shadow.map(|oid| catalog::table_of(&work.extension, oid)).transpose()?;
    if let Some(other) = other.flatten() {
        drop_piece(work, &other)?;
        return Ok(Came::On(0));
    }
    work.as_extension(|| {
        match keeps_triggers {
            true => state::forget_copied()?,
            false => state::forget_sources()?,
        }
        queue::clear()
    })?;
    state.shadow = None;
    state.indexes = Vec::new();
    state.definition = None;
    let phase = match state.phase {
        Phase::StartingOver => Phase::Preparing,
        Phase::TakingBack => Phase::TakenBack,
        _ => Phase::Done,
    };
    state.phase = phase;
    state.tries = 0;
    if phase.is_end() {
        let details = serde_json::json!({ "phase": phase.as_str() });
        let (task, timeout_ms) = (state.direction.as_str(), work.settings.lock_timeout_ms);
        ledger::record(&work.extension, task, ledger::Status::Ok, details, timeout_ms)?;
    }
    Ok(Came::On(0))
}

/// Removes the triggers of one table that is kept; whether there was one.
fn release_one(work: &Work, state: &State) -> Result<bool> {
    let other = match state.shadow {
        Some(shadow) => suitable::leaves(shadow)?,
        None => Vec::new(),
    };
    for table in capture::tables()? {
        if other.iter().any(|leaf| leaf.oid == table) {
            continue;
        }
        let Some((schema, name)) = server::name_of_relation(table) else { continue };
        work.as_extension(|| {
            lock_within(&work.budget(), table, &name, Mode::AccessExclusive)?;
            capture::drop(table, Qualified { schema: &schema, name: &name })
        })?;
        return Ok(true);
    }
    Ok(false)
}

/// Removes one piece of a table that nobody uses: its foreign keys, then one partition after another, then itself.
fn drop_piece(work: &Work, table: &Table) -> Result<()> {
    let referenced = catalog::referenced_tables(table.oid)?;
    identity::run_as(table.owner, || {
        identity::set_lock_timeout(work.settings.lock_timeout_ms);
        if !referenced.is_empty() {
            let budget = work.budget();
            for other in &referenced {
                lock_within(&budget, other.oid, &other.name, Mode::AccessExclusive)?;
            }
            budget.limit_waits();
            return ddl::drop_foreign_keys(table.oid, table.qualified());
        }
        match catalog::partitions(table)?.first() {
            Some(piece) => ddl::drop_table(Qualified { schema: &piece.schema, name: &piece.name }),
            None => ddl::drop_table(table.qualified()),
        }
    })
}

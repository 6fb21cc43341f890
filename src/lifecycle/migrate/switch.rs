//! The names are swapped, in one transaction that nobody waits for longer than the budget.
//!
//! Whoever reads or writes `workflow_events` finds the new table with its next statement. A transaction whose snapshot is
//! older than the copy (REPEATABLE READ) would miss rows there, so all that are under way when the copy is made are waited
//! for first; and the switch takes place in a moment in which nothing was changed since the last change was carried over
//! and committed, unless changes come so fast that there is no such moment.

use pgrx::pg_sys::Oid;

use super::copy::{self, Applied};
use super::prepare::{self, Sources};
use super::{Came, Work, start_over};
use crate::db::catalog::{self, EVENTS, Table};
use crate::db::lock::{self, Budget, Mode, Need};
use crate::db::migration::state::{self, State};
use crate::db::migration::{OLD, definition, dependents, queue, shadow, suitable, swap};
use crate::db::query;
use crate::domain::migration::{
    Direction, Phase, SHORT_QUEUE, TRIES_BESIDE_SNAPSHOTS, TRIES_WITHOUT_CHANGES, insists,
};
use crate::error::migration::MigrationFault;
use crate::error::{Error, Result};
use crate::pg::{identity, server};

/// One step: older transactions are waited for, changes are carried over, or the switch is tried.
pub fn step(work: &Work, state: &mut State) -> Result<Came> {
    // However long somebody is in the way, the queue stays short.
    let is_long = work.as_extension(|| queue::length(SHORT_QUEUE + 1))? > SHORT_QUEUE;
    if is_long || !state.is_caught_up {
        let applied = copy::apply(work, state, i64::from(i16::MAX))?;
        state.is_caught_up = matches!(applied, Applied::Changes(n) if n <= SHORT_QUEUE as usize);
        // What was carried over is not seen by snapshots that are taken before it is committed. These are so many, and no new
        // ones: each list of them comes to its end.
        state.older_transactions = None;
        return Ok(Came::On(0));
    }
    let older = match state.older_transactions.take() {
        None => work.as_extension(suitable::transactions_with_snapshots)?,
        Some(older) => older,
    };
    let running = work.as_extension(|| suitable::still_running(older))?;
    let (names, pids): (Vec<String>, Vec<i32>) = running.into_iter().unzip();
    state.older_transactions = Some(names);
    if !pids.is_empty() {
        let error = snapshots_of(work, &pids, lock::LONG_TRANSACTION_MS)?;
        return Ok(match &error {
            Error::InTheWay { blockers, .. } if blockers.is_empty() => Came::On(SHORT_WAIT_MS),
            _ => Came::Waiting(error),
        });
    }
    state.is_caught_up = false;
    attempt(work, state)
}

/// How long one waits for transactions that are short, in milliseconds.
const SHORT_WAIT_MS: i32 = 20;

/// Those of these sessions whose snapshots are in the way for so long, as an error.
fn snapshots_of(work: &Work, pids: &[i32], older_than_ms: i64) -> Result<Error> {
    // As a role that sees everybody.
    let blockers = work.as_extension(|| lock::snapshots_of(pids, older_than_ms))?;
    Ok(Error::InTheWay { relation: "the database".to_owned(), blockers })
}

/// Tries the switch.
fn attempt(work: &Work, state: &mut State) -> Result<Came> {
    let live = &work.live;
    let referenced = catalog::referenced_tables(live.oid)?;
    let on_live =
        Need::Lock { relation: live.oid, name: EVENTS.to_owned(), mode: Mode::AccessExclusive };
    let mut needs: Vec<Need> = referenced
        .iter()
        .map(|other| Need::Lock {
            relation: other.oid,
            name: other.name.clone(),
            mode: Mode::ShareRowExclusive,
        })
        .collect();
    // Clients change runs before events, or after: each order meets a part of them, so both have their turn.
    match state.tries % 2 {
        0 => needs.push(on_live),
        _ => needs.insert(0, on_live),
    }
    if !insists(state.phase_age_s) {
        lock::look(&needs)?;
    }
    let idle = work.as_extension(suitable::idle_snapshots)?;
    if !idle.is_empty() {
        return Err(snapshots_of(work, &idle, 0)?);
    }
    if let Some((what, hint)) = suitable::objection(live.oid, state.direction)? {
        return Err(MigrationFault::NotCarried { what, hint }.into());
    }
    // Those of them that are busy elsewhere when the lock is had may not see what is carried over under it.
    let others = match state.tries >= TRIES_WITHOUT_CHANGES {
        true => work.as_extension(suitable::transactions_with_snapshots)?,
        false => Vec::new(),
    };
    let budget = work.as_owner(|| {
        let budget = work.budget();
        for need in &needs {
            let Need::Lock { relation, name, mode } = need else { continue };
            lock::take(*relation, name, *mode, &budget)?;
        }
        lock_shadow(work, state, &budget)?;
        // Whoever writes a partition by its own name need not ask for the table.
        for leaf in suitable::leaves(live.oid)?.iter().filter(|leaf| leaf.oid != live.oid) {
            lock::take(leaf.oid, &leaf.name, Mode::ShareRowExclusive, &budget)?;
        }
        Ok(budget)
    })?;
    // From here on others wait.
    query::begin_writing()?;
    if server::find_relation(live.schema_oid, EVENTS) != Some(live.oid) {
        return Err(MigrationFault::OtherTable.into());
    }
    if state.definition.as_deref() != Some(definition::of(live.oid)?.as_str()) {
        return start_over(state);
    }
    if prepare::compare_sources(work)?.0 != Sources::AsTheyWere {
        return Ok(Came::On(0));
    }
    if let Some(what) = dependents::not_carried(live.oid)? {
        let hint = "It was made since the migration began: drop it, and make it again afterwards.";
        return Err(MigrationFault::NotCarried { what, hint }.into());
    }
    let idle = work.as_extension(suitable::idle_snapshots)?;
    if !idle.is_empty() {
        return Err(snapshots_of(work, &idle, 0)?);
    }
    let changes = work.as_extension(|| queue::length(SHORT_QUEUE + 1))?;
    if changes > 0 {
        let must = state.tries >= TRIES_WITHOUT_CHANGES
            && changes <= SHORT_QUEUE
            && (state.tries >= TRIES_BESIDE_SNAPSHOTS
                || work.as_extension(|| suitable::busy_elsewhere(others))?.is_empty());
        let is_done = must
            && matches!(copy::apply(work, state, SHORT_QUEUE)?, Applied::Changes(_))
            && work.as_extension(|| queue::length(1))? == 0;
        if !is_done {
            state.tries = state.tries.saturating_add(1);
            // Others have the locks to themselves for a while.
            return Ok(Came::On(20));
        }
    }
    swap_tables(work, state, &budget)?;
    Ok(Came::On(0))
}

/// Nobody uses the shadow but an autovacuum.
fn lock_shadow(work: &Work, state: &State, budget: &Budget) -> Result<()> {
    let shadow = work.shadow(state)?;
    lock::take(shadow.oid, &shadow.name, Mode::AccessExclusive, budget)
}

fn swap_tables(work: &Work, state: &mut State, budget: &Budget) -> Result<()> {
    let live = &work.live;
    let other = work.shadow(state)?;
    let views = dependents::views(live.oid)?;
    let publications = swap::publications(live.oid)?;
    let new = Table { name: EVENTS.to_owned(), ..other.clone() };
    let old = Table { name: OLD.to_owned(), ..live.clone() };
    let definition = work.as_owner(|| {
        budget.limit_waits();
        swap::names(live, &other.name, &state.indexes)?;
        swap::hand_over_sequences(live.oid, new.qualified())?;
        shadow::enable_triggers(live.oid, new.qualified())?;
        definition::of(new.oid)
    })?;
    let is_partitioned = state.direction == Direction::Migrate;
    work.as_extension(|| {
        budget.limit_waits();
        shadow::set_actions(other.oid, true)?;
        // The table that is replaced stays as it is, whatever becomes of runs.
        shadow::set_actions(live.oid, false)?;
        for publication in &publications {
            publication.hand_over(old.qualified(), new.qualified(), is_partitioned)?;
        }
        Ok::<_, Error>(())
    })?;
    for view in &views {
        identity::run_as(view.owner, || {
            budget.limit_waits();
            view.replace()
        })?;
    }
    let replaced: Oid = state.live;
    state.live = other.oid;
    state.shadow = Some(replaced);
    state.phase = Phase::Verifying;
    state.verified_to = None;
    state.tries = 0;
    state.definition = Some(definition);
    state.is_turned_round = false;
    work.as_extension(state::forget_sources)
}

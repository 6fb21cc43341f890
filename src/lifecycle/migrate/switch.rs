//! The names are swapped, in one transaction that nobody waits for longer than the budget.
//!
//! Whoever reads or writes `workflow_events` finds the new table with its next statement. A transaction whose snapshot is
//! older than the copy (REPEATABLE READ) would miss rows there, so all that are under way when the copy is made are waited
//! for first. Changes of the last moment are carried over and committed under the locks, which the session keeps until its next
//! transaction has made the switch: nobody changes anything in between, and who has a snapshot from before that commit is
//! looked for once more.

use pgrx::pg_sys::Oid;

use super::copy::{self, Applied};
use super::prepare::{self, Sources};
use super::{Came, Work, is_like_shadow, keep_definition, start_over};
use crate::db::catalog::{self, EVENTS, Table};
use crate::db::kept::{self, Kept};
use crate::db::lock::{self, Budget, Mode, Need};
use crate::db::migration::state::{self, State};
use crate::db::migration::{OLD, definition, dependents, queue, shadow, suitable, swap};
use crate::db::query;
use crate::domain::migration::{
    Direction, Phase, SHORT_QUEUE, TRIES_BESIDE_SNAPSHOTS, TRIES_BESIDE_WAITING, insists,
};
use crate::error::migration::MigrationFault;
use crate::error::{Error, Result};
use crate::pg::{identity, server};

/// One step: older transactions are waited for, changes are carried over, or the switch is tried.
pub fn step(work: &Work, state: &mut State, kept: Option<&Kept>) -> Result<Came> {
    if let Some(kept) = kept {
        return finish(work, state, kept);
    }
    // However long somebody is in the way, the queue stays short.
    let is_long = work.as_extension(|| queue::length(SHORT_QUEUE + 1))? > SHORT_QUEUE;
    if is_long || !state.is_caught_up {
        return carry_over(work, state);
    }
    let older = state.older_transactions.take();
    let is_after_try = older.as_ref().is_some_and(Vec::is_empty);
    let older = match older {
        None => work.as_extension(suitable::transactions_with_snapshots)?,
        Some(older) => older,
    };
    let running = work.as_extension(|| suitable::still_running(&older))?;
    let pids: Vec<i32> = running.iter().map(|running| running.pid).collect();
    state.older_transactions =
        Some(running.into_iter().map(|running| running.transaction).collect());
    if !pids.is_empty() {
        let error = snapshots_of(work, &pids, lock::LONG_TRANSACTION_MS)?;
        return Ok(match &error {
            Error::InTheWay { blockers, .. } if blockers.is_empty() => Came::On(SHORT_WAIT_MS),
            _ => Came::Waiting(error),
        });
    }
    attempt(work, state, is_after_try)
}

/// How long one waits for transactions that are short, in milliseconds.
const SHORT_WAIT_MS: i32 = 20;

/// How long others have the locks to themselves after a try, in milliseconds.
const PAUSE_MS: i32 = 20;

/// Carries over what was changed, under no lock that anybody waits for.
fn carry_over(work: &Work, state: &mut State) -> Result<Came> {
    if !keep_definition(work, state)? {
        return start_over(state);
    }
    let applied = copy::apply(work, state, i64::from(i16::MAX))?;
    state.is_caught_up = matches!(applied, Applied::Changes(n) if n <= SHORT_QUEUE as usize);
    // What was carried over is not seen by snapshots that are taken before it is committed. These are so many, and no new
    // ones: each list of them comes to its end.
    state.older_transactions = None;
    Ok(Came::On(0))
}

/// Those of these sessions whose snapshots are in the way for so long, as an error.
fn snapshots_of(work: &Work, pids: &[i32], older_than_ms: i64) -> Result<Error> {
    // As a role that sees everybody.
    let blockers = work.as_extension(|| lock::snapshots_of(pids, older_than_ms))?;
    Ok(Error::InTheWay { relation: "the database".to_owned(), blockers })
}

/// Sessions that keep a snapshot between two statements, as an error: nobody knows when they end.
fn refuse_idle_snapshots(work: &Work) -> Result<()> {
    let idle = work.as_extension(suitable::idle_snapshots)?;
    match idle.is_empty() {
        true => Ok(()),
        false => Err(snapshots_of(work, &idle, 0)?),
    }
}

/// Tries the switch, where nobody is in the way who will be there for longer. What was changed in the last moment is carried
/// over, and the locks are left to the next step: nobody changes anything in between. `is_after_try`: who could miss what was
/// carried over last has not been waited for.
fn attempt(work: &Work, state: &mut State, is_after_try: bool) -> Result<Came> {
    let locks = locks_for(work, state)?;
    if !insists(state.phase_age_s) {
        lock::look(&locks.needs)?;
    }
    refuse_idle_snapshots(work)?;
    if let Some((what, hint)) = suitable::objection(work.live.oid, state.direction)? {
        return Err(MigrationFault::NotCarried { what, hint }.into());
    }
    let budget = work.budget();
    locks.take(work, &budget)?;
    // From here on others wait.
    if let Some(came) = look_again(work, state)? {
        return Ok(came);
    }
    let changes = work.as_extension(|| queue::length(SHORT_QUEUE + 1))?;
    if changes == 0 && !is_after_try {
        swap_tables(work, state, &budget)?;
        return Ok(Came::On(0));
    }
    let is_done = changes <= SHORT_QUEUE
        && matches!(copy::apply(work, state, SHORT_QUEUE)?, Applied::Changes(_))
        && work.as_extension(|| queue::length(1))? == 0;
    if !is_done {
        return Ok(try_again(state));
    }
    // If the next step is another session's, it begins with what was changed until then.
    state.is_caught_up = false;
    work.as_extension(|| kept::leave(&locks.all, budget))?;
    Ok(Came::On(0))
}

/// Makes the switch with the locks that the last step has left, once nobody is there who could miss what it has carried over.
fn finish(work: &Work, state: &mut State, kept: &Kept) -> Result<Came> {
    let older = work.as_extension(|| suitable::transactions_before(kept.transaction()))?;
    let budget = kept.budget();
    locks_for(work, state)?.take(work, budget)?;
    kept.release();
    // All else needs one of these locks, which nobody else has had since the last step looked.
    if !is_like_shadow(work, state)? {
        return start_over(state);
    }
    refuse_idle_snapshots(work)?;
    let has_changes = work.as_extension(|| queue::length(1))? > 0;
    if has_changes || !are_gone(work, &older, budget, state.tries)? {
        return Ok(try_again(state));
    }
    swap_tables(work, state, budget)?;
    Ok(Came::On(0))
}

/// Waits for these transactions, for half of the budget at most, and for none that waits itself; whether they are gone.
fn are_gone(work: &Work, older: &[String], budget: &Budget, tries: i32) -> Result<bool> {
    if tries >= TRIES_BESIDE_SNAPSHOTS {
        return Ok(true);
    }
    loop {
        let mut running = work.as_extension(|| suitable::still_running(older))?;
        if tries >= TRIES_BESIDE_WAITING {
            running.retain(|running| !running.waits);
        }
        if running.is_empty() {
            return Ok(true);
        }
        if running.iter().any(|running| running.waits) || budget.is_half_spent() {
            return Ok(false);
        }
        refuse_idle_snapshots(work)?;
        work.as_extension(|| {
            query::read_one("SELECT pg_catalog.pg_sleep(0.001)", &[], |_| Ok(()))
        })?;
    }
}

/// Lets others have the locks, then the switch is tried anew.
fn try_again(state: &mut State) -> Came {
    state.tries = state.tries.saturating_add(1);
    // Those that are older than the copy were waited for; of what is carried over from now on, the step that makes the switch
    // knows.
    state.is_caught_up = true;
    state.older_transactions = Some(Vec::new());
    Came::On(PAUSE_MS)
}

/// The locks under which the switch is made.
struct Locks {
    /// Those on tables that clients use, which are looked at beforehand.
    needs: Vec<Need>,
    /// All of them, in the order in which they are taken, with the names of their relations.
    named: Vec<(Oid, String, Mode)>,
    /// The same without names.
    all: Vec<(Oid, Mode)>,
}

fn locks_for(work: &Work, state: &State) -> Result<Locks> {
    let live = &work.live;
    let on_live = (live.oid, EVENTS.to_owned(), Mode::AccessExclusive);
    let referenced = catalog::referenced_tables(live.oid)?;
    let mut named: Vec<_> = referenced
        .into_iter()
        .map(|other| (other.oid, other.name, Mode::ShareRowExclusive))
        .collect();
    // Clients change runs before events, or after: each order meets a part of them, so both have their turn.
    match state.tries % 2 {
        0 => named.push(on_live),
        _ => named.insert(0, on_live),
    }
    let needs = named
        .iter()
        .map(|(relation, name, mode)| Need::Lock {
            relation: *relation,
            name: name.clone(),
            mode: *mode,
        })
        .collect();
    // Nobody uses the shadow but an autovacuum.
    let shadow = work.shadow(state)?;
    named.push((shadow.oid, shadow.name, Mode::AccessExclusive));
    // Whoever writes a partition by its own name need not ask for the table.
    let leaves = suitable::leaves(live.oid)?.into_iter().filter(|leaf| leaf.oid != live.oid);
    named.extend(leaves.map(|leaf| (leaf.oid, leaf.name, Mode::ShareRowExclusive)));
    let all = named.iter().map(|(relation, _, mode)| (*relation, *mode)).collect();
    Ok(Locks { needs, named, all })
}

impl Locks {
    fn take(&self, work: &Work, budget: &Budget) -> Result<()> {
        work.as_owner(|| lock::take_all(&self.named, budget))?;
        query::begin_writing()
    }
}

/// Whether all is still as it was before the locks were had, now that it stays so; otherwise what comes of that.
fn look_again(work: &Work, state: &mut State) -> Result<Option<Came>> {
    let live = &work.live;
    if server::find_relation(live.schema_oid, EVENTS) != Some(live.oid) {
        return Err(MigrationFault::OtherTable.into());
    }
    if !is_like_shadow(work, state)? {
        return start_over(state).map(Some);
    }
    if prepare::compare_sources(work)?.0 != Sources::AsTheyWere {
        return Ok(Some(Came::On(0)));
    }
    if let Some(what) = dependents::not_carried(live.oid)? {
        let hint = "It was made since the migration began: drop it, and make it again afterwards.";
        return Err(MigrationFault::NotCarried { what, hint }.into());
    }
    refuse_idle_snapshots(work)?;
    Ok(None)
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

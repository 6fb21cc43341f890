//! A plain `workflow_events` becomes partitions while it is in use, and back.
//!
//! A shadow is built beside the table in use; triggers note what is changed meanwhile; rows are copied in batches, then
//! those again that were changed; and in one short transaction the names are swapped. Every step is a transaction of its
//! own, of whichever session takes it: where the migration stands is in `meshhook_events.migration`.

pub mod begin;
mod carry;
mod clean;
mod copy;
mod places;
pub mod plan;
mod prepare;
mod switch;
mod verify;

use self::prepare::Sources;
use crate::db::catalog::{self, Extension, Table};
use crate::db::kept::{self, Kept};
use crate::db::lock::{self, Budget, Mode};
use crate::db::migration::state::{self, State};
use crate::db::migration::{SHADOW, definition, suitable};
use crate::db::{policy, query};
pub use crate::domain::migration::Direction;
use crate::domain::migration::{Phase, look_again_ms, switch_back_off_ms};
use crate::error::migration::MigrationFault;
use crate::error::{Error, Failure, Result};
use crate::lifecycle::context::{
    Context, require_privileges_of, require_same_version, require_writable,
};
use crate::pg::lock::Turn;
use crate::pg::{identity, server, subtransaction};
use crate::settings::Settings;

/// Who takes a step. A migration is the worker's, or that of the session which has called last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// The background worker.
    Worker,
    /// A session.
    Session {
        /// Whether it takes the next step at once if there is nothing to wait for.
        goes_on: bool,
    },
}

/// What comes after a step.
#[derive(Debug)]
pub enum Next {
    /// The next one, after so many milliseconds.
    Step(i32),
    /// The same one again, after so many milliseconds: somebody is in the way.
    Again(i32, Error),
    /// Nothing, until somebody has mended what it failed with.
    Failed(Error),
    /// Nothing: it has ended.
    End,
}

/// What a phase of a step has come to.
#[derive(Debug)]
enum Came {
    /// It goes on with the next step, after so many milliseconds.
    On(i32),
    /// What it waits for is not there yet: as an error that names who is in the way.
    Waiting(Error),
}

/// What a step works on.
struct Work {
    extension: Extension,
    /// The table in use.
    live: Table,
    settings: Settings,
}

impl Work {
    /// Runs `work` as the extension's owner, whose tables hold the state.
    fn as_extension<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        identity::run_as(self.extension.owner, work)
    }

    /// Runs `work` as the owner of the tables.
    fn as_owner<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        identity::run_as(self.live.owner, || {
            identity::set_lock_timeout(self.settings.lock_timeout_ms);
            work()
        })
    }

    /// The shadow; after the switch, the table that was replaced.
    fn shadow(&self, state: &State) -> Result<Table> {
        let oid = state.shadow.ok_or(MigrationFault::OtherTable)?;
        catalog::table_of(&self.extension, oid)?.ok_or_else(|| MigrationFault::OtherTable.into())
    }

    /// The shadow as an event log that partitions are made of.
    fn context(&self, table: Table) -> Result<Context> {
        Ok(Context { extension: self.extension.clone(), table, policy: policy::load()? })
    }

    /// Runs `work`, which copies rows to the shadow, with triggers turned off.
    ///
    /// # Errors
    ///
    /// Where other code than the server's own would run with it.
    fn copying<T>(&self, shadow: &Table, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.as_owner(|| suitable::keep_as_it_is(shadow.qualified()))?;
        if let Some(what) = suitable::runs_while_copying(shadow.oid)? {
            let hint = "It would run while triggers are turned off: drop it, and make it again afterwards.";
            return Err(MigrationFault::NotCarried { what, hint }.into());
        }
        identity::run_as_copying(self.live.owner, || {
            identity::set_lock_timeout(self.settings.lock_timeout_ms);
            work()
        })
    }

    fn budget(&self) -> Budget {
        Budget::new(self.settings.lock_timeout_ms)
    }
}

/// Takes one step of the migration that is under way.
///
/// To be called in a transaction of its own, which is to be committed whatever comes after it.
///
/// # Errors
///
/// Where there is none, or another session is at it; where the caller may not act as the table's owner. What a step
/// itself fails with is noted, and part of the answer.
pub fn step(taker: Taker, settings: Settings) -> Result<Next> {
    let kept = kept::take_over();
    let next = identity::pinned(|| {
        require_writable("migrate_workflow_events")?;
        identity::set_lock_timeout(settings.lock_timeout_ms);
        if !server::is_read_committed() {
            return Err(MigrationFault::Isolation.into());
        }
        query::begin_writing()?;
        step_pinned(taker, settings, kept.as_ref())
    });
    // Whatever became of them; an error that was raised has let go of them by itself.
    if let Some(kept) = kept {
        kept.release();
    }
    if taker == (Taker::Session { goes_on: false }) {
        kept::let_go();
    }
    next
}

fn step_pinned(taker: Taker, settings: Settings, kept: Option<&Kept>) -> Result<Next> {
    let extension = catalog::extension()?;
    require_same_version(&extension)?;
    // Whoever may not do it must not keep others from it either.
    let found = identity::run_as(extension.owner, state::read)?;
    if found.as_ref().is_some_and(|state| !state.phase.is_end()) {
        require_privileges(&extension, found.as_ref())?;
    }
    let found = match found {
        Some(state) if !state.phase.is_end() => identity::run_as(extension.owner, state::lock)?,
        _ => None,
    };
    let is_for_taker = |state: &State| state.in_background == (taker == Taker::Worker);
    let mine = found.filter(|state| !state.phase.is_end() && is_for_taker(state));
    let Some(mut state) = mine else {
        Turn::of(extension.oid).end();
        return Ok(Next::End);
    };
    let tables = [Some(state.live), state.shadow];
    let mut present = Vec::new();
    for oid in tables.into_iter().flatten() {
        present.extend(catalog::table_of(&extension, oid)?);
    }
    let is_live = present.first().is_some_and(|table| table.oid == state.live);
    let live = match present.into_iter().next() {
        Some(table) if is_live || state.phase == Phase::TakingBack => table,
        None if state.phase == Phase::TakingBack => {
            state.phase = Phase::TakenBack;
            identity::run_as(extension.owner, || state::save(&state))?;
            Turn::of(extension.oid).end();
            return Ok(Next::End);
        }
        _ => {
            let error = Error::from(MigrationFault::OtherTable);
            identity::run_as(extension.owner, || state::note_failure(&error, state.tries))?;
            return Ok(Next::Failed(error));
        }
    };
    let work = Work { extension, live, settings };
    let before = state.clone();
    match subtransaction::run(|| take(&work, &mut state, kept)) {
        Ok(Came::On(pause_ms)) => {
            work.as_extension(|| state::save(&state))?;
            if state.phase.is_end() {
                Turn::of(work.extension.oid).end();
                return Ok(Next::End);
            }
            Ok(Next::Step(pause_ms))
        }
        Ok(Came::Waiting(error)) => {
            work.as_extension(|| {
                state::save(&state)?;
                state::note_failure(&error, state.tries)
            })?;
            Ok(Next::Again(look_again_ms(state.phase_age_s), error))
        }
        Err(error) => failed(&work, &before, error),
    }
}

/// What the last step failed with; `None` where it did not fail.
///
/// # Errors
///
/// Where the extension is not installed.
pub fn failure() -> Result<Option<Failure>> {
    let extension = catalog::extension()?;
    let found = identity::run_as(extension.owner, state::read)?;
    require_privileges(&extension, found.as_ref())?;
    identity::run_as(extension.owner, state::failure)
}

/// A step that was rolled back.
fn failed(work: &Work, before: &State, error: Error) -> Result<Next> {
    let is_about_locks = error.in_the_way().is_some()
        || error.is_lock_timeout()
        || matches!(error, Error::Postponed { .. });
    let tried = is_about_locks && !error.is_in_the_way();
    let tries = before.tries.saturating_add(i32::from(tried));
    work.as_extension(|| state::note_failure(&error, tries))?;
    if !is_about_locks {
        return Ok(Next::Failed(error));
    }
    let jitter = server::now_us().to_le_bytes()[0];
    let pause_ms = match tried {
        true => switch_back_off_ms(before.tries, jitter),
        false => look_again_ms(before.phase_age_s),
    };
    Ok(Next::Again(pause_ms, error))
}

fn take(work: &Work, state: &mut State, kept: Option<&Kept>) -> Result<Came> {
    if state.phase == Phase::Switching && kept.is_some() {
        // All of that was looked at under the locks, and is again.
        return switch::step(work, state, kept);
    }
    if state.phase.compares_definitions() {
        // The switch takes a stronger lock, which must be its first.
        let is_as_it_was = match state.phase {
            Phase::Switching => is_like_shadow(work, state)?,
            _ => keep_definition(work, state)?,
        };
        if !is_as_it_was {
            return start_over(state);
        }
        match prepare::look_at_sources(work)? {
            Sources::AsTheyWere => {}
            Sources::Added => {
                state.phase = Phase::Copying;
                return Ok(Came::On(0));
            }
            Sources::Gone => return start_over(state),
        }
    }
    match state.phase {
        Phase::Preparing => prepare::step(work, state),
        Phase::Copying => copy::step(work, state),
        Phase::CatchingUp => copy::catch_up(work, state),
        Phase::Analyzing => copy::analyze(work, state),
        Phase::Switching => switch::step(work, state, kept),
        Phase::Verifying => verify::step(work, state),
        Phase::CleaningUp | Phase::StartingOver | Phase::TakingBack => clean::step(work, state),
        Phase::Done | Phase::TakenBack => Ok(Came::On(0)),
    }
}

/// The shadow is removed and built anew; but never a table that was replaced, and was not compared.
fn start_over(state: &mut State) -> Result<Came> {
    if state.is_turned_round {
        return Err(MigrationFault::Altered.into());
    }
    state.phase = Phase::StartingOver;
    Ok(Came::On(0))
}

/// Refuses where the caller may not act as the owner of what is migrated.
///
/// # Errors
///
/// [`Error::NotOwner`].
fn require_privileges(extension: &Extension, state: Option<&State>) -> Result<()> {
    let named = catalog::find_table(extension.schema_oid, catalog::EVENTS)?;
    let of_state = state.map(|state| [Some(state.live), state.shadow]).into_iter().flatten();
    for oid in of_state.chain([named]).flatten() {
        if let Some(table) = catalog::table_of(extension, oid)? {
            return require_privileges_of(table.owner, &table);
        }
    }
    // There is none left: nothing of anybody's is touched any more.
    Ok(())
}

/// Whether the table in use is still as it was when the shadow was built, and the shadow is there.
fn is_like_shadow(work: &Work, state: &State) -> Result<bool> {
    let Some(shadow) = state.shadow else { return Ok(false) };
    if catalog::table_of(&work.extension, shadow)?.is_none() {
        return Ok(false);
    }
    Ok(state.definition.as_deref() == Some(definition::of(state.live)?.as_str()))
}

/// The same, and keeps it so until the transaction ends: nobody is to alter what is copied between the look and the copying.
fn keep_definition(work: &Work, state: &State) -> Result<bool> {
    work.as_owner(|| {
        lock_within(&work.budget(), work.live.oid, catalog::EVENTS, Mode::AccessShare)
    })?;
    is_like_shadow(work, state)
}

/// Takes a lock within a budget, after a look whether somebody is in the way who will be there for longer.
fn lock_within(budget: &Budget, relation: pgrx::pg_sys::Oid, name: &str, mode: Mode) -> Result<()> {
    let need = lock::Need::Lock { relation, name: name.to_owned(), mode };
    lock::look(std::slice::from_ref(&need))?;
    lock::take(relation, name, mode, budget)
}

/// The name of the shadow in messages.
const SHADOW_NAME: &str = SHADOW;

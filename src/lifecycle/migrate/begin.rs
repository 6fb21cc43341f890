//! A migration is begun, gone on with, or turned round.

use crate::db::catalog::{self, EVENTS, Extension, RUNS, Table};
use crate::db::lock::{self, Budget, Mode};
use crate::db::migration::state::{self, Beginning, State};
use crate::db::migration::{
    OLD, SHADOW, capture, copy, definition, dependents, shadow, suitable, swap,
};
use crate::db::{hold, ledger, policy, query};
use crate::domain::migration::{Direction, Phase};
use crate::domain::name;
use crate::error::migration::MigrationFault;
use crate::error::{Error, Result};
use crate::lifecycle::context::{require_privileges_of, require_same_version, require_writable};
use crate::lifecycle::create;
use crate::lifecycle::migrate::require_privileges;
use crate::pg::lock::Turn;
use crate::pg::{board, identity, server};
use crate::settings::{Settings, WorkerSettings};
use crate::storage::space;

/// What was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The caller goes on with it.
    Here,
    /// The worker does.
    InBackground,
}

/// Begins a migration in that direction, or goes on with the one that is under way, or turns it round.
///
/// # Errors
///
/// Where the table can't be migrated, and why; where the caller may not act as its owner; where another session is at it.
/// Nothing is changed then.
pub fn begin(
    direction: Direction,
    in_background: Option<bool>,
    settings: Settings,
    worker: &WorkerSettings,
) -> Result<Begun> {
    require_writable(match direction {
        Direction::Migrate => "migrate_workflow_events",
        Direction::Undo => "undo_workflow_events_migration",
    })?;
    identity::pinned(|| {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        query::begin_writing()?;
        let extension = catalog::extension()?;
        require_same_version(&extension)?;
        let known = identity::run_as(extension.owner, state::read)?;
        require_privileges(&extension, known.as_ref().filter(|state| !state.phase.is_end()))?;
        let place = place(in_background, worker)?;
        if place == Begun::Here && !Turn::of(extension.oid).take() {
            return Err(MigrationFault::Busy.into());
        }
        let under_way = || {
            let found = identity::run_as(extension.owner, state::wait_and_lock)?;
            Ok::<_, Error>(found.filter(|state| !state.phase.is_end()))
        };
        let found = match under_way()? {
            Some(state) => Some(state),
            None => {
                identity::run_as(extension.owner, state::keep_others_out)?;
                // Another session may have begun one in the meantime.
                under_way()?
            }
        };
        match found {
            Some(state) => go_on(&extension, direction, state, place, settings)?,
            None if direction == Direction::Undo && leftovers(&extension, place)? => {}
            None => anew(&extension, direction, place, settings)?,
        }
        board::wake_launcher_at_commit();
        Ok(place)
    })
}

fn place(in_background: Option<bool>, worker: &WorkerSettings) -> Result<Begun> {
    let database = catalog::current_database()?;
    let serves = board::exists() && worker.enabled && worker.databases.includes(&database);
    match (in_background, serves) {
        (Some(false), _) | (None, false) => Ok(Begun::Here),
        (Some(true) | None, true) => Ok(Begun::InBackground),
        (Some(true), false) => Err(MigrationFault::NoWorker.into()),
    }
}

/// Goes on with what is under way, the other way round where that is wanted.
fn go_on(
    extension: &Extension,
    direction: Direction,
    state: State,
    place: Begun,
    settings: Settings,
) -> Result<()> {
    let owner = catalog::table_of(extension, state.live)?;
    let Some(live) = owner else {
        // The table was replaced by hand: what was built beside it is cleared away.
        if state.is_turned_round || state.phase == Phase::Verifying {
            return Err(MigrationFault::OtherTable.into());
        }
        return set(extension, State { phase: Phase::TakingBack, ..state }, place);
    };
    require_privileges_of(live.owner, &live)?;
    let is_taking_back = state.phase == Phase::TakingBack;
    let wanted = match (state.direction == direction, state.phase) {
        (true, _) if !is_taking_back => state,
        // The way back from a migration that is taken back is a new one.
        (true, _) => return Err(MigrationFault::AboutToEnd.into()),
        (false, _) if is_taking_back => state,
        (false, phase) if phase.is_before_switch() && state.is_turned_round => {
            turned_again(extension, state, settings.lock_timeout_ms)?
        }
        (false, phase) if phase.is_before_switch() => State { phase: Phase::TakingBack, ..state },
        (false, Phase::Verifying) => {
            turned_round(extension, &live, state, settings.lock_timeout_ms)?
        }
        (false, _) => return Err(MigrationFault::AboutToEnd.into()),
    };
    set(extension, wanted, place)
}

fn set(extension: &Extension, state: State, place: Begun) -> Result<()> {
    let state = State { in_background: place == Begun::InBackground, ..state };
    identity::run_as(extension.owner, || state::save(&state))
}

/// The table that was replaced is brought up to date and takes its place again: its changes since are in the queue.
fn turned_round(
    extension: &Extension,
    live: &Table,
    state: State,
    lock_timeout_ms: i32,
) -> Result<State> {
    let replaced = state.shadow.ok_or(MigrationFault::OtherTable)?;
    let old = catalog::table_of(extension, replaced)?.ok_or(MigrationFault::OtherTable)?;
    let definition = identity::run_as(live.owner, || definition::of(live.oid))?;
    if state.definition.as_ref() != Some(&definition) {
        return Err(MigrationFault::Altered.into());
    }
    let indexes = identity::run_as(old.owner, || {
        // Runs that go still take its events with them.
        lock::take(old.oid, &old.name, Mode::AccessExclusive, &Budget::new(lock_timeout_ms))?;
        shadow::calm_triggers(old.oid, old.qualified())?;
        swap::make_shadow(&old, &state.indexes)
    })?;
    identity::run_as(extension.owner, || {
        state::forget_copied()?;
        // As the comparison does first, where it has not come to that.
        let budget = Budget::new(lock_timeout_ms);
        for leaf in suitable::leaves(live.oid)?.iter().filter(|leaf| leaf.is_captured) {
            if !leaf.is_captured_always {
                lock::take(leaf.oid, &leaf.name, Mode::ShareRowExclusive, &budget)?;
                capture::note_all(leaf.qualified())?;
            }
        }
        // It is copied to from here on.
        for leaf in suitable::leaves(old.oid)?.iter().filter(|leaf| leaf.is_captured) {
            capture::spare_copying(leaf.qualified())?;
        }
        for leaf in suitable::leaves(live.oid)?.iter().filter(|leaf| leaf.is_captured) {
            state::add_source(leaf.oid)?;
            state::save_source(&state::Source { relation: leaf.oid, last: None, is_copied: true })?;
        }
        Ok::<_, Error>(())
    })?;
    Ok(State {
        direction: state.direction.reversed(),
        phase: Phase::CatchingUp,
        definition: Some(definition),
        indexes,
        verified_to: None,
        is_caught_up: false,
        is_turned_round: true,
        older_transactions: None,
        tries: 0,
        ..state
    })
}

/// What was turned round is turned again before the names were swapped back: the tables are compared as they would have been.
fn turned_again(extension: &Extension, state: State, lock_timeout_ms: i32) -> Result<State> {
    let shadow = state.shadow.map(|oid| catalog::table_of(extension, oid)).transpose()?;
    let old = shadow.flatten().ok_or(MigrationFault::OtherTable)?;
    identity::run_as(old.owner, || {
        lock::take(old.oid, &old.name, Mode::AccessExclusive, &Budget::new(lock_timeout_ms))?;
        swap::make_old(&old, &state.indexes)
    })?;
    identity::run_as(extension.owner, state::forget_copied)?;
    Ok(State {
        direction: state.direction.reversed(),
        phase: Phase::Verifying,
        verified_to: None,
        is_turned_round: false,
        ..state
    })
}

/// Where a dump was restored in which a migration was under way, its triggers and tables are there, and nothing else of it.
fn leftovers(extension: &Extension, place: Begun) -> Result<bool> {
    let Some(live) = catalog::find_table(extension.schema_oid, EVENTS)? else { return Ok(false) };
    if !capture::is_on_leaf_of(live)? {
        return Ok(false);
    }
    let Some(table) = catalog::table_of(extension, live)? else { return Ok(false) };
    require_privileges_of(table.owner, &table)?;
    let beginning = Beginning {
        direction: Direction::Migrate,
        live,
        ts_is_nullable: false,
        rows_total: None,
        bytes_total: None,
        role: server::role_name(identity::current_role()).unwrap_or_default(),
        in_background: place == Begun::InBackground,
    };
    let shadow = match catalog::find_table(extension.schema_oid, SHADOW)? {
        Some(shadow) if capture::is_on_leaf_of(shadow)? => Some(shadow),
        _ => None,
    };
    identity::run_as(extension.owner, || {
        state::begin(beginning)?;
        let Some(begun) = state::read()? else { return Ok(false) };
        state::save(&State { phase: Phase::TakingBack, shadow, ..begun })?;
        Ok(true)
    })
}

/// Begins a new one.
fn anew(
    extension: &Extension,
    direction: Direction,
    place: Begun,
    settings: Settings,
) -> Result<()> {
    let live = subject(extension, direction)?;
    require_privileges_of(live.owner, &live)?;
    require_suitable(extension, &live, direction)?;
    let (rows_total, bytes_total) = catalog::estimates(live.oid)?;
    require_space(&live, bytes_total)?;
    let ts_is_nullable = match direction {
        Direction::Migrate => suitable::is_nullable(live.oid, "ts")?,
        // As it was before it was migrated.
        Direction::Undo => identity::run_as(extension.owner, state::read)?
            .filter(|last| last.direction == Direction::Migrate && last.phase == Phase::Done)
            .and_then(|last| last.ts_is_nullable)
            .unwrap_or(false),
    };
    if direction == Direction::Migrate && ts_is_nullable {
        let without = identity::run_as_seeing_all(live.owner, || {
            suitable::event_without_ts(live.qualified())
        })?;
        if let Some((id, ts)) = without {
            return Err(copy::unplaceable(id, ts));
        }
    }
    let role = identity::current_role();
    let beginning = Beginning {
        direction,
        live: live.oid,
        ts_is_nullable,
        rows_total,
        bytes_total,
        role: server::role_name(role).unwrap_or_default(),
        in_background: place == Begun::InBackground,
    };
    identity::run_as(extension.owner, || {
        // Whoever is about to drop a partition comes first.
        hold::announce(settings.lock_timeout_ms)?;
        policy::ensure_row()?;
        state::begin(beginning)
    })?;
    let details = serde_json::json!({
        "rows": rows_total,
        "bytes": bytes_total,
        "in_background": place == Begun::InBackground,
    });
    let task = direction.as_str();
    ledger::record(extension, task, ledger::Status::Ok, details, settings.lock_timeout_ms)
}

/// The table that is to be migrated.
///
/// # Errors
///
/// Where it is the other kind of table, or none.
pub fn subject(extension: &Extension, direction: Direction) -> Result<Table> {
    let oid = match (catalog::find_events(extension), direction) {
        (Ok(Some(_)), Direction::Migrate) => return Err(MigrationFault::Partitioned.into()),
        (Ok(Some(table)), Direction::Undo) => return Ok(table),
        (Err(Error::NotPartitioned { .. }), Direction::Migrate) => {
            catalog::find_table(extension.schema_oid, EVENTS)?
        }
        (Err(Error::NotPartitioned { .. }), Direction::Undo) => {
            return Err(MigrationFault::Plain.into());
        }
        (Ok(None), _) => None,
        (Err(error), _) => return Err(error),
    };
    let table = oid.map(|oid| catalog::table_of(extension, oid)).transpose()?.flatten();
    table.ok_or_else(|| Error::NotSetUp { table: format!("{}.{EVENTS}", extension.schema) })
}

/// Refuses a table that can't be migrated.
///
/// # Errors
///
/// The first thing about it that stands in the way.
pub fn require_suitable(extension: &Extension, live: &Table, direction: Direction) -> Result<()> {
    let fault = |fault: MigrationFault| Err(Error::from(fault));
    for column in ["id", "run_id", "ts", "type", "payload"] {
        if !server::has_column(live.oid, column) {
            let table = live.qualified().plain();
            return Err(Error::MissingColumn { table, column: column.to_owned() });
        }
    }
    if let Some(type_name) = suitable::type_of(live.oid, "ts")?
        && type_name != "timestamp with time zone"
    {
        return Err(Error::WrongKeyType { table: live.qualified().plain(), type_name });
    }
    if suitable::type_of(live.oid, "id")?.as_deref() != Some("bigint") {
        return fault(MigrationFault::NotCarried {
            what: "column \"id\" of a type other than bigint".to_owned(),
            hint: "ALTER TABLE … ALTER COLUMN id TYPE bigint.",
        });
    }
    if copy::key_of(live.oid)?.is_none() {
        return fault(MigrationFault::NoKey);
    }
    if let Some((what, hint)) = suitable::objection(live.oid, direction)? {
        return fault(MigrationFault::NotCarried { what, hint });
    }
    if let Some(what) = dependents::not_carried(live.oid)? {
        return fault(MigrationFault::NotCarried {
            what,
            hint: "It depends on the table itself, not on its name: drop it, and make it again afterwards.",
        });
    }
    for name in [SHADOW, OLD] {
        if server::find_relation(extension.schema_oid, name).is_some() {
            return fault(MigrationFault::NameTaken(format!("{}.{name}", extension.schema)));
        }
    }
    if direction == Direction::Migrate {
        let names = catalog::relation_names(extension.schema_oid)?;
        if let Some(name) = names.into_iter().find(|name| name::parse(EVENTS, name).is_some()) {
            return fault(MigrationFault::NameTaken(format!("{}.{name}", extension.schema)));
        }
    }
    create::require_safe_owner(live)?;
    if !catalog::may_create_in(live.owner, live.schema_oid)? {
        let (role, schema) = (live.owner_name.clone(), live.schema.clone());
        return Err(Error::NoCreatePrivilege { role, schema });
    }
    if catalog::find_table(extension.schema_oid, RUNS)?.is_none() {
        return Err(Error::NoRuns { table: format!("{}.{RUNS}", extension.schema) });
    }
    Ok(())
}

/// Refuses where there is no room for a copy.
///
/// # Errors
///
/// [`MigrationFault::NoSpace`].
pub fn require_space(live: &Table, bytes: Option<i64>) -> Result<()> {
    let (needed, free) = (needed_bytes(bytes), free_bytes(live)?);
    if needed <= free {
        return Ok(());
    }
    let (needed, free) = (catalog::size_pretty(needed)?, catalog::size_pretty(free)?);
    Err(MigrationFault::NoSpace { needed, free }.into())
}

/// How much room a copy of so many bytes needs: as much again, and a fifth for the changes meanwhile and for WAL.
#[must_use]
pub fn needed_bytes(bytes: Option<i64>) -> i64 {
    let bytes = bytes.unwrap_or(0);
    bytes.saturating_add(bytes / 5)
}

/// How much room there is where the table, or the first of its partitions, lies.
///
/// # Errors
///
/// Where the system doesn't say.
pub fn free_bytes(live: &Table) -> Result<i64> {
    let leaf = suitable::leaves(live.oid)?.first().map_or(live.oid, |leaf| leaf.oid);
    space::free_bytes(&catalog::file_path(leaf)?.unwrap_or_default())
}

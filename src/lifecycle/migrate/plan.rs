//! What a migration would do to a plain table, and whether one is under way: for the plan and for the health check.

use super::Direction;
use super::begin::{free_bytes, needed_bytes, require_space, require_suitable, subject};
use crate::db::catalog::{self, EVENTS, Extension};
use crate::db::lock::{self, Mode, Need};
use crate::db::migration::{OLD, SHADOW, capture, state};
use crate::domain::migration::Phase;
use crate::error::Result;
use crate::lifecycle::inspect::{Finding, Status};
use crate::lifecycle::needs;
use crate::lifecycle::plan::Step;
use crate::pg::{identity, server};
use crate::settings::Settings;

/// The steps by which a plain table becomes partitions, or what stands in the way of that.
///
/// # Errors
///
/// Where the table can't be looked at.
pub fn steps(extension: &Extension, settings: Settings) -> Result<Vec<Step>> {
    let live = subject(extension, Direction::Migrate)?;
    let (row_estimate, size_bytes) = catalog::estimates(live.oid)?;
    let bare = |action, reason: String| Step {
        action,
        partition: None,
        range: None,
        row_estimate,
        size_bytes,
        reason,
        locks: None,
        blockers: None,
    };
    let phase = identity::run_as(extension.owner, state::read)?.map(|state| state.phase);
    if let Some(phase) = phase.filter(|phase| !phase.is_end()) {
        let reason = format!("a migration is under way: {}", phase.as_str());
        return Ok(vec![bare("migrate", reason)]);
    }
    let suitable = require_suitable(extension, &live, Direction::Migrate)
        .and_then(|()| require_space(&live, size_bytes));
    if let Err(error) = suitable {
        let hint = error.hint().map(|hint| format!(": {hint}")).unwrap_or_default();
        let detail = error.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return Ok(vec![bare("keep", format!("{error}{detail}{hint}"))]);
    }
    let events = |mode| Need::Lock { relation: live.oid, name: EVENTS.to_owned(), mode };
    let referenced = catalog::referenced_tables(live.oid)?;
    let others = |mode: Mode| {
        let need = move |other: &catalog::Referenced| Need::Lock {
            relation: other.oid,
            name: other.name.clone(),
            mode,
        };
        referenced.iter().map(need).collect::<Vec<_>>()
    };
    let switch = [others(Mode::ShareRowExclusive), vec![events(Mode::AccessExclusive)]].concat();
    let space = format!(
        "rows are copied, {} in a transaction; that needs about {} of disk space, of which {} are free",
        settings.migration_pace.batch_rows,
        catalog::size_pretty(needed_bytes(size_bytes))?,
        catalog::size_pretty(free_bytes(&live)?)?
    );
    let planned = [
        ("changes are captured by triggers from now on", vec![events(Mode::ShareRowExclusive)]),
        ("a partitioned table is built beside it", others(Mode::ShareRowExclusive)),
        (space.as_str(), Vec::new()),
        ("a partition is made for each period that the rows need", others(Mode::ShareRowExclusive)),
        ("the names are swapped", switch),
        ("the two tables are compared, then the old one is dropped", others(Mode::AccessExclusive)),
    ];
    planned
        .into_iter()
        .map(|(reason, needs)| {
            let mut blockers = Vec::new();
            for need in &needs {
                blockers.extend(lock::blockers_of(need, 0)?.iter().map(ToString::to_string));
            }
            blockers.dedup();
            Ok(Step {
                locks: (!needs.is_empty()).then(|| needs::describe(&needs)),
                blockers: (!blockers.is_empty()).then(|| blockers.join("; ")),
                ..bare("migrate", reason.to_owned())
            })
        })
        .collect()
}

const CHECK: &str = "migration";

/// What is left of a migration that nothing is known of any more: the extension was dropped meanwhile, or a dump restored.
fn left_over(extension: &Extension) -> Result<Option<Finding>> {
    let captured = capture::tables()?;
    if !captured.is_empty() {
        let detail = format!(
            "{} table(s) have triggers of a migration, and none is under way: a dump may have been restored",
            captured.len()
        );
        let hint = "CALL undo_workflow_events_migration() removes them.";
        return Ok(Some(Finding::bad(CHECK, Status::Failed, detail, hint)));
    }
    let is_there = |name: &&str| server::find_relation(extension.schema_oid, name).is_some();
    let tables: Vec<&str> = [OLD, SHADOW].into_iter().filter(is_there).collect();
    Ok((!tables.is_empty()).then(|| {
        let detail = format!(
            "{} is there, and no migration is under way: the extension was dropped during one, or a dump restored",
            tables.join(" and ")
        );
        let hint = "Once you have compared it with workflow_events, drop it: it would be in the way of the next migration.";
        Finding::bad(CHECK, Status::Warning, detail, hint)
    }))
}

/// Whether a migration is under way, and what stops it; nothing where there is none, and nothing of one is left.
///
/// # Errors
///
/// Where the catalogs can't be read.
pub fn finding(extension: &Extension) -> Result<Option<Finding>> {
    let (found, failure) = identity::run_as(extension.owner, || {
        Ok::<_, crate::error::Error>((state::read()?, state::failure()?))
    })?;
    let Some(state) = found.filter(|state| !state.phase.is_end()) else {
        return left_over(extension);
    };
    let (direction, phase) = (state.direction.as_str(), state.phase.as_str());
    let see = "See workflow_events_migration_progress.";
    Ok(Some(match failure {
        Some(failure) => {
            let detail = format!("{direction}, {phase}, has failed: {}", failure.message);
            Finding::bad(CHECK, Status::Failed, detail, failure.hint.unwrap_or_default())
        }
        None if state.phase == Phase::Verifying => Finding::ok(
            CHECK,
            format!("{direction}: the names are swapped, and the tables are compared"),
        ),
        None => {
            Finding::bad(CHECK, Status::Warning, format!("{direction} is under way: {phase}"), see)
        }
    }))
}

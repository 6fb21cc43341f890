//! The plan of maintenance as people read it, and as the worker and the functions carry it out.

use std::cell::LazyCell;

use pgrx::pg_sys::Oid;

use crate::db::lock::{self, Need};
use crate::db::{catalog, retired};
use crate::domain::maintenance::{self, Plan, Retired, Retiring};
use crate::domain::partition::Range;
use crate::domain::plan::{Facts, Obstacle, Retirement};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::migrate;
use crate::lifecycle::needs;
use crate::lifecycle::replay::Replays;
use crate::pg::identity;
use crate::settings::Settings;

/// What is to be made now; `facts` may be without names.
pub fn of_creation(context: &Context, facts: &Facts) -> Result<Plan> {
    let planned = |facts| maintenance::creation(facts, &context.policy, &context.midnights());
    let plan = planned(facts)?;
    if plan.creations.is_empty() {
        return Ok(plan);
    }
    let names = catalog::relation_names(context.table.schema_oid)?;
    Ok(planned(&Facts { names, ..facts.clone() })?)
}

/// What is to be retired now.
pub fn of_retirement(context: &Context, facts: &Facts, settings: Settings) -> Result<Plan> {
    retirement(context, facts, settings, |_| true)
}

/// What is to be done now about one partition, attached or retired; `None` where nothing is.
pub fn of_partition(context: &Context, oid: u32, settings: Settings) -> Result<Option<Retiring>> {
    let facts = context.facts_without_names()?;
    let plan = retirement(context, &facts, settings, |partition| partition.oid == oid)?;
    Ok(plan.retiring.into_iter().find(|step| step.partition().oid == oid))
}

/// What is to be done now about the partitions that are parked and whose time has come, and what keeps parked ones.
pub fn of_parked(
    context: &Context,
    facts: &Facts,
    settings: Settings,
) -> Result<(Vec<Retiring>, Vec<Obstacle>)> {
    let parked: Vec<Retirement> = retired(context)?
        .into_iter()
        .filter(Retired::is_detached)
        .map(|retired| retired.partition)
        .collect();
    if parked.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let is_parked =
        |partition: &Retirement| parked.iter().any(|parked| parked.oid == partition.oid);
    let plan = retirement(context, facts, settings, is_parked)?;
    let is_named = |obstacle: &Obstacle| {
        obstacle.partition().is_some_and(|name| parked.iter().any(|parked| parked.name == name))
    };
    let mut kept: Vec<Obstacle> = plan.kept.into_iter().filter(is_named).collect();
    let replays = LazyCell::new(|| Replays::now(context, settings));
    let mut steps = Vec::new();
    for step in plan.retiring {
        match &step {
            Retiring::Archive(_) | Retiring::DropDetached(_) => steps.push(step),
            // To put it back is the worker's, or the user's.
            Retiring::Restore(partition) => kept.extend(replays.need(partition)),
            _ => {}
        }
    }
    Ok((steps, kept))
}

/// The plan; what costs more than a look at the bounds is asked of those partitions alone that it `concerns`.
fn retirement(
    context: &Context,
    facts: &Facts,
    settings: Settings,
    concerns: impl Fn(&Retirement) -> bool,
) -> Result<Plan> {
    let retired = retired(context)?;
    let mut plan = maintenance::retirement(facts, &retired, &context.policy, &context.midnights())?;
    let replays = LazyCell::new(|| Replays::now(context, settings));
    let mut steps = std::mem::take(&mut plan.retiring);
    // Whatever is turned off: this brings back what a run needs.
    let detached = retired.iter().filter(|r| r.is_detached() && !r.is_forced);
    for Retired { partition, .. } in detached.filter(|r| concerns(&r.partition)) {
        let Some(need) = replays.need(partition) else { continue };
        steps.retain(|step| step.partition() != partition);
        plan.parked.retain(|parked| parked != partition);
        match need {
            Obstacle::UnfinishedRuns { .. } => {
                // Whatever else is said of a table that stays parked.
                plan.kept.retain(|kept| kept.partition() != Some(partition.name.as_str()));
                steps.push(Retiring::Restore(partition.clone()));
            }
            unknown => plan.kept.push(unknown),
        }
    }
    for step in steps {
        let partition = step.partition();
        let is_attached = matches!(
            step,
            Retiring::Detach(_) | Retiring::DetachLocked(_) | Retiring::DropAttached(_)
        );
        let obstacle = match is_attached && concerns(partition) {
            // What can be detached and not dropped would be out of sight for nothing.
            true => match undroppable(context, partition.oid.into())? {
                Some(reason) => {
                    Some(Obstacle::Undroppable { partition: partition.name.clone(), reason })
                }
                None => replays.need(partition),
            },
            false => None,
        };
        match obstacle {
            Some(obstacle) => plan.kept.push(obstacle),
            None => plan.retiring.push(step),
        }
    }
    plan.retiring.sort_by_key(rank);
    Ok(plan)
}

/// In which order steps are done: what brings rows back into sight comes first, and PostgreSQL begins no detach before
/// another one has ended.
const fn rank(step: &Retiring) -> u8 {
    match step {
        Retiring::Finalize(_) => 0,
        Retiring::Restore(_) => 1,
        Retiring::Archive(_) | Retiring::DropDetached(_) => 2,
        Retiring::Detach(_) | Retiring::DetachLocked(_) | Retiring::DropAttached(_) => 3,
    }
}

/// What has been retired and is not gone yet.
///
/// # Errors
///
/// Where the server can't be asked.
pub fn retired(context: &Context) -> Result<Vec<Retired>> {
    // It is the extension's own, and who may see the plan may not be able to read it.
    identity::run_as(context.extension.owner, || retired::all(&context.table, &context.policy))
}

/// Why a table could not be dropped; `None` where it could.
pub fn undroppable(context: &Context, table: Oid) -> Result<Option<String>> {
    if let Some((owner, name)) = catalog::owner_of(table)?
        && owner != context.table.owner
    {
        return Ok(Some(format!("it is owned by role \"{name}\"")));
    }
    Ok(catalog::dependent(table)?.map(|dependent| format!("{dependent} depends on it")))
}

/// Refuses a step that is no longer planned: the policy, or the partition, may have changed since.
///
/// # Errors
///
/// [`Error::Changed`].
pub fn require(context: &Context, step: &Retiring, settings: Settings) -> Result<()> {
    if of_partition(context, step.partition().oid, settings)?.as_ref() == Some(step) {
        return Ok(());
    }
    Err(Error::Changed { partition: step.partition().name.clone() })
}

/// A step of the plan, or something that is kept.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is done: `create`, `finalize`, `restore`, `archive`, `drop`, `detach`, `migrate` or `keep`.
    pub action: &'static str,
    /// The partition.
    pub partition: Option<String>,
    /// Where its range begins and ends.
    pub range: Option<Range>,
    /// How many rows it holds, as the planner estimates it.
    pub row_estimate: Option<i64>,
    /// Its size with indexes and TOAST, in bytes.
    pub size_bytes: Option<i64>,
    /// Why.
    pub reason: String,
    /// The locks that it takes.
    pub locks: Option<String>,
    /// Who is in the way now.
    pub blockers: Option<String>,
}

/// The plan, in the order in which it is carried out; changes nothing and waits for nobody.
///
/// # Errors
///
/// Where there is no event log that can be maintained or migrated, or its policy makes no sense.
pub fn steps(settings: Settings) -> Result<Vec<Step>> {
    identity::pinned(|| {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        let context = match Context::load() {
            Err(Error::NotPartitioned { .. }) => {
                return migrate::plan::steps(&catalog::extension()?, settings);
            }
            context => context?,
        };
        let facts = context.facts_without_names()?;
        let creation = of_creation(&context, &facts)?;
        let retirement = of_retirement(&context, &facts, settings)?;
        let mut steps = Vec::new();
        for planned in &creation.creations {
            let needs = needs::of_creation(&context)?;
            let reason = "no partition holds it".to_owned();
            let name = Some(planned.name.clone());
            let step =
                Step { row_estimate: Some(0), size_bytes: Some(0), ..bare("create", reason) };
            steps.push(Step { partition: name, ..with_needs(step, planned.range, &needs)? });
        }
        for planned in &retirement.retiring {
            steps.push(retiring_step(&context, planned)?);
        }
        for parked in &retirement.parked {
            let reason = "it is parked until its grace has passed; restore_workflow_events_partition() brings it back";
            let range = Some(parked.range);
            let partition = Some(parked.name.clone());
            steps.push(Step { partition, range, ..bare("keep", reason.to_owned()) });
        }
        let mut obstacles = creation.not_created;
        obstacles.extend(retirement.kept);
        for (i, obstacle) in obstacles.iter().enumerate() {
            if !obstacles.iter().take(i).any(|before| before == obstacle) {
                let partition = obstacle.partition().map(str::to_owned);
                steps.push(Step { partition, ..bare("keep", obstacle.to_string()) });
            }
        }
        Ok(steps)
    })
}

fn retiring_step(context: &Context, planned: &Retiring) -> Result<Step> {
    let needs = needs::of_retiring(context, planned)?;
    let (action, reason) = match planned {
        Retiring::Finalize(_) => ("finalize", "a detach was begun and not ended"),
        Retiring::Restore(_) => ("restore", "a run that is not finished needs it"),
        Retiring::Archive(_) => ("archive", "it was detached to be archived and dropped"),
        Retiring::DropDetached(_) => ("drop", "it was detached to be dropped"),
        Retiring::Detach(_) | Retiring::DetachLocked(_) => (
            "detach",
            match context.policy.parks() {
                true => "its whole range lies before the retention; then it is parked",
                false => "its whole range lies before the retention; then it is dropped",
            },
        ),
        Retiring::DropAttached(_) => (
            "drop",
            "its whole range lies before the retention; beside a DEFAULT partition nothing is detached \
             concurrently",
        ),
    };
    let partition = planned.partition();
    let (row_estimate, size_bytes) = catalog::estimates(partition.oid.into())?;
    let step = Step { row_estimate, size_bytes, ..bare(action, reason.to_owned()) };
    let step = with_needs(step, partition.range, &needs)?;
    Ok(Step { partition: Some(partition.name.clone()), ..step })
}

const fn bare(action: &'static str, reason: String) -> Step {
    Step {
        action,
        partition: None,
        range: None,
        row_estimate: None,
        size_bytes: None,
        reason,
        locks: None,
        blockers: None,
    }
}

fn with_needs(step: Step, range: Range, needs: &[Need]) -> Result<Step> {
    let mut blockers = Vec::new();
    for need in needs {
        blockers.extend(lock::blockers_of(need, 0)?.iter().map(ToString::to_string));
    }
    blockers.dedup();
    Ok(Step {
        range: Some(range),
        locks: Some(needs::describe(needs)),
        blockers: (!blockers.is_empty()).then(|| blockers.join("; ")),
        ..step
    })
}

/// Obstacles as errors; one that is about a single partition names it.
#[must_use]
pub fn blocked(obstacles: Vec<Obstacle>) -> Vec<Error> {
    let blocked = |obstacle: Obstacle| match &obstacle {
        Obstacle::NameTaken { name } => {
            let name = name.clone();
            Error::from(obstacle).not_created(&name)
        }
        _ => obstacle.into(),
    };
    obstacles.into_iter().map(blocked).collect()
}

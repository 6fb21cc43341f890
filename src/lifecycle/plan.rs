//! The plan of maintenance as people read it, and as the worker and the functions carry it out.

use pgrx::pg_sys::Oid;

use crate::db::lock::{self, Need};
use crate::db::{catalog, retired};
use crate::domain::maintenance::{self, Plan, Retiring};
use crate::domain::partition::Range;
use crate::domain::plan::{Facts, Obstacle};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::needs;
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
pub fn of_retirement(context: &Context, facts: &Facts) -> Result<Plan> {
    // It is the extension's own, and who may see the plan may not be able to read it.
    let retired = identity::run_as(context.extension.owner, || retired::all(&context.table))?;
    let mut plan = maintenance::retirement(facts, &retired, &context.policy, &context.midnights())?;
    // What can be detached and not dropped would be out of sight for nothing.
    let mut retiring = Vec::new();
    for step in std::mem::take(&mut plan.retiring) {
        let reason = match step {
            Retiring::Detach(_) | Retiring::DropAttached(_) => {
                undroppable(context, step.partition().oid.into())?
            }
            Retiring::Finalize(_) | Retiring::DropDetached(_) => None,
        };
        match reason {
            Some(reason) => {
                let partition = step.partition().name.clone();
                plan.kept.push(Obstacle::Undroppable { partition, reason });
            }
            None => retiring.push(step),
        }
    }
    Ok(Plan { retiring, ..plan })
}

/// Why a table could not be dropped; `None` where it could.
fn undroppable(context: &Context, table: Oid) -> Result<Option<String>> {
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
pub fn require(context: &Context, step: &Retiring) -> Result<()> {
    let planned = of_retirement(context, &context.facts_without_names()?)?;
    if planned.retiring.contains(step) {
        return Ok(());
    }
    Err(Error::Changed { partition: step.partition().name.clone() })
}

/// A step of the plan, or something that is kept.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is done: `create`, `finalize`, `detach`, `drop` or `keep`.
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
/// Where there is no event log that can be maintained, or its policy makes no sense.
pub fn steps(settings: Settings) -> Result<Vec<Step>> {
    identity::pinned(|| {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        let context = Context::load()?;
        let facts = context.facts_without_names()?;
        let creation = of_creation(&context, &facts)?;
        let retirement = of_retirement(&context, &facts)?;
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
        Retiring::DropDetached(_) => ("drop", "it was detached to be dropped"),
        Retiring::Detach(_) => {
            ("detach", "its whole range lies before the retention; then it is dropped")
        }
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

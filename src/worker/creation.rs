//! The worker's first task: the partitions that are missing are made, each in a transaction of its own.

use pgrx::PgSqlErrorCode as Sqlstate;

use super::database::{Look, Pass};
use super::progress::{self, Before, Progress};
use crate::db::{calendar, lock};
use crate::domain::maintenance::Coverage;
use crate::domain::partition::{Bound, Range};
use crate::domain::plan::Creation;
use crate::domain::queue::{Order, Task};
use crate::domain::retry::Outcome;
use crate::error::{Error, Failure, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::default_partition::DefaultPartition;
use crate::lifecycle::{adopt, coverage, create, needs, plan};

/// What is to be done.
struct Survey {
    before: Before,
    creations: Vec<Creation>,
    has_open_partition: bool,
    has_proof: bool,
    in_the_way: Option<Error>,
    hole: Option<String>,
    is_turned_on: bool,
}

/// Does what is due.
///
/// # Errors
///
/// Where the catalogs can't be read, or the ledger can't be written.
pub fn run(pass: &Pass, order: Order, look: &Look) -> Result<Outcome> {
    const TASK: Task = Task::Create;
    let mut progress = Progress::default();
    let survey = pass.step("planning what to create", || survey(&mut progress, look))?;
    progress::close_crashed(pass, TASK, &survey.before)?;
    if survey.before.is_set_aside {
        return Ok(Outcome::Failed);
    }
    let blocked = survey.in_the_way.filter(|_| !order.insist);
    if let Some(error) = &blocked {
        progress.fail(error);
    }
    let nothing_to_make = survey.creations.is_empty() || blocked.is_some();
    if nothing_to_make && !survey.has_open_partition && !survey.has_proof {
        if let (Some(hole), Outcome::Done) = (survey.hole, progress.outcome()) {
            report_hole(&mut progress, hole, survey.is_turned_on);
        }
        return progress::record_look(pass, TASK, &survey.before, &progress);
    }
    let entry = progress::claim(pass, TASK)?;
    if survey.has_proof {
        // An earlier attempt ended without a word.
        drop_proof(pass, &mut progress);
    }
    if !nothing_to_make {
        make(pass, &survey.creations, &mut progress);
    }
    if survey.has_open_partition {
        match pass.step("comparing protection", || {
            adopt::close_partitions(&Context::load()?, pass.settings)
        }) {
            Ok(open) => open.into_iter().for_each(|problem| progress.warn(problem)),
            Err(error) => progress.warn(format!("protection: {error}")),
        }
    }
    // "ok" is said only where this has been proved.
    match pass.step("proving the coverage", || first_hole(&Context::load()?)) {
        Ok(Some(hole)) if progress.outcome() == Outcome::Done => {
            report_hole(&mut progress, hole, survey.is_turned_on);
        }
        Ok(_) => {}
        Err(error) => progress.fail(&error),
    }
    progress::record(pass, TASK, entry, &progress)
}

fn survey(progress: &mut Progress, look: &Look) -> Result<Survey> {
    let before = Before::of(Task::Create, &look.histories);
    let context = &look.context;
    let planned = plan::of_creation(context, &look.facts)?;
    plan::blocked(planned.not_created).iter().for_each(|obstacle| progress.fail(obstacle));
    let in_the_way = match planned.creations.is_empty() {
        true => None,
        false => lock::look(&needs::of_creation(context)?).err(),
    };
    Ok(Survey {
        before,
        creations: planned.creations,
        has_proof: match DefaultPartition::among(&look.facts.partitions) {
            Some(default) => default.has_proof()?,
            None => false,
        },
        has_open_partition: adopt::some_is_open(context, &look.facts.partitions),
        in_the_way,
        hole: first_of(&coverage::of_facts(context, &look.facts)?),
        is_turned_on: context.policy.automatic_creation,
    })
}

fn first_hole(context: &Context) -> Result<Option<String>> {
    Ok(first_of(&coverage::of(context)?))
}

fn first_of(coverage: &Coverage) -> Option<String> {
    coverage.holes.first().map(ToString::to_string)
}

/// A hole that nothing else explains; with creation turned off, it is somebody's wish.
fn report_hole(progress: &mut Progress, hole: String, is_turned_on: bool) {
    let message = format!("no partition holds {hole}");
    if is_turned_on {
        let sqlstate = Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        progress.fail(&Error::Server(Failure { sqlstate, message, detail: None, hint: None }));
    } else {
        progress.warn(message);
    }
}

fn make(pass: &Pass, creations: &[Creation], progress: &mut Progress) {
    for creation in creations {
        let activity = format!("creating partition {}", creation.name);
        let made = prove(pass, creation).and_then(|has_proof| {
            let made = pass
                .step(&activity, || create::planned(&Context::load()?, creation, pass.settings));
            if has_proof && made.as_ref().map_or(true, |report| report.created.is_empty()) {
                drop_proof(pass, progress);
            }
            made
        });
        match made {
            Ok(report) => {
                progress.created.extend(report.created);
                report.problems.iter().for_each(|problem| progress.fail(problem));
                report.notes.into_iter().for_each(|note| progress.warn(note));
            }
            Err(error) => progress.fail(&error.not_created(&creation.name)),
        }
        if progress.outcome() == Outcome::LockTimeout {
            // The others need the same locks, and clients have waited once.
            break;
        }
    }
}

/// Where there is a large DEFAULT partition, has it prove that it holds nothing of what is to be made; whether there
/// is a proof now, which making the partition takes away again.
fn prove(pass: &Pass, creation: &Creation) -> Result<bool> {
    let range = &creation.range;
    let added = pass.step("looking for a DEFAULT partition", || {
        let context = Context::load()?;
        let Some(default) = DefaultPartition::find(&context)? else { return Ok(false) };
        if !default.is_large()? || !lies_ahead(&context, range)? {
            return Ok(false);
        }
        match default.add_proof(&context, range, pass.settings) {
            // It belongs to somebody else. A partition is worth more than a moment of waiting.
            Err(error) if error.sqlstate() == Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE => Ok(false),
            added => added.map(|()| true),
        }
    })?;
    if added {
        let validated = pass.long_step("validating the proof of the DEFAULT partition", || {
            let context = Context::load()?;
            DefaultPartition::find(&context)?
                .map_or(Ok(()), |default| default.validate_proof(&context))
        });
        if let Err(error) = validated {
            pass.step("dropping the proof of the DEFAULT partition", || take_proof_away(pass))?;
            return Err(error);
        }
    }
    Ok(added)
}

/// Whether events of that range are still to come.
fn lies_ahead(context: &Context, range: &Range) -> Result<bool> {
    let (now, _) = calendar::now(&context.policy.time_zone)?;
    Ok(range.lower > Bound::At(now))
}

fn drop_proof(pass: &Pass, progress: &mut Progress) {
    let dropped =
        pass.step("dropping the proof of the DEFAULT partition", || take_proof_away(pass));
    if let Err(error) = dropped {
        progress.fail(&error);
    }
}

fn take_proof_away(pass: &Pass) -> Result<()> {
    let context = Context::load()?;
    match DefaultPartition::find(&context)? {
        Some(default) => default.drop_proof(&context, pass.settings),
        None => Ok(()),
    }
}

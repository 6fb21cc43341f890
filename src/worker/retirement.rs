//! The worker's second task: old partitions are retired, each step in a transaction of its own.

use super::database::{Look, Pass};
use super::progress::{self, Before, Progress};
use crate::db::{catalog, lock, query};
use crate::domain::maintenance::Retiring;
use crate::domain::plan::{Obstacle, Retirement};
use crate::domain::queue::{Order, Task};
use crate::domain::retry::Outcome;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::detach::{self, Detached};
use crate::lifecycle::{needs, plan, retire};
use crate::pg::identity;

/// What is to be done.
struct Survey {
    before: Before,
    steps: Vec<Retiring>,
}

/// Does what is due.
///
/// # Errors
///
/// Where the catalogs can't be read, or the ledger can't be written.
pub fn run(pass: &Pass, order: Order, look: &Look) -> Result<Outcome> {
    const TASK: Task = Task::Retire;
    let mut progress = Progress::default();
    let survey =
        pass.step("planning what to retire", || survey(&mut progress, order.insist, look))?;
    let Some(Survey { before, steps }) = survey else {
        return Ok(Outcome::Done);
    };
    progress::close_crashed(pass, TASK, &before)?;
    if before.is_set_aside {
        return Ok(Outcome::Failed);
    }
    if steps.is_empty() {
        return progress::record_look(pass, TASK, &before, &progress);
    }
    let entry = progress::claim(pass, TASK)?;
    for step in &steps {
        if let Err(error) = carry_out(pass, step, order, &mut progress) {
            let name = &step.partition().name;
            let concerns_others = concerns_others(&error, name);
            progress.keep(name, error);
            if concerns_others {
                break;
            }
        }
    }
    progress::record(pass, TASK, entry, &progress)
}

/// Whether what stopped a step stops the others too: they need the same locks, and clients have waited once; and
/// while a detach is pending, PostgreSQL begins no other.
fn concerns_others(error: &Error, partition: &str) -> bool {
    let is_of_partition = error.in_the_way().is_some_and(|(relation, _)| relation == partition);
    let is_lock = error.is_lock_timeout() || error.is_in_the_way();
    let is_pending = matches!(error, Error::Blocked(Obstacle::DetachPending { .. }));
    is_pending || is_lock && !is_of_partition
}

/// What can be done now; `None` where there is nothing to do and nothing to say.
fn survey(progress: &mut Progress, insist: bool, look: &Look) -> Result<Option<Survey>> {
    let context = &look.context;
    let planned = plan::of_retirement(context, &look.facts)?;
    let mut before = Before::of(Task::Retire, &look.histories);
    before.has_stale_notes = planned.has_stale_notes;
    let wants_nothing = context.policy.retention_months.is_none() && planned.retiring.is_empty();
    if wants_nothing && planned.kept.is_empty() && before.is_clean() {
        return Ok(None);
    }
    for obstacle in planned.kept {
        let name = obstacle.partition().unwrap_or_default().to_owned();
        progress.keep(&name, obstacle.into());
    }
    let mut steps = Vec::new();
    for step in planned.retiring {
        match lock::look(&needs::of_retiring(context, &step)?) {
            Err(error) if !insist && error.is_in_the_way() => {
                progress.keep(&step.partition().name, error);
            }
            Err(error) if !error.is_in_the_way() => return Err(error),
            _ => steps.push(step),
        }
    }
    Ok(Some(Survey { before, steps }))
}

fn carry_out(pass: &Pass, step: &Retiring, order: Order, progress: &mut Progress) -> Result<()> {
    let partition = step.partition();
    let name = &partition.name;
    match step {
        Retiring::Finalize(_) => {
            let activity = format!("completing the detach of partition {name}");
            pass.step(&activity, || detach::finalize(partition, pass.settings))?;
            progress.finalized.push(name.clone());
            if pass.step("looking whether it is ours", || is_ours(partition))? {
                drop_detached(pass, partition, order, progress)?;
            }
            Ok(())
        }
        Retiring::Detach(_) => {
            detach(pass, partition)?;
            progress.detached.push(name.clone());
            drop_detached(pass, partition, order, progress)
        }
        Retiring::DropDetached(_) => drop_detached(pass, partition, order, progress),
        Retiring::DropAttached(_) => {
            let activity = format!("dropping partition {name}");
            let report = pass.step(&activity, || drop_attached(partition, pass))?;
            progress.dropped.extend(report.dropped);
            report.kept.into_iter().for_each(|(name, error)| progress.keep(&name, error));
            Ok(())
        }
    }
}

/// Detaches a partition; `Ok` where it is a table of its own then.
fn detach(pass: &Pass, partition: &Retirement) -> Result<()> {
    let name = &partition.name;
    pass.step("looking whether a detach is pending", || {
        let context = Context::load()?;
        // PostgreSQL begins no detach while another one is pending.
        let attached = catalog::partitions(&context.table)?;
        match attached.into_iter().find(|attached| attached.detach_pending) {
            Some(pending) => Err(Obstacle::DetachPending { partition: pending.name }.into()),
            None => Ok(()),
        }
    })?;
    let detachable = pass.step("noting what to detach", || detach::prepare(partition))?;
    let activity = format!("detaching partition {name}");
    let tried =
        pass.command(&activity, detachable.owner, &detachable.command, || detachable.note());
    detachable.release(tried.is_err());
    match pass.step("looking what has come of it", || detach::settle(partition, tried.is_ok()))? {
        Detached::Completely => Ok(()),
        Detached::Pending => Err(waited_in_vain(pass, partition)),
        Detached::NotAtAll => match tried {
            Err(error) if error.is_lock_timeout() => Err(waited_in_vain(pass, partition)),
            Err(error) => Err(error),
            Ok(()) => Err(Error::Changed { partition: name.clone() }),
        },
    }
}

/// The command has waited in vain, for a lock or for transactions to end: for what, and with who is in the way.
fn waited_in_vain(pass: &Pass, partition: &Retirement) -> Error {
    let found = pass.step("looking who is in the way", || {
        let needs = needs::of_retiring(&Context::load()?, &Retiring::Detach(partition.clone()))?;
        lock::first_blocked(&needs)
    });
    let (relation, blockers) =
        found.ok().flatten().unwrap_or_else(|| (partition.name.clone(), Vec::new()));
    Error::LockTimeout { relation, budget_ms: pass.command_lock_timeout_ms(), blockers }
}

/// Whether we have detached it.
fn is_ours(partition: &Retirement) -> Result<bool> {
    let context = Context::load()?;
    let planned = plan::of_retirement(&context, &context.facts_without_names()?)?;
    let is_it = |step: &Retiring| matches!(step, Retiring::DropDetached(detached) if detached.oid == partition.oid);
    Ok(planned.retiring.iter().any(is_it))
}

fn drop_detached(
    pass: &Pass,
    partition: &Retirement,
    order: Order,
    progress: &mut Progress,
) -> Result<()> {
    let activity = format!("dropping table {}", partition.name);
    pass.step(&activity, || {
        if !order.insist {
            let step = Retiring::DropDetached(partition.clone());
            lock::look(&needs::of_retiring(&Context::load()?, &step)?)?;
        }
        detach::drop_detached(partition, pass.settings)
    })?;
    progress.dropped.push(partition.name.clone());
    Ok(())
}

/// Drops an attached partition, as the owner.
fn drop_attached(partition: &Retirement, pass: &Pass) -> Result<retire::Report> {
    let context = Context::load()?;
    plan::require(&context, &Retiring::DropAttached(partition.clone()))?;
    identity::run_as(context.table.owner, || {
        lock::wait_for_turn(context.table.oid, catalog::EVENTS, pass.settings.lock_timeout_ms)?;
        query::begin_writing()?;
        retire::drop_all(&context, std::slice::from_ref(partition), pass.settings)
    })
}

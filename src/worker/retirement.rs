//! The worker's second task: old partitions are retired, each step in a transaction of its own.

use super::database::{Look, Pass};
use super::progress::{self, Before, Progress};
use crate::db::retired::Wish;
use crate::db::{catalog, lock, query};
use crate::domain::maintenance::Retiring;
use crate::domain::plan::{Obstacle, Retirement};
use crate::domain::queue::{Order, Task};
use crate::domain::retry::Outcome;
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::lifecycle::detach::{self, Detached};
use crate::lifecycle::retire::Fate;
use crate::lifecycle::{needs, plan, restore, retire};
use crate::pg::identity;
use crate::settings::Settings;

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
    let survey = pass.step("planning what to retire", || {
        survey(&mut progress, order.insist, look, pass.settings)
    })?;
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
fn survey(
    progress: &mut Progress,
    insist: bool,
    look: &Look,
    settings: Settings,
) -> Result<Option<Survey>> {
    let context = &look.context;
    let planned = plan::of_retirement(context, &look.facts, settings)?;
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
    progress.parked.extend(planned.parked.into_iter().map(|parked| parked.name));
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
            go_on(pass, partition, order, progress)
        }
        Retiring::Detach(_) => {
            detach(pass, partition)?;
            progress.detached.push(name.clone());
            go_on(pass, partition, order, progress)
        }
        Retiring::DetachLocked(_) => {
            let activity = format!("detaching partition {name}");
            let report = pass.step(&activity, || take_out(step, pass))?;
            progress.detached.extend(report.parked);
            report.kept.into_iter().for_each(|(name, error)| progress.keep(&name, error));
            go_on(pass, partition, order, progress)
        }
        Retiring::Restore(_) => restore(pass, partition, progress),
        Retiring::Archive(_) => {
            archive(pass, partition, progress)?;
            drop_detached(pass, step, order, progress)
        }
        Retiring::DropDetached(_) => drop_detached(pass, step, order, progress),
        Retiring::DropAttached(_) => {
            let activity = format!("dropping partition {name}");
            let report = pass.step(&activity, || take_out(step, pass))?;
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
    let detachable =
        pass.step("noting what to detach", || detach::prepare(partition, pass.settings))?;
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

/// What comes after a detach: as it is planned now, nothing where it is parked.
fn go_on(pass: &Pass, partition: &Retirement, order: Order, progress: &mut Progress) -> Result<()> {
    let next = pass.step("looking what becomes of it", || {
        plan::of_partition(&Context::load()?, partition.oid, pass.settings)
    })?;
    let is_detached = |next: &Retiring| {
        matches!(next, Retiring::Restore(_) | Retiring::Archive(_) | Retiring::DropDetached(_))
    };
    match next.filter(is_detached) {
        Some(next) => carry_out(pass, &next, order, progress),
        None => Ok(()),
    }
}

/// Attaches a parked table again, because a run needs it.
fn restore(pass: &Pass, partition: &Retirement, progress: &mut Progress) -> Result<()> {
    let settings = pass.settings;
    pass.step("connecting a parked table with the runs", || {
        restore::reconnect(&Context::load()?, partition, settings)
    })?;
    pass.long_step("checking a parked table", || {
        restore::check(&Context::load()?, partition, settings)
    })?;
    let activity = format!("attaching partition {}", partition.name);
    let notes = pass.step(&activity, || restore::attach(&Context::load()?, partition, settings))?;
    notes.into_iter().for_each(|note| progress.warn(note));
    progress.restored.push(partition.name.clone());
    Ok(())
}

/// Archives a parked table, in a transaction that is committed before it is dropped.
fn archive(pass: &Pass, partition: &Retirement, progress: &mut Progress) -> Result<()> {
    let settings = pass.settings;
    let bytes = pass.step("cutting a parked table off from the runs", || {
        let context = Context::load()?;
        if !detach::is_closed(&context, partition)? {
            detach::close(&context, partition, settings)?;
        }
        Ok(catalog::estimates(partition.oid.into())?.1.unwrap_or(0))
    })?;
    let activity = format!("archiving partition {}", partition.name);
    let archived = pass
        .sized_step(&activity, bytes, || detach::archive(&Context::load()?, partition, settings))?;
    progress.archived.push(format!(
        "{}: {} row(s), {} bytes in {}",
        partition.name, archived.rows, archived.bytes, archived.location
    ));
    Ok(())
}

/// Drops a parked table, unless by now something else is to become of it.
fn drop_detached(
    pass: &Pass,
    step: &Retiring,
    order: Order,
    progress: &mut Progress,
) -> Result<()> {
    let partition = step.partition();
    let is_archived = matches!(step, Retiring::Archive(_));
    let activity = format!("dropping table {}", partition.name);
    let dropped = pass.step(&activity, || {
        let context = Context::load()?;
        let planned = plan::of_partition(&context, partition.oid, pass.settings)?;
        match planned {
            Some(Retiring::DropDetached(_)) => {}
            Some(Retiring::Archive(_)) if is_archived => {}
            Some(Retiring::Restore(_)) => return Ok(false),
            // An archive may be wanted now that was not before.
            _ => return Err(Error::Changed { partition: partition.name.clone() }),
        }
        if !order.insist {
            let step = Retiring::DropDetached(partition.clone());
            lock::look(&needs::of_retiring(&context, &step)?)?;
        }
        detach::drop_detached(&context, partition, pass.settings).map(|()| true)
    });
    match dropped {
        Ok(true) => {
            progress.dropped.push(partition.name.clone());
            Ok(())
        }
        // A run goes on that needs it: its events come back into sight at once.
        Ok(false) | Err(Error::Blocked(Obstacle::UnfinishedRuns { .. })) => {
            restore(pass, partition, progress)
        }
        Err(error) => Err(error),
    }
}

/// Drops or detaches an attached partition under a lock that others notice, as the owner.
fn take_out(step: &Retiring, pass: &Pass) -> Result<retire::Report> {
    let context = Context::load()?;
    plan::require(&context, step, pass.settings)?;
    let fate = match step {
        Retiring::DetachLocked(_) => Fate::Parked { wish: Wish::default(), is_closed: false },
        _ => Fate::Dropped { is_forced: false },
    };
    let partition = std::slice::from_ref(step.partition());
    identity::run_as(context.table.owner, || {
        lock::wait_for_turn(context.table.oid, catalog::EVENTS, pass.settings.lock_timeout_ms)?;
        query::begin_writing()?;
        retire::take_out(&context, partition, &fate, pass.settings)
    })
}

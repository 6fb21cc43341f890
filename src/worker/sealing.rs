//! The worker's third task: partitions that are closed are sealed, each by a VACUUM and a few transactions of its own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::database::{Look, Pass};
use super::progress::{self, Before, Progress};
use crate::db::seal::Content;
use crate::domain::queue::{Order, Task};
use crate::domain::retry::Outcome;
use crate::domain::seal::Candidate;
use crate::error::Result;
use crate::lifecycle::context::Context;
use crate::lifecycle::seal::{self, Command, Due};

/// How long a pass goes on to seal: then the database's other tasks, and other databases, have a turn.
const TURN: Duration = Duration::from_secs(60);

/// How long a step that reads a table may take, in milliseconds: a minute, and more for a large one.
const LEAST_LIMIT_MS: i64 = 60_000;

/// How much of a table is read in a millisecond at least, in bytes.
const LEAST_BYTES_PER_MS: i64 = 10_000;

/// Does what is due.
///
/// # Errors
///
/// Where the catalogs can't be read, or the ledger can't be written.
pub fn run(pass: &Pass, order: Order, look: &Look) -> Result<Outcome> {
    const TASK: Task = Task::Seal;
    let started = Instant::now();
    let before = Before::of(TASK, &look.histories);
    let due =
        pass.step("looking what to seal", || seal::due(&look.context, &look.facts.partitions))?;
    if !due.is_wanted && before.is_first() {
        return Ok(Outcome::Done);
    }
    progress::close_crashed(pass, TASK, &before)?;
    if before.is_set_aside {
        return Ok(Outcome::Failed);
    }
    let mut progress = Progress::default();
    if due.partitions.is_empty() && !due.analyze {
        return progress::record_look(pass, TASK, &before, &progress);
    }
    let entry = progress::claim(pass, TASK)?;
    let is_all = seal_in_turn(pass, &due, order, started, &mut progress);
    if is_all
        && (due.analyze || progress.has_sealed())
        && let Err(error) = analyze(pass)
    {
        progress.postpone("analyze workflow_events", &error);
    }
    Ok(match progress::record(pass, TASK, entry, &progress)? {
        Outcome::Done if !is_all => Outcome::Unfinished,
        outcome => outcome,
    })
}

/// Seals what is due, as much as a turn allows; whether that is all.
fn seal_in_turn(
    pass: &Pass,
    due: &Due,
    order: Order,
    started: Instant,
    progress: &mut Progress,
) -> bool {
    for candidate in &due.partitions {
        if started.elapsed() > TURN {
            return false;
        }
        if let Err(error) = seal_one(pass, candidate, order, progress) {
            progress.postpone(&format!("seal partition \"{}\"", candidate.name), &error);
        }
    }
    true
}

fn seal_one(
    pass: &Pass,
    candidate: &Candidate,
    order: Order,
    progress: &mut Progress,
) -> Result<()> {
    let name = &candidate.name;
    let command =
        pass.step("looking at a partition to seal", || seal::freezing(candidate, order.insist))?;
    let Some(command) = command else { return Ok(()) };
    let limit_ms = limit_ms(command.bytes);
    run_command(pass, &format!("freezing partition {name}"), &command)?;
    // In a transaction before the one whose snapshot counts.
    let mark = pass.step("looking at a partition to seal", || seal::mark(candidate))?;
    let Some(mark) = mark else { return Ok(()) };
    let content = pass
        .yielding_step(&format!("reading partition {name}"), limit_ms, || {
            seal::content(&Context::load()?, candidate.oid.into())
        })
        .map_err(|error| error.cut_short(limit_ms))?;
    let Some(content) = content else { return Ok(()) };
    let before = pass.step(&format!("noting the seal of partition {name}"), || {
        seal::note(candidate, mark, &content)
    })?;
    match before {
        None => progress.sealed.push(described(name, &content)),
        Some(before) if before != content => {
            progress.resealed.push(compared(name, &before, &content));
        }
        Some(_) => {}
    }
    Ok(())
}

/// Makes the statistics over all partitions, which autovacuum never does.
fn analyze(pass: &Pass) -> Result<()> {
    let command = pass.step("looking at the event log to analyze", seal::analyzing)?;
    run_command(pass, "analyzing workflow_events", &command)?;
    pass.step("noting what was analyzed", seal::renote)
}

fn run_command(pass: &Pass, activity: &str, command: &Command) -> Result<()> {
    let limit_ms = limit_ms(command.bytes);
    pass.yielding_command(activity, command.role, &command.text, limit_ms)
        .map_err(|error| error.cut_short(limit_ms))
}

/// How long reading so many bytes may take, in milliseconds.
fn limit_ms(bytes: i64) -> i32 {
    i32::try_from(LEAST_LIMIT_MS.saturating_add(bytes / LEAST_BYTES_PER_MS)).unwrap_or(i32::MAX / 2)
}

fn described(name: &str, content: &Content) -> Value {
    json!({ "partition": name, "rows": content.rows, "digest": content.digest })
}

fn compared(name: &str, before: &Content, content: &Content) -> Value {
    json!({
        "partition": name,
        "rows": content.rows,
        "digest": content.digest,
        "previous_rows": before.rows,
        "previous_digest": before.digest,
    })
}

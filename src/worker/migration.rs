//! The worker's fourth task: a migration that is under way is gone on with, a transaction a step.

use std::time::{Duration, Instant};

use super::database::Pass;
use super::progress::{self, Before, Progress};
use crate::db::{kept, ledger};
use crate::domain::queue::Task;
use crate::domain::retry::Outcome;
use crate::error::{Error, Result};
use crate::lifecycle::migrate::{self, Next, Taker};
use crate::pg::process;

/// How long a pass goes on with it: then the database's other tasks, and other databases, have a turn.
const TURN: Duration = Duration::from_secs(30);

/// Takes as many steps as a turn allows.
///
/// # Errors
///
/// Where the ledger can't be read or written.
pub fn run(pass: &Pass) -> Result<Outcome> {
    const TASK: Task = Task::Migrate;
    let histories = pass.step("reading the ledger", ledger::histories)?;
    let before = Before::of(TASK, &histories);
    progress::close_crashed(pass, TASK, &before)?;
    if before.is_set_aside {
        return Ok(Outcome::Failed);
    }
    let entry = progress::claim(pass, TASK)?;
    let mut progress = Progress::default();
    let is_unfinished = take_steps(pass, &mut progress);
    // A turn may end between two steps.
    kept::let_go();
    Ok(match progress::record(pass, TASK, entry, &progress)? {
        Outcome::Done if is_unfinished => Outcome::Unfinished,
        outcome => outcome,
    })
}

/// Whether more is to be done.
fn take_steps(pass: &Pass, progress: &mut Progress) -> bool {
    let started = Instant::now();
    let mut in_the_way: Option<Error> = None;
    while started.elapsed() < TURN {
        let next = pass
            .long_step("migrating workflow_events", || migrate::step(Taker::Worker, pass.settings));
        let pause_ms = match next {
            Ok(Next::Step(pause_ms)) => {
                in_the_way = None;
                pause_ms
            }
            Ok(Next::Again(pause_ms, error)) => {
                in_the_way = Some(error);
                pause_ms
            }
            Ok(Next::End) => return false,
            Ok(Next::Failed(error)) | Err(error) => {
                progress.fail(&error);
                return true;
            }
        };
        if pause_ms > 0 {
            // In a step, so that a cancel ends the turn, and not the process.
            let pause = Duration::from_millis(u64::from(pause_ms.unsigned_abs()));
            let waited = pass.long_step("waiting to go on with the migration", || {
                process::sleep(pause);
                Ok(())
            });
            if let Err(error) = waited {
                progress.fail(&error);
                return true;
            }
        }
    }
    if let Some(error) = in_the_way {
        progress.postpone("go on with the migration", &error);
    }
    true
}

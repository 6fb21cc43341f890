//! Whether a partition is needed to replay a run that goes on: then it is kept.
//!
//! It is asked without a lock when a plan is made, and once more under the lock that makes the drop.

use std::time::{Duration, Instant};

use pgrx::Uuid;
use pgrx::pg_sys::Oid;

use crate::db::replay::{self, Rule};
use crate::domain::plan::{Obstacle, Retirement};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::pg::{identity, subtransaction};
use crate::settings::Settings;

/// The runs that go on, as they were at one moment: asked once for all partitions of a plan.
pub struct Replays<'a> {
    context: &'a Context,
    settings: Settings,
    runs: Result<Vec<Uuid>>,
    took: Duration,
}

impl<'a> Replays<'a> {
    /// Asks which runs go on.
    #[must_use]
    pub fn now(context: &'a Context, settings: Settings) -> Self {
        let begun = Instant::now();
        let runs = subtransaction::run(|| match rule(context)? {
            Some(rule) => unfinished(&rule, settings),
            None => Ok(Vec::new()),
        });
        Self { context, settings, runs, took: begun.elapsed() }
    }

    /// Why a partition is to be kept; `None` where no run that goes on has events in it.
    #[must_use]
    pub fn need(&self, partition: &Retirement) -> Option<Obstacle> {
        let name = || partition.name.clone();
        let found = self.runs.clone().and_then(|runs| {
            subtransaction::run(|| {
                identity::run_as_seeing_all(self.context.table.owner, || {
                    identity::set_lock_timeout(self.settings.lock_timeout_ms);
                    replay::needing(partition.oid.into(), &runs)
                })
            })
        });
        match found {
            Ok(None) => None,
            Ok(Some(needed)) => Some(Obstacle::UnfinishedRuns {
                partition: name(),
                runs: needed.runs,
                oldest: needed.oldest.to_string(),
            }),
            Err(error) => {
                Some(Obstacle::ReplayUnknown { partition: name(), reason: error.to_string() })
            }
        }
    }

    /// Refuses where a partition is needed, and where to ask that once more, under the locks of a drop, would keep others
    /// waiting for longer than they may.
    ///
    /// # Errors
    ///
    /// [`Obstacle::UnfinishedRuns`], [`Obstacle::ReplayUnknown`], [`Error::SlowCheck`].
    pub fn require_quick(&self, partition: &Retirement) -> Result<()> {
        let begun = Instant::now();
        if let Some(obstacle) = self.need(partition) {
            return Err(obstacle.into());
        }
        let took = self.took.saturating_add(begun.elapsed());
        let limit_ms = self.settings.lock_timeout_ms.max(LEAST_LIMIT_MS);
        if took <= Duration::from_millis(u64::try_from(limit_ms).unwrap_or(0)) {
            return Ok(());
        }
        let indexes = rule(self.context)?.map(|rule| rule.indexes()).unwrap_or_default();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Err(Error::SlowCheck { partition: partition.name.clone(), took_ms, limit_ms, indexes })
    }
}

/// A check may always take as long as this, in milliseconds: a server that is busy for a moment is no reason to keep a
/// partition.
const LEAST_LIMIT_MS: i32 = 100;

fn rule(context: &Context) -> Result<Option<Rule>> {
    replay::rule(&context.table, &context.policy.final_statuses)
}

fn unfinished(rule: &Rule, settings: Settings) -> Result<Vec<Uuid>> {
    // Inside, so that it ends with the role.
    identity::run_as(rule.owner, || {
        identity::set_lock_timeout(settings.lock_timeout_ms);
        rule.unfinished()
    })
}

/// How many runs go on; `None` where nothing says whether a run does.
///
/// # Errors
///
/// Where the owner of the runs doesn't see all of them, or the server can't be asked.
pub fn unfinished_runs(context: &Context, settings: Settings) -> Result<Option<usize>> {
    subtransaction::run(|| match rule(context)? {
        Some(rule) => unfinished(&rule, settings).map(|runs| Some(runs.len())),
        None => Ok(None),
    })
}

/// The table of runs, where a run in it can go on: what a drop has to lock.
///
/// # Errors
///
/// Where the server can't be asked.
pub fn runs(context: &Context) -> Result<Option<Oid>> {
    Ok(rule(context)?.map(|rule| rule.runs))
}

/// Refuses where a run that goes on has events in a partition.
///
/// # Errors
///
/// [`Obstacle::UnfinishedRuns`], or [`Obstacle::ReplayUnknown`].
pub fn require_unneeded(
    context: &Context,
    partition: &Retirement,
    settings: Settings,
) -> Result<()> {
    match Replays::now(context, settings).need(partition) {
        Some(obstacle) => Err(obstacle.into()),
        None => Ok(()),
    }
}

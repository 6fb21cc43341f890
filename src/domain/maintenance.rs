//! The whole plan of maintenance: what is to be made, retired and kept, in the order in which it is done.

use super::calendar::CalendarError;
use super::instant::Instant;
use super::partition::{Bound, Extent, Range, holes};
use super::plan::{self, Creation, Facts, Midnights, Obstacle, Retirement};
use super::policy::Policy;

/// One step of retiring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retiring {
    /// A detach that was begun is completed; the partition stays as a table of its own.
    Finalize(Retirement),
    /// A partition that we have detached is attached again: a run that it is needed for goes on.
    Restore(Retirement),
    /// The rows of a partition that we have detached are archived, and then it is dropped.
    Archive(Retirement),
    /// A partition that we have detached is dropped.
    DropDetached(Retirement),
    /// A partition is detached without a lock that others notice; what becomes of it then is decided anew.
    Detach(Retirement),
    /// A partition is detached under a lock that others notice for a moment, because PostgreSQL detaches none
    /// concurrently from a table with a DEFAULT partition, and a server with assertions none at all by a worker.
    DetachLocked(Retirement),
    /// The same where it needn't be parked or archived: it is dropped while it is attached.
    DropAttached(Retirement),
}

impl Retiring {
    /// The partition that it is about.
    #[must_use]
    pub const fn partition(&self) -> &Retirement {
        match self {
            Self::Finalize(partition)
            | Self::Restore(partition)
            | Self::Archive(partition)
            | Self::DetachLocked(partition)
            | Self::DropDetached(partition)
            | Self::Detach(partition)
            | Self::DropAttached(partition) => partition,
        }
    }
}

/// How far a retirement that was decided on has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetiredState {
    /// It is attached: the detach has not been done, or is pending.
    Attached,
    /// We have detached it.
    Detached,
    /// We have detached it, and cut it off from the runs, to archive it.
    Closing,
    /// It is detached, or it has been changed, and that was not seen to be our doing.
    InDoubt,
    /// Nothing is left to do: its table is gone, or is attached and no detach is pending.
    Over,
}

/// A partition that we have decided to retire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The partition as it was then.
    pub partition: Retirement,
    /// How far it has come.
    pub state: RetiredState,
    /// The retention by which it was decided, in months; `None` for the policy's.
    pub retention_months: Option<u32>,
    /// Whether the time for which it is parked has passed.
    pub is_due: bool,
    /// Whether it goes even if runs that are not finished need it.
    pub is_forced: bool,
}

impl Retired {
    /// Whether it is a table of its own, by our doing.
    #[must_use]
    pub const fn is_detached(&self) -> bool {
        matches!(self.state, RetiredState::Detached | RetiredState::Closing)
    }
}

/// What maintenance does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The partitions to make.
    pub creations: Vec<Creation>,
    /// What stands in the way of others.
    pub not_created: Vec<Obstacle>,
    /// The steps of retiring.
    pub retiring: Vec<Retiring>,
    /// What is parked, and is dropped later.
    pub parked: Vec<Retirement>,
    /// What is kept though it is old enough, and why.
    pub kept: Vec<Obstacle>,
    /// Whether there are notes of partitions to retire of which nothing is left to do.
    pub has_stale_notes: bool,
}

/// Plans what is to be made.
///
/// # Errors
///
/// [`CalendarError::OutOfRange`] where the current date lies outside the years 1 to 9999.
pub fn creation(
    facts: &Facts,
    policy: &Policy,
    midnights: &impl Midnights,
) -> Result<Plan, CalendarError> {
    if !policy.automatic_creation {
        return Ok(Plan::default());
    }
    let window = plan::window(facts, policy, 0)?;
    let (creations, not_created) = plan::missing(facts, window, midnights);
    Ok(Plan { creations, not_created, ..Plan::default() })
}

/// Plans what is to be retired. A detach that was begun is completed first, because PostgreSQL begins no
/// other one before.
///
/// # Errors
///
/// As [`creation`].
pub fn retirement(
    facts: &Facts,
    retired: &[Retired],
    policy: &Policy,
    midnights: &impl Midnights,
) -> Result<Plan, CalendarError> {
    let has_stale_notes = retired.iter().any(|retired| retired.state == RetiredState::Over);
    let mut plan = Plan { has_stale_notes, ..Plan::default() };
    if !policy.automatic_retention {
        return Ok(plan);
    }
    for partition in facts.partitions.iter().filter(|partition| partition.detach_pending) {
        if let Some(range) = partition.range() {
            let (oid, name) = (partition.oid, partition.name.clone());
            plan.retiring.push(Retiring::Finalize(Retirement { oid, name, range }));
        }
    }
    for retired in retired {
        let Retired { partition, state, .. } = retired;
        let name = || partition.name.clone();
        match state {
            RetiredState::Attached | RetiredState::Over => {}
            RetiredState::InDoubt => plan.kept.push(Obstacle::InDoubt { partition: name() }),
            RetiredState::Detached | RetiredState::Closing => {
                let months = retired.retention_months.or(policy.retention_months);
                let cutoff = match months {
                    Some(months) => plan::cutoff(facts, months, midnights)?,
                    None => None,
                };
                if let Some(held) = facts.held(&partition.name, &partition.range) {
                    plan.kept.push(held);
                } else if cutoff.is_none_or(|cutoff| partition.range.upper > cutoff) {
                    plan.kept.push(Obstacle::NoLongerOutdated { partition: name() });
                } else if !retired.is_due {
                    plan.parked.push(partition.clone());
                } else if policy.wants_archive() {
                    plan.retiring.push(Retiring::Archive(partition.clone()));
                } else {
                    plan.retiring.push(Retiring::DropDetached(partition.clone()));
                }
            }
        }
    }
    if let Some(months) = policy.retention_months {
        let has_default = facts.partitions.iter().any(|p| p.extent == Extent::Default);
        let is_locked = has_default || !facts.detaches_concurrently;
        let (outdated, obstacles) = plan::outdated(facts, months, midnights)?;
        plan.retiring.extend(outdated.into_iter().map(|partition| match is_locked {
            true if policy.parks() || policy.wants_archive() => Retiring::DetachLocked(partition),
            true => Retiring::DropAttached(partition),
            false => Retiring::Detach(partition),
        }));
        // A pending detach is in the plan already.
        let others = |obstacle: &Obstacle| !matches!(obstacle, Obstacle::DetachPending { .. });
        plan.kept.extend(obstacles.into_iter().filter(others));
    }
    Ok(plan)
}

/// How far the partitions reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Up to where there is no hole from now on; `None` where no partition holds the present.
    pub covered_until: Option<Bound>,
    /// Up to where there is to be none: the end of the last period that the policy wants.
    pub wanted_until: Bound,
    /// The holes from now to there.
    pub holes: Vec<Range>,
    /// How many periods after the current one are held without a hole; `None` where there is no end.
    pub runway: Option<u32>,
}

/// Looks how far the partitions reach from `now` on.
///
/// # Errors
///
/// As [`creation`].
pub fn coverage(
    facts: &Facts,
    policy: &Policy,
    now: Instant,
    midnights: &impl Midnights,
) -> Result<Coverage, CalendarError> {
    let (current, last) = plan::window(facts, policy, 0)?;
    let all = Range { lower: Bound::At(now), upper: Bound::MaxValue };
    let usable = facts.partitions.iter().filter(|p| !p.detach_pending);
    let covered_until = match holes(all, usable.filter_map(|p| p.range())).first() {
        None => Some(Bound::MaxValue),
        Some(hole) => Some(hole.lower).filter(|reached| *reached > Bound::At(now)),
    };
    let holds = |count: u32| {
        current.plus(count.into()).is_some_and(|period| {
            let end = Bound::At(midnights.midnight(period.end()));
            covered_until.is_some_and(|reached| end <= reached)
        })
    };
    let runway = match covered_until {
        Some(Bound::MaxValue) => None,
        _ => Some(last_that(holds)),
    };
    Ok(Coverage {
        covered_until,
        wanted_until: Bound::At(midnights.midnight(last.end())),
        holes: plan::uncovered(facts, now, last, midnights),
        runway,
    })
}

/// The last number that `holds`, which does so up to it and no further; 0 where 1 doesn't.
///
/// In few steps: a partition may reach over thousands of years, and there are millions of days in them.
fn last_that(holds: impl Fn(u32) -> bool) -> u32 {
    let (mut known, mut step) = (0, 1);
    while holds(known + step) {
        known += step;
        step *= 2;
    }
    while step > 1 {
        step /= 2;
        if holds(known + step) {
            known += step;
        }
    }
    known
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;

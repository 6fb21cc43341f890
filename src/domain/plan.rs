//! What is to be done: from the policy and the facts of the catalog to creations and retirements.
//!
//! A plan is a value. It is made from bounds alone, never from names, and making it again on its own
//! result gives nothing.

use std::collections::BTreeSet;

use chrono::{Days, Months, NaiveDate};

use super::calendar::{CalendarError, Granularity, Period};
use super::instant::Instant;
use super::name::{self, NameError};
use super::partition::{Bound, Extent, Kind, Partition, Range, holes};
use super::policy::Policy;

/// Where midnights lie: the policy's time zone.
pub trait Midnights {
    /// The instant at which `date` begins.
    fn midnight(&self, date: NaiveDate) -> Instant;
}

impl<F: Fn(NaiveDate) -> Instant> Midnights for F {
    fn midnight(&self, date: NaiveDate) -> Instant {
        self(date)
    }
}

/// What is known when a plan is made.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The partitioned table's name: what the names of partitions begin with.
    pub parent: String,
    /// The current date in the policy's time zone.
    pub today: NaiveDate,
    /// The attached partitions.
    pub partitions: Vec<Partition>,
    /// The names that relations of the parent's schema already have, partitions included.
    pub names: BTreeSet<String>,
    /// The ranges of which nothing is retired or dropped.
    pub holds: Vec<Hold>,
    /// Whether this server can detach concurrently by a worker: one that is built with assertions can't.
    pub detaches_concurrently: bool,
}

/// Somebody's wish that a range is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The range.
    pub range: Range,
    /// Why it is kept.
    pub reason: String,
}

impl Facts {
    /// Why a partition of that name and range is held; `None` where it isn't.
    #[must_use]
    pub fn held(&self, partition: &str, range: &Range) -> Option<Obstacle> {
        let hold = self.holds.iter().find(|hold| hold.range.overlaps(range))?;
        Some(Obstacle::Held { partition: partition.to_owned(), reason: hold.reason.clone() })
    }
}

/// A partition to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    /// The period it is for.
    pub period: Period,
    /// Its name.
    pub name: String,
    /// Its range: the period, or the part of it that no other partition holds.
    pub range: Range,
}

/// A partition to be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Its OID.
    pub oid: u32,
    /// Its name when the plan was made.
    pub name: String,
    /// Its range when the plan was made; it is dropped only while it still has it.
    pub range: Range,
}

/// Why something that the policy wants is not in the plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The name is in use by a relation that isn't this partition.
    #[error("the name \"{name}\" is taken by another relation")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The name is that of a partition that is parked.
    #[error("partition \"{partition}\" is parked")]
    Parked {
        /// The partition's name.
        partition: String,
    },
    /// A partition that holds a part of the period.
    #[error("partition \"{partition}\" {range} holds a part of it")]
    Overlaps {
        /// The partition's name.
        partition: String,
        /// The partition's range.
        range: Range,
    },
    /// A detach that was begun keeps the range taken and the rows out of sight.
    #[error("partition \"{partition}\" is being detached, and its range is still taken")]
    DetachPending {
        /// The partition's name.
        partition: String,
    },
    /// A foreign table is not dropped: its rows are somebody else's.
    #[error("partition \"{partition}\" is a foreign table")]
    Foreign {
        /// The partition's name.
        partition: String,
    },
    /// A bound that could not be understood.
    #[error("the bound of partition \"{partition}\" could not be read: {reason}")]
    Unreadable {
        /// The partition's name.
        partition: String,
        /// Why.
        reason: String,
    },
    /// A table that was to be retired was detached by somebody else, or changed, or just before a crash.
    #[error("table \"{partition}\" was to be dropped, but may have been detached by somebody else")]
    InDoubt {
        /// The partition's name when it was to be retired.
        partition: String,
    },
    /// A table that was detached to be dropped, and that the policy now keeps.
    #[error("table \"{partition}\" was detached to be dropped, but lies within the retention now")]
    NoLongerOutdated {
        /// The partition's name when it was detached.
        partition: String,
    },
    /// It could be detached, and then not dropped.
    #[error("partition \"{partition}\" cannot be dropped: {reason}")]
    Undroppable {
        /// The partition's name.
        partition: String,
        /// Why.
        reason: String,
    },
    /// It is needed to replay runs that go on.
    #[error(
        "partition \"{partition}\" holds events of {runs} run(s) that are not finished, the first of them run {oldest}"
    )]
    UnfinishedRuns {
        /// The partition's name.
        partition: String,
        /// How many such runs have events in it.
        runs: u64,
        /// The one with the oldest event in it.
        oldest: String,
    },
    /// Whether it is needed to replay a run could not be found out.
    #[error(
        "whether partition \"{partition}\" holds events of runs that are not finished is not known: {reason}"
    )]
    ReplayUnknown {
        /// The partition's name.
        partition: String,
        /// Why.
        reason: String,
    },
    /// Somebody wants it kept.
    #[error("partition \"{partition}\" is held: {reason}")]
    Held {
        /// The partition's name.
        partition: String,
        /// The reason that was given.
        reason: String,
    },
    /// The name would be cut off.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The period lies outside the years 1 to 9999.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
}

impl Obstacle {
    /// Whether it is as somebody wants it to be: nobody need look at it.
    #[must_use]
    pub const fn is_as_wanted(&self) -> bool {
        matches!(self, Self::UnfinishedRuns { .. } | Self::Held { .. })
    }

    /// The partition that it is about; `None` where it is about none.
    #[must_use]
    pub fn partition(&self) -> Option<&str> {
        match self {
            Self::DetachPending { partition }
            | Self::InDoubt { partition }
            | Self::NoLongerOutdated { partition }
            | Self::Undroppable { partition, .. }
            | Self::Foreign { partition }
            | Self::Unreadable { partition, .. }
            | Self::UnfinishedRuns { partition, .. }
            | Self::ReplayUnknown { partition, .. }
            | Self::Held { partition, .. }
            | Self::Parked { partition }
            | Self::Overlaps { partition, .. } => Some(partition),
            Self::NameTaken { name } => Some(name),
            Self::Name(_) | Self::Calendar(_) => None,
        }
    }
}

/// The range of a whole period.
#[must_use]
pub fn range_of(period: Period, midnights: &impl Midnights) -> Range {
    Range::between(midnights.midnight(period.start()), midnights.midnight(period.end()))
}

/// The answer to the request for one whole period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An attached partition, whatever its name, holds the whole period already.
    Exists(String),
    /// This has to be made.
    Create(Creation),
}

/// Plans the one partition that holds the whole of `period`.
///
/// # Errors
///
/// The obstacle: a partition that holds a part of the period, or a name that is taken; or a day that the zone has left
/// out.
pub fn for_period(
    facts: &Facts,
    period: Period,
    midnights: &impl Midnights,
) -> Result<Answer, Obstacle> {
    let range = range_of(period, midnights);
    if range.lower >= range.upper {
        return Err(CalendarError::LeftOut.into());
    }
    let overlapping = |p: &&Partition| p.range().is_some_and(|r| r.overlaps(&range));
    if let Some(partition) = facts.partitions.iter().find(overlapping) {
        let name = partition.name.clone();
        return match partition.range() {
            _ if partition.detach_pending => Err(Obstacle::DetachPending { partition: name }),
            Some(held) if held.covers(&range) => Ok(Answer::Exists(name)),
            Some(held) => Err(Obstacle::Overlaps { partition: name, range: held }),
            None => Err(Obstacle::Unreadable { partition: name, reason: "no range".to_owned() }),
        };
    }
    let name = name::of_period(&facts.parent, period)?;
    if facts.names.contains(&name) {
        return Err(Obstacle::NameTaken { name });
    }
    Ok(Answer::Create(Creation { period, name, range }))
}

/// What `window` lacks: a creation for each period that no partition holds, and for each part of a
/// period that none holds; beside them what stands in the way.
pub fn missing(
    facts: &Facts,
    window: (Period, Period),
    midnights: &impl Midnights,
) -> (Vec<Creation>, Vec<Obstacle>) {
    let (mut creations, mut obstacles) = (Vec::new(), unreadable(facts));
    let taken: Vec<Range> = facts.partitions.iter().filter_map(Partition::range).collect();
    let whole =
        Range::between(midnights.midnight(window.0.start()), midnights.midnight(window.1.end()));
    if facts.partitions.iter().all(|p| !p.detach_pending)
        && holes(whole, taken.iter().copied()).is_empty()
    {
        // As nearly always. Midnights can be dear, and a window of days has many.
        return (creations, obstacles);
    }
    let mut names = facts.names.clone();
    for period in window.0.through(window.1) {
        let range = range_of(period, midnights);
        let pending = |p: &&Partition| {
            p.detach_pending && p.range().is_some_and(|held| held.overlaps(&range))
        };
        obstacles.extend(
            facts
                .partitions
                .iter()
                .filter(pending)
                .map(|p| Obstacle::DetachPending { partition: p.name.clone() }),
        );
        for hole in holes(range, taken.iter().copied()) {
            let name = if hole == range {
                name::of_period(&facts.parent, period)
            } else {
                free_part_name(&facts.parent, period, &names)
            };
            match name {
                Ok(name) if names.contains(&name) => obstacles.push(Obstacle::NameTaken { name }),
                Ok(name) => {
                    names.insert(name.clone());
                    creations.push(Creation { period, name, range: hole });
                }
                Err(error) => obstacles.push(error.into()),
            }
        }
    }
    obstacles.dedup();
    (creations, obstacles)
}

/// The first name for a part of `period` that nothing has yet.
fn free_part_name(
    parent: &str,
    period: Period,
    names: &BTreeSet<String>,
) -> Result<String, NameError> {
    let mut number = 1;
    loop {
        let name = name::of_part(parent, period, number)?;
        if !names.contains(&name) {
            return Ok(name);
        }
        number += 1;
    }
}

/// The periods that the policy wants held: from `past` periods before the current one to `premake`
/// after it.
///
/// # Errors
///
/// [`CalendarError::OutOfRange`] where the current date lies outside the years 1 to 9999.
pub fn window(
    facts: &Facts,
    policy: &Policy,
    past: u32,
) -> Result<(Period, Period), CalendarError> {
    let current = Period::containing(policy.granularity, facts.today)?;
    let first = current.plus(-i64::from(past)).unwrap_or(current);
    let last = (0..=policy.premake).rev().find_map(|n| current.plus(i64::from(n)));
    Ok((first, last.unwrap_or(current)))
}

/// How many periods must be made ahead so that the day which comes `days` days after `today` is held.
#[must_use]
pub fn premake_for(granularity: Granularity, today: NaiveDate, days: u32) -> Option<u32> {
    let current = Period::containing(granularity, today).ok()?;
    let then = today.checked_add_days(Days::new(days.into()))?;
    let last = Period::containing(granularity, then).ok()?;
    u32::try_from(current.through(last).count() - 1).ok()
}

/// The end of what a retention of `months` lets go: the first day of the month that many months before the current one,
/// whatever the granularity; `None` where nothing can lie before it.
///
/// `months` is at least 1 where it comes from a [`Policy`]; with 0 nothing goes, because the current month is never
/// dropped.
pub fn cutoff(
    facts: &Facts,
    months: u32,
    midnights: &impl Midnights,
) -> Result<Option<Bound>, CalendarError> {
    let current = Period::containing(Granularity::Month, facts.today)?;
    Ok(match current.start().checked_sub_months(Months::new(months)) {
        // Nothing can lie before the first day that PostgreSQL's names reach.
        Some(first) if months > 0 && Period::containing(Granularity::Month, first).is_ok() => {
            Some(Bound::At(midnights.midnight(first)))
        }
        _ => None,
    })
}

/// The partitions whose whole range lies before the [`cutoff`], oldest first; beside them those that would go but for
/// an obstacle.
pub fn outdated(
    facts: &Facts,
    months: u32,
    midnights: &impl Midnights,
) -> Result<(Vec<Retirement>, Vec<Obstacle>), CalendarError> {
    let (mut retirements, mut obstacles) = (Vec::new(), unreadable(facts));
    let Some(cutoff) = cutoff(facts, months, midnights)? else {
        return Ok((retirements, obstacles));
    };
    for partition in &facts.partitions {
        let Some(range) = partition.range().filter(|range| range.upper <= cutoff) else {
            continue;
        };
        let name = partition.name.clone();
        if partition.detach_pending {
            obstacles.push(Obstacle::DetachPending { partition: name });
        } else if partition.kind == Kind::Foreign {
            obstacles.push(Obstacle::Foreign { partition: name });
        } else if let Some(held) = facts.held(&name, &range) {
            obstacles.push(held);
        } else {
            retirements.push(Retirement { oid: partition.oid, name, range });
        }
    }
    retirements.sort_by_key(|r| r.range);
    Ok((retirements, obstacles))
}

/// The parts of the time from `now` to the end of `last` that no usable partition holds.
#[must_use]
pub fn uncovered(
    facts: &Facts,
    now: Instant,
    last: Period,
    midnights: &impl Midnights,
) -> Vec<Range> {
    let window = Range::between(now, midnights.midnight(last.end()));
    let usable = facts.partitions.iter().filter(|p| !p.detach_pending);
    holes(window, usable.filter_map(Partition::range))
}

/// The partitions whose bounds could not be understood.
fn unreadable(facts: &Facts) -> Vec<Obstacle> {
    let of = |partition: &Partition| match &partition.extent {
        Extent::Unreadable(reason) => {
            Some(Obstacle::Unreadable { partition: partition.name.clone(), reason: reason.clone() })
        }
        Extent::Range(_) | Extent::Default => None,
    };
    facts.partitions.iter().filter_map(of).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "granularity_tests.rs"]
mod granularity_tests;

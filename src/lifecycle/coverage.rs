//! How far the partitions reach from now on.

use pgrx::datum::TimestampWithTimeZone;

use crate::db::calendar;
use crate::domain::instant::Instant;
use crate::domain::maintenance::{self, Coverage};
use crate::domain::partition::Bound;
use crate::domain::plan::Facts;
use crate::error::Result;
use crate::lifecycle::context::Context;

/// How far the partitions reach, and how far they should.
///
/// # Errors
///
/// Where there is no event log, or its policy makes no sense.
pub fn of(context: &Context) -> Result<Coverage> {
    of_facts(context, &context.facts_without_names()?)
}

/// The same for facts that are known already.
///
/// # Errors
///
/// As [`of`].
pub fn of_facts(context: &Context, facts: &Facts) -> Result<Coverage> {
    let (now, _) = calendar::now(&context.policy.time_zone)?;
    Ok(maintenance::coverage(facts, &context.policy, now, &context.midnights())?)
}

/// The coverage of the event log of this database.
///
/// # Errors
///
/// As [`of`], or where the extension is not installed.
pub fn current() -> Result<Coverage> {
    of(&Context::load()?)
}

/// A bound as a timestamp: MINVALUE and MAXVALUE are infinite.
#[must_use]
pub fn timestamp_of(bound: Bound) -> Option<TimestampWithTimeZone> {
    calendar::to_timestamp(match bound {
        Bound::MinValue => Instant::NEG_INFINITY,
        Bound::At(instant) => instant,
        Bound::MaxValue => Instant::INFINITY,
    })
}

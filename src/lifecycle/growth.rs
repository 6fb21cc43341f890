//! How large the partitions are and become, and what the policy's sizes say about it.

use pgrx::PgSqlErrorCode as Sqlstate;
use pgrx::pg_sys::Oid;

use crate::db::{calendar, catalog};
use crate::domain::calendar::Granularity;
use crate::domain::growth::{self, Advice, Assessment, Large, Measured};
use crate::domain::instant::Instant;
use crate::domain::partition::{Partition, Range};
use crate::domain::policy::Policy;
use crate::error::Result;
use crate::lifecycle::context::Context;
use crate::lifecycle::inspect::{Finding, Status};
use crate::pg::subtransaction;

/// The partition that holds the present, and how it grows.
#[derive(Clone, Debug)]
pub struct Growth {
    /// Its name.
    pub name: String,
    /// Its range.
    pub range: Range,
    /// Its size with indexes and TOAST, in bytes.
    pub bytes: i64,
    /// The part of its range that has gone by, from 0 to 1.
    pub elapsed: Option<f64>,
    /// Its size at the end of its range, in bytes.
    pub projected: Option<i64>,
    /// The granularity that the policy should have.
    pub recommended: Granularity,
}

/// How the partition grows that holds the present; `None` where none does.
///
/// # Errors
///
/// Where there is no event log, or its policy makes no sense.
pub fn current() -> Result<Option<Growth>> {
    let context = Context::load()?;
    let (now, measured) = measure(&context)?;
    let recommended = growth::assess(&context.policy, now, &measured).recommended(&context.policy);
    Ok(measured.into_iter().find(|partition| partition.range.holds(now)).map(|partition| Growth {
        elapsed: partition.elapsed(now),
        projected: partition.projected(now),
        name: partition.name,
        range: partition.range,
        bytes: partition.bytes,
        recommended,
    }))
}

/// The present, and the size of each partition that has a range, in the order of their ranges.
fn measure(context: &Context) -> Result<(Instant, Vec<Measured>)> {
    let (now, _) = calendar::now(&context.policy.time_zone)?;
    let ranged = |p: Partition| {
        let range = p.range().filter(|_| !p.detach_pending)?;
        Some((Oid::from(p.oid), p.name, range))
    };
    let mut partitions: Vec<_> =
        catalog::partitions(&context.table)?.into_iter().filter_map(ranged).collect();
    partitions.sort_by_key(|(_, _, range)| *range);
    let oids: Vec<Oid> = partitions.iter().map(|(oid, ..)| *oid).collect();
    let sizes = catalog::sizes(&oids)?;
    let measured = |((_, name, range), (bytes, _))| Measured { name, range, bytes };
    Ok((now, partitions.into_iter().zip(sizes).map(measured).collect()))
}

/// Whether a partition is as large as the policy warns of, or will be.
pub fn finding(context: &Context) -> Result<Finding> {
    const CHECK: &str = "partition_size";
    let policy = &context.policy;
    // Measuring a partition waits for whoever drops it.
    let (now, measured) = match subtransaction::run(|| measure(context)) {
        Err(error) if error.sqlstate() == Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE => {
            let detail = format!("could not be measured: {error}");
            return Ok(Finding::bad(CHECK, Status::Warning, detail, "Call it again."));
        }
        measured => measured?,
    };
    let Assessment { large, advice } = growth::assess(policy, now, &measured);
    let warning = catalog::size_pretty(policy.size_warning_bytes)?;
    let Some(advice) = advice else {
        return Ok(Finding::ok(
            CHECK,
            format!(
                "each partition has less than {warning}, and the current one is to stay below it"
            ),
        ));
    };
    let list = large.iter().map(|large| describe(policy, large)).collect::<Result<Vec<_>>>()?;
    let (recommended, hint) = recommendation(policy, advice)?;
    let detail = format!("{}{recommended}", list.join("; "));
    Ok(Finding::bad(CHECK, Status::Warning, detail, hint))
}

fn describe(policy: &Policy, large: &Large) -> Result<String> {
    let Measured { name, bytes, .. } = large.partition;
    let mut text = format!("\"{name}\" has {}", catalog::size_pretty(*bytes)?);
    if let Some(projected) = large.projected {
        text += &format!(", {} at its end if it goes on so", catalog::size_pretty(projected)?);
    }
    if large.is_beyond_limit {
        let limit = catalog::size_pretty(policy.size_limit_bytes)?;
        text += &format!(", beyond the limit of {limit}");
    }
    Ok(text)
}

/// What is recommended, and how to do it.
fn recommendation(policy: &Policy, advice: Advice) -> Result<(String, String)> {
    let word = policy.granularity.as_str();
    Ok(match advice {
        Advice::Shorten(granularity, bytes) => {
            let (word, size) = (granularity.as_str(), catalog::size_pretty(bytes)?);
            (
                format!("; recommended granularity: {word}, with up to {size} in a partition"),
                format!(
                    "UPDATE meshhook_events.policy SET granularity = '{word}'; it takes effect after the last \
                     partition that exists, and premake counts {word}s from then on."
                ),
            )
        }
        Advice::InEffect(bytes) => {
            let size = catalog::size_pretty(bytes)?;
            (
                format!("; at granularity {word} there would be up to {size} in a partition"),
                format!("The granularity is {word} already; what exists keeps its range."),
            )
        }
        Advice::NothingShorter => (
            "; there is no granularity shorter than day".to_owned(),
            "Keep less in the payload of an event, or raise size_warning_bytes in meshhook_events.policy.".to_owned(),
        ),
        Advice::Unbounded => (
            "; its range has no beginning or no end".to_owned(),
            "No granularity changes that: move its rows into partitions with both bounds.".to_owned(),
        ),
    })
}

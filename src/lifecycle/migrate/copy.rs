//! Rows are copied in batches, then those again that were changed meanwhile.

use std::collections::BTreeMap;
use std::time::Instant as Clock;

use pgrx::datum::TimestampWithTimeZone;

use super::places::Places;
use super::{Came, Work, carry, start_over};
use crate::db::calendar;
use crate::db::catalog::{self, Table};
use crate::db::ident::Qualified;
use crate::db::migration::copy::{self, BY_KEY, Instants, Keys};
use crate::db::migration::queue::{self, Change};
use crate::db::migration::state::{self, State};
use crate::db::migration::suitable;
use crate::domain::calendar::Period;
use crate::domain::instant::Instant;
use crate::domain::migration::{Direction, Phase, SHORT_QUEUE};
use crate::domain::partition::Partition;
use crate::domain::plan;
use crate::error::migration::MigrationFault;
use crate::error::{Error, Result};
use crate::lifecycle::create;
use crate::lifecycle::plan::blocked;
use crate::pg::{identity, server};

/// How many changes are carried over in one transaction.
const CHANGES: i64 = 5_000;

/// Copies the next batch, or makes a partition that it needs.
pub fn step(work: &Work, state: &mut State) -> Result<Came> {
    let sources = work.as_extension(state::sources)?;
    let Some(mut source) = sources.into_iter().find(|source| !source.is_copied) else {
        state.phase = Phase::CatchingUp;
        return Ok(Came::On(0));
    };
    let Some((schema, name)) = server::name_of_relation(source.relation) else {
        // Its rows may be in the shadow already.
        return start_over(state);
    };
    let from = Qualified { schema: &schema, name: &name };
    let shadow = work.shadow(state)?;
    let began = Clock::now();
    let key = copy::key_of(source.relation)?.ok_or(MigrationFault::NoKey)?;
    let rows = i64::from(work.settings.migration_pace.batch_rows);
    let batch = identity::run_as_seeing_all(work.live.owner, || {
        identity::set_lock_timeout(work.settings.lock_timeout_ms);
        identity::with_settings(&BY_KEY, || copy::next_batch(from, key, source.last, rows))
    })?;
    let Some(batch) = batch else {
        source.is_copied = true;
        work.as_extension(|| state::save_source(&source))?;
        return Ok(Came::On(0));
    };
    if state.direction == Direction::Migrate {
        let zone = work.context(shadow.clone())?.policy.time_zone;
        let instants = identity::run_as_seeing_all(work.live.owner, || {
            identity::with_settings(&BY_KEY, || batch.instants(from, &zone))
        })?;
        if make_partition_for(work, &shadow, &instants)? {
            return Ok(Came::On(0));
        }
    }
    let columns = copy::columns(work.live.oid)?;
    let copied = work.copying(&shadow, || {
        identity::with_settings(&BY_KEY, || batch.copy(from, shadow.qualified(), &columns))
    })?;
    if copied < batch.rows && state.direction == Direction::Undo {
        // Moved to another partition meanwhile, which the queue knows, or there twice.
        let ids = identity::run_as_seeing_all(work.live.owner, || batch.ids(from))?;
        require_unique(work, &ids)?;
        // What was not copied is looked at again once all is: the shadow doesn't say where it lies.
        work.as_extension(|| queue::add(source.relation, &ids))?;
    }
    source.last = Some(batch.last);
    let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let pause_ms = work.settings.migration_pace.wait_ms(copied, took_ms);
    let per_second = per_second(copied, took_ms.saturating_add(pause_ms.into()));
    work.as_extension(|| {
        state::save_source(&source)?;
        state::add_copied(copied, per_second)
    })?;
    Ok(Came::On(pause_ms))
}

fn per_second(rows: i64, ms: i64) -> Option<f64> {
    let as_float = |n: i64| f64::from(i32::try_from(n).unwrap_or(i32::MAX));
    (rows > 0).then(|| as_float(rows) * 1_000.0 / as_float(ms.max(1)))
}

/// Makes one partition of the shadow that these instants need; whether one was missing.
///
/// It is a step of its own: attaching locks the tables that foreign keys point to, and nothing else is to be done meanwhile.
fn make_partition_for(work: &Work, shadow: &Table, instants: &[Instants]) -> Result<bool> {
    let partitions = catalog::partitions(shadow)?;
    let is_held = |ts: &TimestampWithTimeZone| {
        let at = Instant(ts.into_inner());
        partitions.iter().filter_map(Partition::range).any(|range| range.holds(at))
    };
    for day in instants {
        for ts in [day.first, day.last] {
            let Some(ts) = ts.filter(TimestampWithTimeZone::is_finite) else {
                return Err(copy::unplaceable(day.id, ts));
            };
            if is_held(&ts) {
                continue;
            }
            make_partition(work, shadow, day.id, ts)?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn make_partition(work: &Work, shadow: &Table, id: i64, ts: TimestampWithTimeZone) -> Result<()> {
    let context = work.context(shadow.clone())?;
    let period = calendar::date_at(ts, &context.policy.time_zone)?
        .and_then(|date| Period::containing(context.policy.granularity, date).ok())
        .ok_or_else(|| copy::unplaceable(id, Some(ts)))?;
    let window = (period, period);
    let (creations, obstacles) = plan::missing(&context.facts()?, window, &context.midnights());
    let Some(creation) = creations.first() else {
        let obstacle = blocked(obstacles).into_iter().next();
        return Err(obstacle.unwrap_or_else(|| copy::unplaceable(id, Some(ts))));
    };
    let report = create::planned(&context, creation, work.settings)?;
    if let Some(problem) = report.problems.into_iter().next() {
        return Err(problem);
    }
    carry::capture_shadow(work, shadow.oid)
}

/// Carries over what was changed, until little is left.
pub fn catch_up(work: &Work, state: &mut State) -> Result<Came> {
    if apply(work, state, CHANGES)? == Applied::Changes(0) || is_short(work)? {
        state.phase = Phase::Analyzing;
    }
    Ok(Came::On(0))
}

fn is_short(work: &Work) -> Result<bool> {
    Ok(work.as_extension(|| queue::length(SHORT_QUEUE + 1))? <= SHORT_QUEUE)
}

/// What came of carrying over changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// So many changes were carried over.
    Changes(usize),
    /// A partition was made that they need; none was carried over.
    Partition,
    /// All events were removed at once.
    All,
}

/// Carries over the first changes of the queue, as many as are asked for at most.
pub fn apply(work: &Work, state: &mut State, count: i64) -> Result<Applied> {
    let changes = work.as_extension(|| queue::first(count))?;
    if changes.is_empty() {
        return Ok(Applied::Changes(0));
    }
    if changes.iter().any(|change| change.id.is_none()) {
        start_over(state)?;
        return Ok(Applied::All);
    }
    let shadow = work.shadow(state)?;
    let (mut all, mut altered) = (Keys::default(), Keys::default());
    let leaves = suitable::leaves(work.live.oid)?;
    for Change { relation, id, ts, is_insert, .. } in &changes {
        let Some(id) = *id else { continue };
        all.push(id, *ts);
        // What somebody has put into the shadow himself goes as well.
        if !is_insert || leaves.iter().all(|leaf| leaf.oid != *relation) {
            altered.push(id, *ts);
        }
    }
    if state.direction == Direction::Migrate {
        let instants = identity::run_as_seeing_all(work.live.owner, || {
            identity::with_settings(&BY_KEY, || copy::instants_of(&all, work.live.qualified()))
        })?;
        if make_partition_for(work, &shadow, &instants)? {
            return Ok(Applied::Partition);
        }
    }
    let columns = copy::columns(work.live.oid)?;
    match state.direction {
        Direction::Migrate => {
            let targets = targets(&shadow, &altered)?;
            work.copying(&shadow, || {
                identity::with_settings(&BY_KEY, || {
                    for ((schema, name), keys) in &targets {
                        copy::remove(keys, Qualified { schema, name })?;
                    }
                    copy::copy_again(&all, work.live.qualified(), shadow.qualified(), &columns)
                })
            })?;
        }
        Direction::Undo => {
            // An id may have moved between partitions: by id, whatever order its changes come in, it is as it is now.
            all.ids.sort_unstable();
            all.ids.dedup();
            let places = identity::run_as_seeing_all(work.live.owner, || {
                identity::with_settings(&BY_KEY, || {
                    let copied = copy::keys_among(&all.ids, shadow.qualified())?;
                    let places = Places::of(&work.live, &leaves, &changes, &copied)?;
                    places.require_unique()?;
                    Ok::<_, Error>(places)
                })
            })?;
            work.copying(&shadow, || {
                identity::with_settings(&BY_KEY, || {
                    copy::remove_by_id(&all.ids, shadow.qualified())?;
                    places.copy(shadow.qualified(), &columns)
                })
            })?;
        }
    }
    work.as_extension(|| queue::remove(&changes))?;
    Ok(Applied::Changes(changes.len()))
}

/// Refuses where rows share one of these ids: a plain table holds one of them.
fn require_unique(work: &Work, ids: &[i64]) -> Result<()> {
    let duplicate = identity::run_as_seeing_all(work.live.owner, || {
        identity::with_settings(&BY_KEY, || copy::duplicate_among(ids, work.live.qualified()))
    })?;
    duplicate.map_or(Ok(()), |id| Err(MigrationFault::DuplicateId(id).into()))
}

/// The tables of the shadow that rows are removed from, each with the keys that lie in it: a statement on a partitioned
/// table would have the planner look at all of its partitions.
fn targets(shadow: &Table, keys: &Keys) -> Result<BTreeMap<(String, String), Keys>> {
    let mut targets: BTreeMap<_, Keys> = BTreeMap::new();
    if keys.ids.is_empty() {
        return Ok(targets);
    }
    let partitions = catalog::partitions(shadow)?;
    for (id, ts) in keys.ids.iter().zip(&keys.instants) {
        let Some(ts) = ts else { continue };
        let at = Instant(ts.into_inner());
        let holds = |p: &&Partition| p.range().is_some_and(|range| range.holds(at));
        if let Some(partition) = partitions.iter().find(holds) {
            let name = (partition.schema.clone(), partition.name.clone());
            targets.entry(name).or_default().push(*id, Some(*ts));
        }
    }
    Ok(targets)
}

/// Makes the partitions that the policy wants ahead of time, then has the planner look at all.
pub fn analyze(work: &Work, state: &mut State) -> Result<Came> {
    let shadow = work.shadow(state)?;
    if state.direction == Direction::Migrate {
        let context = work.context(shadow.clone())?;
        let report = create::missing(&context, create::PAST_PERIODS, work.settings)?;
        carry::capture_shadow(work, shadow.oid)?;
        if !report.created.is_empty() {
            return Ok(Came::On(0));
        }
        if let Some(problem) = report.problems.into_iter().next() {
            return Err(problem);
        }
    }
    work.as_owner(|| copy::analyze(shadow.qualified()))?;
    state.phase = Phase::Switching;
    state.tries = 0;
    state.older_transactions = None;
    state.is_caught_up = false;
    Ok(Came::On(0))
}

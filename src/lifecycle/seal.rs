//! Sealing a partition that is closed: what is due, and the steps between which the worker runs VACUUM.

use std::ffi::CString;

use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::lock::{self, Mode, Need};
use crate::db::seal::{self, Content, Noted};
use crate::db::{catalog, rows};
use crate::domain::instant::Instant;
use crate::domain::partition::Partition;
use crate::domain::seal::{Candidate, Mark, Seals, sealable};
use crate::error::{Error, Result};
use crate::lifecycle::context::Context;
use crate::pg::{identity, server, table_stats};

/// What is to be done.
#[derive(Debug, Default)]
pub struct Due {
    /// The partitions to seal, in this order.
    pub partitions: Vec<Candidate>,
    /// Whether the log as a whole has older statistics than its seals.
    pub analyze: bool,
    /// Whether anything is sealed or wanted to be.
    pub is_wanted: bool,
}

/// What is due, cheaply: no table is opened.
pub fn due(context: &Context, partitions: &[Partition]) -> Result<Due> {
    let Noted { closed_before, seals, last_sealed_at } = seal::noted()?;
    let Some(closed_before) = closed_before else { return Ok(Due::default()) };
    let seals = Seals::new(seals);
    let analyzed_at = || table_stats::analyzed_at(context.table.oid).map(Instant);
    let partitions = seals.due(partitions, closed_before, |oid| table_stats::counts(oid.into()));
    Ok(Due {
        analyze: table_stats::is_counting()
            && last_sealed_at.is_some_and(|sealed| analyzed_at().is_none_or(|at| at < sealed)),
        is_wanted: !partitions.is_empty() || !seals.is_empty(),
        partitions,
    })
}

/// A command at the top level, as whom it is run, and how large what it works on is.
pub struct Command {
    /// Its text.
    pub text: CString,
    /// The role.
    pub role: Oid,
    /// The size in bytes.
    pub bytes: i64,
}

/// The command that freezes a partition; `None` where it is no longer what it was, and is left alone.
///
/// # Errors
///
/// [`Error::InTheWay`] where somebody would be waited for, unless that is to be tried all the same.
pub fn freezing(candidate: &Candidate, insist: bool) -> Result<Option<Command>> {
    let context = Context::load()?;
    let Some(partition) = still_there(&context, candidate)? else { return Ok(None) };
    let oid = Oid::from(partition.oid);
    let Some((role, _)) = catalog::owner_of(oid)? else { return Ok(None) };
    if !insist {
        let (name, mode) = (partition.name.clone(), Mode::ShareUpdateExclusive);
        lock::look(&[Need::Lock { relation: oid, name, mode }])?;
    }
    let bytes = catalog::heap_bytes(oid)?;
    let name = Qualified { schema: &partition.schema, name: &partition.name };
    Ok(Some(Command { text: text(seal::vacuum(name))?, role, bytes }))
}

/// The command that makes the statistics of the log as a whole.
pub fn analyzing() -> Result<Command> {
    let context = Context::load()?;
    let tables: Vec<Oid> =
        catalog::partitions(&context.table)?.iter().map(|partition| partition.oid.into()).collect();
    let bytes = catalog::sizes(&tables)?.iter().map(|(bytes, _)| bytes).sum();
    let text = text(seal::analyze(context.table.qualified()))?;
    Ok(Command { text, role: context.table.owner, bytes })
}

/// Notes what ANALYZE has done to what was counted of the sealed partitions.
pub fn renote() -> Result<()> {
    let context = Context::load()?;
    let seals = Seals::new(seal::noted()?.seals);
    let partitions = catalog::partitions(&context.table)?;
    let outdated = seals.outdated(&partitions, |oid| table_stats::counts(oid.into()));
    outdated.into_iter().try_for_each(|(range, counts)| seal::renote(range, counts))
}

fn text(sql: String) -> Result<CString> {
    CString::new(sql).map_err(|error| Error::Internal(error.to_string()))
}

/// The partition, if it is attached and has that range.
fn still_there(context: &Context, candidate: &Candidate) -> Result<Option<Partition>> {
    let same = |p: &Partition| p.oid == candidate.oid && sealable(p) == Some(candidate.range);
    Ok(catalog::partitions(&context.table)?.into_iter().find(same))
}

/// The mark of a partition. To be taken in a transaction before that in which its rows are counted, so that a change that
/// isn't counted with them shows in the mark later.
pub fn mark(candidate: &Candidate) -> Result<Option<Mark>> {
    let Some(partition) = still_there(&Context::load()?, candidate)? else { return Ok(None) };
    Ok(Some(Mark { file: partition.file, counts: table_stats::counts(partition.oid.into()) }))
}

/// The rows of a partition: how many, and their digest; `None` where it is gone.
pub fn content(context: &Context, partition: Oid) -> Result<Option<Content>> {
    identity::run_as(context.table.owner, || {
        if server::name_of_relation(partition).is_none() {
            return Ok(None);
        }
        let digest = rows::digest(partition, None)?;
        let rows = i64::try_from(digest.rows()).unwrap_or(i64::MAX);
        Ok(Some(Content { rows, digest: digest.to_string() }))
    })
}

/// Notes the seal of a partition; gives what was noted before.
pub fn note(candidate: &Candidate, mark: Mark, content: &Content) -> Result<Option<Content>> {
    let context = Context::load()?;
    let partitions = catalog::partitions(&context.table)?;
    let before = seal::note(candidate, mark, content)?;
    let attached: Vec<u32> = partitions.iter().map(|partition| partition.oid).collect();
    seal::forget_old(&attached)?;
    Ok(before)
}

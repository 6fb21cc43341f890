//! The health check of sealed partitions: how many there are, what has changed since, and, on request, whether their rows
//! are those that were sealed.

use crate::db::catalog;
use crate::db::seal::{self, Content};
use crate::domain::partition::Partition;
use crate::domain::seal::{Seals, Standing, sealable};
use crate::error::Result;
use crate::lifecycle::context::Context;
use crate::lifecycle::inspect::{Finding, Status};
use crate::lifecycle::seal::content;
use crate::pg::{identity, table_stats};

/// How sealed partitions are; with `recompute`, their rows are read again.
pub fn sealed(context: &Context, recompute: bool) -> Result<Finding> {
    const CHECK: &str = "sealed";
    // What was noted belongs to the extension's owner.
    let noted = identity::run_as(context.extension.owner, seal::noted)?;
    let seals = Seals::new(noted.seals);
    let mut sealed = Vec::new();
    let mut changed = Vec::new();
    for partition in catalog::partitions(&context.table)? {
        let counts = |oid: u32| table_stats::counts(oid.into());
        match seals.standing(&partition, None, counts) {
            Standing::Sealed => sealed.push(partition),
            Standing::Changed => changed.push(partition),
            Standing::Open | Standing::Unsealed => {}
        }
    }
    let mut detail = match sealed.len() + changed.len() {
        0 => "none is sealed".to_owned(),
        1 => "1 partition is sealed".to_owned(),
        n => format!("{n} partitions are sealed"),
    };
    if !changed.is_empty() {
        let names: Vec<_> = changed.iter().map(|p| format!("\"{}\"", p.name)).collect();
        detail += &format!("; to be looked at again: {}", names.join(", "));
    }
    if !recompute {
        return Ok(Finding::ok(CHECK, detail));
    }
    let mut differences = Vec::new();
    let counted = sealed.iter().map(|p| (p, false)).chain(changed.iter().map(|p| (p, true)));
    for (partition, is_changed) in counted {
        differences.extend(difference(context, partition, is_changed)?);
    }
    if differences.is_empty() {
        let detail = if sealed.is_empty() && changed.is_empty() {
            detail
        } else {
            format!("{detail}; their rows are those that were sealed")
        };
        return Ok(Finding::ok(CHECK, detail));
    }
    let hint = "Where that was meant, the worker seals it anew in its next pass, and its ledger shows both digests. \
                Where it was not, compare it with a backup.";
    Ok(Finding::bad(CHECK, Status::Failed, differences.join("; "), hint))
}

/// How the rows of a partition differ from those that were sealed.
fn difference(
    context: &Context,
    partition: &Partition,
    is_changed: bool,
) -> Result<Option<String>> {
    let Some(range) = sealable(partition) else { return Ok(None) };
    let before = identity::run_as(context.extension.owner, || seal::content(range))?;
    let (Some(before), Some(now)) = (before, content(context, partition.oid.into())?) else {
        return Ok(None);
    };
    Ok(described(&before, &now).map(|what| {
        let why =
            if is_changed { "by statements since" } else { "though no statement since is known" };
        format!("\"{}\" {what}, {why}", partition.name)
    }))
}

/// What is different, in words.
fn described(before: &Content, now: &Content) -> Option<String> {
    match now.rows - before.rows {
        0 if now.digest == before.digest => None,
        0 => Some(format!("has {} rows as when it was sealed, but not the same", now.rows)),
        more @ 1.. => Some(format!("has {more} row(s) more than when it was sealed")),
        fewer => Some(format!("has {} row(s) fewer than when it was sealed", -fewer)),
    }
}

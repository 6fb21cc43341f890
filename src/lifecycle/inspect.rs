//! Looking at the event log without changing anything: what is as it should be, and what is not.

use pgrx::PgSqlErrorCode as Sqlstate;

use crate::db::{calendar, catalog, index, protection, query};
use crate::domain::instant::Instant;
use crate::domain::name::{self, STANDARD_INDEXES, StandardIndex};
use crate::domain::partition::{Bound, Extent, Kind, Partition};
use crate::domain::plan;
use crate::error::Result;
use crate::lifecycle::context::Context;
use crate::lifecycle::{coverage, replay};
use crate::pg::time_zone;
use crate::settings::Settings;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not do what is promised.
    Failed,
}

impl Status {
    /// The word that a user sees.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What to do, where there is something to do.
    pub hint: Option<String>,
}

impl Finding {
    /// A finding of nothing amiss.
    #[must_use]
    pub fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, detail: detail.into(), hint: None }
    }

    /// A finding with a hint.
    #[must_use]
    pub fn bad(
        check: &'static str,
        status: Status,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { check, status, detail: detail.into(), hint: Some(hint.into()) }
    }
}

/// The columns of the event log: name, type, whether NOT NULL, whether it has a default.
const COLUMNS: [(&str, &str, bool, bool); 6] = [
    ("id", "bigint", true, true),
    ("run_id", "uuid", true, false),
    ("ts", "timestamp with time zone", true, true),
    ("type", "text", true, false),
    ("payload", "jsonb", true, false),
    ("created_at", "timestamp with time zone", true, true),
];

/// How the columns differ from the documented ones.
pub fn columns(context: &Context) -> Result<Finding> {
    const CHECK: &str = "columns";
    let present = catalog::columns(context.table.oid)?;
    let mut differences = Vec::new();
    for (name, type_name, not_null, has_default) in COLUMNS {
        match present.iter().find(|column| column.name == name) {
            None => differences.push(format!("column {name} is missing")),
            Some(column) => {
                if column.type_name != type_name {
                    differences
                        .push(format!("{name} is {} instead of {type_name}", column.type_name));
                }
                if not_null && !column.not_null {
                    differences.push(format!("{name} is not NOT NULL"));
                }
                if has_default && !column.has_default {
                    differences.push(format!("{name} has no default"));
                }
            }
        }
    }
    let extra = present.iter().filter(|c| COLUMNS.iter().all(|(name, ..)| c.name != *name));
    differences
        .extend(extra.map(|column| format!("column {} is not in the document", column.name)));
    Ok(if differences.is_empty() {
        Finding::ok(CHECK, "as documented")
    } else {
        Finding::bad(CHECK, Status::Warning, differences.join("; "), "Nothing is changed about it.")
    })
}

/// Whether the primary key is (id, ts), and run_id points to workflow_runs.
pub fn keys(context: &Context) -> Result<Vec<Finding>> {
    let sql = "SELECT contype::text, pg_catalog.pg_get_constraintdef(oid) \
               FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype IN ('p', 'f')";
    let constraints = query::read(sql, &[context.table.oid.into()], |row| {
        Ok((row.get::<String>(1)?, row.get::<String>(2)?))
    })?;
    let primary = constraints.iter().find(|(kind, _)| kind == "p").map(|(_, def)| def.as_str());
    let primary_key = match primary {
        Some("PRIMARY KEY (id, ts)") => Finding::ok("primary_key", "PRIMARY KEY (id, ts)"),
        other => Finding::bad(
            "primary_key",
            Status::Warning,
            other.unwrap_or("there is none"),
            "The document has PRIMARY KEY (id, ts).",
        ),
    };
    let to_runs = |def: &str| {
        def.starts_with("FOREIGN KEY (run_id) REFERENCES ") && def.contains("ON DELETE CASCADE")
    };
    let foreign_key = match constraints.iter().find(|(kind, def)| kind == "f" && to_runs(def)) {
        Some((_, definition)) => Finding::ok("foreign_key", definition),
        None => Finding::bad(
            "foreign_key",
            Status::Warning,
            "no foreign key from run_id that cascades deletes",
            "Without it the events of a deleted run stay behind.",
        ),
    };
    Ok(vec![primary_key, foreign_key])
}

/// Whether the time from now to the policy's premake is held by partitions without a hole.
pub fn coverage(context: &Context) -> Result<Finding> {
    const CHECK: &str = "coverage";
    let coverage = coverage::of(context)?;
    // As a date, which it begins: a text that doesn't depend on a setting.
    let last = match coverage.wanted_until {
        Bound::At(instant) => instant.to_string(),
        other => other.to_string(),
    };
    Ok(match coverage.holes.first() {
        None => Finding::ok(CHECK, format!("no hole from now to {last}")),
        Some(hole) => Finding::bad(
            CHECK,
            Status::Failed,
            format!("{} hole(s), the first {hole}", coverage.holes.len()),
            "SELECT maintain_workflow_events_partitions();",
        ),
    })
}

/// Whether it can be told which runs go on, so that retention keeps their events.
pub fn retention(context: &Context, settings: Settings) -> Result<Finding> {
    const CHECK: &str = "retention";
    Ok(match replay::unfinished_runs(context, settings) {
        Ok(Some(runs)) => {
            Finding::ok(CHECK, format!("events of {runs} run(s) that are not finished are kept"))
        }
        Ok(None) if context.policy.retention_months.is_none() => Finding::ok(
            CHECK,
            "the policy retires nothing, and nothing says whether a run has finished",
        ),
        Ok(None) => Finding::bad(
            CHECK,
            Status::Warning,
            "nothing says whether a run has finished: retention goes by age alone",
            "It is told by the columns status and finished_at of workflow_runs.",
        ),
        Err(error) => Finding::bad(
            CHECK,
            Status::Warning,
            format!("which runs are not finished is not known, so nothing is retired: {error}"),
            "See what the owner of workflow_runs is told who asks for them.",
        ),
    })
}

/// Partitions that cannot be maintained like the others.
pub fn partitions(context: &Context) -> Result<Vec<Finding>> {
    const CHECK: &str = "partitions";
    let partitions = catalog::partitions(&context.table)?;
    let mut findings = Vec::new();
    let mut add = |detail: String, hint: &str| {
        findings.push(Finding::bad(CHECK, Status::Warning, detail, hint));
    };
    for partition in &partitions {
        let name = &partition.name;
        if partition.detach_pending {
            add(
                format!("\"{name}\" is being detached, and its rows are out of sight"),
                "Complete it with ALTER TABLE … DETACH PARTITION … FINALIZE.",
            );
        }
        match (&partition.extent, partition.kind) {
            (Extent::Default, _) => add(
                format!("\"{name}\" is a DEFAULT partition"),
                "Attaching a partition scans and locks it, and fails where it holds rows of the new range.",
            ),
            (Extent::Unreadable(reason), _) => add(
                format!("the bound of \"{name}\" could not be read: {reason}"),
                "It is left alone.",
            ),
            (_, Kind::Foreign) => {
                add(format!("\"{name}\" is a foreign table"), "It is never dropped.");
            }
            _ => {}
        }
        if let Some(detail) = misnomer(context, partition) {
            add(detail, "Decisions go by the range. Rename it where the name misleads people.");
        }
        if let Some(detail) = misalignment(partition, &context.policy.time_zone) {
            add(detail, "Where all are so, set time_zone in meshhook_events.policy to theirs.");
        }
    }
    if findings.is_empty() {
        let detail = format!("{} partitions, all as they should be", partitions.len());
        findings.push(Finding::ok(CHECK, detail));
    }
    Ok(findings)
}

/// Whether a partition is named for a period of which it holds nothing.
fn misnomer(context: &Context, partition: &Partition) -> Option<String> {
    let period = name::parse(catalog::EVENTS, &partition.name)?;
    let range = partition.range()?;
    let elsewhere = !range.overlaps(&plan::range_of(period, &context.midnights()));
    elsewhere.then(|| format!("\"{}\" holds {range}, not what its name says", partition.name))
}

/// Whether a finite bound is not the beginning of a day in the policy's time zone.
fn misalignment(partition: &Partition, zone: &str) -> Option<String> {
    let range = partition.range()?;
    let off = |bound: Bound| match bound {
        Bound::At(instant) if instant.is_finite() => !is_midnight(instant, zone),
        _ => false,
    };
    (off(range.lower) || off(range.upper))
        .then(|| format!("\"{}\" {range} does not begin and end at 00:00 {zone}", partition.name))
}

fn is_midnight(instant: Instant, zone: &str) -> bool {
    use chrono::Timelike;
    time_zone::civil_time(zone, instant.0).is_none_or(|civil| {
        civil.num_seconds_from_midnight() == 0 && instant.0 % 1_000_000 == 0
            || calendar::begins_a_day(civil, instant, zone)
    })
}

/// What a partition lacks of a standard index.
#[derive(Clone, Debug)]
pub struct MissingIndex {
    /// The index.
    pub standard: StandardIndex,
    /// The partition; `None` for the event log itself.
    pub partition: Option<Partition>,
}

/// The standard indexes that are missing: on the event log, or on a partition.
pub fn missing_indexes(context: &Context) -> Result<Vec<MissingIndex>> {
    let mut missing = Vec::new();
    let partitions = catalog::partitions(&context.table)?;
    for standard in STANDARD_INDEXES {
        let on_parent = index::on_columns(context.table.oid, standard.columns)?;
        if on_parent.iter().any(|index| index.valid) {
            // A valid partitioned index has a valid part on every partition.
            continue;
        }
        missing.push(MissingIndex { standard, partition: None });
        for partition in partitions.iter().filter(|p| p.kind != Kind::Foreign) {
            let own = index::on_columns(partition.oid.into(), standard.columns)?;
            if !own.iter().any(|index| index.valid) {
                missing.push(MissingIndex { standard, partition: Some(partition.clone()) });
            }
        }
    }
    Ok(missing)
}

/// Whether every partition has the standard indexes, attached to those of the event log.
pub fn indexes(context: &Context) -> Result<Finding> {
    const CHECK: &str = "indexes";
    let missing = missing_indexes(context)?;
    if missing.is_empty() {
        return Ok(Finding::ok(CHECK, "every partition has them, attached"));
    }
    let describe = |m: &MissingIndex| {
        let table = m.partition.as_ref().map_or(catalog::EVENTS, |p| p.name.as_str());
        format!("\"{table}\" ({})", m.standard.columns.join(", "))
    };
    let list: Vec<String> = missing.iter().map(describe).collect();
    let detail = format!("missing or not attached on {}", list.join(", "));
    Ok(Finding::bad(CHECK, Status::Warning, detail, "SELECT * FROM setup_workflow_events();"))
}

/// Whether every partition is protected as the event log is.
pub fn protection(context: &Context) -> Result<Finding> {
    const CHECK: &str = "protection";
    let differences = match protection::differences(&context.table) {
        Err(error) if error.sqlstate() == Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE => {
            let detail = format!("could not be compared: {error}");
            return Ok(Finding::bad(CHECK, Status::Warning, detail, "Call it again."));
        }
        differences => differences?,
    };
    if differences.is_empty() {
        return Ok(Finding::ok(
            CHECK,
            "owner, privileges, row level security and replica identity agree",
        ));
    }
    let status = if differences.iter().any(protection::Difference::is_open) {
        Status::Failed
    } else {
        Status::Warning
    };
    let list: Vec<String> =
        differences.iter().map(|d| format!("\"{}\" ({})", d.partition, d.what)).collect();
    let hint = "SELECT * FROM setup_workflow_events(); turns row level security on where the event log \
                has it. Owners and privileges of partitions that exist are yours to change.";
    Ok(Finding::bad(CHECK, status, format!("these differ: {}", list.join(", ")), hint))
}

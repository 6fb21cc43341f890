//! What was noted of sealed partitions, `meshhook_events.sealed_partition`, and the statements that sealing runs at the top
//! level.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use crate::db::ident::Qualified;
use crate::db::{calendar, query};
use crate::domain::instant::Instant;
use crate::domain::partition::{Bound, Range};
use crate::domain::seal::{Candidate, Counts, Mark, Seal};
use crate::error::{Error, Result};

/// How many seals of partitions that are gone are kept.
const KEPT_SEALS: i64 = 1_000;

/// What is noted, and what is wanted.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// What ends at this instant or earlier is to be sealed; `None` where nothing is.
    pub closed_before: Option<Instant>,
    /// The seals.
    pub seals: Vec<Seal>,
    /// When the last of them was made.
    pub last_sealed_at: Option<Instant>,
}

/// Reads both at once: each pass of the worker asks this in a new process.
pub fn noted() -> Result<Noted> {
    let sql = "SELECT pg_catalog.now() - p.seal_after, s.range_start, s.range_end, s.relation, s.file, s.sealed_at, \
                      s.changes, s.changes_since_analyze, s.analyze_count \
               FROM meshhook_events.policy p LEFT JOIN meshhook_events.sealed_partition s ON true";
    let at = |at: TimestampWithTimeZone| Instant(at.into_inner());
    let mut noted = Noted::default();
    query::read(sql, &[], |row| {
        noted.closed_before = row.nullable(1)?.map(at);
        let Some(end) = row.nullable(3)?.map(at) else { return Ok(()) };
        noted.last_sealed_at = noted.last_sealed_at.max(row.nullable(6)?.map(at));
        noted.seals.push(Seal {
            range: Range {
                lower: row.nullable(2)?.map_or(Bound::MinValue, |start| Bound::At(at(start))),
                upper: Bound::At(end),
            },
            relation: row.get::<Oid>(4)?.to_u32(),
            mark: Mark {
                file: row.get::<Oid>(5)?.to_u32(),
                counts: Counts {
                    changes: row.get(7)?,
                    since_analyze: row.get(8)?,
                    analyses: row.get(9)?,
                },
            },
        });
        Ok(())
    })?;
    Ok(noted)
}

/// How many rows a partition had, and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// How many rows.
    pub rows: i64,
    /// The digest over them.
    pub digest: String,
}

/// What was noted of the content of a range.
pub fn content(range: Range) -> Result<Option<Content>> {
    let sql = "SELECT row_count, digest FROM meshhook_events.sealed_partition \
               WHERE range_start IS NOT DISTINCT FROM $1 AND range_end = $2";
    let (start, end) = ends(range)?;
    query::read_one(sql, &[start.into(), end.into()], |row| {
        Ok(Content { rows: row.get(1)?, digest: row.get(2)? })
    })
}

/// Notes that a partition is sealed, in place of what was noted of its range before; where that had the same content, only
/// what tells of changes. Gives what was noted before.
pub fn note(partition: &Candidate, mark: Mark, content: &Content) -> Result<Option<Content>> {
    let before = self::content(partition.range)?;
    let (start, end) = ends(partition.range)?;
    let sql = "INSERT INTO meshhook_events.sealed_partition AS s \
                   (partition_name, range_start, range_end, relation, file, changes, row_count, digest, \
                    changes_since_analyze, analyze_count, sealed_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $10, $11, pg_catalog.clock_timestamp()) \
               ON CONFLICT (range_start, range_end) DO UPDATE \
               SET partition_name = EXCLUDED.partition_name, relation = EXCLUDED.relation, file = EXCLUDED.file, \
                   changes = EXCLUDED.changes, \
                   changes_since_analyze = EXCLUDED.changes_since_analyze, analyze_count = EXCLUDED.analyze_count, \
                   row_count = EXCLUDED.row_count, digest = EXCLUDED.digest, \
                   sealed_at = CASE WHEN $9 THEN s.sealed_at ELSE EXCLUDED.sealed_at END, \
                   previous_row_count = CASE WHEN $9 THEN s.previous_row_count ELSE s.row_count END, \
                   previous_digest = CASE WHEN $9 THEN s.previous_digest ELSE s.digest END, \
                   previous_sealed_at = CASE WHEN $9 THEN s.previous_sealed_at ELSE s.sealed_at END";
    let arguments = [
        partition.name.as_str().into(),
        start.into(),
        end.into(),
        Oid::from(partition.oid).into(),
        Oid::from(mark.file).into(),
        mark.counts.changes.into(),
        content.rows.into(),
        content.digest.as_str().into(),
        (before.as_ref() == Some(content)).into(),
        mark.counts.since_analyze.into(),
        mark.counts.analyses.into(),
    ];
    query::execute(sql, &arguments)?;
    Ok(before)
}

/// Notes other counts for the seal of a range.
pub fn renote(range: Range, counts: Counts) -> Result<()> {
    let sql = "UPDATE meshhook_events.sealed_partition \
               SET changes = $3, changes_since_analyze = $4, analyze_count = $5 \
               WHERE range_start IS NOT DISTINCT FROM $1 AND range_end = $2";
    let (start, end) = ends(range)?;
    let Counts { changes, since_analyze, analyses } = counts;
    let arguments =
        [start.into(), end.into(), changes.into(), since_analyze.into(), analyses.into()];
    query::execute(sql, &arguments)
}

/// Forgets the oldest seals of partitions that are none of `attached` any more, where there are many.
pub fn forget_old(attached: &[u32]) -> Result<()> {
    let sql = "DELETE FROM meshhook_events.sealed_partition WHERE (range_start, range_end) IN ( \
                   SELECT range_start, range_end FROM meshhook_events.sealed_partition \
                   WHERE relation <> ALL ($1) ORDER BY range_end DESC OFFSET $2)";
    let attached: Vec<Oid> = attached.iter().map(|oid| Oid::from(*oid)).collect();
    query::execute(sql, &[attached.into(), KEPT_SEALS.into()])
}

/// The ends of a range as the table has them.
fn ends(range: Range) -> Result<(Option<TimestampWithTimeZone>, TimestampWithTimeZone)> {
    let timestamp = |bound| match bound {
        Bound::At(instant) => calendar::to_timestamp(instant),
        Bound::MinValue | Bound::MaxValue => None,
    };
    let end = timestamp(range.upper)
        .ok_or_else(|| Error::Internal(format!("the range {range} can't be noted")))?;
    Ok((timestamp(range.lower), end))
}

/// Freezes all rows of a partition and makes its statistics. It gives no pages back to the system: that would lock out
/// everybody. It takes no helpers.
#[must_use]
pub fn vacuum(partition: Qualified) -> String {
    format!("VACUUM (FREEZE, ANALYZE, TRUNCATE false, PARALLEL 0) {partition}")
}

/// Makes the statistics over all partitions. Before 18 that makes those of each partition again.
#[must_use]
pub fn analyze(table: Qualified) -> String {
    let only = if cfg!(feature = "pg18") { "ONLY " } else { "" };
    format!("ANALYZE {only}{table}")
}

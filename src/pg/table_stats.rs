//! What the server has counted of a table: read from shared memory, without SQL.

use pgrx::pg_sys;

use crate::domain::seal::Counts;

/// What was counted of a table by transactions that have ended and whose sessions have handed in their counts; nothing where
/// nothing is known.
///
/// A session hands in after its transaction has ended: a change that an older snapshot doesn't see is counted later than the
/// snapshot was taken.
#[must_use]
pub fn counts(table: pg_sys::Oid) -> Counts {
    // SAFETY: the result is null or an entry that lives until the transaction ends.
    let Some(entry) = (unsafe { pg_sys::pgstat_fetch_stat_tabentry(table).as_ref() }) else {
        return Counts::default();
    };
    let changes = entry.tuples_inserted.wrapping_add(entry.tuples_updated);
    #[cfg(feature = "pg15")]
    let (since_analyze, automatic) = (entry.changes_since_analyze, entry.autovac_analyze_count);
    #[cfg(not(feature = "pg15"))]
    let (since_analyze, automatic) = (entry.mod_since_analyze, entry.autoanalyze_count);
    Counts {
        changes: changes.wrapping_add(entry.tuples_deleted),
        since_analyze,
        analyses: entry.analyze_count.wrapping_add(automatic),
    }
}

/// When somebody last ANALYZEd a table, in microseconds of PostgreSQL's epoch; `None` where that isn't known. Autovacuum
/// never does that to a partitioned table.
#[must_use]
pub fn analyzed_at(table: pg_sys::Oid) -> Option<i64> {
    // SAFETY: the result is null or an entry that lives until the transaction ends.
    let entry = unsafe { pg_sys::pgstat_fetch_stat_tabentry(table).as_ref() }?;
    #[cfg(feature = "pg15")]
    let at = entry.analyze_timestamp;
    #[cfg(not(feature = "pg15"))]
    let at = entry.last_analyze_time;
    (at != 0).then_some(at)
}

/// Whether the server counts at all.
#[must_use]
pub fn is_counting() -> bool {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::pgstat_track_counts }
}

//! What the way down a B-tree finds, against the server's own answer: in trees of every height, that grow and shrink.

use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};

use super::run;
use crate::domain::instant::Instant;
use crate::pg::run_index::{Answer, Keys, Probe};
use crate::pg::snapshot::Snapshot;

/// How many questions are asked in each state of the tree.
const QUESTIONS: usize = 400;

/// What is done to the table `t (run_id uuid, ts timestamptz)` between two rounds of questions, and whether an index then
/// has entries of rows that are gone.
const STATES: [(&str, bool); 10] = [
    ("", false),
    ("INSERT INTO t SELECT run(1), stamp(n) FROM generate_series(1, 5) n", false),
    // Enough of one run to fill pages with it, first as separate entries, then as lists.
    ("INSERT INTO t SELECT run(1), stamp(n % 7) FROM generate_series(1, 3000) n", false),
    ("INSERT INTO t SELECT run(n), stamp(n * 31) FROM generate_series(1, 20000) n", false),
    ("INSERT INTO t VALUES (NULL, '2026-01-01'), (run(3), NULL), (NULL, NULL), (run(4), '-infinity'), (run(4), 'infinity'),
          ('00000000-0000-0000-0000-000000000000', '2026-01-01'), ('ffffffff-ffff-ffff-ffff-ffffffffffff', '2026-01-01')", false),
    // Roots change between the questions.
    ("INSERT INTO t SELECT run(n), stamp(n) FROM generate_series(1, 20000, 2) n", false),
    ("REINDEX INDEX t_run_id_ts_idx", false),
    ("ALTER INDEX t_run_id_ts_idx SET (deduplicate_items = off, fillfactor = 10); REINDEX INDEX t_run_id_ts_idx", false),
    ("INSERT INTO t SELECT run(n % 50), stamp(n) FROM generate_series(1, 3000) n", false),
    ("DELETE FROM t WHERE run_id > '20000000-0000-0000-0000-000000000000'", true),
];

/// Where a question about a run begins and ends: at a stamp of the data, beside one, or nowhere.
fn bound(random: &mut u64) -> Option<Instant> {
    let n = next(random) % 12;
    let at = |n: u64| Instant((n as i64 - 4) * 60_000_000 + 820_540_800_000_000);
    match n {
        0..=3 => None,
        4 => Some(Instant::NEG_INFINITY),
        5 => Some(Instant::INFINITY),
        6 => Some(Instant(at(next(random) % 40).0 + 1)),
        _ => Some(at(next(random) % 40)),
    }
}

/// The next random number (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The run that is asked for: one of those in the table, more often one of the first few; or none of them.
fn some_run(random: &mut u64) -> Uuid {
    let n = next(random) % 25_000;
    let sql = match next(random) % 5 {
        0 => format!("SELECT run({})", n % 6),
        1 => format!("SELECT pg_catalog.md5('none{n}')::uuid"),
        2 if n.is_multiple_of(2) => "SELECT uuid '00000000-0000-0000-0000-000000000000'".to_owned(),
        2 => "SELECT uuid 'ffffffff-ffff-ffff-ffff-ffffffffffff'".to_owned(),
        _ => format!("SELECT run({n})"),
    };
    Spi::get_one(&sql).unwrap().unwrap()
}

/// Whether the plain query finds a row.
fn exists(run: Uuid, from: Option<Instant>, to: Option<Instant>) -> bool {
    let at = |at: Option<Instant>| at.map(|at| TimestampWithTimeZone::try_from(at.0).unwrap());
    let sql = "SELECT EXISTS (SELECT FROM t WHERE run_id = $1 AND ($2 IS NULL OR ts >= $2) AND ($3 IS NULL OR ts <= $3))";
    Spi::get_one_with_args(sql, &[run.into(), at(from).into(), at(to).into()]).unwrap().unwrap()
}

pub fn find_what_the_query_finds() {
    run("SET LOCAL TimeZone = 'UTC';
         CREATE FUNCTION run(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.md5(n::text)::uuid $$;
         CREATE FUNCTION stamp(n bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE
             AS $$ SELECT '2026-01-01 00:00:00+00'::timestamptz + n % 30 * interval '1 minute' $$;
         CREATE TABLE t (run_id uuid, ts timestamptz) WITH (autovacuum_enabled = off);
         CREATE INDEX t_run_id_ts_idx ON t (run_id, ts)");
    let table = Spi::get_one::<pg_sys::Oid>("SELECT 't'::regclass::oid").unwrap().unwrap();
    let mut random = 7;
    for (change, leaves_entries) in STATES {
        run(change);
        let mut found = [0, 0];
        for n in 0..QUESTIONS {
            let (run, from, to) = (some_run(&mut random), bound(&mut random), bound(&mut random));
            let probe =
                Probe::new(Keys::new(*run.as_bytes(), from, to), Snapshot::active().unwrap());
            let answer = probe.ask(table);
            let expected = if exists(run, from, to) { Answer::Hit } else { Answer::NoHit };
            found[usize::from(answer == Answer::Hit)] += 1;
            if answer != expected && !(leaves_entries && answer == Answer::Hit) {
                panic!(
                    "{change}: question {n}, {run} from {from:?} to {to:?}: {answer:?} instead of {expected:?}"
                );
            }
        }
        // The empty tree has nothing; all others answer both ways.
        assert!(change.is_empty() || found.iter().all(|n| *n > 0), "{change}: {found:?}");
    }
}

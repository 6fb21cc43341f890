//! Replays against the plain query.

use super::{Random, make_bare_log, number, run};

/// How many random calls.
const CALLS: u64 = 400;

pub fn replays_equal_the_plain_query() {
    make_bare_log();
    run("CREATE TABLE part_wide PARTITION OF workflow_events FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
         CREATE TABLE part_turned (payload jsonb NOT NULL, gone int, type text NOT NULL, ts timestamptz NOT NULL,
             created_at timestamptz NOT NULL DEFAULT now(), run_id uuid NOT NULL, id bigint NOT NULL);
         ALTER TABLE part_turned DROP COLUMN gone;
         ALTER TABLE workflow_events ATTACH PARTITION part_turned FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE part_sub PARTITION OF workflow_events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY HASH (id);
         CREATE TABLE part_sub_0 PARTITION OF part_sub FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE part_sub_1 PARTITION OF part_sub FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE part_rest PARTITION OF workflow_events DEFAULT;
         INSERT INTO workflow_runs (id) SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid
             FROM generate_series(1, 20) n;
         -- Many events share an instant, so that the order by id matters.
         INSERT INTO workflow_events (run_id, ts, type, payload)
             SELECT ('00000000-0000-0000-0000-' || lpad((1 + n % 20)::text, 12, '0'))::uuid,
                 timestamptz '2025-12-01 00:00:00+00' + (n * 7919 % 120) * interval '1 day',
                 't' || n % 5, jsonb_build_object('n', n, 'x', 12345678901234567890.123456789)
             FROM generate_series(1, 3000) n");
    let mut random = Random(7);
    let mut rows = 0;
    for call in 0..CALLS {
        let run_id = format!("'00000000-0000-0000-0000-{:012}'", random.below(23));
        let bound = |random: &mut Random| match random.below(8) {
            0 | 1 => "NULL::timestamptz".to_owned(),
            2 => "'infinity'::timestamptz".to_owned(),
            3 => "'-infinity'::timestamptz".to_owned(),
            _ => format!(
                "timestamptz '2025-12-01 00:00:00+00' + {} * interval '1 day'",
                random.below(130)
            ),
        };
        let (from, to) = (bound(&mut random), bound(&mut random));
        // Numbered, so that the order is compared as well.
        let theirs = format!(
            "SELECT row_number() OVER () AS n, e.* FROM (SELECT id, run_id, ts, type, payload, created_at \
             FROM workflow_events WHERE run_id = {run_id}::uuid \
               AND ({from} IS NULL OR ts >= {from}) AND ({to} IS NULL OR ts <= {to}) ORDER BY ts, id) e"
        );
        let ours = format!(
            "SELECT row_number() OVER () AS n, e.* FROM get_workflow_run_events({run_id}::uuid, {from}, {to}) e"
        );
        let differing = number(&format!(
            "SELECT count(*) FROM ((({ours}) EXCEPT ALL ({theirs})) UNION ALL (({theirs}) EXCEPT ALL ({ours}))) d"
        ));
        assert_eq!(differing, 0, "call {call}: {run_id}, {from}, {to}");
        rows += number(&format!("SELECT count(*) FROM ({ours}) o"));
    }
    assert!(rows > 1_000, "the calls gave {rows} rows: they compared nothing");
    let counted =
        number("SELECT sum(row_count)::bigint FROM get_workflow_events_partition_stats()");
    assert_eq!(counted, 3_000);
}

//! Replays against the plain query, on partitions of every kind.

use std::ops::RangeInclusive;

use super::{make_bare_log, number, run, texts};

/// How many random calls are made in each state of the event log; more than 10,000 all together.
const CALLS: i64 = 1_250;

/// How many of a hundred calls are made without a query.
const MOST: RangeInclusive<i64> = 80..=100;
const SOME: RangeInclusive<i64> = 1..=60;
const NONE: RangeInclusive<i64> = 0..=0;

/// What is changed about the partitions before each round of calls, and how many are made without a query then.
const STATES: [(&str, RangeInclusive<i64>, &str); 9] = [
    ("as made", MOST, ""),
    ("one detached", MOST, "ALTER TABLE workflow_events DETACH PARTITION part_3"),
    ("attached again, with other columns", MOST, "
        ALTER TABLE part_3 DROP CONSTRAINT workflow_events_run_id_fkey;
        CREATE TABLE part_turned (payload jsonb NOT NULL, gone int, type text NOT NULL, ts timestamptz NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(), run_id uuid NOT NULL, id bigint NOT NULL);
        ALTER TABLE part_turned DROP COLUMN gone;
        INSERT INTO part_turned (id, run_id, ts, type, payload, created_at)
            SELECT id, run_id, ts, type, payload, created_at FROM part_3;
        ALTER TABLE workflow_events ATTACH PARTITION part_turned FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')"),
    ("beside one with the same columns in another order, and one with rows older than a column", MOST, "
        CREATE TABLE part_order (run_id uuid NOT NULL, id bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
            ts timestamptz NOT NULL, type text NOT NULL, payload jsonb NOT NULL);
        INSERT INTO part_order (id, run_id, ts, type, payload)
            SELECT id, run_id, timestamptz '2027-05-05 00:00:00+00' + id * interval '1 hour', type, payload FROM part_2;
        CREATE TABLE part_old (id bigint NOT NULL, run_id uuid NOT NULL, ts timestamptz NOT NULL, type text NOT NULL,
            payload jsonb NOT NULL);
        INSERT INTO part_old SELECT id, run_id, timestamptz '2028-05-05 00:00:00+00' + id * interval '1 hour', type, payload FROM part_2;
        ALTER TABLE part_old ADD created_at timestamptz NOT NULL DEFAULT '2028-01-01';
        ALTER TABLE workflow_events ATTACH PARTITION part_order FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
        ALTER TABLE workflow_events ATTACH PARTITION part_old FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')"),
    ("a column dropped, one added", MOST, "
        ALTER TABLE workflow_events ADD COLUMN shard int NOT NULL DEFAULT 7;
        ALTER TABLE workflow_events ADD COLUMN other text;
        ALTER TABLE workflow_events DROP COLUMN shard"),
    ("beside a DEFAULT partition without events of most runs", MOST, "
        CREATE TABLE part_rest PARTITION OF workflow_events DEFAULT;
        INSERT INTO workflow_events (run_id, ts, type, payload)
            SELECT id, '2031-01-01', 'late', '{}' FROM workflow_runs ORDER BY id LIMIT 2"),
    ("indexes made over updated rows, which older snapshots must not use", SOME, "
        REINDEX INDEX part_1_run_id_ts_idx;
        DROP INDEX workflow_events_run_ts_idx;
        CREATE UNIQUE INDEX ON part_1 (run_id, ts, id) INCLUDE (type);
        CREATE INDEX workflow_events_run_ts_idx ON workflow_events (run_id, ts)"),
    ("one partitioned itself", SOME, "
        CREATE TABLE part_sub (LIKE workflow_events INCLUDING ALL) PARTITION BY HASH (id);
        CREATE TABLE part_sub_0 PARTITION OF part_sub FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE part_sub_1 PARTITION OF part_sub FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO part_sub SELECT (jsonb_populate_record(e, '{\"ts\": \"2026-05-05 00:00:00+00\"}')).* FROM part_1 e;
        ALTER TABLE workflow_events ATTACH PARTITION part_sub FOR VALUES FROM ('2026-05-01') TO ('2026-06-01')"),
    ("without the index", NONE, "
        DROP TABLE part_sub;
        DROP INDEX workflow_events_run_ts_idx;
        CREATE INDEX ON part_1 (run_id, ts) WHERE type <> 't1';
        CREATE INDEX ON part_2 (run_id, ts DESC)"),
];

/// A log with a partition from MINVALUE, months with a gap between them, one up to MAXVALUE.
fn make_log() {
    make_bare_log();
    run("SET TimeZone = 'UTC';
         CREATE TABLE part_1 PARTITION OF workflow_events FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
         CREATE TABLE part_2 PARTITION OF workflow_events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE part_3 PARTITION OF workflow_events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         CREATE TABLE part_4 PARTITION OF workflow_events FOR VALUES FROM ('2026-03-01') TO ('2026-05-01');
         CREATE TABLE part_5 PARTITION OF workflow_events FOR VALUES FROM ('2026-06-01') TO ('2026-06-01 00:00:00.000001');
         CREATE TABLE part_6 PARTITION OF workflow_events FOR VALUES FROM ('2032-01-01') TO (MAXVALUE);
         INSERT INTO workflow_runs (id)
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid FROM generate_series(1, 20) n;
         -- Many events share an instant, so that the order by id matters; a run of its own has one event.
         INSERT INTO workflow_events (run_id, ts, type, payload)
             SELECT ('00000000-0000-0000-0000-' || lpad((1 + n % 19)::text, 12, '0'))::uuid,
                 CASE WHEN n % 97 = 0 THEN '-infinity' WHEN n % 89 = 0 THEN 'infinity'
                      WHEN n % 83 = 0 THEN '2026-06-01 00:00:00+00'
                      ELSE timestamptz '2025-12-01 00:00:00+00' + (n * 7919 % 120) * interval '1 day' END,
                 't' || n % 5,
                 jsonb_build_object('n', n, 'x', 12345678901234567890.123456789, 'long', repeat('x', n % 7 * 900))
             FROM generate_series(1, 3000) n;
         INSERT INTO workflow_events (run_id, ts, type, payload)
             VALUES ('00000000-0000-0000-0000-000000000020', '2026-01-15', 't', '{}');
         UPDATE workflow_events SET payload = payload || '{\"updated\": true}' WHERE id % 10 = 0;
         DELETE FROM workflow_events WHERE id % 11 = 0");
}

/// The arguments: runs that exist or not or are NULL, bounds that are absent, infinite, between events, on them, inverted.
fn make_calls() {
    run(&format!(
        "CREATE TABLE calls AS SELECT n,
             CASE WHEN random() > 0.02
                  THEN ('00000000-0000-0000-0000-' || lpad((random() * 22)::int::text, 12, '0'))::uuid END AS run,
             t.bound[1] AS start, t.bound[2] AS stop
         FROM generate_series(1, {CALLS}) n
         CROSS JOIN LATERAL (
             SELECT array_agg(CASE WHEN kind < 2 THEN NULL WHEN kind = 2 THEN 'infinity' WHEN kind = 3 THEN '-infinity'
                                   WHEN kind = 4 THEN '2026-02-01' WHEN kind = 5 THEN '2026-06-01'
                                   ELSE timestamptz '2025-12-01' + (random() * 130)::int * interval '1 day' END)
             FROM (SELECT (random() * 11)::int + 0 * n AS kind FROM generate_series(1, 2)) AS kinds) AS t (bound)"
    ));
}

pub fn replays_equal_the_plain_query() {
    make_log();
    run("SELECT setseed(0.7)");
    let (mut calls, mut rows) = (0, 0);
    for (state, natively, change) in STATES {
        run(change);
        run("DROP TABLE IF EXISTS calls");
        make_calls();
        let differing = texts(
            "SELECT format('%s, %s to %s: %s against %s', run, start, stop, ours, theirs) FROM calls,
             LATERAL (SELECT array_agg(e::text) AS ours FROM get_workflow_run_events(run, start, stop) e) AS a,
             LATERAL (SELECT array_agg(e::text) AS theirs
                      FROM (SELECT id, run_id, ts, type, payload, created_at FROM workflow_events
                            WHERE run_id = run AND (start IS NULL OR ts >= start) AND (stop IS NULL OR ts <= stop)
                            ORDER BY ts, id) e) AS b
             WHERE ours IS DISTINCT FROM theirs LIMIT 3",
        );
        assert_eq!(differing, Vec::<String>::new(), "{state}");
        rows += number(
            "SELECT sum((SELECT count(*) FROM get_workflow_run_events(run, start, stop)))::bigint FROM calls",
        );
        calls += number("SELECT count(*) FROM calls");
        explains(state, &natively);
    }
    assert!(calls >= 10_000, "{calls} calls were made");
    assert!(rows > 50_000, "the calls gave {rows} rows");
}

/// What is said of some calls is what they gave, and they were made natively where they can be.
fn explains(state: &str, expected: &RangeInclusive<i64>) {
    run("CREATE TEMPORARY TABLE explained ON COMMIT DROP AS
         SELECT c.n, x.* FROM (SELECT * FROM calls WHERE run IS NOT NULL ORDER BY n LIMIT 100) c
         CROSS JOIN LATERAL explain_workflow_run_events(c.run, c.start, c.stop) x");
    let partitions =
        number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'workflow_events'::regclass");
    assert_eq!(number("SELECT count(*) FROM explained"), 100 * partitions, "{state}");
    let wrong = number(
        "SELECT count(*) FROM calls c JOIN (SELECT n, sum(events) AS said, bool_or(access = 'query') AS queried
                                            FROM explained GROUP BY n) x USING (n)
         WHERE NOT queried AND said <> (SELECT count(*) FROM get_workflow_run_events(c.run, c.start, c.stop))",
    );
    assert_eq!(wrong, 0, "{state}");
    let natively = number(
        "SELECT count(*) FROM (SELECT FROM explained GROUP BY n HAVING bool_and(access <> 'query')) n",
    );
    assert!(expected.contains(&natively), "{state}: {natively} of 100 calls were made natively");
    let seen = texts("SELECT DISTINCT access FROM explained WHERE access <> 'query' ORDER BY 1");
    if *expected != NONE {
        assert_eq!(seen, ["native", "no hit", "skipped"], "{state}");
    }
    run("DROP TABLE explained");
}

pub fn only_an_index_that_gives_all_rows_in_order_is_used() {
    make_bare_log();
    run("SET TimeZone = 'UTC';
         DROP INDEX workflow_events_run_id_idx, workflow_events_run_ts_idx;
         CREATE TABLE part PARTITION OF workflow_events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         INSERT INTO workflow_runs (id) VALUES ('00000000-0000-0000-0000-000000000001');
         INSERT INTO workflow_events (run_id, ts, type, payload)
             SELECT '00000000-0000-0000-0000-000000000001', '2026-01-01'::timestamptz + (n * 7 % 10) * interval '1 day',
                    't' || n % 3, '{}' FROM generate_series(1, 30) n");
    let arguments = "'00000000-0000-0000-0000-000000000001'";
    let unfit = [
        "(run_id, ts) WHERE type <> 't1'",
        "(run_id, ts DESC)",
        "(run_id DESC, ts)",
        "(run_id, ts NULLS FIRST)",
        "(run_id)",
        "(run_id) INCLUDE (ts)",
        "(ts, run_id)",
        "(run_id, created_at)",
        "(run_id, (ts AT TIME ZONE 'UTC'))",
        "USING hash (run_id)",
    ];
    let fit = ["(run_id, ts)", "(run_id, ts, type DESC)", "(run_id, ts, (id + 1)) INCLUDE (type)"];
    let as_query = unfit.iter().map(|index| (index, "query"));
    for (index, access) in as_query.chain(fit.iter().map(|index| (index, "native"))) {
        run(&format!("CREATE INDEX one ON part {index}"));
        let theirs = texts("SELECT e::text FROM workflow_events e ORDER BY ts, id");
        let ours = texts(&format!("SELECT e::text FROM get_workflow_run_events({arguments}) e"));
        assert_eq!(ours, theirs, "{index}");
        let explained = format!("SELECT access FROM explain_workflow_run_events({arguments})");
        assert_eq!(texts(&explained), [access], "{index}");
        run("DROP INDEX one");
    }
}

pub fn counts_equal_the_plain_query() {
    make_log();
    let counted =
        number("SELECT sum(row_count)::bigint FROM get_workflow_events_partition_stats()");
    assert_eq!(counted, number("SELECT count(*) FROM workflow_events"));
}

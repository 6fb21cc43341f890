-- Reading: get_workflow_run_events gives what the plain query gives, in order; statistics count exactly.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
INSERT INTO workflow_runs SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid FROM generate_series(1, 3) n;
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
CALL t.clear();
-- One without a lower bound, one of several months, one month in two parts, one without an upper bound.
CREATE TABLE oldest PARTITION OF workflow_events FOR VALUES FROM (MINVALUE) TO ('2200-01-01 00:00:00+00');
CREATE TABLE wide PARTITION OF workflow_events FOR VALUES FROM ('2200-01-01 00:00:00+00') TO ('2200-03-01 00:00:00+00');
-- Columns in another order, with one that was dropped in between, as a table has that was attached later.
CREATE TABLE turned (payload jsonb NOT NULL, gone int, created_at timestamptz NOT NULL DEFAULT now(), type text NOT NULL,
                     ts timestamptz NOT NULL, run_id uuid NOT NULL, gone_too text, id bigint NOT NULL);
ALTER TABLE turned DROP COLUMN gone, DROP COLUMN gone_too;
ALTER TABLE workflow_events ATTACH PARTITION turned FOR VALUES FROM ('2200-03-01 00:00:00+00') TO ('2200-03-15 12:00:00+00');
-- One that is partitioned itself.
CREATE TABLE split PARTITION OF workflow_events FOR VALUES FROM ('2200-03-15 12:00:00+00') TO ('2200-04-01 00:00:00+00')
PARTITION BY HASH (id);
CREATE TABLE split_0 PARTITION OF split FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE split_1 PARTITION OF split FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE newest PARTITION OF workflow_events FOR VALUES FROM ('2200-04-01 00:00:00+00') TO (MAXVALUE);

-- Two runs with events at every half day of half a year, several at one instant, inserted out of order; ends at infinity.
INSERT INTO workflow_events (id, run_id, ts, type, payload, created_at)
SELECT (n * 7919) % 4001, ('00000000-0000-0000-0000-00000000000' || 1 + n % 2)::uuid,
       '2199-12-01 00:00:00+00'::timestamptz + (n % 360) * interval '12 hours',
       chr(97 + n % 3), jsonb_build_object('n', n), '2200-01-01 00:00:00+00'
FROM generate_series(1, 4000) n;
INSERT INTO workflow_events (id, run_id, ts, type, payload) VALUES
(5001, '00000000-0000-0000-0000-000000000001', '-infinity', 'a', '{}'), (5002, '00000000-0000-0000-0000-000000000001', 'infinity', 'a', '{}'),
(5003, '00000000-0000-0000-0000-000000000001', '4713-01-01 00:00:00+00 BC', 'a', '{}'),
(5004, '00000000-0000-0000-0000-000000000001', '294276-12-31 23:59:59.999999+00', 'a', '{}'),
(5005, '00000000-0000-0000-0000-000000000001', '2200-03-14 23:59:59.999999+00', 'a', '{}');
SELECT count(*) FROM workflow_events;

-- The plain query, each row with its place in the order; and whether the function gives just that.
CREATE FUNCTION t.same(run uuid, lower timestamptz, upper timestamptz, OUT rows bigint, OUT same boolean) LANGUAGE sql STABLE AS $$
WITH plain AS (
    SELECT id, run_id, ts, type, payload::text, created_at, row_number() OVER (ORDER BY ts, id) AS place
    FROM workflow_events WHERE run_id = run AND (lower IS NULL OR ts >= lower) AND (upper IS NULL OR ts <= upper)
), ours AS (
    SELECT id, run_id, ts, type, payload::text, created_at, place
    FROM get_workflow_run_events(run, lower, upper) WITH ORDINALITY x (id, run_id, ts, type, payload, created_at, place)
)
SELECT (SELECT count(*) FROM ours),
       NOT EXISTS (SELECT * FROM plain EXCEPT ALL SELECT * FROM ours)
       AND NOT EXISTS (SELECT * FROM ours EXCEPT ALL SELECT * FROM plain)
$$;
-- Each run, one that has no events, one that doesn't exist, and none; with each pair of bounds: not given, infinite, on an
-- event, just beside it, on the border of partitions, in between, and the second before the first.
CREATE TABLE t.runs AS SELECT * FROM unnest(ARRAY['00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002',
    '00000000-0000-0000-0000-000000000003', '00000000-0000-0000-0000-000000000009', NULL]::uuid[]) run;
CREATE TABLE t.bounds AS SELECT * FROM unnest(ARRAY[NULL, '-infinity', 'infinity', '2200-01-05 12:00:00+00',
    '2200-01-05 11:59:59.999999+00', '2200-01-05 12:00:00.000001+00', '2200-03-01 00:00:00+00', '2200-02-28 23:59:59.999999+00',
    '2200-03-15 12:00:00+00', '2200-04-01 00:00:00+00', '2199-01-01 00:00:00+00', '9999-12-31 00:00:00+00',
    '4713-01-01 00:00:00+00 BC', '294276-12-31 23:59:59.999999+00']::timestamptz[]) bound;
SELECT count(*) AS combinations, count(*) FILTER (WHERE same) AS same, count(*) FILTER (WHERE rows > 0) AS with_rows, sum(rows) AS rows
FROM t.runs, t.bounds lower, t.bounds upper, t.same(run, lower.bound, upper.bound);
-- Some by hand.
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001');
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001', NULL, NULL);
SELECT count(*) FROM get_workflow_run_events(p_run_id => '00000000-0000-0000-0000-000000000001', p_end_ts => '-infinity');
SELECT count(*) FROM get_workflow_run_events(p_run_id => '00000000-0000-0000-0000-000000000001', p_start_ts => 'infinity');
SELECT count(*) FROM get_workflow_run_events(NULL);
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001', '2200-02-01', '2200-01-01');
-- Both bounds are included; events of one instant come in the order of their numbers.
SELECT id, ts, type FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001', '2200-03-14 12:00:00+00', '2200-03-15 00:00:00+00');

-- Payloads come back to the last digit: what replays them builds the state from it.
INSERT INTO workflow_events (id, run_id, ts, type, payload) VALUES
(1, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:01+00', 'numbers',
 '[0.1, 1.10, 1e400, -0, 12345678901234567890123456789.123456789012345678901234567890, 1e-300, 9007199254740993]'),
(2, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:02+00', 'text',
 '{"": "", "ü": "\u20ac \ud83d\ude00 \\ \" \t", "\u0001": "\uffff", "z": "z\u0300"}'),
(3, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:03+00', 'scalar', '"a string"'),
(4, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:04+00', 'scalar', 'null'),
(5, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:05+00', 'empty', '{}'),
(6, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:06+00', 'deep', (repeat('[', 1000) || repeat(']', 1000))::jsonb),
(7, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:07+00', 'long',
 (SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 20000) n)),
(8, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:08+00', '', '[]');
SELECT id, type, CASE WHEN length(payload::text) < 200 THEN payload::text ELSE length(payload::text) || ' characters' END AS payload
FROM get_workflow_run_events('00000000-0000-0000-0000-000000000003');
SELECT payload->3 AS zero, payload->4 AS long, payload->6 AS beyond_double FROM get_workflow_run_events('00000000-0000-0000-0000-000000000003') LIMIT 1;
SELECT * FROM t.same('00000000-0000-0000-0000-000000000003', NULL, NULL);

-- Rows of the own transaction are seen, as the plain query sees them, and those of the own statement are not.
BEGIN;
INSERT INTO workflow_events (id, run_id, ts, type, payload)
VALUES (9, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:09+00', 'mine', '{}');
SELECT rows, same FROM t.same('00000000-0000-0000-0000-000000000003', NULL, NULL);
DELETE FROM workflow_events WHERE run_id = '00000000-0000-0000-0000-000000000003' AND id = 8;
UPDATE workflow_events SET ts = '2200-05-01 00:00:01+00' WHERE run_id = '00000000-0000-0000-0000-000000000003' AND id = 1;
SELECT rows, same FROM t.same('00000000-0000-0000-0000-000000000003', NULL, NULL);
SELECT id FROM get_workflow_run_events('00000000-0000-0000-0000-000000000003') WHERE type IN ('mine', 'numbers', '');
WITH added AS (
    INSERT INTO workflow_events (id, run_id, ts, type, payload)
    VALUES (10, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:10+00', 'mine', '{}') RETURNING 1)
SELECT (SELECT count(*) FROM added) AS added, (SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000003')) AS ours,
       (SELECT count(*) FROM workflow_events WHERE run_id = '00000000-0000-0000-0000-000000000003') AS plain;
-- A cursor keeps what it saw when it was opened.
DECLARE replay CURSOR FOR SELECT id FROM get_workflow_run_events('00000000-0000-0000-0000-000000000003') WHERE id < 10;
INSERT INTO workflow_events (id, run_id, ts, type, payload)
VALUES (0, '00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:00+00', 'mine', '{}');
FETCH 2 FROM replay;
FETCH BACKWARD 1 FROM replay;
MOVE LAST IN replay;
FETCH RELATIVE 0 FROM replay;
ROLLBACK;

-- In a lateral join it is called for each row, in a list of columns as well, and beside others.
SELECT run, count(*), min(id), max(id) FROM t.runs, get_workflow_run_events(run, '2200-01-01', '2200-01-31') GROUP BY 1 ORDER BY 1;
SELECT run, (SELECT count(*) FROM get_workflow_run_events(run)) FROM t.runs ORDER BY 1;
SELECT (get_workflow_run_events('00000000-0000-0000-0000-000000000003')).type LIMIT 3;
SELECT id, type, n FROM ROWS FROM (get_workflow_run_events('00000000-0000-0000-0000-000000000003', '2200-01-01 00:00:05', '2200-01-01 00:00:05'),
                         generate_series(1, 2)) AS x (id, run_id, ts, type, payload, created_at, n);
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001') a
JOIN get_workflow_run_events('00000000-0000-0000-0000-000000000001') b USING (id);
-- From functions that are STABLE, in SQL and in PL/pgSQL, which see what their query sees; from a prepared statement.
CREATE FUNCTION t.last_type(run uuid) RETURNS text STABLE LANGUAGE sql AS
$$SELECT type FROM get_workflow_run_events(run) ORDER BY ts DESC, id DESC LIMIT 1$$;
CREATE FUNCTION t.number(run uuid) RETURNS int STABLE LANGUAGE plpgsql AS $$
DECLARE
    n int := 0;
    event record;
BEGIN
    FOR event IN SELECT * FROM get_workflow_run_events(run) LOOP
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;
SELECT run, t.last_type(run), t.number(run) FROM t.runs ORDER BY 1;
PREPARE replay (uuid, timestamptz) AS SELECT count(*) FROM get_workflow_run_events($1, $2);
SET plan_cache_mode = force_generic_plan;
EXECUTE replay ('00000000-0000-0000-0000-000000000002', '2200-03-01');
EXECUTE replay ('00000000-0000-0000-0000-000000000002', NULL);
EXECUTE replay (NULL, NULL);
RESET plan_cache_mode;

-- Statistics: the exact number of rows of each partition, in the order of their ranges, and their sum.
SELECT partition_name, start_date, end_date, row_count,
       size_bytes = (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(partition_name::regclass)) AS exact_size,
       size_pretty = pg_size_pretty(size_bytes) AS pretty
FROM get_workflow_events_partition_stats();
CREATE TABLE t.counted AS SELECT tableoid::regclass::text AS leaf, count(*) FROM workflow_events GROUP BY 1;
SELECT partition_name FROM get_workflow_events_partition_stats()
WHERE row_count <> (SELECT sum(count) FROM t.counted
                    WHERE leaf IN (SELECT relid::regclass::text FROM pg_partition_tree(partition_name::regclass)));
SELECT (SELECT sum(row_count) FROM get_workflow_events_partition_stats()) = (SELECT count(*) FROM workflow_events) AS exact_sum;
-- In a transaction: what it sees.
BEGIN;
DELETE FROM workflow_events WHERE ts < '2200-01-01';
SELECT row_count FROM get_workflow_events_partition_stats() WHERE partition_name = 'oldest';
ROLLBACK;
-- A DEFAULT partition has no dates; bounds within a day are rounded outwards, to days of the policy's zone.
DROP TABLE newest;
CREATE TABLE rest PARTITION OF workflow_events DEFAULT;
SELECT partition_name, start_date, end_date, row_count FROM get_workflow_events_partition_stats();
UPDATE meshhook_events.policy SET time_zone = 'Asia/Kolkata';
SELECT partition_name, start_date, end_date FROM get_workflow_events_partition_stats();
UPDATE meshhook_events.policy SET time_zone = DEFAULT;
SET TimeZone = 'America/New_York';
SELECT partition_name, start_date, end_date FROM get_workflow_events_partition_stats() WHERE partition_name IN ('wide', 'turned');
SET TimeZone = 'UTC';
-- The view estimates, and sums up what is partitioned itself.
ANALYZE workflow_events;
ANALYZE split;
SELECT i.partition_name, i.row_count_estimate = s.row_count AS estimated_well
FROM workflow_events_partition_info i JOIN get_workflow_events_partition_stats() s USING (partition_name) ORDER BY 1;
SELECT array_agg(partition_name) FROM workflow_events_partition_info;

-- Privileges and row level security are those of the plain query.
CREATE ROLE regress_reader;
CREATE ROLE regress_column_reader;
CREATE ROLE regress_nobody;
CREATE ROLE regress_other_owner;
GRANT SELECT ON workflow_events TO regress_reader, regress_nobody;
GRANT SELECT (id, run_id, ts, type) ON workflow_events TO regress_column_reader;
ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON workflow_events TO regress_reader USING (run_id = '00000000-0000-0000-0000-000000000002');
SET ROLE regress_reader;
SELECT run, rows, same FROM unnest(ARRAY['00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002']::uuid[]) run,
     t.same(run, NULL, NULL);
-- Where the plain query would say that rows are hidden, so does the function.
SET row_security = off;
SELECT t.expect($$SELECT count(*) FROM workflow_events WHERE run_id = '00000000-0000-0000-0000-000000000002'$$);
SELECT t.expect($$SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000002')$$);
RESET row_security;
-- Statistics read each partition by itself, which takes the privilege on it.
SELECT t.expect('SELECT count(*) FROM get_workflow_events_partition_stats()');
-- The view reads no rows.
SELECT count(*) FROM workflow_events_partition_info;
-- Nobody's rows: no policy lets this one see any.
SET ROLE regress_nobody;
SELECT rows, same FROM t.same('00000000-0000-0000-0000-000000000002', NULL, NULL);
SET ROLE regress_column_reader;
SELECT t.expect($$SELECT id, run_id, ts, type, payload, created_at FROM workflow_events$$);
SELECT t.expect($$SELECT id FROM get_workflow_run_events('00000000-0000-0000-0000-000000000002')$$);
RESET ROLE;
REVOKE ALL ON workflow_events FROM regress_nobody;
SET ROLE regress_nobody;
SELECT t.expect($$SELECT count(*) FROM workflow_events$$);
SELECT t.expect($$SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000002')$$);
RESET ROLE;
-- The owner passes row level security, unless it is forced.
ALTER TABLE workflow_events OWNER TO regress_other_owner;
SET ROLE regress_other_owner;
SELECT rows, same FROM t.same('00000000-0000-0000-0000-000000000002', NULL, NULL);
ALTER TABLE workflow_events FORCE ROW LEVEL SECURITY;
SELECT rows, same FROM t.same('00000000-0000-0000-0000-000000000002', NULL, NULL);
RESET ROLE;
-- A prepared call follows the role that executes it.
PREPARE by_role AS SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000002');
EXECUTE by_role;
SET ROLE regress_reader;
EXECUTE by_role;
SET ROLE regress_other_owner;
EXECUTE by_role;
RESET ROLE;

-- Older forms of the table: not partitioned, without created_at, with ts that may be NULL, with other types.
DROP TABLE workflow_events;
CREATE TABLE workflow_events (payload json, id int, run_id uuid, ts timestamptz, type varchar(20));
INSERT INTO workflow_events SELECT '{"b": 1, "a":  2}', n, '00000000-0000-0000-0000-000000000001', now() + n * interval '1 s', 'x' FROM generate_series(1, 3) n;
INSERT INTO workflow_events VALUES ('{}', 4, '00000000-0000-0000-0000-000000000001', NULL, 'x');
SELECT id, type, payload, created_at FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001');
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001', '-infinity');
SELECT t.expect('SELECT count(*) FROM get_workflow_events_partition_stats()');
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigserial, run_id uuid NOT NULL, ts timestamptz NOT NULL, type text, payload jsonb, PRIMARY KEY (id, ts))
PARTITION BY RANGE (ts);
CREATE TABLE all_of_it PARTITION OF workflow_events FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
INSERT INTO workflow_events VALUES (1, '00000000-0000-0000-0000-000000000001', '2200-01-01', 'x', '{}');
SELECT * FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001');
SELECT partition_name, start_date, end_date, row_count FROM get_workflow_events_partition_stats();

\c :home
DROP DATABASE regress_events WITH (FORCE);
DROP ROLE regress_reader, regress_column_reader, regress_nobody, regress_other_owner;

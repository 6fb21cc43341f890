-- Every statement of MeshHook's document on event partitioning, on an event log that the extension has set up.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools
-- Literals without an offset are meant in UTC.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-00000000000a'), ('00000000-0000-0000-0000-00000000000b');
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();

--
-- Table Structure: what was set up is what this would make
--
CREATE SCHEMA documented;
SET search_path = documented;
CREATE TABLE workflow_events (
  id bigserial,
  run_id uuid NOT NULL,
  ts timestamptz NOT NULL DEFAULT now(),
  type text NOT NULL,
  payload jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (id, ts)
) PARTITION BY RANGE (ts);
RESET search_path;
CREATE FUNCTION t.columns(regclass) RETURNS TABLE (attnum int2, name name, type oid, not_null bool, has_default bool) LANGUAGE sql AS
$$SELECT attnum, attname, atttypid, attnotnull, atthasdef FROM pg_attribute WHERE attrelid = $1 AND attnum > 0$$;
SELECT count(*) AS columns FROM t.columns('workflow_events');
SELECT * FROM t.columns('documented.workflow_events') EXCEPT SELECT * FROM t.columns('workflow_events');
SELECT * FROM t.columns('workflow_events') EXCEPT SELECT * FROM t.columns('documented.workflow_events');
SELECT pg_get_constraintdef(oid) AS key, pg_get_partkeydef(conrelid) FROM pg_constraint
WHERE contype = 'p' AND conrelid IN ('workflow_events'::regclass, 'documented.workflow_events'::regclass);
DROP SCHEMA documented CASCADE;

--
-- Initial Setup: 2 months in the past, the current one, 3 in the future
--
SELECT * FROM t.partitions();

--
-- Maintenance Function, Daily Maintenance, Missing Future Partitions
--
SELECT t.expect('SELECT maintain_workflow_events_partitions();');
CALL t.run('DROP TABLE {0}, {3}');
SELECT t.expect('SELECT maintain_workflow_events_partitions();');
CALL t.run('DROP TABLE {1}');
SELECT t.expect('SELECT create_workflow_events_partition(CURRENT_DATE + interval ''1 month'');');
SELECT t.expect('SELECT create_workflow_events_partition(CURRENT_DATE + interval ''1 month'');');
SELECT * FROM t.partitions();

--
-- Dropping Old Partitions: of more than 12 months (default), of more than 6
--
SELECT t.expect(format('SELECT create_workflow_events_partition(%L::date)', t.month(n))) FROM generate_series(-14, -3) n;
SELECT t.expect('SELECT drop_old_workflow_events_partitions();');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(6);');
SELECT * FROM t.partitions();

--
-- Manual Partition Creation, Partition Not Found Error
--
-- From here on there are only the months that the document names, whatever the date of the day.
CALL t.clear();
SELECT create_workflow_events_partition('2025-06-01'::date);
INSERT INTO workflow_events (run_id, ts, type, payload)
VALUES ('00000000-0000-0000-0000-00000000000a', '2025-12-24 18:00', 'late', '{}');
-- Create partition for the required date
SELECT create_workflow_events_partition('2025-12-01'::date);
INSERT INTO workflow_events (id, run_id, ts, type, payload, created_at)
VALUES (100, '00000000-0000-0000-0000-00000000000a', '2025-12-24 18:00', 'late', '{}', '2025-12-24 18:00');

--
-- Standard Queries, Optimized Query Function, Partition Pruning
--
SELECT create_workflow_events_partition('2025-01-01'::date);
INSERT INTO workflow_events (id, run_id, ts, type, payload, created_at)
SELECT n, ('00000000-0000-0000-0000-00000000000' || CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END)::uuid, at, 'step',
       jsonb_build_object('n', n), at
FROM generate_series(1, 31) n, LATERAL (SELECT '2025-01-01'::timestamptz + (n - 1) * interval '1 day') x (at);
-- Get all events for a run
SELECT * FROM workflow_events
WHERE run_id = '00000000-0000-0000-0000-00000000000a'
ORDER BY ts;
-- Get events in a time range
SELECT * FROM workflow_events
WHERE ts >= '2025-01-01' AND ts < '2025-02-01'
ORDER BY id LIMIT 3;
-- Get events for a run with optional time filtering
SELECT * FROM get_workflow_run_events(
  '00000000-0000-0000-0000-00000000000b'::uuid,
  '2025-01-01'::timestamptz,  -- optional start
  '2025-01-31'::timestamptz   -- optional end
);
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-00000000000a');
-- Only scans January 2025 partition
SELECT * FROM workflow_events
WHERE ts >= '2025-01-15' AND ts < '2025-01-20';
-- Which partitions a query would scan, or has scanned.
CREATE FUNCTION t.scanned(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE query LOOP
        RETURN QUERY SELECT m[1] FROM regexp_matches(line, ' on (workflow_events_y\d+m\d+)\M') m;
    END LOOP;
END $$;
SELECT DISTINCT * FROM t.scanned($$EXPLAIN SELECT * FROM workflow_events
WHERE ts >= '2025-01-15' AND ts < '2025-01-20'$$);

--
-- Use appropriate indexes: one for each kind of query
--
CREATE FUNCTION t.index_for(query text) RETURNS SETOF text LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
        RETURN QUERY SELECT m[1] FROM regexp_matches(line, '(workflow_events_y2025m01_\w+)') m;
    END LOOP;
END $$;
INSERT INTO workflow_runs SELECT gen_random_uuid() FROM generate_series(1, 200);
INSERT INTO workflow_events (id, run_id, ts, type, payload)
SELECT 1000 + n, id, '2025-01-01'::timestamptz + n * interval '1 minute', 'type ' || n % 100, '{}'
FROM (SELECT id, row_number() OVER () AS r FROM workflow_runs) runs, generate_series(1, 20000) n WHERE n % 202 + 1 = r;
ANALYZE workflow_events;
SELECT DISTINCT t.index_for($$SELECT * FROM workflow_events_y2025m01 WHERE run_id = '00000000-0000-0000-0000-00000000000a'
AND ts >= '2025-01-03' AND ts < '2025-01-03 12:00'$$);
SELECT DISTINCT t.index_for($$SELECT * FROM workflow_events_y2025m01 WHERE type = 'type 7'$$);
SELECT DISTINCT t.index_for($$SELECT * FROM workflow_events_y2025m01 WHERE run_id = '00000000-0000-0000-0000-00000000000a'$$)
       ~ '_(run_id|run_ts)_idx$' AS by_run;
DELETE FROM workflow_events WHERE id > 1000;

--
-- Query Optimization
--
-- Good: Uses partition pruning
\o /dev/null
SELECT * FROM workflow_events
WHERE run_id = '00000000-0000-0000-0000-00000000000b' AND ts >= '2025-01-01';
-- Less optimal: Scans all partitions
SELECT * FROM workflow_events
WHERE run_id = '00000000-0000-0000-0000-00000000000b';
\o
-- Bad: Scans all partitions
SELECT COUNT(*) FROM workflow_events;
-- Better: Query specific partition
SELECT COUNT(*) FROM workflow_events_y2025m01;

--
-- Slow Queries: what the document's statement shows, without the numbers
--
SELECT DISTINCT * FROM t.scanned($$
-- Check if partition pruning is working
EXPLAIN (ANALYZE, BUFFERS)
SELECT * FROM workflow_events
WHERE ts >= '2025-01-01' AND ts < '2025-02-01';
$$);

--
-- View Partition Information, Monthly Maintenance
--
\o /dev/null
-- Simple view of all partitions
SELECT * FROM workflow_events_partition_info;
\o
SELECT partition_name, size ~ '^\d+ kB$' AS pretty, row_count_estimate FROM (
-- Check partition sizes
SELECT * FROM workflow_events_partition_info
ORDER BY partition_name DESC
LIMIT 6
) last;

--
-- Detailed Statistics, Partition Size Guidelines
--
\o /dev/null
-- Detailed partition statistics
SELECT * FROM get_workflow_events_partition_stats();
\o
SELECT partition_name, start_date, end_date, row_count, size_bytes = pg_total_relation_size(partition_name::regclass) AS exact_size,
       size_pretty = pg_size_pretty(size_bytes) AS pretty
FROM get_workflow_events_partition_stats();
SELECT partition_name, size_pretty ~ '^\d+ kB$' AS pretty, row_count FROM (
SELECT
  partition_name,
  size_pretty,
  row_count
FROM get_workflow_events_partition_stats()
ORDER BY partition_name DESC
LIMIT 3
) last;

--
-- Check Partition Health
--
-- List all partitions with their boundaries
SELECT
  tablename,
  pg_get_expr(c.relpartbound, c.oid) as bounds
FROM pg_tables t
JOIN pg_class c ON c.relname = t.tablename
WHERE schemaname = 'public'
  AND tablename LIKE 'workflow_events_y%'
ORDER BY tablename;

--
-- Quarterly Maintenance
--
-- Analyze all partitions
DO $$
DECLARE
  partition_name text;
BEGIN
  FOR partition_name IN
    SELECT tablename FROM pg_tables
    WHERE schemaname = 'public'
    AND tablename LIKE 'workflow_events_y%'
  LOOP
    EXECUTE 'ANALYZE ' || partition_name;
  END LOOP;
END $$;
SELECT row_count_estimate FROM workflow_events_partition_info WHERE partition_name = 'workflow_events_y2025m01';

--
-- Archiving Strategy, Manual Partition Drop
--
SELECT create_workflow_events_partition('2024-01-01'::date);
INSERT INTO workflow_events (id, run_id, ts, type, payload, created_at)
VALUES (50, '00000000-0000-0000-0000-00000000000a', '2024-01-02 03:04:05.678901', 'old, and "odd"', '{"a": [1, null]}', '2024-01-02');
COPY workflow_events_y2024m01 TO STDOUT CSV HEADER;
CREATE TABLE workflow_events_archive (LIKE workflow_events INCLUDING ALL);
INSERT INTO workflow_events_archive SELECT * FROM workflow_events_y2024m01;
DROP TABLE workflow_events_y2024m01;
SELECT * FROM workflow_events_archive;
-- The archive is nobody's partition and stands in nobody's way; the month can be made once more, and dropped.
SELECT create_workflow_events_partition('2024-01-01'::date);
-- Drop a specific partition
DROP TABLE workflow_events_y2024m01;
CALL t.clear();
SELECT t.expect('SELECT maintain_workflow_events_partitions();');
SELECT t.expect('SELECT drop_old_workflow_events_partitions();');
SELECT count(*) FROM workflow_events_archive;

--
-- Verification: what the document's script checks
--
SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname IN (
    'create_workflow_events_partition', 'maintain_workflow_events_partitions', 'drop_old_workflow_events_partitions',
    'get_workflow_events_partition_stats', 'get_workflow_run_events') GROUP BY 1 ORDER BY 1;
SELECT schemaname, viewname FROM pg_views WHERE viewname = 'workflow_events_partition_info';
SELECT t.expect(format('SELECT create_workflow_events_partition(%L::date)', t.month(n))) FROM generate_series(-3, -1) n;
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-00000000000a', now() + days * interval '1 day', 'probe', '{}' FROM unnest('{-60,-30,0,30}'::int[]) days;
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-00000000000a', now() - interval '61 days', now() + interval '31 days')
WHERE type = 'probe';

\c :home
DROP DATABASE regress_events WITH (FORCE);

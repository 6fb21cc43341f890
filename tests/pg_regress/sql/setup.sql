-- setup_workflow_events(): what it refuses, what it makes of nothing, and that it may be called again.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE EXTENSION pg_meshhook_events;

-- Before setup, every function says what is missing and what to do; the view is empty.
SELECT t.state() AS before \gset
SELECT t.expect('SELECT create_workflow_events_partition(current_date)');
SELECT t.expect('SELECT create_workflow_events_partition(now())');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT t.expect('SELECT * FROM get_workflow_events_partition_stats()');
SELECT t.expect('SELECT * FROM get_workflow_run_events(gen_random_uuid())');
SELECT t.expect('SELECT * FROM get_workflow_run_events(NULL)');
SELECT count(*) FROM workflow_events_partition_info;
-- The health check finds it out instead of failing.
SELECT check_name, status, detail, hint FROM verify_workflow_events() WHERE check_name NOT IN ('worker', 'extension_version');
-- Bad arguments are named before the missing table is.
SELECT t.expect('SELECT drop_old_workflow_events_partitions(0)');
SELECT t.expect('SELECT create_workflow_events_partition(NULL::date)');

-- Without runs there is nothing for the foreign key to point to.
SELECT t.expect('SELECT * FROM setup_workflow_events()');
-- A view of that name is no table of runs.
CREATE VIEW workflow_runs AS SELECT gen_random_uuid() AS id;
SELECT t.expect('SELECT * FROM setup_workflow_events()');
DROP VIEW workflow_runs;
-- Nor is a table that the foreign key can't point to; what was begun is taken back.
CREATE TABLE workflow_runs (id uuid);
SELECT t.expect('SELECT * FROM setup_workflow_events()');
DROP TABLE workflow_runs;
CREATE TABLE workflow_runs (id bigint PRIMARY KEY);
SELECT line FROM t.expect('SELECT * FROM setup_workflow_events()') line WHERE line !~ 'DETAIL';
DROP TABLE workflow_runs;
SELECT t.state() = :'before' AS nothing_made,
       (SELECT count(*) FROM meshhook_events.policy) AS policy_rows,
       (SELECT count(*) FROM meshhook_events.maintenance_log) AS log_rows;

-- With runs it makes the event log, two months back, this one, and three ahead.
CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), status text NOT NULL DEFAULT 'running');
SELECT t.mask(object_name) AS object, status, detail, hint FROM setup_workflow_events();
SELECT * FROM t.partitions();
SELECT pg_get_partkeydef('workflow_events'::regclass);
SELECT a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       pg_get_expr(d.adbin, d.adrelid) AS default
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'workflow_events'::regclass AND a.attnum > 0 ORDER BY a.attnum;
SELECT pg_get_serial_sequence('workflow_events', 'id');

-- The key and the foreign key, on the event log and, inherited, on each partition.
SELECT conname, pg_get_constraintdef(oid) AS definition, convalidated AS valid
FROM pg_constraint WHERE conrelid = 'workflow_events'::regclass AND contype IN ('p', 'f') ORDER BY 1;
SELECT contype, pg_get_constraintdef(c.oid) AS definition, count(*), bool_and(c.coninhcount = 1 AND NOT c.conislocal) AS inherited
FROM pg_constraint c WHERE conrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'workflow_events'::regclass)
  AND contype IN ('p', 'f') AND c.confrelid IN (0, 'workflow_runs'::regclass)
GROUP BY 1, 2 ORDER BY 1, 2;
-- So the events of a run go with it, from all partitions.
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001'), ('00000000-0000-0000-0000-000000000002');
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT r.id, t.start(n) + interval '1 day', 'step', '{}' FROM workflow_runs r, generate_series(-2, 3) n;
DELETE FROM workflow_runs WHERE id = '00000000-0000-0000-0000-000000000001';
SELECT run_id, count(*), count(DISTINCT tableoid) AS partitions FROM workflow_events GROUP BY 1;
SELECT t.expect($$INSERT INTO workflow_events (run_id, type, payload)
                  VALUES ('00000000-0000-0000-0000-000000000001', 'step', '{}')$$);

-- The indexes: valid on the event log, and on each partition attached and under their names.
SELECT c.relname AS index, pg_get_indexdef(i.indexrelid) AS definition, i.indisvalid AS valid,
       (SELECT count(*) FROM pg_inherits h WHERE h.inhparent = i.indexrelid) AS parts
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = 'workflow_events'::regclass ORDER BY 1;
SELECT t.mask(p.relname) AS partition, string_agg(replace(c.relname, p.relname, ''), ' ' ORDER BY c.relname) AS indexes,
       bool_and(i.indisvalid AND c.relispartition) AS valid_and_attached
FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhrelid
JOIN pg_index i ON i.indrelid = p.oid JOIN pg_class c ON c.oid = i.indexrelid
WHERE h.inhparent = 'workflow_events'::regclass GROUP BY p.relname ORDER BY p.relname;

-- The policy is there to be updated, with the defaults; the ledger says what was done, and by whom.
SELECT * FROM meshhook_events.policy;
SELECT origin, task, status, role_name = current_user AS by_caller, pid = pg_backend_pid() AS this_process,
       finished_at >= started_at AS finished, sqlstate, message, jsonb_array_length(details->'steps') AS steps
FROM meshhook_events.maintenance_log;

-- Again: nothing changes, neither in the catalogs nor in policy and ledger.
UPDATE meshhook_events.policy SET premake = 2;
SELECT t.state() AS before \gset
SELECT t.mask(object_name) AS object, status, detail, hint FROM setup_workflow_events();
SELECT t.state() = :'before' AS unchanged, (SELECT count(*) FROM meshhook_events.maintenance_log) AS log_rows;
SELECT premake, count(*) OVER () FROM meshhook_events.policy;
-- A policy that was deleted comes back with the defaults; until then they hold without it.
DELETE FROM meshhook_events.policy;
SELECT count(*) FROM maintain_workflow_events_partitions();
SELECT object_name, status FROM setup_workflow_events();
SELECT premake FROM meshhook_events.policy;

-- What is missing is made again, but not what lies in the past: that may have been dropped on purpose.
CALL t.run('DROP TABLE {-1}, {1}, {3}');
SELECT t.mask(object_name) AS object, status FROM setup_workflow_events();
SELECT * FROM t.partitions();

-- In a transaction that is rolled back, all of it is.
BEGIN;
CALL t.run('DROP TABLE {2}');
SELECT count(*) FROM setup_workflow_events() WHERE status = 'made';
ROLLBACK;
SELECT count(*) FROM t.partitions();
-- Only read, it refuses.
BEGIN READ ONLY;
SELECT * FROM setup_workflow_events();
ROLLBACK;

\c :home
DROP DATABASE regress_events WITH (FORCE);

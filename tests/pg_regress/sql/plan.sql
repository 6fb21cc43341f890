-- What maintenance would do: the plan with its reasons and locks, and how far the partitions reach.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

SELECT t.expect('SELECT * FROM plan_workflow_events_maintenance()');
CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001');
CREATE EXTENSION pg_meshhook_events;
SELECT t.expect('SELECT * FROM plan_workflow_events_maintenance()');
SELECT t.expect('SELECT * FROM workflow_events_coverage()');
SELECT count(*) FROM setup_workflow_events();
CREATE VIEW t.plan AS
SELECT step, action, t.mask(partition_name) AS partition, t.mask(range_start::text) AS from, t.mask(range_end::text) AS to,
       row_estimate AS rows, size_bytes > 0 AS has_size, t.mask(reason) AS reason, t.mask(locks) AS locks, blockers
FROM plan_workflow_events_maintenance() ORDER BY step;
CREATE VIEW t.coverage AS
SELECT t.mask(covered_until::text) AS covered_until, t.mask(wanted_until::text) AS wanted_until,
       CASE first_hole_start WHEN now() THEN 'now' ELSE t.mask(first_hole_start::text) END AS hole_start, t.mask(first_hole_end::text) AS hole_end, runway_periods
FROM workflow_events_coverage();
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';

-- Nothing to do: no row, and neither function takes a transaction number or a lock that anybody could wait for.
BEGIN;
SELECT * FROM t.plan;
SELECT * FROM t.coverage;
SELECT pg_current_xact_id_if_assigned();
SELECT DISTINCT l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND c.relname LIKE 'workflow\_%';
COMMIT;

--
-- Creation
--
CALL t.run('DROP TABLE {1}, {2}');
SELECT * FROM t.plan;
SELECT * FROM t.coverage;
-- Functions of the same name carry the plan out, and nothing else.
SELECT t.mask(name) FROM maintain_workflow_events_partitions() name;
SELECT * FROM t.plan;
-- What stands in the way of a month is named, and the month is in no step.
CALL t.run('DROP TABLE {2}');
CALL t.run('CREATE TABLE {2} (i int)');
SELECT * FROM t.plan;
SELECT * FROM t.coverage;
CALL t.run('DROP TABLE {2}');
-- With creation turned off there is nothing to do, and the hole is still told.
UPDATE meshhook_events.policy SET automatic_creation = false;
SELECT * FROM t.plan;
SELECT * FROM t.coverage;
UPDATE meshhook_events.policy SET automatic_creation = true;
SELECT count(*) FROM maintain_workflow_events_partitions();

--
-- Retirement
--
SELECT count(create_workflow_events_partition(t.month(n))) FROM generate_series(-16, -13) n;
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', t.start(-15) + interval '1 day', 't', '{}' FROM generate_series(1, 10);
SELECT * FROM t.plan;
UPDATE meshhook_events.policy SET retention = interval '14 months';
CALL t.run('ANALYZE {-15}');
SELECT * FROM t.plan;
-- Without a grace they would be dropped at once.
UPDATE meshhook_events.policy SET grace = '0';
SELECT action, partition, reason FROM t.plan;
UPDATE meshhook_events.policy SET automatic_retention = false;
SELECT * FROM t.plan;
UPDATE meshhook_events.policy SET automatic_retention = true;
-- Beside a DEFAULT partition nothing can be detached concurrently; creation looks through it.
CREATE TABLE rest PARTITION OF workflow_events DEFAULT;
CALL t.run('DROP TABLE {3}');
SELECT action, partition, reason, locks FROM t.plan;
DROP TABLE rest;
SELECT count(*) FROM maintain_workflow_events_partitions();
-- What was noted and detached is dropped; what may have been detached by somebody else is kept.
CALL t.run('ALTER TABLE workflow_events DETACH PARTITION {-16}');
CALL t.run('ALTER TABLE workflow_events DETACH PARTITION {-15}');
INSERT INTO meshhook_events.retired_partition
SELECT t.part(n)::regclass, 'public', t.part(n), t.start(n), t.start(n + 1), state, now(), detached_at
FROM (VALUES (-16, 'detached', now()), (-15, 'detaching', NULL)) v (n, state, detached_at);
SELECT * FROM t.plan;
-- What is parked is dropped when the grace has passed.
UPDATE meshhook_events.policy SET grace = '1 day';
SELECT action, partition, reason FROM t.plan;
UPDATE meshhook_events.retired_partition SET detached_at = now() - interval '25 hours' WHERE state = 'detached';
SELECT action, partition, reason FROM t.plan;
UPDATE meshhook_events.policy SET archive = 'table';
SELECT action, partition, reason, locks FROM t.plan;
UPDATE meshhook_events.policy SET archive = 'none';
-- So is what was detached by us and is no longer what it was.
CALL t.run('ALTER TABLE {-16} RENAME TO keep_me');
SELECT action, partition, reason FROM t.plan;
DELETE FROM meshhook_events.retired_partition;
SELECT * FROM t.plan;

--
-- How far the partitions reach
--
CALL t.clear();
SELECT * FROM t.coverage;
CALL t.run('CREATE TABLE open_end PARTITION OF workflow_events FOR VALUES FROM (''<0>'') TO (MAXVALUE)');
SELECT * FROM t.coverage;
CALL t.clear();
CALL t.run('CREATE TABLE wide PARTITION OF workflow_events FOR VALUES FROM (''<-3>'') TO (''<9>'')');
SELECT * FROM t.coverage;
CALL t.clear();
-- A DEFAULT partition takes the rows, and is no coverage.
CREATE TABLE rest PARTITION OF workflow_events DEFAULT;
SELECT * FROM t.coverage;
DROP TABLE rest;

-- Whoever may not see other sessions sees no more here; whoever may not execute it, nothing.
CREATE ROLE regress_plan_nobody;
SET ROLE regress_plan_nobody;
SELECT t.expect('SELECT * FROM plan_workflow_events_maintenance()');
SELECT count(*) FROM workflow_events_coverage();
RESET ROLE;
DROP ROLE regress_plan_nobody;

\c :home
SET client_min_messages = warning;
DROP DATABASE regress_events WITH (FORCE);

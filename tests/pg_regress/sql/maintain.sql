-- Maintenance: what is missing from now on is made, gaps are repaired, and what stands in the way of one month holds up no other.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001');
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
-- What the last call wrote into the ledger.
CREATE VIEW t.last AS
SELECT task, status, t.mask(details::text) AS details FROM meshhook_events.maintenance_log ORDER BY id DESC LIMIT 1;

-- Where nothing is missing, nothing is written: no entry, no transaction number, no lock that anybody could wait for.
SELECT t.state() AS before, count(*) AS log_before FROM meshhook_events.maintenance_log \gset
BEGIN;
SELECT count(*) FROM maintain_workflow_events_partitions();
SELECT pg_current_xact_id_if_assigned();
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'workflow_events'::regclass AND mode <> 'AccessShareLock';
COMMIT;
SELECT t.state() = :'before' AS unchanged, count(*) = :log_before AS nothing_logged FROM meshhook_events.maintenance_log;

-- Gaps in the middle are repaired, the current month among them; the past is left as it is.
CALL t.run('DROP TABLE {-1}, {0}, {2}');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT * FROM t.partitions();
SELECT * FROM t.last;
-- What is made has all that the others have.
SELECT t.mask(c.relname) AS index, i.indisvalid AND c.relispartition AS attached
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = t.part(2)::regclass ORDER BY 1;
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = t.part(2)::regclass AND contype = 'f' AND confrelid = 'workflow_runs'::regclass;
-- All are gone.
CALL t.clear();
SELECT t.expect('SELECT maintain_workflow_events_partitions()');

-- As far ahead as the policy says; a shorter one drops nothing.
UPDATE meshhook_events.policy SET premake = 12;
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
UPDATE meshhook_events.policy SET premake = 1;
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT count(*) FROM t.partitions();
-- So many at once keep writers of workflow_runs waiting; a call stops when that has taken lock_timeout.
UPDATE meshhook_events.policy SET premake = 120;
SET pg_meshhook_events.lock_timeout = '10s';
SELECT count(*) FROM maintain_workflow_events_partitions();
RESET pg_meshhook_events.lock_timeout;
-- The months follow each other without gap or overlap, for ten years.
SELECT count(*) AS months, count(*) FILTER (WHERE bound <> format('FROM (''<%s>'') TO (''<%s>'')', n, n + 1)) AS wrong
FROM (SELECT bound, row_number() OVER () - 1 AS n FROM t.partitions()) p;
CALL t.clear();
UPDATE meshhook_events.policy SET premake = 3;
-- automatic_creation is a word to the worker: a call by hand is meant.
UPDATE meshhook_events.policy SET automatic_creation = false;
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
UPDATE meshhook_events.policy SET automatic_creation = true;

-- A name that is taken: a WARNING, and the others are made. Its text has the name of the month; the ledger has it too.
CALL t.clear();
CALL t.run('CREATE TABLE {1} (id int)');
\set VERBOSITY sqlstate
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
\set VERBOSITY default
SELECT * FROM t.partitions();
SELECT * FROM t.last;
-- Nothing could be made: the WARNING comes all the same, and nothing is written.
SELECT count(*) AS log_before FROM meshhook_events.maintenance_log \gset
BEGIN;
\set VERBOSITY sqlstate
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
\set VERBOSITY default
SELECT pg_current_xact_id_if_assigned();
COMMIT;
SELECT count(*) = :log_before AS nothing_logged FROM meshhook_events.maintenance_log;
CALL t.run('DROP TABLE {1}');
-- The name of one of its indexes is taken.
CALL t.run('CREATE SEQUENCE {1}_type_idx');
CALL t.run('DROP TABLE {2}');
\set VERBOSITY sqlstate
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
\set VERBOSITY default
SELECT * FROM t.partitions();
SELECT * FROM t.last;
-- Nothing of what was begun is left behind.
SELECT t.mask(relname) FROM pg_class WHERE relname LIKE t.part(1) || '%';
CALL t.run('DROP SEQUENCE {1}_type_idx');

-- Other partitions: a month that is held by one of another name, in another schema, together with others, or in part.
CALL t.clear();
CREATE SCHEMA elsewhere;
CALL t.run('CREATE TABLE elsewhere.{0} PARTITION OF workflow_events FOR VALUES FROM (''<0>'') TO (''<1>'')');
CALL t.run('CREATE TABLE "Two Months" PARTITION OF workflow_events FOR VALUES FROM (''<1>'') TO (''<3>'')');
CALL t.run('CREATE TABLE middle PARTITION OF workflow_events FOR VALUES FROM ('
           || quote_literal(t.start(3) + interval '120 hours') || ') TO (' || quote_literal(t.start(3) + interval '240 hours') || ')');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT * FROM t.partitions();
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', at, 'x', '{}'
FROM generate_series(t.start(0), t.start(4) - interval '1 us', interval '6 hours') at;
SELECT count(*) > 0 AS inserted FROM workflow_events;
-- The first name for a part may be taken as well.
CALL t.run('DROP TABLE {3}_p2');
CALL t.run('CREATE TABLE {3}_p2 (id int)');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
CALL t.run('DROP TABLE {3}_p2');
-- Without bounds at either end.
CALL t.clear();
CALL t.run('CREATE TABLE oldest PARTITION OF workflow_events FOR VALUES FROM (MINVALUE) TO (''<1>'')');
CALL t.run('CREATE TABLE newest PARTITION OF workflow_events FOR VALUES FROM (''<3>'') TO (MAXVALUE)');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT * FROM t.partitions();
SELECT t.expect(format('SELECT create_workflow_events_partition(%L::date)', t.month(n))) FROM unnest('{-50, 2, 50}'::int[]) n;

-- A DEFAULT partition that is empty stands in nobody's way.
CALL t.clear();
CREATE TABLE rest PARTITION OF workflow_events DEFAULT;
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
-- One that holds rows of a missing month: that one cannot be made, the others are.
CALL t.run('DROP TABLE {0}, {1}, {3}');
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', t.start(1) + interval '1 hour', 'x', '{}';
\set VERBOSITY sqlstate
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
\set VERBOSITY default
SELECT * FROM t.partitions();
SELECT * FROM t.last;
SELECT t.expect(format('SELECT create_workflow_events_partition(%L::date)', t.month(1)));
SELECT count(*) FROM rest;
-- When the rows have been moved away it is made.
BEGIN;
CREATE TEMPORARY TABLE aside AS SELECT * FROM rest;
TRUNCATE rest;
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
INSERT INTO workflow_events SELECT * FROM aside;
COMMIT;
SELECT count(*) FROM rest;
SELECT * FROM t.partitions();

-- In a transaction that goes on: what is made can be used at once, and is gone with a rollback.
CALL t.clear();
BEGIN;
SELECT count(*) FROM maintain_workflow_events_partitions();
INSERT INTO workflow_events (run_id, type, payload) VALUES ('00000000-0000-0000-0000-000000000001', 'x', '{}');
SELECT count(*) FROM workflow_events;
SAVEPOINT before;
CALL t.run('DROP TABLE {1}');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
ROLLBACK TO before;
SELECT count(*) FROM t.partitions();
ROLLBACK;
SELECT count(*) FROM t.partitions();
-- Under the other isolation levels.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM maintain_workflow_events_partitions();
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL t.run('DROP TABLE {2}');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
COMMIT;
SELECT count(*) FROM t.partitions();
-- The settings of the session are as they were before, also after an error.
SET search_path = elsewhere;
SET TimeZone = 'Pacific/Chatham';
SET DateStyle = 'German';
SET lock_timeout = '7s';
CALL t.run('DROP TABLE public.{2}');
SELECT count(*) FROM public.maintain_workflow_events_partitions();
SELECT t.expect('SELECT public.create_workflow_events_partition(''infinity''::date)');
SHOW search_path;
SHOW TimeZone;
SHOW DateStyle;
SHOW lock_timeout;
SELECT session_user = current_user AS same_role;

\c :home
DROP DATABASE regress_events WITH (FORCE);

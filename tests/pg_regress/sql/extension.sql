-- DROP EXTENSION and CREATE EXTENSION: the events stay, and are taken over again; other schemas, and names that need quoting.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001');
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', t.start(n), 'x', '{}' FROM generate_series(-2, 3) n;

--
-- Dropping it leaves the event log as it is
--
SELECT string_agg(concat_ws(' ', oid, relname, relkind, relpartbound), ',' ORDER BY oid) AS relations_before
FROM pg_class WHERE relname ~ '^workflow_events' AND relname NOT IN ('workflow_events_partition_info', 'workflow_events_migration_progress') \gset
DROP EXTENSION pg_meshhook_events;
SELECT string_agg(concat_ws(' ', oid, relname, relkind, relpartbound), ',' ORDER BY oid) = :'relations_before' AS unchanged
FROM pg_class WHERE relname ~ '^workflow_events';
SELECT count(*), count(DISTINCT tableoid) AS partitions FROM workflow_events;
-- The event log goes on working, nothing else is left.
INSERT INTO workflow_events (run_id, type, payload) VALUES ('00000000-0000-0000-0000-000000000001', 'after', '{}');
SELECT to_regnamespace('meshhook_events') AS schema, to_regclass('workflow_events_partition_info') AS view,
       (SELECT count(*) FROM pg_proc WHERE probin LIKE '%meshhook%') AS functions;

--
-- Created again, it takes the event log over
--
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM t.partitions();
-- It works without another setup, by the defaults of the policy.
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT count(*) FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001');
SELECT t.mask(object_name) AS object, status, detail, hint FROM setup_workflow_events();
SELECT count(*) FROM meshhook_events.policy;
SELECT check_name, status FROM verify_workflow_events() WHERE status <> 'ok' AND check_name NOT IN ('worker', 'event_60_days_ago');
-- A schema of that name that somebody else made is not taken: what runs as the table's owner must not trust it.
DROP EXTENSION pg_meshhook_events;
CREATE SCHEMA meshhook_events;
CREATE EXTENSION pg_meshhook_events;
DROP SCHEMA meshhook_events;
-- Nor does it replace a function of somebody else, as the application's own that it is to take the place of.
CREATE FUNCTION maintain_workflow_events_partitions() RETURNS SETOF text LANGUAGE sql AS 'SELECT ''old''::text';
CREATE EXTENSION pg_meshhook_events;
DROP FUNCTION maintain_workflow_events_partitions();
-- Nor can it be created for somebody who is no superuser.
CREATE ROLE regress_user;
GRANT CREATE ON DATABASE regress_events TO regress_user;
SET ROLE regress_user;
CREATE EXTENSION pg_meshhook_events;
RESET ROLE;

--
-- An event log that others made
--
-- As the application's own migration leaves it: indexes of partitions hang on none of the event log, and a partition has no row
-- level security.
DROP TABLE workflow_events;
CREATE TABLE workflow_events_partitioned (
    id bigserial, run_id uuid NOT NULL, ts timestamptz NOT NULL DEFAULT now(), type text NOT NULL, payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, ts),
    CONSTRAINT workflow_events_run_id_fkey FOREIGN KEY (run_id) REFERENCES workflow_runs ON DELETE CASCADE
) PARTITION BY RANGE (ts);
CALL t.run('CREATE TABLE {0} PARTITION OF workflow_events_partitioned FOR VALUES FROM (''<0>'') TO (''<1>'')');
CALL t.run('CREATE TABLE {1} PARTITION OF workflow_events_partitioned FOR VALUES FROM (''<1>'') TO (''<2>'')');
CALL t.run('CREATE INDEX {0}_run_id_idx ON {0} (run_id)');
CALL t.run('CREATE INDEX {0}_run_ts_idx ON {0} (run_id, ts)');
CALL t.run('CREATE INDEX {0}_type_idx ON {0} (type)');
ALTER TABLE workflow_events_partitioned RENAME TO workflow_events;
ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY by_run ON workflow_events USING (run_id IN (SELECT id FROM workflow_runs));
INSERT INTO workflow_events (run_id, type, payload) SELECT '00000000-0000-0000-0000-000000000001', 'x', '{}' FROM generate_series(1, 5);
CREATE EXTENSION pg_meshhook_events;
SELECT t.mask(object_name) AS object, status, t.mask(detail) AS detail, t.mask(hint) AS hint FROM setup_workflow_events();
SELECT * FROM t.partitions();
SELECT c.relname AS index, i.indisvalid AS valid, (SELECT count(*) FROM pg_inherits h WHERE h.inhparent = i.indexrelid) AS parts
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'workflow_events'::regclass ORDER BY 1;
SELECT t.mask(c.relname) AS partition, c.relrowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid) AS policies
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'workflow_events'::regclass ORDER BY c.relname;
SELECT check_name, status FROM verify_workflow_events() WHERE status <> 'ok' AND check_name !~ '^(worker|event_\d+_days_ago)$';
SELECT count(*) FROM setup_workflow_events() WHERE status <> 'kept';
-- A large partition is left to CREATE INDEX CONCURRENTLY, and the statement is given.
CALL t.run('DROP INDEX workflow_events_type_idx');
INSERT INTO workflow_events (run_id, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', 'x', jsonb_build_object('filler', repeat('x', 300)) FROM generate_series(1, 5000);
SELECT t.mask(object_name) AS object, status, t.mask(detail) AS detail, t.mask(hint) AS hint FROM setup_workflow_events();
SELECT i.indisvalid AS valid FROM pg_index i WHERE i.indexrelid = 'workflow_events_type_idx'::regclass;
SELECT t.mask(hint) AS hint FROM setup_workflow_events() WHERE hint LIKE 'CREATE INDEX%';
SELECT split_part(hint, ';', 1) AS statement FROM setup_workflow_events() WHERE hint LIKE 'CREATE INDEX%'
\set ECHO none
\gexec
\set ECHO all
SELECT object_name, status, detail FROM setup_workflow_events() WHERE status <> 'kept';
SELECT i.indisvalid AS valid FROM pg_index i WHERE i.indexrelid = 'workflow_events_type_idx'::regclass;

--
-- In another schema, with names that need quoting, for an owner of such a name
--
DROP EXTENSION pg_meshhook_events;
CREATE ROLE "Regress Ümlaut; Owner";
CREATE SCHEMA "App; Schema x" AUTHORIZATION "Regress Ümlaut; Owner";
CREATE EXTENSION pg_meshhook_events SCHEMA "App; Schema x";
SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_meshhook_events';
SELECT t.expect('SELECT * FROM setup_workflow_events()');
SELECT t.expect('SELECT "App; Schema x".setup_workflow_events()');
SET ROLE "Regress Ümlaut; Owner";
CREATE TABLE "App; Schema x".workflow_runs (id uuid PRIMARY KEY);
INSERT INTO "App; Schema x".workflow_runs VALUES ('00000000-0000-0000-0000-000000000001');
RESET ROLE;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "App; Schema x" TO "Regress Ümlaut; Owner";
SET ROLE "Regress Ümlaut; Owner";
SELECT t.mask(object_name) AS object, status, detail FROM "App; Schema x".setup_workflow_events();
RESET ROLE;
SET search_path = "App; Schema x";
SELECT * FROM t.partitions();
SELECT DISTINCT c.relowner::regrole, c.relnamespace::regnamespace FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'workflow_events'::regclass;
INSERT INTO workflow_events (run_id, type, payload) VALUES ('00000000-0000-0000-0000-000000000001', 'x', '{}');
-- The table of that name in public is another.
RESET search_path;
SELECT (SELECT count(*) FROM workflow_events) AS public, (SELECT count(*) FROM "App; Schema x".workflow_events) AS app;
SELECT count(*) FROM "App; Schema x".get_workflow_run_events('00000000-0000-0000-0000-000000000001');
SELECT sum(row_count) FROM "App; Schema x".get_workflow_events_partition_stats();
SELECT count(*) FROM "App; Schema x".workflow_events_partition_info;
SELECT check_name, status, detail FROM "App; Schema x".verify_workflow_events() WHERE check_name IN ('table', 'foreign_key', 'event_now');
SET ROLE "Regress Ümlaut; Owner";
SELECT "App; Schema x".create_workflow_events_partition('2200-01-01'::date);
CALL t.run('DROP TABLE "App; Schema x"."{1}"');
SELECT t.expect('SELECT "App; Schema x".maintain_workflow_events_partitions()');
SELECT "App; Schema x".create_workflow_events_partition('1990-01-01'::date);
SELECT "App; Schema x".drop_old_workflow_events_partitions();
RESET ROLE;
SELECT task, status, role_name FROM meshhook_events.maintenance_log ORDER BY id;
REVOKE CREATE ON SCHEMA "App; Schema x" FROM "Regress Ümlaut; Owner";
-- The hint can be run as it is.
SELECT t.expect('SELECT "App; Schema x".create_workflow_events_partition(''2200-02-01''::date)');
-- A move to another schema would part the functions from the table: it is refused.
ALTER EXTENSION pg_meshhook_events SET SCHEMA public;

\c :home
DROP DATABASE regress_events WITH (FORCE);
DROP ROLE regress_user, "Regress Ümlaut; Owner";

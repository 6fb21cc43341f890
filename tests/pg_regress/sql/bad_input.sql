-- Bad input: each function's word on it, with SQLSTATE, DETAIL and HINT, and that nothing was changed.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
SELECT t.state() AS before \gset

--
-- Dates
--
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SELECT t.expect('SELECT create_workflow_events_partition(NULL::date)');
SELECT t.expect('SELECT create_workflow_events_partition(NULL::timestamptz)');
SELECT t.expect($$SELECT create_workflow_events_partition('infinity'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('-infinity'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('infinity'::timestamptz)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('-infinity'::timestamptz)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('0001-12-31 BC'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('4713-01-01 BC'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('10000-01-01'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('5874897-12-31'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('0044-03-15 12:00:00+00 BC'::timestamptz)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('10000-01-01 00:00:00+00'::timestamptz)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('294276-12-31 23:59:59+00'::timestamptz)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('4713-01-01 00:00:00+00 BC'::timestamptz)$$);
-- What is no date is PostgreSQL's to refuse.
SELECT t.expect($$SELECT create_workflow_events_partition('2200-02-30'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('soon'::date)$$);
-- The first and the last month that a name of four digits can say are in reach.
SELECT t.state() = :'before' AS unchanged;
BEGIN;
SELECT t.expect($$SELECT create_workflow_events_partition('0001-01-31'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('9999-12-31 23:59:59.999999+00'::timestamptz)$$);
SELECT * FROM t.partitions() WHERE partition ~ 'y0001|y9999' ORDER BY 1;
ROLLBACK;

RESET TimeZone;
RESET DateStyle;

--
-- Retention
--
SELECT t.expect('SELECT drop_old_workflow_events_partitions(NULL)');
SELECT t.expect('SELECT verify_workflow_events(NULL)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(0)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(-5)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(-2147483648)');
SELECT t.state() = :'before' AS unchanged;

--
-- A name that is taken
--
CREATE TABLE workflow_events_y2200m01 (id int);
CREATE VIEW workflow_events_y2200m02 AS SELECT 1 AS one;
CREATE INDEX workflow_events_y2200m03 ON workflow_runs (id);
CREATE SEQUENCE workflow_events_y2200m04;
-- A table exactly like the event log that isn't attached, and one attached to another table.
CREATE TABLE workflow_events_y2200m05 (LIKE workflow_events INCLUDING ALL);
CREATE TABLE other (ts timestamptz NOT NULL) PARTITION BY RANGE (ts);
CREATE TABLE workflow_events_y2200m06 PARTITION OF other FOR VALUES FROM ('2200-06-01 00:00:00+00') TO ('2200-07-01 00:00:00+00');
-- A type of that name takes it too, in the catalog of types; and a name that one of the indexes needs.
CREATE TYPE workflow_events_y2200m07 AS (one int);
CREATE TYPE workflow_events_y2200m08 AS ENUM ('one');
-- One in another schema takes nothing.
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.workflow_events_y2200m10 (id int);
SELECT t.state() AS before \gset
SELECT t.expect($$SELECT create_workflow_events_partition('2200-01-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2200-02-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2200-03-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2200-04-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2200-05-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2200-06-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2200-07-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2200-08-15'::date)$$);
SELECT t.state() = :'before' AS unchanged;
SELECT t.expect($$SELECT create_workflow_events_partition('2200-10-15'::date)$$);
SELECT t.state() AS before \gset

--
-- A range that is taken
--
CREATE TABLE odd PARTITION OF workflow_events FOR VALUES FROM ('2201-01-10 00:00:00+00') TO ('2201-02-10 00:00:00+00');
CREATE TABLE "Wide One" PARTITION OF workflow_events FOR VALUES FROM ('2202-01-01 00:00:00+00') TO ('2203-01-01 00:00:00+00');
SELECT t.state() AS before \gset
-- In part: an error that names it.
SELECT t.expect($$SELECT create_workflow_events_partition('2201-01-01'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2201-02-28'::date)$$);
-- Wholly: its name, whatever it is.
SELECT t.expect($$SELECT create_workflow_events_partition('2202-01-01'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2202-12-31'::date)$$);
SELECT t.state() = :'before' AS unchanged;
SELECT t.expect($$SELECT create_workflow_events_partition('2203-01-01'::date)$$);
-- A name that misleads: the partition says February and holds March.
CREATE TABLE workflow_events_y2204m02 PARTITION OF workflow_events
FOR VALUES FROM ('2204-03-01 00:00:00+00') TO ('2204-04-01 00:00:00+00');
SELECT t.expect($$SELECT create_workflow_events_partition('2204-03-15'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('2204-02-15'::date)$$);

--
-- Nothing can be written
--
SELECT t.state() AS before \gset
BEGIN READ ONLY;
SELECT t.expect('SELECT create_workflow_events_partition(current_date)');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT t.expect('SELECT * FROM setup_workflow_events()');
-- These only read.
SELECT count(*) FROM get_workflow_events_partition_stats();
SELECT count(*) FROM get_workflow_run_events(NULL);
SELECT check_name, status, detail FROM verify_workflow_events() WHERE check_name LIKE 'event%';
ROLLBACK;
SELECT t.state() = :'before' AS unchanged;

--
-- Callers
--
CREATE ROLE regress_owner;
CREATE ROLE regress_member;
CREATE ROLE regress_stranger;
GRANT regress_owner TO regress_member;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO regress_owner, regress_member, regress_stranger;
GRANT ALL ON workflow_events TO regress_stranger;
GRANT REFERENCES, SELECT ON workflow_runs TO regress_owner;
ALTER TABLE workflow_events OWNER TO regress_owner;
GRANT CREATE ON SCHEMA public TO regress_stranger;
SELECT t.state() AS before \gset
-- Somebody who may do everything with the rows, but doesn't own the table.
SET ROLE regress_stranger;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-01-01'::date)$$);
SELECT t.expect('SELECT create_workflow_events_partition(now())');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT t.expect('SELECT * FROM setup_workflow_events()');
SELECT t.expect('SELECT count(*) FROM verify_workflow_events()');
RESET ROLE;
-- The owner, who may not create tables in the schema; nor may a superuser in the owner's stead.
SET ROLE regress_owner;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-01-01'::date)$$);
-- What exists needs no privilege to be named.
SELECT t.expect('SELECT create_workflow_events_partition(now())');
RESET ROLE;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-01-01'::date)$$);
CALL t.run('DROP TABLE {3}');
SELECT t.state() AS before2 \gset
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT t.expect('SELECT * FROM setup_workflow_events()');
SELECT t.state() = :'before2' AS unchanged;
-- With the privilege, the owner, a member of the role, and a superuser: the partition is the owner's.
GRANT CREATE ON SCHEMA public TO regress_owner;
SET ROLE regress_owner;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-01-01'::date)$$);
SET ROLE regress_member;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-02-01'::date)$$);
RESET ROLE;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-03-01'::date)$$);
SELECT relname, relowner::regrole FROM pg_class WHERE relname ~ '^workflow_events_y2210' AND relkind = 'r' ORDER BY 1;
-- The ledger, which none of them may write, names the caller.
SELECT role_name, details->'created' AS created FROM meshhook_events.maintenance_log
WHERE details->>'created' LIKE '%y2210%' ORDER BY id;
-- A member that doesn't inherit may not do it, as with the owner's own statements.
CREATE ROLE regress_idle_member NOINHERIT IN ROLE regress_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO regress_idle_member;
SET ROLE regress_idle_member;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-04-01'::date)$$);
RESET ROLE;
-- Without EXECUTE nobody gets as far.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM regress_owner;
SET ROLE regress_owner;
SELECT t.expect($$SELECT create_workflow_events_partition('2210-05-01'::date)$$);
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT t.expect('SELECT * FROM setup_workflow_events()');
SELECT t.expect('SELECT verify_workflow_events()');
SELECT t.expect('SELECT meshhook_events.wake_worker()');
SELECT t.expect('UPDATE meshhook_events.policy SET premake = 1');
SELECT t.expect('INSERT INTO meshhook_events.maintenance_log (started_at, origin, task, status, role_name, pid) '
                'VALUES (now(), ''function'', ''drop'', ''running'', ''me'', 0)');
SELECT t.expect('SELECT count(*) FROM meshhook_events.maintenance_log');
RESET ROLE;

--
-- The policy
--
SELECT t.expect($$UPDATE meshhook_events.policy SET time_zone = 'Mars/Olympus'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET time_zone = ''$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET premake = 0$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET premake = 121$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET premake = NULL$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET granularity = 'fortnight'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET granularity = 'Month'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '30 days'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '12 months 1 day'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '12 months 1 microsecond'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '2 months -720 hours'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '0'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '-1 month'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET singleton = false$$);
SELECT t.expect($$INSERT INTO meshhook_events.policy DEFAULT VALUES$$);
SELECT t.expect($$INSERT INTO meshhook_events.policy (singleton) VALUES (false)$$);
SELECT * FROM meshhook_events.policy;
-- What makes sense is taken, in whatever form.
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '1 month'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = '2 years 6 months', premake = 120, time_zone = 'Europe/Berlin'$$);
SELECT t.expect($$UPDATE meshhook_events.policy SET retention = NULL, premake = 1, time_zone = 'utc'$$);
-- A row that got past constraints which somebody dropped.
SELECT t.state() AS before \gset
BEGIN;
ALTER TABLE meshhook_events.policy DROP CONSTRAINT policy_premake_is_sensible;
ALTER TABLE meshhook_events.policy DROP CONSTRAINT policy_granularity_is_known;
ALTER TABLE meshhook_events.policy DROP CONSTRAINT policy_time_zone_is_known;
ALTER TABLE meshhook_events.policy DROP CONSTRAINT policy_time_zone_is_a_full_name;
ALTER TABLE meshhook_events.policy DROP CONSTRAINT policy_retention_is_whole_months;
UPDATE meshhook_events.policy SET premake = 0;
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
UPDATE meshhook_events.policy SET premake = 2000000000;
SELECT t.expect('SELECT create_workflow_events_partition(now())');
UPDATE meshhook_events.policy SET premake = 3, granularity = 'fortnight';
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
UPDATE meshhook_events.policy SET granularity = 'month', time_zone = 'Mars/Olympus';
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT t.expect('SELECT * FROM get_workflow_events_partition_stats()');
SELECT check_name, status, detail, hint FROM verify_workflow_events() WHERE check_name NOT IN ('worker', 'extension_version');
UPDATE meshhook_events.policy SET time_zone = '';
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
UPDATE meshhook_events.policy SET time_zone = 'UTC', retention = '-3 months';
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
ROLLBACK;
SELECT t.state() = :'before' AS unchanged;

--
-- workflow_events is something else
--
DROP TABLE workflow_events_y2200m05, workflow_events;
CREATE TABLE t.calls (n int PRIMARY KEY, sql text);
GRANT SELECT ON t.calls TO PUBLIC;
INSERT INTO t.calls VALUES
    (1, 'SELECT * FROM setup_workflow_events()'),
    (2, 'SELECT create_workflow_events_partition(current_date)'),
    (3, 'SELECT maintain_workflow_events_partitions()'),
    (4, 'SELECT drop_old_workflow_events_partitions()'),
    (5, 'SELECT * FROM get_workflow_events_partition_stats()'),
    (6, $$SELECT detail FROM verify_workflow_events() WHERE check_name = 'table'$$);
-- Partitioned, but otherwise: by another column, by two, by an expression, by list or hash, by another type of ts.
CREATE TABLE workflow_events (id bigint, ts timestamptz, created_at timestamptz) PARTITION BY RANGE (created_at);
SELECT t.state() AS before \gset
SELECT t.expect(sql) FROM t.calls ORDER BY n;
SELECT t.state() = :'before' AS unchanged;
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigint, ts timestamptz) PARTITION BY RANGE (ts, id);
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 3);
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigint, ts timestamptz) PARTITION BY RANGE (date_bin('1 hour', ts, '2000-01-01 00:00:00+00'));
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 3);
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigint, ts timestamptz) PARTITION BY LIST (ts);
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 3);
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigint, ts timestamptz) PARTITION BY HASH (ts);
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 3);
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigint, ts timestamp) PARTITION BY RANGE (ts);
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 3);
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigint, ts date) PARTITION BY RANGE (ts);
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 3);
DROP TABLE workflow_events;
CREATE TABLE workflow_events (id bigint, ts text) PARTITION BY RANGE (ts COLLATE "C");
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 3);
DROP TABLE workflow_events;
-- Rightly partitioned, but not the event log: a column is missing without which no index can be made and nothing read.
CREATE TABLE workflow_events (id bigint, ts timestamptz, type text, payload jsonb) PARTITION BY RANGE (ts);
SELECT t.state() AS before \gset
SELECT t.expect(sql) FROM t.calls WHERE n IN (1, 2, 3);
SELECT t.state() = :'before' AS unchanged;
DROP TABLE workflow_events;
-- A plain table: how many rows it has, and that it is left alone.
CREATE TABLE workflow_events (id bigint, run_id uuid, ts timestamptz, type text, payload jsonb, created_at timestamptz);
INSERT INTO workflow_events SELECT n FROM generate_series(1, 42) n;
SELECT t.state() AS before \gset
SELECT t.expect(sql) FROM t.calls ORDER BY n;
SELECT t.state() = :'before' AS unchanged, count(*) FROM workflow_events;
-- The row count is for those who may read the table.
GRANT EXECUTE ON FUNCTION setup_workflow_events() TO regress_stranger;
SET ROLE regress_stranger;
SELECT t.expect(sql) FROM t.calls WHERE n = 1;
RESET ROLE;
DROP TABLE workflow_events;
-- A view, a materialized view, a foreign table, a sequence, a composite type, an index.
CREATE VIEW workflow_events AS SELECT now() AS ts;
SELECT t.expect(sql) FROM t.calls ORDER BY n;
DROP VIEW workflow_events;
CREATE MATERIALIZED VIEW workflow_events AS SELECT now() AS ts;
SELECT t.expect(sql) FROM t.calls WHERE n = 1;
DROP MATERIALIZED VIEW workflow_events;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE workflow_events (ts timestamptz) SERVER nowhere;
SELECT t.expect(sql) FROM t.calls WHERE n = 1;
DROP FOREIGN TABLE workflow_events;
CREATE SEQUENCE workflow_events;
SELECT t.expect(sql) FROM t.calls WHERE n = 1;
DROP SEQUENCE workflow_events;
CREATE TYPE workflow_events AS (ts timestamptz);
SELECT t.expect(sql) FROM t.calls WHERE n = 1;
DROP TYPE workflow_events;
CREATE INDEX workflow_events ON workflow_runs (id);
SELECT t.expect(sql) FROM t.calls WHERE n = 1;
DROP INDEX workflow_events;

\c :home
DROP DATABASE regress_events WITH (FORCE);
DROP ROLE regress_owner, regress_member, regress_stranger, regress_idle_member;

-- Retention: what goes and what stays, by the real bounds, whatever the names say.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001');
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
CALL t.clear();
CREATE FUNCTION t.add(variadic months int[]) RETURNS bigint LANGUAGE sql AS
$$SELECT count(create_workflow_events_partition(t.month(n))) FROM unnest(months) n$$;

--
-- Whole months
--
-- The whole range must lie before the first day of the month that many months ago.
SELECT t.add(-14, -13, -12, -11, -2, -1, 0, 1, 2, 3);
SELECT t.expect('SELECT drop_old_workflow_events_partitions(100)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(14)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(13)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(12)');
-- The least retention keeps the last month, the current one, and what lies ahead.
SELECT t.expect('SELECT drop_old_workflow_events_partitions(1)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(1)');
SELECT * FROM t.partitions();
-- A retention beyond the calendar keeps everything.
SELECT t.expect('SELECT drop_old_workflow_events_partitions(2147483647)');
SELECT t.expect('SELECT drop_old_workflow_events_partitions(120000)');
SELECT count(*) FROM t.partitions();

-- The ledger says what went, by whom and with which retention; calls that dropped nothing are not in it.
SELECT origin, status, role_name = current_user AS by_caller, t.mask(details::text) AS details
FROM meshhook_events.maintenance_log WHERE task = 'drop' ORDER BY id;

--
-- Bounds count, names don't
--
CALL t.clear();
-- One that was detached is no partition any more, whatever it is called.
SELECT t.add(-40);
CALL t.run('ALTER TABLE workflow_events DETACH PARTITION {-40}');
-- Without a lower bound, wholly in the past; over several months, wholly and in part; within a month.
CALL t.run('CREATE TABLE oldest PARTITION OF workflow_events FOR VALUES FROM (MINVALUE) TO (''<-30>'')');
CALL t.run('CREATE TABLE "A Year" PARTITION OF workflow_events FOR VALUES FROM (''<-30>'') TO (''<-18>'')');
CALL t.run('CREATE TABLE straddling PARTITION OF workflow_events FOR VALUES FROM (''<-18>'') TO (''<-11>'')');
CALL t.run('ALTER TABLE straddling RENAME TO {-24}');
-- Named as if it were old, and holding the current month; named as if it were to come, and old.
CALL t.run('CREATE TABLE {-20} PARTITION OF workflow_events FOR VALUES FROM (''<0>'') TO (''<1>'')');
CALL t.run('ALTER TABLE oldest RENAME TO {5}');
-- Without an upper bound.
CALL t.run('CREATE TABLE newest PARTITION OF workflow_events FOR VALUES FROM (''<1>'') TO (MAXVALUE)');
CREATE TABLE rest PARTITION OF workflow_events DEFAULT;
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', at, 'x', '{}'
FROM unnest(ARRAY['-infinity', t.start(-18) - interval '1 us', t.start(-18), t.start(-11) - interval '1 us', t.start(-5), now(), 'infinity']) at;
SELECT * FROM t.partitions();
-- In a schema of its own, partitioned itself, with rows: all of it goes.
CREATE SCHEMA "Old Ones";
CALL t.run('ALTER TABLE workflow_events DETACH PARTITION "A Year"');
DROP TABLE "A Year";
CALL t.run('CREATE TABLE "Old Ones"."A Year" PARTITION OF workflow_events FOR VALUES FROM (''<-30>'') TO (''<-18>'') PARTITION BY RANGE (ts)');
CALL t.run('CREATE TABLE half PARTITION OF "Old Ones"."A Year" FOR VALUES FROM (''<-30>'') TO (''<-24>'')');
CALL t.run('CREATE TABLE other_half PARTITION OF "Old Ones"."A Year" FOR VALUES FROM (''<-24>'') TO (''<-18>'')');
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', t.start(n), 'x', '{}' FROM generate_series(-30, -19) n;
SELECT count(*) FROM workflow_events;

-- Look-alikes that are no partitions of the event log: never touched.
CREATE TABLE workflow_events_y2019m01_backup (LIKE workflow_events);
CREATE TABLE workflow_events_y2019m02 (LIKE workflow_events);
CREATE TABLE other (ts timestamptz NOT NULL) PARTITION BY RANGE (ts);
CREATE TABLE workflow_events_y2019m03 PARTITION OF other FOR VALUES FROM ('2019-03-01 00:00:00+00') TO ('2019-04-01 00:00:00+00');
CREATE VIEW workflow_events_y2019m04 AS SELECT 1 AS one;
CREATE TABLE inheriting () INHERITS (workflow_events_y2019m02);
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT * FROM t.partitions();
SELECT count(*) FROM workflow_events;
SELECT to_regclass('half') AS half, to_regclass('other_half') AS other_half, to_regclass(t.part(-40)) IS NOT NULL AS detached_stays;
SELECT relname, relkind FROM pg_class WHERE relname ~ '^workflow_events_y2019m|^other$|^inheriting$' ORDER BY 1;
-- With the least retention the one that straddled goes too; the current month, and what has no upper bound, never.
SELECT t.expect('SELECT drop_old_workflow_events_partitions(1)');
SELECT * FROM t.partitions();
SELECT t.mask(details::text) FROM meshhook_events.maintenance_log WHERE task = 'drop' ORDER BY id DESC LIMIT 2;

--
-- What stands in the way of one holds up no other
--
CALL t.clear();
SELECT t.add(-20, -19, -18, -17, -16, -15, -14, 0);
-- Names that don't change with the date, because warnings show them.
CALL t.run('ALTER TABLE {-20} RENAME TO first');
CALL t.run('ALTER TABLE {-19} RENAME TO looked_at');
CALL t.run('ALTER TABLE {-18} RENAME TO "Pointed At"');
CALL t.run('ALTER TABLE {-17} RENAME TO fourth');
CALL t.run('ALTER TABLE {-16} RENAME TO inherited');
CALL t.run('ALTER TABLE {-15} RENAME TO in_function');
CALL t.run('ALTER TABLE {-14} RENAME TO last');
CREATE VIEW dependent AS SELECT * FROM looked_at;
CREATE TABLE pointing (id bigint, ts timestamptz, FOREIGN KEY (id, ts) REFERENCES "Pointed At");
CREATE FUNCTION uses_it() RETURNS SETOF in_function LANGUAGE sql BEGIN ATOMIC SELECT * FROM in_function; END;
SELECT drop_old_workflow_events_partitions();
SELECT partition FROM t.partitions();
SELECT status, details FROM meshhook_events.maintenance_log WHERE task = 'drop' ORDER BY id DESC LIMIT 1;
-- The view and the key are as they were.
SELECT count(*) FROM dependent;
SELECT conname FROM pg_constraint WHERE conrelid = 'pointing'::regclass AND confrelid = '"Pointed At"'::regclass;
-- As long as they stay, each call says so; then they go.
SELECT drop_old_workflow_events_partitions();
DROP VIEW dependent;
DROP TABLE pointing;
DROP FUNCTION uses_it;
SELECT drop_old_workflow_events_partitions();
SELECT * FROM t.partitions();

-- A foreign table's rows are somebody else's: it is kept, and said so, whichever way it was attached.
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
SELECT t.add(-20);
ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_run_id_fkey;
CALL t.run('DROP INDEX workflow_events_run_id_idx, workflow_events_run_ts_idx, workflow_events_type_idx');
ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_pkey;
CALL t.run('CREATE FOREIGN TABLE away PARTITION OF workflow_events FOR VALUES FROM (''<-19>'') TO (''<-18>'') SERVER nowhere');
SET client_min_messages = error;
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
RESET client_min_messages;
SELECT drop_old_workflow_events_partitions();
SELECT * FROM t.partitions();
DROP FOREIGN TABLE away;

-- The owner needs no CREATE on the schema to drop.
CREATE ROLE regress_owner;
GRANT EXECUTE ON FUNCTION drop_old_workflow_events_partitions(int, boolean, interval) TO regress_owner;
SELECT t.add(-20);
ALTER TABLE workflow_events OWNER TO regress_owner;
CALL t.run('ALTER TABLE {-20} OWNER TO regress_owner');
SET ROLE regress_owner;
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
RESET ROLE;
-- What belongs to somebody else is not the owner's to drop, nor is it dropped when a superuser calls: it is kept.
GRANT CREATE ON SCHEMA public TO regress_owner;
SELECT t.add(-20, -19);
CALL t.run('ALTER TABLE {-20} OWNER TO postgres');
CALL t.run('ALTER TABLE {-20} RENAME TO not_theirs');
CALL t.run('ALTER TABLE {-19} RENAME TO theirs');
SET ROLE regress_owner;
SELECT drop_old_workflow_events_partitions();
RESET ROLE;
SELECT drop_old_workflow_events_partitions();
SELECT * FROM t.partitions();
DROP TABLE not_theirs;

-- In a transaction that is rolled back nothing has gone.
SELECT t.add(-20);
BEGIN;
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT * FROM t.partitions();
ROLLBACK;
SELECT * FROM t.partitions();
-- Where there is nothing to do, no transaction number is taken and no lock is left.
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
BEGIN;
SELECT count(*) FROM drop_old_workflow_events_partitions();
SELECT pg_current_xact_id_if_assigned();
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'workflow_events'::regclass AND mode <> 'AccessShareLock';
COMMIT;

\c :home
DROP DATABASE regress_events WITH (FORCE);
DROP ROLE regress_owner;

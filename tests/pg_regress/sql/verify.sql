-- verify_workflow_events(): all is well after setup; each check notices when its thing is broken; nothing is changed by it.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), status text NOT NULL DEFAULT 'running');
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
-- On the first of March sixty days ago is in December, which a fresh event log has no partition for.
SELECT count(create_workflow_events_partition(t.month(-3)));
-- The worker's row depends on how the server was started; details with dates are masked.
CREATE VIEW t.findings AS
SELECT check_name, status, t.mask(detail) AS detail, t.mask(hint) AS hint FROM verify_workflow_events() WHERE check_name <> 'worker';
-- What is not as it should be.
CREATE VIEW t.bad AS SELECT * FROM t.findings WHERE status <> 'ok';
SELECT count(*), bool_and(status IN ('ok', 'warning')) AS no_failure FROM verify_workflow_events() WHERE check_name = 'worker';

-- After setup: all is well, whether there is a run already or not.
SELECT check_name, status, CASE check_name WHEN 'extension_version' THEN detail ~ '^library and SQL objects are \d' ELSE true END AS as_expected,
       CASE WHEN check_name NOT IN ('extension_version', 'partitions') THEN detail END AS detail, hint FROM t.findings;
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001');
SELECT * FROM t.bad;
-- Nothing is changed: no event, no run, no object, no entry in the ledger; and it says the same again.
SELECT (SELECT count(*) FROM workflow_events) AS events, (SELECT count(*) FROM workflow_runs) AS runs,
       (SELECT count(*) FROM meshhook_events.maintenance_log) AS log_rows;
SELECT t.state() AS before \gset
SELECT count(*) FROM t.bad;
SELECT t.state() = :'before' AS unchanged, (SELECT count(*) FROM workflow_events) AS events;
-- In a transaction that goes on, and in one that only reads.
BEGIN;
SELECT * FROM t.bad;
INSERT INTO workflow_events (run_id, type, payload) VALUES ('00000000-0000-0000-0000-000000000001', 'x', '{}');
SELECT count(*) FROM workflow_events;
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM t.bad;
ROLLBACK;

-- Each of these is put right again by the rollback.
-- A hole: a month is missing.
BEGIN;
CALL t.run('DROP TABLE {1}');
SELECT check_name, status, detail, hint FROM t.bad WHERE check_name = 'coverage';
ROLLBACK;
BEGIN;
CALL t.run('DROP TABLE {0}, {2}');
SELECT check_name, status, detail ~ '^2 hole\(s\), the first FROM \(''[^'']+''\) TO \(''<1>''\)$' AS from_now_on, hint FROM t.bad WHERE check_name = 'coverage';
SELECT check_name, status, detail, hint FROM t.bad WHERE check_name = 'event_now';
ROLLBACK;
-- The past has no partition for what comes late.
BEGIN;
SELECT create_workflow_events_partition(now() - interval '60 days') AS past
\gset
DROP TABLE :past;
SELECT check_name, status, detail, hint FROM t.bad WHERE check_name = 'event_60_days_ago';
ROLLBACK;
-- All partitions are gone.
BEGIN;
CALL t.clear();
SELECT check_name, status FROM t.bad;
ROLLBACK;
-- An index is missing on the event log; or is there, and has no part on any partition.
BEGIN;
DROP INDEX workflow_events_type_idx;
SELECT check_name, status, count(*), max(hint) FROM t.bad GROUP BY 1, 2;
SELECT count(*) FROM setup_workflow_events() WHERE status = 'repaired';
SELECT * FROM t.bad;
ROLLBACK;
BEGIN;
DROP INDEX workflow_events_type_idx;
CREATE INDEX workflow_events_type_idx ON ONLY workflow_events (type);
SELECT check_name, status, detail FROM t.bad;
ROLLBACK;
-- Row level security is off on one partition, or its policies are not those of the event log.
BEGIN;
ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY none ON workflow_events USING (false);
CALL t.run('DROP TABLE {3}');
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
SELECT * FROM t.bad;
SELECT t.mask(object_name) AS object, status, detail FROM setup_workflow_events() WHERE status = 'repaired';
SELECT * FROM t.bad;
CALL t.run('DROP POLICY none ON {1}');
SELECT * FROM t.bad;
CALL t.run('CREATE POLICY none ON {1} USING (true)');
SELECT check_name, status, detail FROM t.bad;
ROLLBACK;
-- Privileges, owner or replica identity differ.
BEGIN;
CREATE ROLE regress_reader;
CALL t.run('GRANT SELECT ON {1} TO regress_reader');
CALL t.run('ALTER TABLE {2} OWNER TO regress_reader');
CALL t.run('ALTER TABLE {3} REPLICA IDENTITY FULL');
SELECT check_name, status, detail FROM t.bad;
ROLLBACK;
-- A name that misleads; bounds that are no midnights; a DEFAULT partition.
BEGIN;
CALL t.run('ALTER TABLE {3} RENAME TO {-30}');
SELECT * FROM t.bad;
ROLLBACK;
BEGIN;
UPDATE meshhook_events.policy SET time_zone = 'Asia/Kolkata', premake = 1;
SELECT check_name, status, count(*) > 5 AS all_of_them, min(hint) FROM t.bad WHERE check_name = 'partitions' GROUP BY 1, 2;
ROLLBACK;
BEGIN;
CREATE TABLE rest PARTITION OF workflow_events DEFAULT;
SELECT * FROM t.bad;
ROLLBACK;
-- A detach that was begun and not ended.
BEGIN;
SELECT create_workflow_events_partition('2200-01-01'::date);
UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'workflow_events_y2200m01'::regclass;
SELECT * FROM t.bad;
SELECT t.expect($$SELECT create_workflow_events_partition('2200-01-01'::date)$$);
ROLLBACK;
BEGIN;
UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = t.part(1)::regclass;
SELECT check_name, status, detail, hint FROM t.bad WHERE check_name IN ('coverage', 'partitions');
\set VERBOSITY sqlstate
SELECT t.expect('SELECT maintain_workflow_events_partitions()');
\set VERBOSITY default
ROLLBACK;
-- Columns and keys.
BEGIN;
ALTER TABLE workflow_events ADD COLUMN extra int, ALTER COLUMN created_at DROP NOT NULL, ALTER COLUMN created_at DROP DEFAULT, ALTER COLUMN type TYPE varchar(50);
ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_run_id_fkey;
ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_pkey;
SELECT * FROM t.bad;
ALTER TABLE workflow_events ADD FOREIGN KEY (run_id) REFERENCES workflow_runs ON DELETE SET NULL;
SELECT check_name, status FROM t.bad WHERE check_name = 'foreign_key';
ROLLBACK;
-- No run to write an event for, and none can be made without further values; runs that can't be read by id.
BEGIN;
TRUNCATE workflow_runs, workflow_events;
ALTER TABLE workflow_runs ADD COLUMN project uuid NOT NULL;
SELECT * FROM t.bad;
ROLLBACK;
BEGIN;
DROP TABLE workflow_runs CASCADE;
SELECT check_name, status, detail FROM t.bad;
ROLLBACK;
-- An event can't be written: a trigger refuses it; or it isn't found again.
BEGIN;
CREATE FUNCTION t.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not today'; END$$;
CREATE TRIGGER refuse BEFORE INSERT ON workflow_events FOR EACH ROW EXECUTE FUNCTION t.refuse();
SELECT check_name, status, detail FROM t.bad;
ROLLBACK;
BEGIN;
CREATE FUNCTION t.swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER swallow BEFORE INSERT ON workflow_events FOR EACH ROW EXECUTE FUNCTION t.swallow();
SELECT check_name, status FROM t.bad;
ROLLBACK;
-- The table is something else.
BEGIN;
ALTER TABLE workflow_events RENAME TO set_aside;
SELECT * FROM t.bad;
CREATE TABLE workflow_events (id bigint);
SELECT * FROM t.bad;
ROLLBACK;
SELECT * FROM t.bad;
SELECT t.state() = :'before' AS unchanged, (SELECT count(*) FROM workflow_events) AS events;

-- Maintenance must give up before a client looks for a deadlock.
SET deadlock_timeout = '10s';
SELECT * FROM t.bad;
RESET deadlock_timeout;

-- As the owner of the table, who may not read the ledger.
CREATE ROLE regress_owner;
GRANT EXECUTE ON FUNCTION verify_workflow_events(boolean) TO regress_owner;
GRANT ALL ON workflow_runs TO regress_owner;
ALTER TABLE workflow_events OWNER TO regress_owner;
SELECT format('ALTER TABLE %s OWNER TO regress_owner', inhrelid::regclass) FROM pg_inherits WHERE inhparent = 'workflow_events'::regclass
\set ECHO none
\gexec
\set ECHO all
SET ROLE regress_owner;
SELECT check_name, status, detail FROM verify_workflow_events() WHERE status <> 'ok' AND check_name <> 'worker';
RESET ROLE;

\c :home
DROP DATABASE regress_events WITH (FORCE);
DROP ROLE regress_owner;

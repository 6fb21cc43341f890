-- Retention that can be undone: runs that go on, holds, force, parking, and putting back.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

-- What is kept is told by warnings, which name months.
SET client_min_messages = error;
CREATE ROLE regress_reader;
CREATE TABLE workflow_runs (
    id uuid PRIMARY KEY, status text NOT NULL DEFAULT 'running', finished_at timestamptz);
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON workflow_events USING (type <> 'secret');
GRANT SELECT ON workflow_events TO regress_reader;
CALL t.clear();
SET TimeZone = 'UTC';
CREATE FUNCTION t.run_id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$SELECT lpad(n::text, 32, '0')::uuid$$;
-- A month with an event of each of these runs.
CREATE FUNCTION t.add(month int, variadic runs int[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM create_workflow_events_partition(t.month(month));
    INSERT INTO workflow_runs (id) SELECT t.run_id(n) FROM unnest(runs) n ON CONFLICT DO NOTHING;
    INSERT INTO workflow_events (run_id, ts, type, payload)
    SELECT t.run_id(n), t.start(month) + n * interval '1 hour', 't', '{}' FROM unnest(runs) n;
    RETURN t.part(month);
END $$;
CREATE FUNCTION t.finish(variadic runs int[]) RETURNS void LANGUAGE sql AS
$$UPDATE workflow_runs SET status = 'succeeded', finished_at = now() WHERE id IN (SELECT t.run_id(n) FROM unnest(runs) n)$$;
CREATE FUNCTION t.reopen(variadic runs int[]) RETURNS void LANGUAGE sql AS
$$UPDATE workflow_runs SET status = 'running', finished_at = NULL WHERE id IN (SELECT t.run_id(n) FROM unnest(runs) n)$$;
CREATE VIEW t.what AS
SELECT t.mask(name) AS name, (SELECT count(*) FROM workflow_events WHERE tableoid = to_regclass(name)) AS attached_rows,
       r.state, r.forced, r.grace, r.retention_months
FROM (SELECT c.relname::text AS name FROM pg_class c
      WHERE c.relkind = 'r' AND c.relname LIKE 'workflow\_events\_y%') v
LEFT JOIN meshhook_events.retired_partition r ON r.partition_name = name
ORDER BY name;

-- All that a partition is, but for its rows: bound, privileges, row level security, indexes, constraints, triggers.
CREATE FUNCTION t.shape(part text) RETURNS text LANGUAGE sql AS $$
SELECT concat_ws(E'\n', pg_get_expr(c.relpartbound, c.oid), c.relowner::regrole, c.relacl, c.relrowsecurity, c.relreplident,
    (SELECT string_agg(concat(polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)), E'\n')
     FROM pg_policy WHERE polrelid = c.oid),
    (SELECT string_agg(concat(pg_get_indexdef(i.indexrelid), i.indisvalid, h.inhparent::regclass), E'\n' ORDER BY 1)
     FROM pg_index i LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid WHERE i.indrelid = c.oid),
    (SELECT string_agg(concat(conname, contype, pg_get_constraintdef(oid), convalidated, conislocal, coninhcount,
                              (SELECT conname FROM pg_constraint p WHERE p.oid = k.conparentid)), E'\n' ORDER BY conname)
     FROM pg_constraint k WHERE conrelid = c.oid AND contype <> 'n'),
    (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid))
FROM pg_class c WHERE c.oid = part::regclass $$;

--
-- Runs that go on
--
SELECT count(t.add(m, VARIADIC ARRAY[1, 2, 3])) FROM generate_series(-16, -14) m;
SELECT count(t.add(0, 1));
SELECT t.finish(1, 2);
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT action, t.mask(partition_name), t.mask(reason) FROM plan_workflow_events_maintenance();
-- Either column may say that a run goes on.
SELECT t.finish(3);
UPDATE workflow_runs SET status = 'paused' WHERE id = t.run_id(2);
UPDATE workflow_runs SET finished_at = NULL WHERE id = t.run_id(1);
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
-- Which statuses are final is the policy's.
UPDATE meshhook_events.policy SET final_statuses = '{succeeded,paused}';
UPDATE workflow_runs SET finished_at = now() WHERE id = t.run_id(1);
BEGIN;
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
ROLLBACK;
UPDATE meshhook_events.policy SET final_statuses = DEFAULT;
SELECT t.finish(1, 2, 3);
-- The plan says the same.
SELECT t.reopen(3);
UPDATE meshhook_events.policy SET retention = '12 months';
SELECT action, t.mask(partition_name), t.mask(reason) FROM plan_workflow_events_maintenance();
-- Those who mean it.
SELECT t.expect('SELECT drop_old_workflow_events_partitions(15, force => true)');
SELECT role_name = current_user AS by_me, t.mask(details::text) FROM meshhook_events.maintenance_log ORDER BY id DESC LIMIT 1;
SELECT t.expect('SELECT drop_old_workflow_events_partitions(15, force => NULL)');
SELECT t.finish(3);

--
-- Holds
--
SELECT t.expect(format('SELECT hold_workflow_events_partition(%L, NULL)', t.part(-14)));
SELECT t.expect(format('SELECT hold_workflow_events_partition(%L, %L)', t.part(-14), ' '));
SELECT t.expect($$SELECT hold_workflow_events_partition('no such', 'why')$$);
SELECT hold_workflow_events_partition(t.part(-14), 'a lawsuit');
SELECT hold_workflow_events_partition(t.part(-14), 'an audit');
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
-- Not even those who mean it.
SELECT t.expect('SELECT drop_old_workflow_events_partitions(force => true)');
SELECT release_workflow_events_partition(t.part(-14), 'a lawsuit');
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT release_workflow_events_partition(t.part(-14));
SELECT release_workflow_events_partition(t.part(-14));
SELECT t.mask(partition_name), reason FROM meshhook_events.hold;
SELECT task, status, t.mask(details::text) FROM meshhook_events.maintenance_log ORDER BY id DESC LIMIT 3;
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT * FROM t.what;

--
-- Parking
--
SELECT count(t.add(m, 1, 2, 3)) FROM generate_series(-16, -15) m;
SELECT t.expect($$SELECT drop_old_workflow_events_partitions(grace => '-1 day')$$);
CREATE TEMP TABLE before AS SELECT t.shape(t.part(-15)), (SELECT count(*) FROM workflow_events WHERE ts < t.start(-14) AND run_id <> t.run_id(2)) AS rows;
SELECT t.mask(name) AS dropped FROM drop_old_workflow_events_partitions(14, grace => '1 day') name;
SELECT * FROM t.what;
-- Its owner alone reads it.
CALL t.run('SELECT count(*) FROM {-16}');
SET ROLE regress_reader;
SELECT has_table_privilege(t.part(-16), 'SELECT') AS readable;
SELECT count(*) FROM workflow_events;
RESET ROLE;
SELECT DISTINCT a.grantee::regrole FROM pg_class c, aclexplode(c.relacl) a WHERE c.relname = t.part(-16);
-- Nothing happens before its time.
SELECT t.mask(name) AS dropped FROM drop_old_workflow_events_partitions() name;
SELECT action, t.mask(partition_name), t.mask(reason) FROM plan_workflow_events_maintenance();
-- A month of that range can't be made beside it.
SELECT t.expect(format('SELECT create_workflow_events_partition(%L::date)', t.month(-16)));
-- It goes with its run as long as it is parked.
DELETE FROM workflow_runs WHERE id = t.run_id(2);
CALL t.run('SELECT count(*) FROM {-16}');
-- Put back: rows, indexes, bounds and protection as before.
SELECT status, t.mask(location) AS location, row_count, left_out FROM restore_workflow_events_partition(t.part(-15));
SELECT t.shape(t.part(-15)) = shape AS same_shape FROM before;
SELECT count(*) FROM restore_workflow_events_partition(t.part(-16));
SELECT (SELECT count(*) FROM workflow_events WHERE ts < t.start(-14)) = rows AS same_rows FROM before;
SELECT release_workflow_events_partition(t.part(-16));
SELECT * FROM t.what;
SELECT t.mask(partition_name), reason FROM meshhook_events.hold;
SELECT t.mask(name) AS dropped FROM drop_old_workflow_events_partitions(14, grace => '1 day') name;
SELECT t.mask(name) AS dropped FROM drop_old_workflow_events_partitions(14) name;
SELECT release_workflow_events_partition(t.part(-15));
SELECT t.mask(name) AS dropped FROM drop_old_workflow_events_partitions(14) name;
-- A run that is reopened keeps a parked month from being dropped.
UPDATE meshhook_events.retired_partition SET detached_at = detached_at - interval '2 days';
SELECT t.reopen(3);
SELECT action, t.mask(partition_name), t.mask(reason) FROM plan_workflow_events_maintenance();
SELECT t.mask(name) AS dropped FROM drop_old_workflow_events_partitions(14) name;
SELECT t.finish(3);
SELECT action, t.mask(partition_name), t.mask(reason) FROM plan_workflow_events_maintenance();
SELECT t.mask(name) AS dropped FROM drop_old_workflow_events_partitions(14) name;
SELECT * FROM t.what;
DROP OWNED BY regress_reader;
DROP ROLE regress_reader;

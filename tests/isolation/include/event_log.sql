-- What the specs share, loaded once by scripts/isolation: MeshHook's schema, the extension, and procedures that make an
-- event log and take it away.
\set ON_ERROR_STOP on
\getenv fixtures FIXTURES
\set meshhook :fixtures '/meshhook.sql'
\i :meshhook
CREATE EXTENSION pg_meshhook_events;

INSERT INTO projects (id, owner, name)
VALUES ('a0000000-0000-0000-0000-000000000000', 'b0000000-0000-0000-0000-000000000000', 'specs');
INSERT INTO workflow_definitions (id, project_id, slug, definition)
SELECT 'c0000000-0000-0000-0000-000000000000', id, 'specs', '{}' FROM projects;

CREATE SCHEMA iso;

-- Drops the event log, what was detached from it, and the runs.
CREATE PROCEDURE iso.clear() LANGUAGE plpgsql AS $$
DECLARE
    t regclass;
BEGIN
    FOR t IN SELECT oid FROM pg_class WHERE relname ~ '^workflow_events' AND relkind IN ('r', 'p') AND NOT relispartition LOOP
        EXECUTE format('DROP TABLE %s CASCADE', t);
    END LOOP;
    DELETE FROM workflow_runs;
    DELETE FROM meshhook_events.maintenance_log;
    DELETE FROM meshhook_events.policy;
END $$ SET client_min_messages = warning SET lock_timeout = '10s';

-- Makes an event log with the partitions of these months, besides those around today, which no spec names; and runs, of
-- which 2 and 3 have an event in each of these months, and 1 has none.
CREATE PROCEDURE iso.make(VARIADIC months date[]) LANGUAGE plpgsql AS $$
BEGIN
    -- They have finished, so that their events may be dropped.
    INSERT INTO workflow_runs (id, project_id, workflow_id, status, finished_at)
    SELECT iso.run(n), project_id, id, 'succeeded', now() FROM workflow_definitions, generate_series(1, 3) n;
    -- As many months ahead as the health check needs.
    INSERT INTO meshhook_events.policy (premake) VALUES (2);
    PERFORM setup_workflow_events();
    PERFORM create_workflow_events_partition(month) FROM unnest(months) month;
    INSERT INTO workflow_events (run_id, ts, type, payload)
    SELECT iso.run(n), month, 'started', '{}' FROM generate_series(2, 3) n, unnest(months) month;
END $$ SET client_min_messages = warning;

-- The id of the nth run.
CREATE FUNCTION iso.run(n integer) RETURNS uuid IMMUTABLE LANGUAGE sql AS
$$ SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid $$;

-- What there is of the months of 2001.
CREATE VIEW iso.months AS
SELECT c.relname AS month,
       CASE WHEN i.inhdetachpending THEN 'detach pending' WHEN c.relispartition THEN 'attached' ELSE 'detached' END AS state
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.relname ~ '^workflow_events_y2001m..$' AND c.relkind = 'r'
ORDER BY c.relname;

-- How many other months there are.
CREATE VIEW iso.others AS
SELECT count(*) AS others FROM pg_inherits WHERE inhparent = to_regclass('workflow_events') AND inhrelid::regclass::text !~ '_y2001';

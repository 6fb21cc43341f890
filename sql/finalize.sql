-- What comes after the functions: the view, comments and privileges.

-- As in bootstrap.sql: nothing is looked up where others may create.
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE VIEW @extschema@.workflow_events_partition_info AS
SELECT c.relname::text AS partition_name,
       pg_catalog.pg_size_pretty(
           (SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(t.relid))
            FROM pg_catalog.pg_partition_tree(c.oid) t)) AS size,
       -- A table that was never analysed has no estimate: then what the statistics system counted.
       (SELECT pg_catalog.sum(CASE WHEN l.reltuples < 0::real THEN pg_catalog.pg_stat_get_live_tuples(l.oid)
                                   ELSE l.reltuples::bigint END)
        FROM pg_catalog.pg_partition_tree(c.oid) t
        JOIN pg_catalog.pg_class l ON l.oid = t.relid
        WHERE t.isleaf)::bigint AS row_count_estimate
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_class p ON p.relnamespace = e.extnamespace AND p.relname = 'workflow_events'
JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE e.extname = 'pg_meshhook_events' AND p.relkind = 'p'
ORDER BY c.relname;

COMMENT ON VIEW @extschema@.workflow_events_partition_info IS
    'the partitions of workflow_events with their size and estimated number of rows';
COMMENT ON COLUMN @extschema@.workflow_events_partition_info.partition_name IS 'name of the partition';
COMMENT ON COLUMN @extschema@.workflow_events_partition_info.size IS 'size with indexes and TOAST, for people';
COMMENT ON COLUMN @extschema@.workflow_events_partition_info.row_count_estimate IS
    'number of rows as the planner estimates it';

COMMENT ON FUNCTION @extschema@.setup_workflow_events() IS
    'makes workflow_events with its partitions, or takes over the partitioned table that is there';

COMMENT ON FUNCTION @extschema@.create_workflow_events_partition(date) IS
    'makes sure that a partition holds the whole period of the date, and gives its name';

COMMENT ON FUNCTION @extschema@.create_workflow_events_partition(timestamptz) IS
    'makes sure that a partition holds the whole period of the instant, and gives its name';

COMMENT ON FUNCTION @extschema@.maintain_workflow_events_partitions() IS
    'makes the partitions that are missing from now on, and gives their names';

COMMENT ON FUNCTION @extschema@.drop_old_workflow_events_partitions(integer, boolean, interval) IS
    'drops or parks the partitions that lie wholly before the retention and that no run needs, and gives the names of those dropped';

COMMENT ON FUNCTION @extschema@.hold_workflow_events_partition(text, text) IS
    'keeps a partition from being retired or dropped until it is released';

COMMENT ON FUNCTION @extschema@.release_workflow_events_partition(text, text) IS
    'takes away the holds of a partition, and gives how many there were';

COMMENT ON FUNCTION @extschema@.restore_workflow_events_partition(text) IS
    'puts back a partition that is parked or archived, and holds it';

COMMENT ON FUNCTION @extschema@.archive_workflow_events_partition(text) IS
    'archives an attached or parked partition as the policy says, reads it back and compares';

COMMENT ON FUNCTION @extschema@.get_workflow_events_partition_stats() IS
    'each partition with its dates, exact number of rows and size';
GRANT EXECUTE ON FUNCTION @extschema@.get_workflow_events_partition_stats() TO PUBLIC;

COMMENT ON FUNCTION @extschema@.get_workflow_run_events(uuid, timestamptz, timestamptz) IS
    'the events of a run in order, within bounds that are both included';
GRANT EXECUTE ON FUNCTION @extschema@.get_workflow_run_events(uuid, timestamptz, timestamptz) TO PUBLIC;

COMMENT ON FUNCTION @extschema@.explain_workflow_run_events(uuid, timestamptz, timestamptz) IS
    'what get_workflow_run_events does with each partition: skipped, no hit, native with the number of events, or query and why';
GRANT EXECUTE ON FUNCTION @extschema@.explain_workflow_run_events(uuid, timestamptz, timestamptz) TO PUBLIC;

COMMENT ON FUNCTION @extschema@.plan_workflow_events_maintenance() IS
    'what maintenance would do now: a row a step, with locks and who is in the way';

COMMENT ON FUNCTION @extschema@.workflow_events_coverage() IS
    'how far the partitions reach from now on, and the first hole';
GRANT EXECUTE ON FUNCTION @extschema@.workflow_events_coverage() TO PUBLIC;

COMMENT ON FUNCTION @extschema@.workflow_events_growth() IS
    'the size of the partition that holds the present, at present and projected to the end of its range, and the granularity recommended';
GRANT EXECUTE ON FUNCTION @extschema@.workflow_events_growth() TO PUBLIC;

COMMENT ON FUNCTION @extschema@.verify_workflow_events(boolean) IS
    'the health check: a row a check, with status, detail and hint; with recompute, sealed partitions are read again';

COMMENT ON FUNCTION meshhook_events.check_archive_policy() IS
    'lets only those set where files are written who may have the server write files';
ALTER FUNCTION meshhook_events.check_archive_policy() SET search_path = pg_catalog, pg_temp;
CREATE TRIGGER check_archive_policy BEFORE INSERT OR UPDATE ON meshhook_events.policy
    FOR EACH ROW EXECUTE FUNCTION meshhook_events.check_archive_policy();

COMMENT ON FUNCTION meshhook_events.wake_worker() IS
    'asks the background worker to look at this database when the transaction has committed';

-- In PL/pgSQL, which alone commits between steps; nothing is looked up where others may create, because a procedure that
-- commits can have no setting of its own.
CREATE PROCEDURE @extschema@.migrate_workflow_events(in_background boolean DEFAULT NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    goes_on_here boolean := meshhook_events.begin_migration('migrate', in_background);
BEGIN
    IF goes_on_here THEN
        CALL meshhook_events.run_migration();
    END IF;
END
$$;

CREATE PROCEDURE @extschema@.undo_workflow_events_migration(in_background boolean DEFAULT NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    goes_on_here boolean := meshhook_events.begin_migration('undo', in_background);
BEGIN
    IF goes_on_here THEN
        CALL meshhook_events.run_migration();
    END IF;
END
$$;

CREATE PROCEDURE meshhook_events.run_migration()
LANGUAGE plpgsql
AS $$
DECLARE
    pause_ms integer;
BEGIN
    LOOP
        COMMIT;
        -- What others commit while a step waits for a lock has to be seen, whatever the session's default.
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        -- Nobody is to wait for the locks of a step until a standby has answered.
        SET LOCAL synchronous_commit = 'local';
        pause_ms := meshhook_events.migration_step(goes_on => true);
        EXIT WHEN pause_ms IS NULL;
        IF pause_ms OPERATOR(pg_catalog.<) 0 THEN
            COMMIT;
            PERFORM meshhook_events.raise_migration_failure();
            RAISE EXCEPTION 'the migration of workflow_events has failed';
        ELSIF pause_ms OPERATOR(pg_catalog.>) 0 THEN
            COMMIT;
            PERFORM pg_catalog.pg_sleep(pause_ms OPERATOR(pg_catalog./) 1000.0);
        END IF;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE @extschema@.migrate_workflow_events(boolean) IS
    'moves the plain table workflow_events into partitions while it is in use';
COMMENT ON PROCEDURE @extschema@.undo_workflow_events_migration(boolean) IS
    'takes a migration back, or moves the partitions of workflow_events into a plain table while it is in use';
COMMENT ON PROCEDURE meshhook_events.run_migration() IS
    'goes on with the migration that is under way, a transaction a step';
COMMENT ON FUNCTION meshhook_events.begin_migration(text, boolean) IS
    'begins a migration, or turns it round; true where the caller is to do the work';
COMMENT ON FUNCTION meshhook_events.migration_step(boolean) IS
    'one step of the migration that is under way: how many milliseconds to wait before the next, -1 where it failed, NULL where it has ended';
COMMENT ON FUNCTION meshhook_events.raise_migration_failure() IS
    'raises what the last step of the migration failed with';

CREATE VIEW @extschema@.workflow_events_migration_progress AS
SELECT m.direction, m.phase, m.rows_done, m.rows_total,
       COALESCE((SELECT pg_catalog.sum(pg_catalog.pg_total_relation_size(t.relid))
                 FROM pg_catalog.pg_partition_tree(m.shadow) t)::bigint,
                pg_catalog.pg_total_relation_size(m.shadow)) AS bytes_done,
       m.bytes_total,
       m.rows_per_second,
       CASE WHEN m.phase = 'copying' AND m.rows_per_second > 0 AND m.rows_total > m.rows_done
            THEN m.updated_at + (m.rows_total - m.rows_done) / m.rows_per_second * interval '1 second' END AS estimated_end,
       -- A long one isn't counted to its end.
       (SELECT pg_catalog.count(*) FROM (SELECT FROM meshhook_events.migration_queue LIMIT 100000) q) AS queue_length,
       m.blocker, m.message, m.hint, m.in_background, m.started_at, m.updated_at, m.finished_at
FROM meshhook_events.migration m;

COMMENT ON VIEW @extschema@.workflow_events_migration_progress IS
    'how far the migration has come that is under way, or was last';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.direction IS 'migrate or undo';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.phase IS 'what is being done';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.rows_done IS 'how many rows were copied';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.rows_total IS 'how many there were, as the planner estimated it';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.bytes_done IS 'size of what was built, with indexes and TOAST';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.bytes_total IS 'size of what is replaced';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.rows_per_second IS 'how fast the last batch was copied';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.estimated_end IS 'when copying ends at that speed';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.queue_length IS
    'how many changes are still to be carried over, counted to 100000';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.blocker IS 'who is in the way';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.message IS 'what the last step failed with';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.hint IS 'what to do about it';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.in_background IS 'whether the worker does it';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.started_at IS 'when it was asked for';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.updated_at IS 'when the last step ended';
COMMENT ON COLUMN @extschema@.workflow_events_migration_progress.finished_at IS 'when it ended';
GRANT SELECT ON @extschema@.workflow_events_migration_progress TO PUBLIC;

GRANT SELECT ON @extschema@.workflow_events_partition_info TO PUBLIC;

-- What changes anything, or looks into it as the owner, is for those who are granted it. Default
-- privileges (ALTER DEFAULT PRIVILEGES … GRANT … ON FUNCTIONS, as Supabase has them) may have given it
-- to other roles beside PUBLIC, whose REST interface serves every function of the schema: it is taken
-- from all of them.
DO $$
DECLARE
    entry record;
BEGIN
    FOR entry IN
        SELECT DISTINCT p.oid::regprocedure AS signature, a.grantee
        FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_meshhook_events'
        JOIN pg_catalog.pg_proc p ON p.oid = d.objid
        CROSS JOIN LATERAL pg_catalog.aclexplode(
            COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
        WHERE d.classid = 'pg_catalog.pg_proc'::regclass::oid
          AND d.refclassid = 'pg_catalog.pg_extension'::regclass::oid AND d.deptype = 'e'
          AND p.proname NOT IN ('get_workflow_run_events', 'get_workflow_events_partition_stats',
                                'explain_workflow_run_events', 'workflow_events_coverage',
                                'workflow_events_growth')
          AND a.grantee <> p.proowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', entry.signature,
            CASE WHEN entry.grantee = 0::oid THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(entry.grantee)) END);
    END LOOP;
    -- The same for our tables, sequence and view, which others may read where they are granted that, and
    -- for the schema, in which nobody else shall put anything.
    FOR entry IN
        SELECT DISTINCT c.oid::regclass AS signature, a.grantee, a.privilege_type,
               CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
        FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_meshhook_events'
        JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'v', 'S')
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
        WHERE d.classid = 'pg_catalog.pg_class'::regclass::oid
          AND d.refclassid = 'pg_catalog.pg_extension'::regclass::oid AND d.deptype = 'e'
          AND a.grantee <> c.relowner AND a.privilege_type <> 'SELECT'
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s ON %s %s FROM %s', entry.privilege_type, entry.kind,
            entry.signature, CASE WHEN entry.grantee = 0::oid THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(entry.grantee)) END);
    END LOOP;
    FOR entry IN
        SELECT DISTINCT a.grantee
        FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
        WHERE n.nspname = 'meshhook_events' AND a.grantee <> n.nspowner AND a.privilege_type = 'CREATE'
    LOOP
        EXECUTE pg_catalog.format('REVOKE CREATE ON SCHEMA meshhook_events FROM %s',
            CASE WHEN entry.grantee = 0::oid THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(entry.grantee)) END);
    END LOOP;
END
$$;

-- The procedures that migrate run as whoever calls them, and so does what they call. Each of these looks itself whether the
-- caller may act as the table's owner.
GRANT EXECUTE ON FUNCTION meshhook_events.begin_migration(text, boolean), meshhook_events.migration_step(boolean),
    meshhook_events.raise_migration_failure() TO PUBLIC;
GRANT EXECUTE ON PROCEDURE meshhook_events.run_migration() TO PUBLIC;

-- The worker acts where there is a policy. A table that is there already is to be maintained; in a restore
-- none is there yet, and the policy comes with the data.
INSERT INTO meshhook_events.policy (singleton)
SELECT true FROM pg_catalog.pg_class c
WHERE c.relnamespace = '@extschema@'::regnamespace::oid AND c.relname = 'workflow_events' AND c.relkind = 'p';

-- It is looked at soon, not at the next scheduled time.
SELECT meshhook_events.wake_worker();

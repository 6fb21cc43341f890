-- A plain table becomes partitions, and partitions a plain table.
\set VERBOSITY default
SET client_min_messages = notice;
CREATE EXTENSION pg_meshhook_events;
CREATE TABLE workflow_runs (id uuid PRIMARY KEY, status text NOT NULL DEFAULT 'running', finished_at timestamptz);
INSERT INTO workflow_runs SELECT md5(n::text)::uuid FROM generate_series(1, 20) n;
---
--- Without a log there is nothing to migrate
---
CALL migrate_workflow_events();
CALL undo_workflow_events_migration();
SELECT meshhook_events.begin_migration(NULL, false);
SELECT meshhook_events.begin_migration('sideways', false);
SELECT meshhook_events.migration_step();
SELECT * FROM workflow_events_migration_progress;
---
--- The older plain form, with everything that hangs on it
---
CREATE TABLE workflow_events (
    id bigserial PRIMARY KEY,
    run_id uuid NOT NULL REFERENCES workflow_runs ON DELETE CASCADE,
    ts timestamptz DEFAULT now(),
    type text NOT NULL CONSTRAINT type_is_not_empty CHECK (type <> ''),
    payload jsonb NOT NULL
);
COMMENT ON TABLE workflow_events IS 'the log';
COMMENT ON COLUMN workflow_events.type IS 'what has happened';
CREATE INDEX workflow_events_run_id_idx ON workflow_events (run_id);
CREATE INDEX "Odd index ON x" ON workflow_events USING hash (lower(type)) WHERE type <> 'debug';
COMMENT ON INDEX "Odd index ON x" IS 'an index';
CREATE FUNCTION note_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.payload := NEW.payload || '{"noted": true}';
    RETURN NEW;
END $$;
CREATE TRIGGER "notes ON public.workflow_events FOR" BEFORE INSERT ON workflow_events FOR EACH ROW
    WHEN (NEW.type <> ' ON public.workflow_events ') EXECUTE FUNCTION note_insert();
CREATE TRIGGER always BEFORE INSERT ON workflow_events FOR EACH ROW EXECUTE FUNCTION note_insert();
ALTER TABLE workflow_events ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER never BEFORE DELETE ON workflow_events FOR EACH ROW EXECUTE FUNCTION note_insert();
ALTER TABLE workflow_events DISABLE TRIGGER never;
CREATE ROLE regress_plain_reader;
GRANT SELECT ON workflow_events TO regress_plain_reader;
GRANT UPDATE (payload) ON workflow_events TO regress_plain_reader WITH GRANT OPTION;
ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY reads ON workflow_events FOR SELECT TO regress_plain_reader USING (type <> 'secret');
CREATE POLICY everything ON workflow_events USING (true);
COMMENT ON POLICY reads ON workflow_events IS 'a policy';
CREATE VIEW latest WITH (security_barrier) AS SELECT id, type FROM workflow_events WHERE ts > '2025-01-01';
GRANT SELECT ON latest TO regress_plain_reader;
CREATE VIEW latest_types AS SELECT DISTINCT type FROM latest;
SET client_min_messages = error;
CREATE PUBLICATION regress_events FOR TABLE workflow_events (id, run_id, ts, type, payload) WHERE (id <> -1);
RESET client_min_messages;
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT md5((n % 20 + 1)::text)::uuid, timestamptz '2025-01-15' + n * interval '10 days', 'node.done', jsonb_build_object('n', n)
FROM generate_series(1, 40) n;
INSERT INTO workflow_events (run_id, ts, type, payload) VALUES
    (md5('1')::uuid, '2019-06-01', 'old', '{}'), (md5('2')::uuid, '2031-12-31 23:59:59.999999+00', 'new', '{}');
CREATE TABLE before AS SELECT * FROM workflow_events;
CREATE VIEW definition AS
    SELECT format('%s %s %s', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END) AS line, 1 AS part
    FROM pg_attribute WHERE attrelid = 'workflow_events'::regclass AND attnum > 0
    UNION ALL SELECT format('%s: %s', conname, pg_get_constraintdef(oid)), 2
    FROM pg_constraint WHERE conrelid = 'workflow_events'::regclass AND contype <> 'n'
    UNION ALL SELECT format('%s, %s', pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class')), 3
    FROM pg_index WHERE indrelid = 'workflow_events'::regclass
    UNION ALL SELECT format('%s, %s', pg_get_triggerdef(oid), tgenabled), 4
    FROM pg_trigger WHERE tgrelid = 'workflow_events'::regclass AND NOT tgisinternal
    UNION ALL SELECT format('%s for %s using %s, %s', polname, polcmd, pg_get_expr(polqual, polrelid), obj_description(oid, 'pg_policy')), 5
    FROM pg_policy WHERE polrelid = 'workflow_events'::regclass
    UNION ALL SELECT format('%s, %s, %s, %s, %s, %s', relkind, replace(relacl::text, 'xtm', 'xt'), relrowsecurity, relforcerowsecurity, relreplident,
                            obj_description(oid, 'pg_class')), 6
    FROM pg_class WHERE oid = 'workflow_events'::regclass
    UNION ALL SELECT format('%s.%s: %s', attname, attacl, col_description(attrelid, attnum)), 7
    FROM pg_attribute WHERE attrelid = 'workflow_events'::regclass AND (attacl IS NOT NULL OR col_description(attrelid, attnum) IS NOT NULL)
    UNION ALL SELECT format('%s %s where %s', p.pubname, p.attnames, p.rowfilter), 8 FROM pg_publication_tables p
    UNION ALL SELECT format('id_seq of %s.%s', refobjid::regclass, attname), 9
    FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
    WHERE objid = 'workflow_events_id_seq'::regclass AND deptype = 'a';
CREATE TABLE plain AS SELECT * FROM definition;
SELECT part, line FROM plain ORDER BY part, line COLLATE "C";
SELECT step, action, reason !~ 'disk space' OR reason ~ 'free$' AS reason, locks, blockers FROM plan_workflow_events_maintenance();
SELECT check_name, status, detail, hint FROM verify_workflow_events() WHERE check_name NOT IN ('extension_version', 'worker');
---
--- Not in a transaction, and not in the background without a worker
---
BEGIN;
CALL migrate_workflow_events();
ROLLBACK;
CALL migrate_workflow_events(in_background => true);
SELECT count(*) FROM workflow_events_migration_progress;
---
--- Into partitions
---
SET pg_meshhook_events.migration_batch_rows = 7;
CALL migrate_workflow_events();
SELECT direction, phase, rows_done, queue_length, message, finished_at IS NOT NULL AS finished FROM workflow_events_migration_progress;
SELECT part, line FROM (TABLE definition EXCEPT TABLE plain) d ORDER BY part, line COLLATE "C";
SELECT part, line FROM (TABLE plain EXCEPT TABLE definition) d ORDER BY part, line COLLATE "C";
SELECT count(*) FROM (TABLE before EXCEPT ALL TABLE workflow_events) d;
SELECT count(*) FROM (TABLE workflow_events EXCEPT ALL TABLE before) d;
SELECT partition_name FROM workflow_events_partition_info WHERE partition_name < 'workflow_events_y2025m04' OR partition_name > 'workflow_events_y2031';
SELECT check_name, status, detail FROM verify_workflow_events() WHERE status <> 'ok' AND check_name <> 'worker';
SELECT pg_get_viewdef('latest') ~ 'workflow_events' AS view, reloptions, (SELECT count(*) FROM latest_types) AS types FROM pg_class WHERE relname = 'latest';
SELECT pubviaroot FROM pg_publication;
SELECT relname FROM pg_class WHERE relname ~ 'workflow_events_(old|shadow)';
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'capture';
-- An id is never given twice, a run takes its events with it, and triggers fire.
INSERT INTO workflow_events (run_id, type, payload) VALUES (md5('3')::uuid, 'after', '{}') RETURNING id, payload;
DELETE FROM workflow_runs WHERE id = md5('3')::uuid;
SELECT count(*) FROM workflow_events WHERE run_id = md5('3')::uuid;
INSERT INTO workflow_events (run_id, type, payload) VALUES (md5('3')::uuid, 'orphan', '{}');
CALL migrate_workflow_events();
---
--- And back
---
CREATE TABLE partitioned AS SELECT * FROM workflow_events;
CALL undo_workflow_events_migration();
SELECT direction, phase, message FROM workflow_events_migration_progress;
SELECT part, line FROM (TABLE definition EXCEPT TABLE plain) d ORDER BY part, line COLLATE "C";
SELECT part, line FROM (TABLE plain EXCEPT TABLE definition) d ORDER BY part, line COLLATE "C";
SELECT count(*) FROM (TABLE partitioned EXCEPT ALL TABLE workflow_events) d;
SELECT count(*) FROM (TABLE workflow_events EXCEPT ALL TABLE partitioned) d;
SELECT relname FROM pg_class WHERE relname ~ '^workflow_events_y';
INSERT INTO workflow_events (run_id, type, payload) VALUES (md5('4')::uuid, 'after', '{}') RETURNING id, payload;
CALL undo_workflow_events_migration();
---
--- What stops it is said, and it goes on
---
INSERT INTO workflow_events (run_id, ts, type, payload) VALUES (md5('4')::uuid, NULL, 'when?', '{}');
CALL migrate_workflow_events();
UPDATE workflow_events SET ts = 'infinity' WHERE ts IS NULL;
CALL migrate_workflow_events();
UPDATE workflow_events SET ts = '2025-02-03' WHERE ts = 'infinity';
SELECT meshhook_events.begin_migration('migrate', false);
UPDATE workflow_events SET ts = 'infinity' WHERE type = 'when?';
CALL migrate_workflow_events();
SELECT phase, message, hint FROM workflow_events_migration_progress;
SELECT check_name, status, detail, hint FROM verify_workflow_events() WHERE check_name = 'migration';
CALL migrate_workflow_events();
UPDATE workflow_events SET ts = '2025-02-03' WHERE ts = 'infinity';
CALL migrate_workflow_events();
SELECT phase, message FROM workflow_events_migration_progress;
SELECT count(*), count(*) FILTER (WHERE type = 'when?') AS mended FROM workflow_events;
-- The plain table holds an id once.
INSERT INTO workflow_events (id, run_id, ts, type, payload) SELECT id, run_id, ts + interval '1 day', type, payload FROM workflow_events WHERE type = 'when?';
CALL undo_workflow_events_migration();
DELETE FROM workflow_events WHERE type = 'when?' AND ts > '2025-02-03';
CALL undo_workflow_events_migration();
SELECT phase, message FROM workflow_events_migration_progress;
SELECT count(*), count(*) FILTER (WHERE type = 'when?') AS mended FROM workflow_events;
-- A migration that has not swapped the names is taken back.
SELECT meshhook_events.begin_migration('migrate', false);
SELECT meshhook_events.migration_step() AS captures;
SELECT meshhook_events.migration_step() AS builds;
SELECT meshhook_events.migration_step() AS copies;
SELECT relname, relkind FROM pg_class WHERE relname ~ 'workflow_events_(old|shadow)$';
CALL undo_workflow_events_migration();
SELECT direction, phase FROM workflow_events_migration_progress;
SELECT relname FROM pg_class WHERE relname ~ 'workflow_events_(old|shadow|y)';
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'capture';
SELECT count(*), count(*) FILTER (WHERE type = 'when?') AS mended FROM workflow_events;
-- What is left of one that nothing is known of.
CREATE TABLE workflow_events_old ();
SELECT status, detail, hint FROM verify_workflow_events() WHERE check_name = 'migration';
DROP TABLE workflow_events_old;
-- A month's name that is taken is said before anything is begun; what runs when a row is copied must be the server's own.
CREATE TABLE workflow_events_y2025m02 ();
CALL migrate_workflow_events();
DROP TABLE workflow_events_y2025m02;
CREATE FUNCTION is_fine(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE ROLE regress_plain_owner;
GRANT CREATE ON SCHEMA public TO regress_plain_owner;
GRANT SELECT, REFERENCES ON workflow_runs TO regress_plain_owner;
ALTER TABLE workflow_events OWNER TO regress_plain_owner;
ALTER TABLE workflow_events ADD CONSTRAINT fine CHECK (is_fine(type));
CALL migrate_workflow_events();
ALTER TABLE workflow_events DROP CONSTRAINT fine;
-- A rule of a view that writes the table would go on writing the old one.
CREATE RULE writes AS ON INSERT TO latest DO INSTEAD INSERT INTO workflow_events (run_id, type, payload) VALUES (NULL, new.type, '{}');
CALL migrate_workflow_events();
DROP RULE writes ON latest;
SELECT task, status, role_name = current_user AS by_me FROM meshhook_events.maintenance_log WHERE task IN ('migrate', 'undo') ORDER BY id;
DROP PUBLICATION regress_events;
SET client_min_messages = warning;
DROP OWNED BY regress_plain_owner, regress_plain_reader CASCADE;
DROP ROLE regress_plain_owner, regress_plain_reader;

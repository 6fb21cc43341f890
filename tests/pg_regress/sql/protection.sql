-- A partition is never more open than its parent: owner, privileges, row level security, replica identity.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE ROLE regress_owner;
CREATE ROLE regress_anon;
CREATE ROLE regress_authenticated;
CREATE ROLE "Regress ""Odd"" Rôle";
CREATE ROLE regress_auditor;

-- Default privileges as a hosted platform sets them: whatever is made in the schema is open to the two roles of its REST
-- interface. They hold while the extension is created and while partitions are made.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO regress_anon, regress_authenticated;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO regress_anon, regress_authenticated;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO regress_anon, regress_authenticated;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO regress_anon;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_anon;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO "Regress ""Odd"" Rôle";
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO "Regress ""Odd"" Rôle" WITH GRANT OPTION;
CREATE TABLE workflow_runs (id uuid PRIMARY KEY, owner name NOT NULL DEFAULT current_user);
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001', 'regress_authenticated'),
                                 ('00000000-0000-0000-0000-000000000002', 'somebody');
CREATE EXTENSION pg_meshhook_events;
CREATE TABLE t.roles AS SELECT * FROM unnest(ARRAY['regress_anon', 'regress_authenticated', 'Regress "Odd" Rôle']::name[]) role;
-- None may call what changes anything, nor write the policy or the ledger, nor put something into its schema.
SELECT p.oid::regprocedure AS function, role AS may_execute
FROM pg_proc p, t.roles
WHERE p.pronamespace IN ('public'::regnamespace, 'meshhook_events'::regnamespace)
  AND has_function_privilege(role, p.oid, 'EXECUTE')
  AND p.proname NOT IN ('get_workflow_events_partition_stats', 'get_workflow_run_events',
                        'explain_workflow_run_events', 'workflow_events_coverage',
                        'workflow_events_growth',
                        'begin_migration', 'run_migration', 'migration_step', 'raise_migration_failure') ORDER BY 1, 2;
-- What the procedures call is for everybody, and asks whether he may act as the owner; the procedures are not.
SET SESSION AUTHORIZATION regress_anon;
CALL migrate_workflow_events();
SELECT meshhook_events.begin_migration('migrate', false);
SELECT meshhook_events.migration_step();
RESET SESSION AUTHORIZATION;
SELECT c.oid::regclass AS relation, role, privilege
FROM pg_class c, t.roles,
     unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) privilege
WHERE c.relnamespace = 'meshhook_events'::regnamespace AND c.relkind = 'r' AND has_table_privilege(role, c.oid, privilege) ORDER BY 1, 2, 3;
SELECT c.oid::regclass AS relation, role, privilege
FROM pg_class c, t.roles, unnest('{USAGE,UPDATE}'::text[]) privilege
WHERE c.relnamespace = 'meshhook_events'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(role, c.oid, privilege) ORDER BY 1, 2, 3;
SELECT role AS may_create FROM t.roles WHERE has_schema_privilege(role, 'meshhook_events', 'CREATE');
-- Reading is left to the default privileges: a role for backups may live from them.
SELECT role AS reads_ledger FROM t.roles WHERE has_table_privilege(role, 'meshhook_events.maintenance_log', 'SELECT');
SELECT role FROM t.roles,
     unnest('{INSERT,UPDATE,DELETE}'::text[]) privilege
WHERE has_table_privilege(role, 'workflow_events_partition_info', privilege);
SET ROLE regress_anon;
SELECT t.expect('SELECT drop_old_workflow_events_partitions()');
SELECT t.expect('UPDATE meshhook_events.policy SET retention = ''1 month''');
RESET ROLE;

SELECT count(*) FROM setup_workflow_events();

--
-- Owner and privileges
--
-- What the parent grants is granted, and no more: the event log is for those whom it is granted to, and so is each partition.
REVOKE ALL ON workflow_events FROM regress_anon, "Regress ""Odd"" Rôle";
GRANT SELECT, INSERT ON workflow_events TO regress_authenticated;
REVOKE UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON workflow_events FROM regress_authenticated;
GRANT SELECT ON workflow_events TO regress_auditor WITH GRANT OPTION;
GRANT UPDATE (payload, "type") ON workflow_events TO "Regress ""Odd"" Rôle";
GRANT SELECT (id) ON workflow_events TO PUBLIC;
REVOKE TRUNCATE ON workflow_events FROM CURRENT_USER;
CREATE FUNCTION t.acl(relation regclass) RETURNS TABLE (grantee text, privilege text, grantable boolean) LANGUAGE sql AS $$
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type, a.is_grantable
FROM pg_class c, aclexplode(COALESCE(c.relacl, acldefault('r', c.relowner))) a WHERE c.oid = relation
UNION ALL
SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee)::text END, format('%s (%s)', x.privilege_type, a.attname), x.is_grantable
FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = relation
ORDER BY 1, 2
$$;
SELECT create_workflow_events_partition('2200-01-01'::date);
SELECT grantee, string_agg(privilege, ', ' ORDER BY privilege) AS privileges, bool_or(grantable) AS grantable
FROM t.acl('workflow_events_y2200m01') WHERE grantee <> current_user AND privilege <> 'MAINTAIN' GROUP BY 1 ORDER BY 1;
SELECT * FROM t.acl('workflow_events_y2200m01') EXCEPT SELECT * FROM t.acl('workflow_events');
SELECT * FROM t.acl('workflow_events') EXCEPT SELECT * FROM t.acl('workflow_events_y2200m01');
-- With another owner, whose own default privileges count then; called by a superuser and by the owner.
GRANT CREATE ON SCHEMA public TO regress_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO regress_owner;
GRANT SELECT, REFERENCES ON workflow_runs TO regress_owner;
ALTER TABLE workflow_events OWNER TO regress_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner GRANT ALL ON TABLES TO regress_anon;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner GRANT ALL ON TABLES TO PUBLIC;
SELECT create_workflow_events_partition('2200-02-01'::date);
SET ROLE regress_owner;
SELECT create_workflow_events_partition('2200-03-01'::date);
RESET ROLE;
SELECT c.relname, c.relowner::regrole,
       NOT EXISTS (SELECT * FROM t.acl(c.oid) EXCEPT SELECT * FROM t.acl('workflow_events'))
       AND NOT EXISTS (SELECT * FROM t.acl('workflow_events') EXCEPT SELECT * FROM t.acl(c.oid)) AS same_privileges
FROM pg_class c WHERE relname ~ '^workflow_events_y2200m0[23]$' ORDER BY 1;

--
-- Row level security
--
ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY;
-- Policies for all and single commands, permissive and restrictive, for everybody and for named roles; a subquery that
-- names the event log's own column, as it must where the other table has one of the same name.
CREATE POLICY reads ON workflow_events FOR SELECT
USING (EXISTS (SELECT FROM workflow_runs r WHERE r.id = workflow_events.run_id AND r.owner = CURRENT_USER));
CREATE POLICY "Adds ""its"" own" ON workflow_events FOR INSERT TO regress_authenticated, "Regress ""Odd"" Rôle"
WITH CHECK (run_id IN (SELECT id FROM workflow_runs WHERE owner = CURRENT_USER));
CREATE POLICY updates ON workflow_events FOR UPDATE TO "Regress ""Odd"" Rôle" USING (type <> 'final') WITH CHECK (payload <> 'null');
CREATE POLICY deletes ON workflow_events AS RESTRICTIVE FOR DELETE USING (ts > '2000-01-01 00:00:00+00');
CREATE POLICY everything ON workflow_events TO regress_auditor USING (true);
CREATE VIEW t.policies AS
SELECT polrelid, polname, polcmd, polpermissive,
       (SELECT array_agg(CASE o WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(o)::text END) FROM unnest(polroles) o) AS roles,
       regexp_replace(pg_get_expr(polqual, polrelid), 'workflow_events_y\d+m\d+', 'workflow_events', 'g') AS qual,
       regexp_replace(pg_get_expr(polwithcheck, polrelid), 'workflow_events_y\d+m\d+', 'workflow_events', 'g') AS with_check
FROM pg_policy;
SELECT create_workflow_events_partition('2200-04-01'::date);
SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname ~ '^workflow_events(_y2200m0[34])?$' ORDER BY 1;
SELECT polname, polcmd, polpermissive, roles FROM t.policies WHERE polrelid = 'workflow_events_y2200m04'::regclass ORDER BY 1;
SELECT polname, qual, with_check FROM t.policies WHERE polrelid = 'workflow_events_y2200m04'::regclass
EXCEPT SELECT polname, qual, with_check FROM t.policies WHERE polrelid = 'workflow_events'::regclass;
SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = 'workflow_events_y2200m04'::regclass AND polname = 'reads';
-- Asked directly, past the event log, a partition shows what the event log shows.
ALTER TABLE workflow_events FORCE ROW LEVEL SECURITY;
SELECT create_workflow_events_partition('2200-05-01'::date);
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = 'workflow_events_y2200m05';
INSERT INTO workflow_events (id, run_id, ts, type, payload)
SELECT row_number() OVER (), id, at, 'x', '{}'
FROM workflow_runs, unnest('{2200-04-15 00:00:00+00, 2200-05-15 00:00:00+00}'::timestamptz[]) at;
GRANT SELECT ON workflow_runs TO regress_authenticated, regress_auditor;
SET ROLE regress_authenticated;
SELECT (SELECT count(*) FROM workflow_events) AS log, (SELECT count(*) FROM workflow_events_y2200m04) AS april,
       (SELECT count(*) FROM workflow_events_y2200m05) AS may;
SELECT t.expect($$INSERT INTO workflow_events_y2200m05 (id, run_id, ts, type, payload)
VALUES (9, '00000000-0000-0000-0000-000000000002', '2200-05-02 00:00:00+00', 'x', '{}')$$);
SELECT t.expect($$DELETE FROM workflow_events_y2200m05$$);
SET ROLE regress_auditor;
SELECT (SELECT count(*) FROM workflow_events) AS log, (SELECT count(*) FROM workflow_events_y2200m04) AS april;
SET ROLE regress_owner;
SELECT (SELECT count(*) FROM workflow_events) AS log, (SELECT count(*) FROM workflow_events_y2200m05) AS may;
SET ROLE regress_anon;
SELECT t.expect('SELECT count(*) FROM workflow_events_y2200m05');
SELECT t.expect('SELECT count(id) FROM workflow_events_y2200m05');
RESET ROLE;
-- A policy about whole rows.
CREATE POLICY whole_rows ON workflow_events FOR SELECT TO regress_auditor USING (workflow_events IS NOT NULL AND tableoid IS NOT NULL);
BEGIN;
SELECT create_workflow_events_partition('2200-08-01'::date);
SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = 'workflow_events_y2200m08'::regclass AND polname = 'whole_rows';
ROLLBACK;
DROP POLICY whole_rows ON workflow_events;
-- Columns once dropped shift the numbers of those behind them.
ALTER TABLE workflow_events NO FORCE ROW LEVEL SECURITY;
ALTER TABLE workflow_events ADD COLUMN gone int, ADD COLUMN tenant text;
ALTER TABLE workflow_events DROP COLUMN gone;
CREATE POLICY by_tenant ON workflow_events AS RESTRICTIVE FOR SELECT TO regress_authenticated
USING (tenant IS NOT DISTINCT FROM current_setting('app.tenant', true)
       AND EXISTS (SELECT FROM workflow_runs r WHERE r.id = workflow_events.run_id));
SELECT create_workflow_events_partition('2200-06-01'::date);
SELECT polname, replace(pg_get_expr(polqual, polrelid), E'\n', ' ') AS qual
FROM pg_policy WHERE polrelid = 'workflow_events_y2200m06'::regclass AND polname IN ('reads', 'by_tenant') ORDER BY 1;
INSERT INTO workflow_events (id, run_id, ts, type, payload, tenant)
SELECT 20, id, '2200-06-15 00:00:00+00', 'x', '{}', 'a' FROM workflow_runs WHERE owner = 'regress_authenticated';
SET ROLE regress_authenticated;
SET app.tenant = 'a';
SELECT count(*) FROM workflow_events_y2200m06;
SET app.tenant = 'b';
SELECT count(*) FROM workflow_events_y2200m06;
RESET app.tenant;
RESET ROLE;
-- A policy of a partition depends on its columns like any other.
DROP POLICY by_tenant ON workflow_events;
DROP POLICY by_tenant ON workflow_events_y2200m06;
ALTER TABLE workflow_events DROP COLUMN tenant;
-- A policy that can't be copied, because the owner may not use what it names: the partition is then less open than the
-- event log, never more, also where the policy was there to restrict others; the caller is told.
CREATE SCHEMA hidden;
CREATE FUNCTION hidden.allowed() RETURNS boolean STABLE LANGUAGE sql AS 'SELECT false';
CREATE POLICY fence ON workflow_events AS RESTRICTIVE FOR SELECT TO regress_auditor USING (hidden.allowed());
CREATE POLICY gate ON workflow_events FOR SELECT TO regress_authenticated USING (hidden.allowed());
\set VERBOSITY sqlstate
SELECT create_workflow_events_partition('2200-07-01'::date);
\set VERBOSITY default
SELECT status, jsonb_array_length(details->'notes') AS notes FROM meshhook_events.maintenance_log ORDER BY id DESC LIMIT 1;
INSERT INTO workflow_events (id, run_id, ts, type, payload) SELECT 30 + row_number() OVER (), id, '2200-07-15 00:00:00+00', 'x', '{}' FROM workflow_runs;
GRANT USAGE ON SCHEMA hidden TO regress_auditor, regress_authenticated;
SET ROLE regress_auditor;
SELECT (SELECT count(*) FROM workflow_events WHERE ts >= '2200-07-01 00:00:00+00') AS log, (SELECT count(*) FROM workflow_events_y2200m07) AS july;
SET ROLE regress_authenticated;
SELECT (SELECT count(*) FROM workflow_events WHERE ts >= '2200-07-01 00:00:00+00') AS log, (SELECT count(*) FROM workflow_events_y2200m07) AS july;
RESET ROLE;
DROP POLICY fence ON workflow_events;
DROP POLICY gate ON workflow_events;
DROP SCHEMA hidden CASCADE;

--
-- Replica identity, storage, triggers
--
ALTER TABLE workflow_events REPLICA IDENTITY FULL;
SELECT create_workflow_events_partition('2201-01-01'::date);
ALTER TABLE workflow_events REPLICA IDENTITY NOTHING;
SELECT create_workflow_events_partition('2201-02-01'::date);
CREATE UNIQUE INDEX by_ts ON workflow_events (ts, id);
ALTER TABLE workflow_events REPLICA IDENTITY USING INDEX by_ts;
SELECT create_workflow_events_partition('2201-03-01'::date);
ALTER TABLE workflow_events REPLICA IDENTITY DEFAULT;
SELECT create_workflow_events_partition('2201-04-01'::date);
SELECT c.relname, c.relreplident, i.indexrelid::regclass AS index
FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident
WHERE relname ~ '^workflow_events_y2201m0\d$' ORDER BY 1;
DROP INDEX by_ts;
-- Attributes of columns and constraints come along; triggers of the event log fire for its partitions.
ALTER TABLE workflow_events ADD CONSTRAINT type_is_given CHECK (type <> '');
ALTER TABLE workflow_events ALTER payload SET STORAGE EXTERNAL;
CREATE FUNCTION t.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% on %', TG_OP, TG_TABLE_NAME;
    RETURN NULL;
END $$;
CREATE TRIGGER noted AFTER INSERT ON workflow_events FOR EACH ROW EXECUTE FUNCTION t.note();
SELECT create_workflow_events_partition('2201-05-01'::date);
SELECT attstorage FROM pg_attribute WHERE attrelid = 'workflow_events_y2201m05'::regclass AND attname = 'payload';
SELECT conname, coninhcount, conislocal FROM pg_constraint WHERE conrelid = 'workflow_events_y2201m05'::regclass AND contype = 'c';
INSERT INTO workflow_events (run_id, ts, type, payload) VALUES ('00000000-0000-0000-0000-000000000001', '2201-05-05 00:00:00+00', 'x', '{}');
-- A publication of the event log publishes its partitions.
SET client_min_messages = error;
CREATE PUBLICATION regress_events FOR TABLE workflow_events;
RESET client_min_messages;
SELECT create_workflow_events_partition('2201-06-01'::date);
SELECT count(*) FROM pg_publication_tables WHERE pubname = 'regress_events' AND tablename = 'workflow_events_y2201m06';
SELECT reltablespace = 0 AS no_tablespace, relpersistence, reloptions FROM pg_class WHERE relname = 'workflow_events_y2201m06';

--
-- Partitions that exist when the event log is closed later
--
CALL t.clear();
DROP PUBLICATION regress_events;
ALTER TABLE workflow_events DISABLE ROW LEVEL SECURITY;
SELECT create_workflow_events_partition('2202-01-01'::date), create_workflow_events_partition('2202-02-01'::date),
       create_workflow_events_partition('2202-03-01'::date);
DROP POLICY reads ON workflow_events_y2202m01;
DROP POLICY "Adds ""its"" own" ON workflow_events_y2202m01;
DROP POLICY updates ON workflow_events_y2202m01;
DROP POLICY deletes ON workflow_events_y2202m01;
DROP POLICY everything ON workflow_events_y2202m01;
ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE workflow_events FORCE ROW LEVEL SECURITY;
-- One is in line already, one has policies of its own, one has none.
ALTER TABLE workflow_events_y2202m02 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY everything ON workflow_events_y2202m03;
CREATE POLICY own ON workflow_events_y2202m03 USING (false);
-- One differs in what is left to people: owner, privileges, replica identity.
SELECT create_workflow_events_partition('2202-04-01'::date), create_workflow_events_partition('2202-05-01'::date);
GRANT INSERT ON workflow_events_y2202m04 TO regress_anon;
ALTER TABLE workflow_events_y2202m05 OWNER TO postgres;
ALTER TABLE workflow_events_y2202m05 REPLICA IDENTITY FULL;
SELECT count(*) FROM maintain_workflow_events_partitions();
SELECT check_name, status, t.mask(detail) AS detail, hint FROM verify_workflow_events() WHERE check_name = 'protection';
SELECT t.mask(object_name) AS object, status, t.mask(detail) AS detail, hint FROM setup_workflow_events() WHERE status IN ('repaired', 'differs');
SELECT relname, relrowsecurity, relforcerowsecurity, (SELECT array_agg(polname::text ORDER BY polname) FROM pg_policy WHERE polrelid = c.oid) AS policies
FROM pg_class c WHERE relname ~ '^workflow_events_y2202m\d\d$' ORDER BY 1;
SELECT check_name, status, t.mask(detail) AS detail FROM verify_workflow_events() WHERE check_name = 'protection';
-- Nothing left to repair: the answer is the same, and nothing is written.
SELECT count(*) AS log_before FROM meshhook_events.maintenance_log \gset
SELECT object_name, status FROM setup_workflow_events() WHERE status IN ('repaired', 'made');
SELECT count(*) = :log_before AS nothing_logged FROM meshhook_events.maintenance_log;

-- An event log whose privileges are the built-in ones, and default privileges that open more.
DROP TABLE workflow_events;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM regress_anon, regress_authenticated;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM "Regress ""Odd"" Rôle";
SELECT count(*) FROM setup_workflow_events();
SELECT relacl FROM pg_class WHERE oid = 'workflow_events'::regclass;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO regress_anon;
SELECT create_workflow_events_partition('2200-01-01'::date);
SELECT * FROM t.acl('workflow_events_y2200m01') WHERE grantee <> current_user;
SELECT has_table_privilege('regress_anon', 'workflow_events_y2200m01', 'SELECT') AS anon_reads;
SELECT status FROM verify_workflow_events() WHERE check_name = 'protection';

\c :home
DROP DATABASE regress_events WITH (FORCE);
DROP ROLE regress_owner, regress_anon, regress_authenticated, "Regress ""Odd"" Rôle", regress_auditor;

-- The surface of the extension: every member with its form, its settings, its comment, and who may use it.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
CREATE EXTENSION pg_meshhook_events;

-- Everything that belongs to it; the row types of relations count as members in some versions only.
SELECT pg_describe_object(classid, objid, objsubid) AS member
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid <> 'pg_type'::regclass
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_meshhook_events')
ORDER BY 1;

SELECT extname, extnamespace::regnamespace AS schema, extrelocatable AS relocatable,
       ARRAY(SELECT oid::regclass FROM unnest(extconfig) oid) AS dumped_with_rows,
       extcondition AS conditions
FROM pg_extension WHERE extname = 'pg_meshhook_events';
SELECT superuser, trusted, relocatable, schema, requires
FROM pg_available_extension_versions WHERE name = 'pg_meshhook_events' AND installed;

-- The functions.
CREATE VIEW t.functions AS
SELECT p.*, p.pronamespace::regnamespace || '.' || p.proname AS function
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
WHERE e.extname = 'pg_meshhook_events';
\x on
SELECT function, pg_get_function_arguments(oid) AS arguments, pg_get_function_result(oid) AS result
FROM t.functions ORDER BY 1, 2;
\x off
-- None that takes an argument is strict: a NULL that must not be is refused with a word, not answered with NULL.
-- None is SECURITY DEFINER.
SELECT function, pg_get_function_identity_arguments(oid) AS arguments,
       CASE provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END AS volatility,
       CASE proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END AS parallel,
       proisstrict AS strict, prosecdef AS security_definer, proretset AS set
FROM t.functions ORDER BY 1, 2;
SELECT lanname, prokind, proconfig, count(*)
FROM t.functions f JOIN pg_language l ON l.oid = f.prolang GROUP BY 1, 2, 3;

-- Who may execute them: of the others, whoever is granted it.
SELECT function, pg_get_function_identity_arguments(oid) AS arguments,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE 'the owner' END AS may_execute
FROM t.functions CROSS JOIN LATERAL aclexplode(COALESCE(proacl, acldefault('f', proowner))) a
ORDER BY 1, 2, 3;

-- The tables and the view.
CREATE VIEW t.relations AS
SELECT c.* FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
WHERE e.extname = 'pg_meshhook_events';
SELECT r.oid::regclass AS relation, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS not_null,
       CASE a.attidentity WHEN '' THEN pg_get_expr(d.adbin, d.adrelid) ELSE 'identity' END AS default
FROM t.relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE r.relkind IN ('r', 'v') ORDER BY r.relname, a.attnum;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
\x on
-- From 18 on, NOT NULL is a constraint too; the table above has it.
SELECT conrelid::regclass AS table, conname AS constraint, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE conrelid IN (SELECT oid FROM t.relations) AND contype <> 'n' ORDER BY 1, 2;
\x off
RESET TimeZone;
RESET DateStyle;
SELECT r.oid::regclass AS relation, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee,
       string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS privileges
FROM t.relations r CROSS JOIN LATERAL aclexplode(r.relacl) a
WHERE a.grantee <> r.relowner GROUP BY 1, 2 ORDER BY 1, 2;
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE 'the owner' END AS grantee,
       string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS privileges_on_schema
FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
WHERE n.nspname = 'meshhook_events' GROUP BY 1 ORDER BY 1;
-- The view reads catalogs that are open to all, and nothing as its owner.
SELECT reloptions AS view_options FROM t.relations WHERE relkind = 'v';

-- What has no comment: nothing but the sequence of the identity column.
SELECT pg_describe_object(classid, objid, 0) AS without_comment
FROM pg_depend d
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid <> 'pg_type'::regclass
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_meshhook_events')
  AND obj_description(objid, classid::regclass::name) IS NULL
UNION ALL
SELECT format('%s.%s', r.oid::regclass, a.attname)
FROM t.relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND r.relkind IN ('r', 'v')
WHERE col_description(r.oid, a.attnum) IS NULL ORDER BY 1;

-- The install script inserts no row, which a dump's would collide with, and makes no event log.
SELECT (SELECT count(*) FROM meshhook_events.policy) AS policy_rows,
       (SELECT count(*) FROM meshhook_events.maintenance_log) AS log_rows,
       to_regclass('workflow_events') AS event_log;

-- The event log and its partitions are no members either: a dump takes them, and DROP EXTENSION leaves them.
SELECT count(*) > 0 AS set_up FROM setup_workflow_events();
SELECT count(*) AS members
FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND classid = 'pg_class'::regclass
  AND objid IN (SELECT oid FROM pg_class WHERE relname LIKE 'workflow\_events%' AND relkind IN ('r', 'p', 'S', 'i', 'I'));

-- The settings.
SELECT name, setting, unit, min_val, max_val, context, short_desc
FROM pg_settings WHERE name LIKE 'pg_meshhook_events.%' AND name NOT LIKE '%lock_timeout' ORDER BY name COLLATE "C";
SELECT name, boot_val, unit, min_val, max_val, context
FROM pg_settings WHERE name = 'pg_meshhook_events.lock_timeout';
-- The prefix is reserved: a slip of the pen is an error.
SET pg_meshhook_events.lock_timout = 5;

\c :home
DROP DATABASE regress_events WITH (FORCE);

-- What the tests share: a database of their own, and helpers that keep the date of the day out of the output.
\set ECHO none
-- Names and bounds are written relative to the current month of UTC: {1} is the name of next month's partition, <1>
-- the instant at which next month begins, both in what is run and in what is shown.
\set home :DBNAME
\set SHOW_CONTEXT never
\pset null (null)
\pset format unaligned
\pset fieldsep ' | '
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_events WITH (FORCE);
CREATE DATABASE regress_events;
ALTER DATABASE regress_events SET lc_messages = 'C';
-- A slow machine must not fail the tests; what the limit is for is tested elsewhere.
ALTER DATABASE regress_events SET pg_meshhook_events.lock_timeout = '10s';
ALTER DATABASE regress_events SET deadlock_timeout = '1min';
\c regress_events
CREATE SCHEMA t;
GRANT USAGE ON SCHEMA t TO PUBLIC;

-- The first day of the month n months from now.
CREATE FUNCTION t.month(n int) RETURNS date STABLE LANGUAGE sql AS
$$SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => n))::date$$;

-- The same as an instant.
CREATE FUNCTION t.start(n int) RETURNS timestamptz STABLE LANGUAGE sql AS
$$SELECT t.month(n)::timestamp AT TIME ZONE 'UTC'$$;

-- The name of that month's partition.
CREATE FUNCTION t.part(n int) RETURNS text STABLE LANGUAGE sql AS
$$SELECT to_char(t.month(n), '"workflow_events_y"YYYY"m"MM')$$;

CREATE FUNCTION t.fill(sql text) RETURNS text STABLE LANGUAGE plpgsql AS $$
DECLARE
    n text;
BEGIN
    FOR n IN SELECT DISTINCT m[1] FROM regexp_matches(sql, '[{<](-?\d+)[}>]', 'g') m LOOP
        sql := replace(sql, '{' || n || '}', t.part(n::int));
        sql := replace(sql, '<' || n || '>', t.month(n::int) || ' 00:00:00+00');
    END LOOP;
    RETURN sql;
END $$ SET DateStyle = 'ISO, YMD';

CREATE FUNCTION t.mask(shown text) RETURNS text STABLE LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN -40..130 LOOP
        shown := replace(shown, t.part(n), '{' || n || '}');
        shown := replace(shown, t.month(n) || ' 00:00:00+00', '<' || n || '>');
        shown := replace(shown, t.month(n)::text, '<' || n || '>');
        shown := replace(shown, to_char(t.month(n), 'YYYY-MM-'), '<' || n || '>-');
    END LOOP;
    RETURN shown;
END $$ SET DateStyle = 'ISO, YMD';

CREATE PROCEDURE t.run(sql text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE t.fill(sql);
END $$;

-- What a statement gives: its rows, or its error with SQLSTATE, DETAIL and HINT.
CREATE FUNCTION t.expect(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
    shown text;
    gave_rows boolean := false;
BEGIN
    sql := rtrim(t.fill(sql), E'; \n');
    BEGIN
        IF sql ~* '^\s*(select|table|with|values)\M' THEN
            FOR shown IN EXECUTE format(
                'SELECT (SELECT string_agg(COALESCE(v, ''(null)''), '' | '' ORDER BY n) '
                'FROM json_each_text(row_to_json(x)) WITH ORDINALITY j (k, v, n)) FROM (%s) x', sql) LOOP
                RETURN NEXT t.mask(shown);
                gave_rows := true;
            END LOOP;
            IF NOT gave_rows THEN
                RETURN NEXT 'no rows';
            END IF;
        ELSE
            EXECUTE sql;
            RETURN NEXT 'done';
        END IF;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN NEXT t.mask(SQLSTATE || ': ' || message);
        IF detail <> '' THEN
            RETURN NEXT t.mask('  DETAIL: ' || detail);
        END IF;
        IF hint <> '' THEN
            RETURN NEXT t.mask('  HINT: ' || hint);
        END IF;
    END;
END $$;

-- The attached partitions in the order of their ranges.
CREATE FUNCTION t.partitions(parent regclass DEFAULT to_regclass('workflow_events')) RETURNS TABLE (partition text, bound text)
STABLE LANGUAGE sql SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
    SELECT t.mask(c.relname), t.mask(regexp_replace(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES ', ''))
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = parent
    ORDER BY pg_get_expr(c.relpartbound, c.oid) COLLATE "C"
$$;

-- Drops all partitions.
CREATE PROCEDURE t.clear() LANGUAGE plpgsql AS $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'workflow_events'::regclass LOOP
        EXECUTE format('DROP TABLE %s CASCADE', partition);
    END LOOP;
END $$;

-- Everything that a function of the extension could change, as one value.
CREATE FUNCTION t.state() RETURNS text STABLE LANGUAGE sql AS $$
    SELECT md5(string_agg(line, E'\n' ORDER BY line COLLATE "C")) FROM (
        SELECT concat_ws(' ', 'relation', oid, relnamespace::regnamespace, relname, relkind, relowner, relacl,
                         relispartition, relrowsecurity, relforcerowsecurity, relreplident, relpartbound)
        FROM pg_class WHERE relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace,
                                                 'pg_toast'::regnamespace)
        UNION ALL SELECT concat_ws(' ', 'inherits', inhrelid, inhparent, inhdetachpending) FROM pg_inherits
        UNION ALL SELECT concat_ws(' ', 'constraint', oid, conrelid, conname, contype) FROM pg_constraint
        UNION ALL SELECT concat_ws(' ', 'policy', oid, polrelid, polname) FROM pg_policy
    ) lines (line)
$$;
\set ECHO all

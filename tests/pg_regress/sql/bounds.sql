-- Bounds: months begin at midnight of the policy's time zone, whatever the session's zone and style of dates.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
CREATE EXTENSION pg_meshhook_events;
SELECT count(*) FROM setup_workflow_events();
CALL t.clear();

-- The bounds of a partition as the catalog has them, in UTC; and of all partitions, whether they follow each other.
CREATE FUNCTION t.bound(partition regclass) RETURNS text LANGUAGE sql SET TimeZone = 'UTC' SET DateStyle = 'ISO' AS
$$SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = partition$$;
CREATE VIEW t.ranges AS
SELECT c.relname, (regexp_match(t.bound(c.oid), 'FROM \(''(.*?)''\)'))[1]::timestamptz AS lower,
       (regexp_match(t.bound(c.oid), 'TO \(''(.*?)''\)'))[1]::timestamptz AS upper
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'workflow_events'::regclass;
CREATE VIEW t.seams AS
SELECT count(*) FILTER (WHERE upper < next) AS gaps, count(*) FILTER (WHERE upper > next) AS overlaps
FROM (SELECT upper, lead(lower) OVER (ORDER BY lower) AS next FROM t.ranges) r;

--
-- The session's settings
--
-- Zones with whole, half and quarter hours, on both sides of the date line, with and without clock changes, with changes
-- at midnight; abbreviations, POSIX forms and plain offsets. Each month is made in a session of its own kind, once with a
-- date and once with an instant of that month.
CREATE TABLE t.zones (n int GENERATED ALWAYS AS IDENTITY (START 0 MINVALUE 0), zone text);
INSERT INTO t.zones (zone) SELECT unnest(ARRAY[
    'UTC', 'Pacific/Kiritimati', 'Etc/GMT+12', 'Pacific/Pago_Pago', 'Pacific/Apia', 'Pacific/Chatham', 'Pacific/Auckland',
    'Pacific/Marquesas', 'Pacific/Norfolk', 'Pacific/Honolulu', 'Asia/Kathmandu', 'Asia/Kolkata', 'Asia/Tehran', 'Asia/Kabul',
    'Asia/Yangon', 'Asia/Pyongyang', 'Asia/Tokyo', 'Asia/Shanghai', 'Asia/Beirut', 'Asia/Gaza', 'Asia/Vladivostok',
    'Australia/Eucla', 'Australia/Lord_Howe', 'Australia/Adelaide', 'Antarctica/Troll', 'Antarctica/Casey', 'Africa/Cairo',
    'Africa/Casablanca', 'Africa/Monrovia', 'Europe/London', 'Europe/Berlin', 'Europe/Dublin', 'Europe/Moscow',
    'Atlantic/Azores', 'America/New_York', 'America/St_Johns', 'America/Sao_Paulo', 'America/Asuncion', 'America/Havana',
    'America/Caracas', 'America/Nuuk', 'America/Scoresbysund', 'Europe/Paris', '<+14:30>-14:30', '-15:59', '15:59',
    'EST5EDT', 'Etc/GMT-14']);
CREATE TABLE t.styles (n int GENERATED ALWAYS AS IDENTITY (START 0 MINVALUE 0), datestyle text, intervalstyle text);
INSERT INTO t.styles (datestyle, intervalstyle)
SELECT d || ', ' || o, i FROM unnest(ARRAY['ISO', 'SQL', 'Postgres', 'German']) d, unnest(ARRAY['DMY', 'MDY', 'YMD']) o,
    unnest(ARRAY['postgres', 'sql_standard', 'iso_8601']) i;
SELECT (SELECT count(*) FROM t.zones) AS zones, (SELECT count(*) FROM t.styles) AS styles;
CREATE TABLE t.made (zone text, form text, month date, name text);
SELECT format('SET TimeZone = %L; SET DateStyle = %L; SET IntervalStyle = %s; '
              'INSERT INTO t.made VALUES (%1$L, ''date'', DATE %4$L, create_workflow_events_partition(DATE %4$L)); '
              'INSERT INTO t.made VALUES (%1$L, ''timestamptz'', DATE %5$L, create_workflow_events_partition(timestamptz ''%5$s 00:00:00+00''))',
              zone, datestyle, intervalstyle,
              to_char(date '2200-01-01' + make_interval(months => 2 * z.n), 'YYYY-MM-DD'),
              to_char(date '2200-01-01' + make_interval(months => 2 * z.n + 1), 'YYYY-MM-DD'))
FROM t.zones z JOIN t.styles s ON s.n = z.n % (SELECT count(*) FROM t.styles) ORDER BY z.n
\set ECHO none
\gexec
\set ECHO all
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
SELECT form, count(*) AS made, count(*) FILTER (WHERE name = to_char(month, '"workflow_events_y"YYYY"m"MM')) AS well_named,
       count(*) FILTER (WHERE lower = month::timestamp AT TIME ZONE 'UTC' AND upper = (month + interval '1 month') AT TIME ZONE 'UTC') AS exact
FROM t.made JOIN t.ranges ON relname = name GROUP BY 1 ORDER BY 1;
SELECT * FROM t.seams;
-- The same month asked for in each of these sessions is one month: the first call makes it, the others find it.
TRUNCATE t.made;
SELECT format('SET TimeZone = %L; SET DateStyle = %L; '
              'INSERT INTO t.made VALUES (%1$L, ''date'', DATE ''2250-03-31'', create_workflow_events_partition(DATE ''2250-03-31'')); '
              'INSERT INTO t.made VALUES (%1$L, ''first'', DATE ''2250-03-01'', create_workflow_events_partition(timestamptz ''2250-03-01 00:00:00+00'')); '
              'INSERT INTO t.made VALUES (%1$L, ''last'', DATE ''2250-03-31'', create_workflow_events_partition(timestamptz ''2250-03-31 23:59:59.999999+00''))',
              zone, datestyle)
FROM t.zones z JOIN t.styles s ON s.n = z.n % (SELECT count(*) FROM t.styles) ORDER BY z.n
\set ECHO none
\gexec
\set ECHO all
RESET TimeZone;
RESET DateStyle;
SELECT form, count(*), min(name), max(name) FROM t.made GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM t.ranges WHERE lower >= '2250-01-01 00:00:00+00';
SELECT t.bound('workflow_events_y2250m03');
-- What the database or a role has set matters as little.
ALTER DATABASE regress_events SET TimeZone = 'Pacific/Kiritimati';
ALTER ROLE CURRENT_USER IN DATABASE regress_events SET DateStyle = 'German';
\c regress_events
SET TimeZone = 'Pacific/Kiritimati';
SELECT create_workflow_events_partition('2250-05-01'::date);
SELECT t.bound('workflow_events_y2250m05');
-- An instant is named in the policy's zone, not in the session's: this is still May in UTC.
SELECT create_workflow_events_partition('2250-06-01 01:00:00+14'::timestamptz);
-- A timestamp without a zone becomes an instant as the session understands it.
SELECT create_workflow_events_partition('2250-06-01 13:59:59'::timestamp);
SELECT create_workflow_events_partition('2250-06-01 14:00:00'::timestamp);
ALTER ROLE CURRENT_USER IN DATABASE regress_events RESET DateStyle;
ALTER DATABASE regress_events RESET TimeZone;
\c regress_events

--
-- The policy's time zone
--
CALL t.clear();
UPDATE meshhook_events.policy SET time_zone = 'America/New_York';
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
-- Local midnight, before and after the clocks change, in a past whose rules are known.
SELECT create_workflow_events_partition((date '2024-01-15' + make_interval(months => n))::date) FROM generate_series(0, 11) n;
SELECT relname, lower, upper, upper - lower AS length FROM t.ranges ORDER BY lower;
SELECT * FROM t.seams;
SELECT bool_and(lower AT TIME ZONE 'America/New_York' = date_trunc('month', lower AT TIME ZONE 'America/New_York')) AS at_midnight FROM t.ranges;
-- An instant belongs to the month that the clock on the wall shows there.
SELECT create_workflow_events_partition('2024-03-01 04:59:59+00'::timestamptz);
SELECT create_workflow_events_partition('2024-03-01 05:00:00+00'::timestamptz);
-- Statistics give the days of that zone.
SELECT start_date, end_date FROM get_workflow_events_partition_stats() LIMIT 3;
CALL t.clear();
UPDATE meshhook_events.policy SET time_zone = 'Asia/Kolkata';
SELECT create_workflow_events_partition(date '2024-01-31'), create_workflow_events_partition(date '2024-02-01');
SELECT relname, lower, upper FROM t.ranges ORDER BY lower;
-- A midnight that doesn't exist, because the clocks go forward at it, and one that comes twice.
CALL t.clear();
UPDATE meshhook_events.policy SET time_zone = 'America/Asuncion';
SELECT create_workflow_events_partition(date '2023-09-01'), create_workflow_events_partition(date '2023-10-01');
SELECT relname, lower, upper, lower AT TIME ZONE 'America/Asuncion' AS local FROM t.ranges ORDER BY lower;
CALL t.clear();
UPDATE meshhook_events.policy SET time_zone = 'America/Havana';
SELECT create_workflow_events_partition(date '2020-10-01'), create_workflow_events_partition(date '2020-11-01');
SELECT relname, lower, upper, lower AT TIME ZONE 'America/Havana' AS local FROM t.ranges ORDER BY lower;
SELECT * FROM t.seams;
-- A zone without summer time, east of UTC though its name has a minus.
CALL t.clear();
UPDATE meshhook_events.policy SET time_zone = 'Etc/GMT-5';
SELECT create_workflow_events_partition(date '2024-02-01');
SELECT relname, lower, upper FROM t.ranges ORDER BY lower;

--
-- Changing the zone of a set that exists
--
-- Which months these are depends on the date of the day, and for some hours a month on the zone: only what must hold is shown.
CALL t.clear();
UPDATE meshhook_events.policy SET time_zone = 'UTC';
SELECT count(*) FROM maintain_workflow_events_partitions();
UPDATE meshhook_events.policy SET time_zone = 'America/New_York', premake = 4;
SELECT count(*) > 0 AS made FROM maintain_workflow_events_partitions();
SELECT * FROM t.seams;
UPDATE meshhook_events.policy SET time_zone = 'Asia/Kolkata', premake = 6;
SELECT count(*) > 0 AS made FROM maintain_workflow_events_partitions();
SELECT * FROM t.seams;
UPDATE meshhook_events.policy SET time_zone = 'Pacific/Kiritimati', premake = 7;
SELECT count(*) > 0 AS made FROM maintain_workflow_events_partitions();
SELECT * FROM t.seams;
SELECT count(*) AS made_again FROM maintain_workflow_events_partitions();
SELECT min(lower) <= now() AS holds_now,
       max(upper) >= (date_trunc('month', now() AT TIME ZONE 'Pacific/Kiritimati') + interval '8 months') AT TIME ZONE 'Pacific/Kiritimati' AS holds_all
FROM t.ranges;
-- A month that the change has left in parts is not to be had whole.
SELECT count(*) > 0 AS parts FROM t.ranges WHERE relname ~ '_p\d+$';
SELECT check_name, status FROM verify_workflow_events() WHERE check_name = 'coverage';

\c :home
DROP DATABASE regress_events WITH (FORCE);

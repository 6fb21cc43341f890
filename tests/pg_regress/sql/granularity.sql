-- Weeks and days, and changes from one granularity to another; sizes and growth of partitions.
\getenv srcdir PG_ABS_SRCDIR
\set tools :srcdir '/include/tools.sql'
\i :tools

CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
CREATE EXTENSION pg_meshhook_events;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';

-- Each partition with what it holds; how they follow each other; those from now on, whose names are as they should be.
CREATE VIEW t.ranges AS
SELECT c.relname::text AS name,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.*?)''\)'))[1]::timestamptz AS lower,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(.*?)''\)'))[1]::timestamptz AS upper
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass('workflow_events');
CREATE VIEW t.seams AS
SELECT count(*) FILTER (WHERE upper < next) AS gaps, count(*) FILTER (WHERE upper > next) AS overlaps
FROM (SELECT upper, lead(lower) OVER (ORDER BY lower) AS next FROM t.ranges) r;
CREATE VIEW t.kinds AS
SELECT CASE WHEN name ~ '_p\d+$' THEN 'part' ELSE unit END AS kind, count(*) AS partitions,
       bool_and(CASE WHEN name ~ '_p\d+$' THEN name ~ ('^' || expected || '_p1$') AND upper < lower + ('1 ' || unit)::interval
                     ELSE name = expected AND lower = date_trunc(unit, lower) AND upper = lower + ('1 ' || unit)::interval END) AS as_named
FROM t.ranges,
    LATERAL (SELECT CASE WHEN name ~ 'd\d\d(_p\d+)?$' THEN 'day' WHEN name ~ 'w\d\d(_p\d+)?$' THEN 'week' ELSE 'month' END) u (unit),
    LATERAL (SELECT to_char(lower, CASE unit WHEN 'day' THEN '"workflow_events_y"YYYY"m"MM"d"DD'
                                             WHEN 'week' THEN '"workflow_events_y"IYYY"w"IW'
                                             ELSE '"workflow_events_y"YYYY"m"MM' END)) e (expected)
GROUP BY 1;
-- In periods of the policy's granularity from the current one on: where the first partition begins, where the last ends.
CREATE VIEW t.reach AS
SELECT granularity,
       CASE granularity WHEN 'month' THEN extract(year FROM age(min(lower), date_trunc('month', now()))) * 12 + extract(month FROM age(min(lower), date_trunc('month', now())))
                        ELSE extract(epoch FROM min(lower) - date_trunc(granularity, now())) / extract(epoch FROM ('1 ' || granularity)::interval) END::int AS first,
       CASE granularity WHEN 'month' THEN extract(year FROM age(max(upper), date_trunc('month', now()))) * 12 + extract(month FROM age(max(upper), date_trunc('month', now())))
                        ELSE extract(epoch FROM max(upper) - date_trunc(granularity, now())) / extract(epoch FROM ('1 ' || granularity)::interval) END::int AS "end"
FROM meshhook_events.policy, t.ranges GROUP BY granularity;
CREATE VIEW t.bad AS
SELECT check_name, status, t.mask(detail) AS detail, regexp_replace(hint, 'premake = \d+', 'premake = N') AS hint
FROM verify_workflow_events() WHERE status <> 'ok' AND check_name <> 'worker';

--
-- A log by week, and one by day
--
SELECT t.expect('SELECT * FROM workflow_events_growth()');
BEGIN;
INSERT INTO meshhook_events.policy (granularity) VALUES ('week');
SELECT status, count(*) FROM setup_workflow_events() WHERE detail = 'partition' GROUP BY 1;
SELECT * FROM t.kinds;
SELECT * FROM t.reach;
SELECT * FROM t.seams;
SELECT maintain_workflow_events_partitions();
SELECT wanted_until = date_trunc('week', now()) + interval '4 weeks' AS wanted, covered_until = wanted_until AS covered, runway_periods FROM workflow_events_coverage();
-- Six weeks do not hold what the checks try; from 30 days on the policy wants no more.
SELECT * FROM t.bad;
UPDATE meshhook_events.policy SET premake = 5;
SELECT count(*) FROM maintain_workflow_events_partitions();
SELECT * FROM t.bad WHERE check_name = 'event_in_30_days';
-- The ISO week and its year; the first and the last week whose days all lie within the years 1 to 9999.
SELECT create_workflow_events_partition('2025-01-15'::date);
SELECT create_workflow_events_partition('2025-01-19 23:59:59.999999+00'::timestamptz);
SELECT create_workflow_events_partition('2024-12-31'::date);
SELECT create_workflow_events_partition('2027-01-03'::date) = 'workflow_events_y2026w53' AS has_53_weeks;
SELECT create_workflow_events_partition('0001-01-01'::date);
SELECT create_workflow_events_partition('9999-12-26'::date);
SELECT t.expect($$SELECT create_workflow_events_partition('9999-12-27'::date)$$);
SELECT t.expect($$SELECT create_workflow_events_partition('9999-12-31 23:59:59+00'::timestamptz)$$);
SELECT name, lower, upper FROM t.ranges WHERE lower < '2025-01-20' OR lower > '9999-01-01' ORDER BY lower;
SELECT count(*) FROM t.kinds WHERE NOT as_named;
ROLLBACK;
BEGIN;
INSERT INTO meshhook_events.policy (granularity) VALUES ('day');
SELECT status, count(*) FROM setup_workflow_events() WHERE detail = 'partition' GROUP BY 1;
SELECT * FROM t.kinds;
SELECT * FROM t.reach;
SELECT * FROM t.seams;
SELECT wanted_until = date_trunc('day', now()) + interval '4 days' AS wanted, covered_until = wanted_until AS covered, runway_periods FROM workflow_events_coverage();
SELECT * FROM t.bad;
SELECT create_workflow_events_partition('2025-01-15'::date);
SELECT create_workflow_events_partition('9999-12-31'::date);
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'workflow_events_y2025m01d15'::regclass ORDER BY 1;
ROLLBACK;
-- A day begins at 00:00 of the policy's zone, or an hour later where summer time leaves that hour out; where the hour
-- comes twice, with the second. A day may be left out altogether.
BEGIN;
INSERT INTO meshhook_events.policy (granularity, time_zone) VALUES ('day', 'America/Havana');
SELECT count(*) > 0 FROM setup_workflow_events();
SELECT create_workflow_events_partition('2024-03-09'::date);
SELECT create_workflow_events_partition('2024-03-10'::date);
SELECT create_workflow_events_partition('2024-11-02'::date);
SELECT create_workflow_events_partition('2024-11-03 04:30:00+00'::timestamptz) AS first_time_00_30;
SELECT create_workflow_events_partition('2024-11-03 05:30:00+00'::timestamptz) AS second_time_00_30;
SELECT name, lower, upper FROM t.ranges WHERE lower < '2025-01-01' ORDER BY lower;
SELECT partition_name, start_date, end_date FROM get_workflow_events_partition_stats() WHERE start_date < '2025-01-01';
SELECT * FROM t.bad WHERE check_name = 'partitions';
UPDATE meshhook_events.policy SET time_zone = 'Pacific/Apia';
SELECT t.expect($$SELECT create_workflow_events_partition('2011-12-30'::date)$$);
SELECT create_workflow_events_partition('2011-12-29'::date);
SELECT create_workflow_events_partition('2011-12-31'::date);
SELECT name, lower, upper FROM t.ranges WHERE lower < '2012-01-01' ORDER BY lower;
ROLLBACK;

--
-- Month, week, day, month: each begins where the last partition ends.
--
SELECT count(*) FROM setup_workflow_events();
UPDATE meshhook_events.policy SET granularity = 'week';
-- The months reach further than three weeks.
SELECT maintain_workflow_events_partitions();
SELECT runway_periods > 3 AS more_than_wanted, covered_until = t.start(4) AS end_of_the_months FROM workflow_events_coverage();
-- A week within a month is held by that month's partition; one that reaches out of the last month can't be whole.
SELECT t.mask(create_workflow_events_partition(t.month(3) + 12));
SELECT bool_or(line ~ '^42P17') IS NOT DISTINCT FROM (extract(isodow FROM t.month(4)) <> 1) AS refused
FROM t.expect($$SELECT create_workflow_events_partition(t.month(4))$$) line;
CALL t.run('DROP TABLE {1}, {2}, {3}');
SELECT format('DROP TABLE %I', name) FROM t.ranges WHERE name ~ 'w\d\d$'
\set ECHO none
\gexec
\set ECHO all
-- Each of the following reaches out of what is there.
UPDATE meshhook_events.policy SET premake = 10;
SELECT count(*) >= 6 AS made FROM maintain_workflow_events_partitions();
-- One part, where the month doesn't end with a week.
SELECT kind, CASE kind WHEN 'week' THEN partitions >= 5 ELSE partitions = 3 END AS partitions, as_named FROM t.kinds WHERE kind <> 'part' ORDER BY 1;
SELECT count(*) FILTER (WHERE kind = 'part') = (extract(isodow FROM t.month(1)) <> 1)::int AS seam, bool_and(as_named) AS as_named FROM t.kinds;
SELECT granularity, "end" FROM t.reach;
SELECT * FROM t.seams;
SELECT maintain_workflow_events_partitions();
SELECT wanted_until = covered_until AS exactly, runway_periods FROM workflow_events_coverage();
-- Days begin with the Monday after the last week.
UPDATE meshhook_events.policy SET granularity = 'day', premake = 90;
SELECT count(*) BETWEEN 14 AND 20 AS made FROM maintain_workflow_events_partitions();
SELECT as_named FROM t.kinds WHERE kind = 'day';
SELECT granularity, "end" FROM t.reach;
SELECT * FROM t.seams;
SELECT maintain_workflow_events_partitions();
SELECT wanted_until = covered_until AS exactly, runway_periods FROM workflow_events_coverage();
-- And months after the last day.
UPDATE meshhook_events.policy SET granularity = 'month', premake = 6;
SELECT count(*) BETWEEN 3 AND 5 AS made FROM maintain_workflow_events_partitions();
SELECT bool_and(as_named) FROM t.kinds;
SELECT granularity, "end" FROM t.reach;
SELECT * FROM t.seams;
SELECT maintain_workflow_events_partitions();
SELECT wanted_until = covered_until AS exactly, runway_periods FROM workflow_events_coverage();
-- The reads and the checks know them all.
INSERT INTO workflow_runs VALUES ('00000000-0000-0000-0000-000000000001');
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', lower + (upper - lower) / 2, 't', '{}' FROM t.ranges;
SELECT count(*) = (SELECT count(*) FROM t.ranges) AS all_of_them, sum(row_count) = count(*) AS a_row_each,
       bool_and(start_date = lower::date AND end_date = upper::date) AS dates
FROM get_workflow_events_partition_stats() JOIN t.ranges ON name = partition_name;
SELECT count(*) = (SELECT count(*) FROM t.ranges) AS all_of_them FROM workflow_events_partition_info;
SELECT count(*) = (SELECT count(*) FROM t.ranges) AS all_of_them FROM get_workflow_run_events('00000000-0000-0000-0000-000000000001');
SELECT * FROM t.bad WHERE check_name <> 'event_60_days_ago';

-- Retention goes by months whatever the granularity: what reaches into the first month to keep is kept.
BEGIN;
CALL t.clear();
UPDATE meshhook_events.policy SET granularity = 'week';
SELECT count(create_workflow_events_partition((t.month(-2) + 7 * n)::date)) FROM generate_series(-1, 12) n;
SELECT count(*) >= 4 AS some, bool_and(name ~ 'w\d\d$') AS weeks FROM drop_old_workflow_events_partitions(1) name;
SELECT min(upper) > t.start(-1) AS not_older, min(lower) <= t.start(-1) AS not_younger FROM t.ranges;
ROLLBACK;

--
-- Sizes
--
SELECT check_name, status, detail, hint FROM verify_workflow_events() WHERE check_name = 'partition_size';
CREATE VIEW t.growth AS
SELECT t.mask(partition_name) AS partition, t.mask(range_start::text) AS start, t.mask(range_end::text) AS end,
       size_bytes = (SELECT size_bytes FROM get_workflow_events_partition_stats() s WHERE s.partition_name = g.partition_name) AS its_size,
       abs(elapsed - extract(epoch FROM now() - range_start) / extract(epoch FROM range_end - range_start)) < 1e-9 AS elapsed,
       CASE WHEN elapsed >= 0.1 THEN abs(projected_size_bytes - size_bytes / elapsed) < 2 ELSE projected_size_bytes IS NULL END AS projected,
       recommended_granularity AS recommended
FROM workflow_events_growth() g;
SELECT * FROM t.growth;
-- What is large is named: a month that is over, with its rate.
CALL t.clear();
SELECT count(create_workflow_events_partition(t.month(n))) FROM generate_series(-2, 6) n;
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', t.start(-1) + n * interval '1 second', 't', '{}' FROM generate_series(1, 20000) n;
SELECT size_bytes AS size FROM get_workflow_events_partition_stats() WHERE partition_name = t.part(-1) \gset
CREATE VIEW t.size AS
SELECT status, regexp_replace(t.mask(detail), '\d+ [kM]B|\d+ bytes', '(size)', 'g') AS detail, hint FROM verify_workflow_events() WHERE check_name = 'partition_size';
UPDATE meshhook_events.policy SET size_warning_bytes = :size, size_limit_bytes = 2 * :size;
SELECT * FROM t.size;
SELECT recommended FROM t.growth;
UPDATE meshhook_events.policy SET size_warning_bytes = :size / 10, size_limit_bytes = :size;
SELECT * FROM t.size;
UPDATE meshhook_events.policy SET size_limit_bytes = :size - 1;
SELECT * FROM t.size;
SELECT recommended FROM t.growth;
UPDATE meshhook_events.policy SET size_warning_bytes = :size + 1, size_limit_bytes = 2 * :size;
SELECT * FROM t.size WHERE status <> 'ok';
-- The granularity has been changed already; a week that is as large; a day.
UPDATE meshhook_events.policy SET size_warning_bytes = :size, granularity = 'week';
SELECT * FROM t.size;
BEGIN;
CALL t.run('DROP TABLE {-1}');
SELECT create_workflow_events_partition((t.month(-1) + 9)::date) AS week \gset
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', t.start(-1) + interval '9 days' + n * interval '1 microsecond', 't', '{}' FROM generate_series(1, 22000) n;
SELECT status, replace(detail, :'week', '{week}') AS detail, hint FROM t.size;
DROP TABLE :week;
UPDATE meshhook_events.policy SET granularity = 'day';
SELECT create_workflow_events_partition((t.month(-1) + 9)::date) AS day \gset
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', t.start(-1) + interval '9 days' + n * interval '1 microsecond', 't', '{}' FROM generate_series(1, 22000) n;
SELECT status, replace(regexp_replace(detail, '"<-1>-\d\d"', '{day}'), :'day', '{day}') AS detail, hint FROM t.size;
ROLLBACK;
-- The current partition counts as it will be; no granularity changes one that has no bounds.
UPDATE meshhook_events.policy SET granularity = 'month';
BEGIN;
CALL t.clear();
SELECT format('CREATE TABLE current PARTITION OF workflow_events FOR VALUES FROM (%L) TO (%L)', now() - interval '10 days', now() + interval '30 days')
\set ECHO none
\gexec
\set ECHO all
INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT '00000000-0000-0000-0000-000000000001', now(), 't', '{}' FROM generate_series(1, 10000) n;
SELECT size_bytes AS size, projected_size_bytes / size_bytes AS times, round(elapsed::numeric, 6) AS elapsed FROM workflow_events_growth() \gset
SELECT :times AS times, :elapsed AS elapsed;
UPDATE meshhook_events.policy SET size_warning_bytes = 4 * :size, size_limit_bytes = 5 * :size;
SELECT * FROM t.size;
UPDATE meshhook_events.policy SET size_warning_bytes = 3 * :size, size_limit_bytes = 4 * :size - 10;
SELECT * FROM t.size;
SELECT recommended_granularity FROM workflow_events_growth();
UPDATE meshhook_events.policy SET size_warning_bytes = 4 * :size + 10, size_limit_bytes = 5 * :size;
SELECT status FROM t.size;
ROLLBACK;
BEGIN;
CALL t.clear();
CREATE TABLE everything PARTITION OF workflow_events FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
UPDATE meshhook_events.policy SET size_warning_bytes = 1, size_limit_bytes = 1;
SELECT * FROM t.size;
SELECT partition_name, range_start, range_end, size_bytes > 0 AS has_size, elapsed, projected_size_bytes, recommended_granularity FROM workflow_events_growth();
ROLLBACK;
-- No partition holds the present.
BEGIN;
CALL t.run('DROP TABLE {0}');
SELECT * FROM workflow_events_growth();
ROLLBACK;
SELECT t.expect('UPDATE meshhook_events.policy SET size_warning_bytes = 0, size_limit_bytes = 10');
SELECT t.expect('UPDATE meshhook_events.policy SET size_warning_bytes = 10, size_limit_bytes = 9');
BEGIN;
ALTER TABLE meshhook_events.policy DROP CONSTRAINT policy_size_limit_is_not_less;
UPDATE meshhook_events.policy SET size_warning_bytes = 5, size_limit_bytes = 4;
SELECT t.expect('SELECT * FROM workflow_events_growth()');
ROLLBACK;

-- Whoever may read the catalogs may see it, in a transaction that only reads too.
CREATE ROLE regress_granularity_nobody;
BEGIN READ ONLY;
SET LOCAL ROLE regress_granularity_nobody;
SELECT count(*) FROM workflow_events_growth();
ROLLBACK;
DROP ROLE regress_granularity_nobody;

\c :home
SET client_min_messages = warning;
DROP DATABASE regress_events WITH (FORCE);

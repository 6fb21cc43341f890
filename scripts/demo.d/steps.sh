# shellcheck shell=bash
# The steps of the demo, in order; each shows what it does and checks what came of it.
# Sourced by scripts/demo after console.sh, which shows, and cluster.sh, which runs the server.

# First day of the month that lies MONTHS after the current one, and its partition, in UTC.
month() { date --utc --date="$(date --utc +%Y-%m-01) $1 months" +%Y-%m-01; }
partition() { date --utc --date="$(month "$1")" +workflow_events_y%Ym%m; }

partitions_sql="SELECT c.relname AS partition, pg_get_expr(c.relpartbound, c.oid) AS range
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'workflow_events'::regclass
ORDER BY 1;"

# An SQL condition: the table is attached to workflow_events.
is_partition() {
    printf "EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'workflow_events'::regclass
                    AND inhrelid = to_regclass('%s'))" "$1"
}

install_extension() {
    heading 'MeshHook, and the extension in its database'
    tell 'The role meshhook owns the application and its tables and is no superuser. The superuser adds
the extension, which makes no table yet, and allows meshhook to use it.'
    query 'CREATE ROLE meshhook LOGIN; CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN;' ||
        fail 'could not make the roles'
    query 'CREATE DATABASE meshhook OWNER meshhook;' || fail 'could not make the database'
    export PGDATABASE=meshhook
    "$bindir/psql" -X -q -U meshhook -f tests/fixtures/meshhook.sql || fail 'the schema of MeshHook did not load'
    show postgres 'CREATE EXTENSION pg_meshhook_events;
GRANT EXECUTE ON FUNCTION
    setup_workflow_events(), verify_workflow_events(boolean),
    create_workflow_events_partition(date), maintain_workflow_events_partitions(),
    drop_old_workflow_events_partitions(integer, boolean, interval), get_workflow_events_partition_stats(),
    get_workflow_run_events(uuid, timestamptz, timestamptz)
    TO meshhook;
GRANT USAGE ON SCHEMA meshhook_events TO meshhook;
GRANT SELECT ON meshhook_events.policy, meshhook_events.maintenance_log TO meshhook;'
    check 'the extension has made no table workflow_events' "SELECT to_regclass('workflow_events') IS NULL"
}

set_up() {
    heading 'One call makes the event log'
    tell 'Two months back, the current one, and three ahead. A month begins at 00:00 UTC, whatever the
TimeZone of a session says.'
    show meshhook 'SELECT * FROM setup_workflow_events();'
    show meshhook "$partitions_sql"
    check 'every month from two back to three ahead has its partition, and no other is there' "
        SELECT array_agg(inhrelid::regclass::text ORDER BY inhrelid::regclass::text)
               = '{$(partition -2),$(partition -1),$(partition 0),$(partition 1),$(partition 2),$(partition 3)}'
        FROM pg_inherits WHERE inhparent = 'workflow_events'::regclass"
    "$bindir/psql" -X -q -U meshhook -f tests/fixtures/meshhook_events_protection.sql ||
        fail 'the policies of MeshHook did not load'
    tell '
MeshHook has turned row level security on for workflow_events, added its policies, and published it.
A partition can be read directly, past the policies of its parent: calling setup again closes those
that are there, and new ones are made closed.'
    show meshhook 'SELECT object_name, status, detail FROM setup_workflow_events();'
    check 'no partition is more open than its parent' "
        SELECT bool_and(c.relrowsecurity AND (SELECT count(*) = 4 FROM pg_policy WHERE polrelid = c.oid))
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'workflow_events'::regclass"
}

repair_a_gap() {
    local lost before deadline
    lost=$(partition 2)
    heading 'A partition is lost, and the worker makes it again'
    tell "Somebody drops $lost: events of that month would be refused."
    show meshhook "DROP TABLE $lost;"
    check 'the partition is gone' "SELECT to_regclass('$lost') IS NULL"
    before=$(query 'SELECT coalesce(max(id), 0) FROM meshhook_events.maintenance_log')
    tell '
The worker looks every night at 02:00, and when the server starts. The server restarts now.'
    as_server_user "$bindir/pg_ctl" -D "$CLUSTER_DIR/data" -l "$CLUSTER_DIR/server.log" -w -t 30 -m fast restart \
        >/dev/null || fail 'the server did not come back'
    deadline=$((SECONDS + 20))
    until [ "$(query "SELECT $(is_partition "$lost") AND EXISTS (
                          SELECT FROM meshhook_events.maintenance_log
                          WHERE id > $before AND origin = 'worker' AND status = 'ok')")" = t ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            show postgres 'SELECT * FROM meshhook_events.maintenance_log ORDER BY id;'
            fail "the worker has not made $lost within 20 seconds"
        fi
        sleep 0.2
    done
    show meshhook "SELECT id, origin, task, status, role_name, finished_at - started_at AS took, message
FROM meshhook_events.maintenance_log WHERE id > $before ORDER BY id;"
    check "$lost is back" "SELECT $(is_partition "$lost")"
    check 'it covers its whole month' "
        SELECT pg_get_expr(relpartbound, oid)
               = 'FOR VALUES FROM (''$(month 2) 00:00:00+00'') TO (''$(month 3) 00:00:00+00'')'
        FROM pg_class WHERE oid = '$lost'::regclass"
    check 'it has the owner and the row level security of its parent, and is no more open' "
        SELECT c.relowner = p.relowner AND c.relrowsecurity = p.relrowsecurity
               AND NOT EXISTS (SELECT grantee, privilege_type FROM aclexplode(c.relacl)
                               EXCEPT SELECT grantee, privilege_type FROM aclexplode(p.relacl))
        FROM pg_class c, pg_class p
        WHERE c.oid = '$lost'::regclass AND p.oid = 'workflow_events'::regclass"
}

append_events() {
    heading '329 webhooks start runs, whose steps append events'
    tell 'The bodies are GitHub webhooks. Each starts a run; its steps (received, verified, transformed,
perhaps approved, delivered) are events, spread from two months back to now.'
    (cd "$payloads_dir" && "$bindir/psql" -X -q -U meshhook -f "$ROOT/scripts/demo.d/webhooks.sql") ||
        fail 'the webhooks did not load'
    show meshhook 'SELECT tableoid::regclass AS partition, count(*) AS events, count(DISTINCT run_id) AS runs,
       min(ts) AS first, max(ts) AS last
FROM workflow_events GROUP BY 1 ORDER BY min(ts);'
    show meshhook 'SELECT status, count(*) AS runs FROM workflow_runs GROUP BY 1 ORDER BY 2 DESC;'
    check '329 runs, each with the webhook that started it' "
        SELECT count(*) = 329 AND count(DISTINCT run_id) = 329 AND bool_and(jsonb_typeof(payload) = 'object')
        FROM workflow_events WHERE type = 'webhook.received'"
    check 'every event lies in the partition of its month' "
        SELECT bool_and(tableoid::regclass::text
                        = to_char(ts AT TIME ZONE 'UTC', '\"workflow_events_y\"YYYY\"m\"MM'))
        FROM workflow_events"
}

# events_agree WHAT ARGUMENTS CONDITION: get_workflow_run_events(ARGUMENTS) gives what a plain query with
# CONDITION gives, and gives it ordered by ts and id without being asked.
events_agree() {
    check "$1" "
        SELECT read.events = written.events AND read.events <> '{}'
        FROM (SELECT array_agg((id, run_id, ts, type, payload::text, created_at)::text ORDER BY position) AS events
              FROM get_workflow_run_events($2)
                   WITH ORDINALITY AS e (id, run_id, ts, type, payload, created_at, position)) AS read,
             (SELECT array_agg((id, run_id, ts, type, payload::text, created_at)::text ORDER BY ts, id) AS events
              FROM workflow_events WHERE $3) AS written"
}

read_a_run_back() {
    local run from columns
    columns="id, ts, type, coalesce(payload ->> 'node', left(payload::text, 40)) AS payload"
    heading 'A run is read back in order'
    run=$(query "SELECT run_id FROM workflow_events GROUP BY run_id
                 HAVING count(DISTINCT tableoid) > 1 AND bool_or(type = 'run.finished')
                 ORDER BY min(ts) LIMIT 1")
    [ -n "$run" ] || fail 'no run reaches from one month into the next'
    tell 'This run waited for an approval from one month into the next, so its events lie in two
partitions. Where two of them carry the same timestamp, the id decides.'
    show meshhook "SELECT $columns
FROM get_workflow_run_events('$run');"
    events_agree 'all events of the run, ordered by ts and id' "'$run'" "run_id = '$run'"
    check 'they start with the webhook and end with the end of the run' "
        SELECT (array_agg(type ORDER BY position))[1] = 'webhook.received'
               AND (array_agg(type ORDER BY position DESC))[1] = 'run.finished'
        FROM get_workflow_run_events('$run')
             WITH ORDINALITY AS e (id, run_id, ts, type, payload, created_at, position)"
    from=$(query "SELECT ts FROM workflow_events WHERE run_id = '$run' AND type = 'node.finished'
                  AND payload ->> 'node' = 'wait-for-approval'")
    tell '
Replay from the approval on. Bounds are inclusive: the event at the very instant is there.'
    show meshhook "SELECT $columns
FROM get_workflow_run_events('$run', '$from');"
    events_agree 'the events from the lower bound on' "'$run', '$from'" "run_id = '$run' AND ts >= '$from'"
    events_agree 'the events up to an upper bound' "'$run', NULL, '$from'" "run_id = '$run' AND ts <= '$from'"
    events_agree 'one instant, both bounds on it' "'$run', '$from', '$from'" "run_id = '$run' AND ts = '$from'"
}

count_exactly() {
    heading 'Statistics are exact'
    tell 'row_count is counted, not estimated.'
    show meshhook 'SELECT * FROM get_workflow_events_partition_stats();'
    show meshhook 'SELECT (SELECT sum(row_count) FROM get_workflow_events_partition_stats()) AS sum_of_row_count,
       (SELECT count(*) FROM workflow_events) AS counted;'
    check 'both agree' 'SELECT (SELECT sum(row_count) FROM get_workflow_events_partition_stats())
                              = (SELECT count(*) FROM workflow_events)'
    check 'and so does each partition' "
        SELECT bool_and(s.row_count = coalesce(e.events, 0))
        FROM get_workflow_events_partition_stats() AS s
             LEFT JOIN (SELECT tableoid::regclass::text AS partition_name, count(*) AS events
                        FROM workflow_events GROUP BY 1) AS e USING (partition_name)"
}

retire_old_months() {
    local old recent events
    old=$(partition -14)
    recent=$(partition -11)
    heading 'Old months are retired, whole'
    tell "$old lies before the 12 months to keep, $recent within them."
    show meshhook "SELECT create_workflow_events_partition(date '$(month -14)');
SELECT create_workflow_events_partition(date '$(month -11)');

INSERT INTO workflow_runs (id, project_id, workflow_id, status, started_at, finished_at)
SELECT old.id, d.project_id, d.id, 'succeeded', old.started_at, old.started_at + interval '1 day'
FROM (VALUES (md5('old')::uuid, timestamptz '$(month -14) 12:00Z'),
             (md5('recent')::uuid, '$(month -11) 12:00Z')) AS old (id, started_at),
     (SELECT * FROM workflow_definitions ORDER BY slug LIMIT 1) AS d;

INSERT INTO workflow_events (run_id, ts, type, payload)
SELECT id, started_at + step * interval '1 hour', 'node.finished', jsonb_build_object('step', step)
FROM workflow_runs, generate_series(1, 20) AS step
WHERE id IN (md5('old')::uuid, md5('recent')::uuid);"
    check 'both partitions hold 20 events' "
        SELECT (SELECT count(*) FROM $old) = 20 AND (SELECT count(*) FROM $recent) = 20"
    events=$(query 'SELECT count(*) FROM workflow_events')
    tell '
A table that only looks like an old partition is somebody'"'"'s backup, and must survive.'
    show meshhook "CREATE TABLE workflow_events_y2019m01_backup AS SELECT * FROM $old;

SELECT * FROM drop_old_workflow_events_partitions(12) AS dropped;"
    show meshhook "$partitions_sql"
    check "$old is gone" "SELECT to_regclass('$old') IS NULL"
    check "$recent is kept with its events" "SELECT $(is_partition "$recent") AND (SELECT count(*) = 20 FROM $recent)"
    check 'the backup is still there' 'SELECT count(*) = 20 FROM workflow_events_y2019m01_backup'
    check 'nothing else went' "SELECT count(*) = $events - 20 FROM workflow_events"
}

# wait_for WHAT CONDITION: until the condition holds, with a deadline.
wait_for() {
    local deadline=$((SECONDS + 20))
    until [ "$(query "SELECT $2")" = t ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            show postgres 'SELECT * FROM meshhook_events.maintenance_log ORDER BY id;'
            fail "within 20 seconds the worker has not $1"
        fi
        sleep 0.2
    done
}

retire_in_the_background() {
    local old
    old=$(partition -13)
    heading 'The worker retires a month while the log is in use'
    tell "With a retention in the policy, $old has to go too, but a run still waits that has an event in it. It is kept."
    show meshhook "SELECT create_workflow_events_partition(date '$(month -13)');

INSERT INTO workflow_runs (id, project_id, workflow_id, status, started_at)
SELECT md5('waiting')::uuid, project_id, id, 'paused', '$(month -13) 12:00Z' FROM workflow_definitions ORDER BY slug LIMIT 1;

INSERT INTO workflow_events (run_id, ts, type, payload)
VALUES (md5('waiting')::uuid, '$(month -13) 12:00Z', 'node.waiting', '{}');"
    show postgres "UPDATE meshhook_events.policy SET retention = '12 months';

SELECT action, partition_name, reason FROM plan_workflow_events_maintenance();"
    check 'nothing is to be done' "SELECT bool_and(action = 'keep' AND partition_name = '$old') FROM plan_workflow_events_maintenance()"
    tell '
The run ends. Now the plan says that its month goes, and which locks that takes: none that readers or writers of the log notice.'
    show meshhook "UPDATE workflow_runs SET status = 'succeeded', finished_at = now() WHERE id = md5('waiting')::uuid;"
    show postgres 'SELECT action, partition_name, locks FROM plan_workflow_events_maintenance();'
    check 'nothing else is planned' "SELECT count(*) = 1 AND bool_and(partition_name = '$old') FROM plan_workflow_events_maintenance()"
    show postgres 'SELECT meshhook_events.wake_worker();'
    wait_for "parked $old" "NOT $(is_partition "$old") AND EXISTS (
        SELECT FROM meshhook_events.retired_partition WHERE partition_name = '$old' AND state = 'detached')"
    tell '
It is parked for a week before it is dropped: a wrong retention can be undone.'
    show postgres "SELECT partition_name, state, detached_at FROM meshhook_events.retired_partition;

SELECT status, location FROM restore_workflow_events_partition('$old');"
    check "$old is back with its event" "SELECT $(is_partition "$old") AND (SELECT count(*) = 1 FROM $old)"
    tell '
What was put back is held. Released, and without a grace, it goes for good.'
    show postgres "SELECT release_workflow_events_partition('$old');
UPDATE meshhook_events.policy SET grace = '0';
SELECT meshhook_events.wake_worker();"
    wait_for "retired $old" "to_regclass('$old') IS NULL AND (
        SELECT status FROM meshhook_events.maintenance_log WHERE task = 'retire' ORDER BY id DESC LIMIT 1) = 'ok'"
    show meshhook "SELECT task, status, details -> 'detached' AS detached, details -> 'dropped' AS dropped
FROM meshhook_events.maintenance_log WHERE task = 'retire' ORDER BY id DESC LIMIT 1;

SELECT covered_until, wanted_until, first_hole_start, runway_periods FROM workflow_events_coverage();"
    check "$old is gone, and nothing is left to do" "
        SELECT to_regclass('$old') IS NULL AND NOT EXISTS (SELECT FROM plan_workflow_events_maintenance())"
}

check_health() {
    heading 'The health check'
    tell 'A row a check; nothing may have failed.'
    show meshhook 'SELECT * FROM verify_workflow_events();'
    check 'nothing failed' "SELECT count(*) > 0 AND bool_and(status <> 'failed') FROM verify_workflow_events()"
    tell "
And the checks that MeshHook's own script makes:"
    printf '\n'
    PGUSER=meshhook PATH="$bindir:$PATH" scripts/verify-meshhook || fail 'scripts/verify-meshhook found a fault'
    if grep -qE 'PANIC|terminated by signal' "$CLUSTER_DIR/server.log"; then fail 'a process of the server crashed'; fi
    printf '  checked: no process of the server crashed\n'
}

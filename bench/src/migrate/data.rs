//! The plain event log that every measurement begins with: runs that real webhook bodies start.

use std::{env, fs};

use postgres::Client;
use process::{OWNER, Server, fixture};

/// The database to copy from.
pub const BASE: &str = "migrating_base";

/// The copy that is migrated.
pub const DATABASE: &str = "migrating";

/// How many months the events are spread over, the present one included.
pub const MONTHS: i32 = 13;

/// How many steps the shortest run has.
const SHORTEST_RUN: i64 = 9;

/// Instants and runs have numbers; runs have ids that follow no order.
const TOOLS: &str = "
CREATE FUNCTION public.bench_run(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$SELECT md5('run ' || n)::uuid$$;
CREATE FUNCTION public.bench_month(n int) RETURNS timestamptz LANGUAGE sql STABLE AS
$$SELECT date_trunc('month', now(), 'UTC') + n * interval '1 month'$$;
";

/// Runs as in the demo, one after another: each begins with a webhook's body. `RUNS` runs, whose first `EVENTS` events count.
const ROWS: &str = "
INSERT INTO public.projects (id, owner, name) VALUES (md5('project')::uuid, md5('owner')::uuid, 'Repository automation');
INSERT INTO public.workflow_definitions (id, project_id, slug, definition)
SELECT DISTINCT md5(slug)::uuid, md5('project')::uuid, slug, '{\"nodes\": [\"verify-signature\", \"transform\", \"deliver\"]}'::jsonb
FROM webhook;
INSERT INTO public.workflow_runs (id, project_id, workflow_id, status, started_at)
SELECT bench_run(n), md5('project')::uuid, md5(slug)::uuid, 'succeeded',
       bench_month(-MONTHS + 1) + (now() - bench_month(-MONTHS + 1)) * (n::float8 / RUNS)
FROM generate_series(1, RUNS) n JOIN webhook ON webhook.number = n % (SELECT count(*) FROM webhook);
INSERT INTO public.workflow_events (run_id, ts, type, payload, created_at)
SELECT bench_run(n), ts, type, payload, ts
FROM (SELECT n, slug, body, bench_month(-MONTHS + 1) + (now() - bench_month(-MONTHS + 1)) * (n::float8 / RUNS) AS began,
             n % 7 = 3 AS waits, n % 11 = 5 AS fails
      FROM generate_series(1, RUNS) n JOIN webhook ON number = n % (SELECT count(*) FROM webhook)
      ORDER BY n) AS run,
     LATERAL (VALUES
        ( 1,  0, 'webhook.received', body),
        ( 2,  5, 'run.started',      jsonb_build_object('workflow', slug)),
        ( 3,  6, 'node.started',     '{\"node\": \"verify-signature\"}'),
        ( 4,  9, 'node.finished',    '{\"node\": \"verify-signature\"}'),
        ( 5,  9, 'node.started',     '{\"node\": \"transform\"}'),
        ( 6, 20, 'node.finished',    '{\"node\": \"transform\"}'),
        ( 7, 21, 'node.started',     '{\"node\": \"wait-for-approval\"}'),
        ( 8, 22, 'node.finished',    '{\"node\": \"wait-for-approval\"}'),
        ( 9, 23, 'node.started',     '{\"node\": \"deliver\"}'),
        (10, 40, CASE WHEN fails THEN 'node.failed' ELSE 'node.finished' END, '{\"node\": \"deliver\"}'),
        (11, 41, 'run.finished',     jsonb_build_object('status', CASE WHEN fails THEN 'failed' ELSE 'succeeded' END))
     ) AS step (ordinal, ms, type, payload),
     LATERAL (SELECT began + ms * interval '1 ms' AS ts) AS at
WHERE waits OR ordinal NOT IN (7, 8)
LIMIT EVENTS;
";

/// What was loaded.
#[derive(Debug)]
pub struct Base {
    pub events: i64,
    pub runs: i64,
    /// Its size with indexes and TOAST, in bytes.
    pub bytes: i64,
}

/// Makes the database to copy from, with so many events.
pub fn load(server: &Server, events: i64) -> Base {
    let runs = events / SHORTEST_RUN + 1;
    server.run(
        "postgres",
        &format!("CREATE ROLE {OWNER} LOGIN; CREATE ROLE anon; CREATE ROLE authenticated"),
    );
    server.run("postgres", &format!("CREATE DATABASE {BASE} OWNER {OWNER}"));
    let schema =
        ["meshhook.sql", "plain_events.sql", "meshhook_events_protection.sql"].map(fixture);
    let schema = schema.concat() + TOOLS;
    server.script(BASE, &format!("SET SESSION AUTHORIZATION {OWNER};\n{schema}"));
    server.script(
        BASE,
        &format!(
            "CREATE EXTENSION pg_meshhook_events;
             GRANT EXECUTE ON PROCEDURE migrate_workflow_events, undo_workflow_events_migration TO {OWNER};"
        ),
    );
    let mut client = server.connect(BASE);
    load_webhooks(&mut client);
    let rows = ROWS
        .replace("RUNS", &runs.to_string())
        .replace("EVENTS", &events.to_string())
        .replace("MONTHS", &MONTHS.to_string());
    // Without looking up each event's run.
    let rows = format!("SET session_replication_role = replica; {rows}");
    client.batch_execute(&rows).unwrap_or_else(|error| panic!("{rows}: {error:?}"));
    client.batch_execute("VACUUM (FREEZE, ANALYZE)").expect("it is vacuumed");
    let row = client
        .query_one(
            "SELECT count(*), pg_total_relation_size('workflow_events') FROM workflow_events",
            &[],
        )
        .expect("it is counted");
    let base = Base { events: row.get(0), runs, bytes: row.get(1) };
    assert_eq!(base.events, events, "there are not as many events as asked for");
    base
}

/// Makes the temporary table of the bodies, in the order of the demo's file.
fn load_webhooks(client: &mut Client) {
    let path = env::var("BENCH_WEBHOOKS").expect("BENCH_WEBHOOKS names the file of webhook bodies");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    client
        .execute("CREATE TEMPORARY TABLE webhook (number bigint, slug text, body jsonb)", &[])
        .expect("a table is made");
    let bodies = client.execute(
        "INSERT INTO webhook \
         SELECT row_number() OVER (ORDER BY event.ordinality, example.ordinality) - 1, \
                'on-' || replace(event.value ->> 'name', '_', '-'), example.value \
         FROM jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS event, \
              jsonb_array_elements(event.value -> 'examples') WITH ORDINALITY AS example",
        &[&text],
    );
    assert!(bodies.expect("the bodies are loaded") > 0, "{path} has no body");
    client.batch_execute("ANALYZE webhook").expect("it is analysed");
}

/// Makes the copy for one measurement, with nothing left to be written.
pub fn copy(server: &Server) {
    server.run(
        "postgres",
        &format!("CREATE DATABASE {DATABASE} TEMPLATE {BASE} STRATEGY file_copy OWNER {OWNER}"),
    );
    server.run("postgres", "CHECKPOINT");
}

/// Removes the copy.
pub fn remove(server: &Server) {
    server.run("postgres", &format!("DROP DATABASE {DATABASE} WITH (FORCE)"));
}

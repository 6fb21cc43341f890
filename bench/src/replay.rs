//! How fast the events of one run are read, beside the document's own function and the plain query.

use std::fmt::Write as _;
use std::time::Instant;

use postgres::{Client, Statement};
use process::Server;

use crate::report::{self, median};

/// How many monthly partitions the events are spread over.
const PARTITIONS: [i32; 3] = [24, 120, 1_000];

/// How many events; runs have 20 to 100 of them.
const EVENTS: i64 = 2_000_000;

/// How many calls of each variant: fewer where each takes long.
const fn calls(partitions: i32) -> usize {
    match partitions {
        0..=24 => 600,
        25..=120 => 300,
        _ => 100,
    }
}

/// How many new connections for each variant.
const CONNECTIONS: usize = 15;

/// A way to read a run: its name, what is set before, and the statement with the run and two bounds.
struct Variant {
    name: &'static str,
    plan_cache_mode: &'static str,
    sql: &'static str,
}

const DOCUMENT: Variant = Variant {
    name: "the document's function",
    plan_cache_mode: "auto",
    sql: "SELECT * FROM document_form($1::text::uuid)",
};
const GENERIC: Variant = Variant {
    name: "the same with plan_cache_mode = force_generic_plan",
    plan_cache_mode: "force_generic_plan",
    sql: "SELECT * FROM document_form($1::text::uuid)",
};
const OURS: Variant = Variant {
    name: "get_workflow_run_events",
    plan_cache_mode: "auto",
    sql: "SELECT * FROM get_workflow_run_events($1::text::uuid)",
};
const PLAIN_BOUNDED: Variant = Variant {
    name: "the prepared query with tight bounds",
    plan_cache_mode: "auto",
    sql: "SELECT id, run_id, ts, type, payload, created_at FROM workflow_events \
          WHERE run_id = $1::text::uuid AND ts >= $2::text::timestamptz AND ts <= $3::text::timestamptz ORDER BY ts, id",
};
const OURS_BOUNDED: Variant = Variant {
    name: "get_workflow_run_events with the same bounds",
    plan_cache_mode: "auto",
    sql: "SELECT * FROM get_workflow_run_events($1::text::uuid, $2::text::timestamptz, $3::text::timestamptz)",
};

/// Loads events, calls the variants in turn in one connection, and writes a table. A result that
/// differs between them ends the comparison.
pub fn compare(server: &Server, report: &mut String) {
    let _ = writeln!(
        report,
        "## How fast a run is read\n\n\
         {EVENTS} events of 340 bytes in monthly partitions, runs of 20 to 100 events within hours, everything in the server's buffers (`shared_buffers` is 4 GB here, 512 MB above). The \
         variants are called in turn in one connection, with random runs; medians in microseconds, as the client sees \
         them. A first call is that of a new connection. \"Locks\" are the relation locks that one call leaves.\n"
    );
    report::table(
        report,
        &[
            "partitions",
            "what",
            "compared with",
            "theirs, us",
            "ours, us",
            "ratio",
            "rows compared",
        ],
    );
    for partitions in PARTITIONS {
        let database = format!("replay_{partitions}");
        load(server, &database, partitions);
        let mut client = server.connect(&database);
        let runs = runs(&mut client, calls(partitions));
        let mut rows = 0;
        let unbounded = measure(&mut client, &[DOCUMENT, GENERIC, OURS], &runs, &mut rows);
        let bounded = measure(&mut client, &[PLAIN_BOUNDED, OURS_BOUNDED], &runs, &mut rows);
        let first = first_calls(server, &database, &[DOCUMENT, OURS], &runs);
        let mut line = |what: &str, with: &str, theirs: f64, ours: f64| {
            let numbers = [theirs, ours].map(|us| format!("{us:.0}"));
            let [theirs_text, ours_text] = numbers;
            let cells = [
                partitions.to_string(),
                what.to_owned(),
                with.to_owned(),
                theirs_text,
                ours_text,
                format!("{:.1}", theirs / ours),
                rows.to_string(),
            ];
            report::row(report, &cells);
        };
        line("a run", DOCUMENT.name, unbounded[0], unbounded[2]);
        line("a run", GENERIC.name, unbounded[1], unbounded[2]);
        line("first call", DOCUMENT.name, first[0], first[1]);
        line("a run, tight bounds", PLAIN_BOUNDED.name, bounded[0], bounded[1]);
        let locks =
            [DOCUMENT, OURS].map(|variant| locks(server, &database, &variant, &runs[0]) as f64);
        line("locks", DOCUMENT.name, locks[0], locks[1]);
        server.run("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
    }
    report.push('\n');
}

/// A run with the bounds of its events.
type Run = [String; 3];

/// Some runs, at random, the same in each comparison.
fn runs(client: &mut Client, count: usize) -> Vec<Run> {
    let sql = "SELECT run_id::text, min(ts)::text, max(ts)::text FROM workflow_events \
               WHERE run_id IN (SELECT id FROM workflow_runs ORDER BY md5(id::text) LIMIT $1) GROUP BY run_id ORDER BY md5(run_id::text)";
    let rows = client.query(sql, &[&(count as i64)]).expect("runs are chosen");
    assert_eq!(rows.len(), count, "there are runs enough");
    rows.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect()
}

fn prepare(client: &mut Client, variant: &Variant) -> Statement {
    client.prepare(variant.sql).expect("a variant is prepared")
}

/// One call: the microseconds that it took, and the ids that it gave.
fn call(client: &mut Client, statement: &Statement, run: &Run) -> (f64, Vec<i64>) {
    let [id, from, to] = run;
    let all: [&(dyn postgres::types::ToSql + Sync); 3] = [id, from, to];
    let began = Instant::now();
    let rows = client.query(statement, &all[..statement.params().len()]).expect("a variant runs");
    let took = began.elapsed().as_secs_f64() * 1e6;
    (took, rows.iter().map(|row| row.get(0)).collect())
}

/// The median of each variant; adds how many rows were compared.
fn measure(
    client: &mut Client,
    variants: &[Variant],
    runs: &[Run],
    compared: &mut usize,
) -> Vec<f64> {
    let statements: Vec<_> = variants.iter().map(|variant| prepare(client, variant)).collect();
    let mut times: Vec<Vec<f64>> =
        variants.iter().map(|_| Vec::with_capacity(runs.len())).collect();
    for run in runs {
        let mut first: Option<Vec<i64>> = None;
        for ((variant, statement), times) in variants.iter().zip(&statements).zip(&mut times) {
            let set = format!("SET plan_cache_mode = {}", variant.plan_cache_mode);
            client.batch_execute(&set).expect("the setting is set");
            let (took, ids) = call(client, statement, run);
            times.push(took);
            assert!(!ids.is_empty(), "run {run:?} has no events");
            *compared += ids.len();
            assert_eq!(*first.get_or_insert_with(|| ids.clone()), ids, "the variants differ");
        }
    }
    times.into_iter().map(median).collect()
}

/// The median of the first calls of new connections, with all that the connection has to prepare.
fn first_calls(server: &Server, database: &str, variants: &[Variant], runs: &[Run]) -> Vec<f64> {
    let mut times: Vec<Vec<f64>> = variants.iter().map(|_| Vec::new()).collect();
    for run in runs.iter().cycle().take(CONNECTIONS) {
        for (variant, times) in variants.iter().zip(&mut times) {
            let mut client = server.connect(database);
            let began = Instant::now();
            let statement = prepare(&mut client, variant);
            call(&mut client, &statement, run);
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.into_iter().map(median).collect()
}

/// The relation locks that one call leaves to its transaction.
fn locks(server: &Server, database: &str, variant: &Variant, run: &Run) -> i64 {
    let mut client = server.connect(database);
    let statement = prepare(&mut client, variant);
    client.batch_execute("BEGIN").expect("a transaction begins");
    call(&mut client, &statement, run);
    let sql = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation >= 16384";
    client.query_one(sql, &[]).expect("locks are counted").get(0)
}

/// Makes a database with the document's function, that many months, and the events.
fn load(server: &Server, database: &str, partitions: i32) {
    server.create_database(database);
    server.script(
        database,
        "CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
         CREATE EXTENSION pg_meshhook_events;
         SELECT count(*) FROM setup_workflow_events();",
    );
    let mut client: Client = server.connect(database);
    client
        .batch_execute(&format!(
            "SET TimeZone = 'UTC';
             -- Setup has made six, from two months behind to three ahead.
             SELECT create_workflow_events_partition((date_trunc('month', now()) - n * interval '1 month')::date)
                 FROM generate_series(3, {partitions} - 4) n;
             -- A run's number of events is 20 to 100, and its first event lies anywhere in the months behind.
             CREATE TABLE plan AS
                 SELECT md5(n::text)::uuid AS run, 20 + ('x' || substr(md5(n::text), 1, 6))::bit(24)::int % 81 AS events,
                        date_trunc('month', now()) - (random() * ({partitions} - 5)) * interval '30 days' AS began
                 FROM generate_series(1, {EVENTS} / 60) n;
             INSERT INTO workflow_runs SELECT run FROM plan;
             INSERT INTO workflow_events (run_id, ts, type, payload)
                 SELECT run, began + e * interval '3 minutes', 'node.' || (ARRAY['started', 'finished', 'failed'])[1 + e % 3],
                        jsonb_build_object('node', 'step_' || e % 9, 'n', e, 'body', repeat(md5(e::text), 7))
                 FROM plan, generate_series(1, events) e;
             DROP TABLE plan;
             CREATE FUNCTION document_form(p_run_id uuid, p_start_ts timestamptz DEFAULT NULL, p_end_ts timestamptz DEFAULT NULL)
             RETURNS TABLE (id bigint, run_id uuid, ts timestamptz, type text, payload jsonb, created_at timestamptz)
             LANGUAGE plpgsql STABLE AS $$
             BEGIN
                 RETURN QUERY SELECT e.id, e.run_id, e.ts, e.type, e.payload, e.created_at
                 FROM workflow_events e
                 WHERE e.run_id = p_run_id AND (p_start_ts IS NULL OR e.ts >= p_start_ts)
                   AND (p_end_ts IS NULL OR e.ts <= p_end_ts)
                 ORDER BY e.ts, e.id;
             END $$;"
        ))
        .expect("the events load");
    client.batch_execute("VACUUM (FREEZE, ANALYZE)").expect("VACUUM runs");
    let made = server.partitions(database).len();
    assert_eq!(made, partitions as usize, "that many partitions were made");
}

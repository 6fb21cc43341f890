//! How fast the events of one run are read, beside the plain query and MeshHook's own form of it.

use std::fmt::Write as _;
use std::time::Instant;

use postgres::Client;
use process::Server;

use crate::report::median;

const DATABASE: &str = "replay";

/// How many runs and events.
const RUNS: i32 = 3_000;
const EVENTS: i32 = 180_000;

/// How many months the events are spread over.
const MONTHS: i32 = 24;

/// How many calls of each variant.
const CALLS: usize = 300;

/// Name, and the statement with the run as its only parameter.
const VARIANTS: [(&str, &str); 3] = [
    ("MeshHook's form: `($2 IS NULL OR ts >= $2)`", "SELECT * FROM meshhook_form($1::text::uuid)"),
    (
        "the plain query",
        "SELECT id, run_id, ts, type, payload, created_at FROM workflow_events \
         WHERE run_id = $1::text::uuid ORDER BY ts, id",
    ),
    ("`get_workflow_run_events`", "SELECT * FROM get_workflow_run_events($1::text::uuid)"),
];

/// Loads events, calls the variants in turn in one connection, and writes a table. A result that
/// differs between them ends the comparison.
pub fn compare(server: &Server, report: &mut String) {
    load(server);
    let mut client = server.connect(DATABASE);
    let statements: Vec<_> = VARIANTS
        .iter()
        .map(|(_, sql)| client.prepare(sql).expect("a variant is prepared"))
        .collect();
    let mut times: Vec<Vec<f64>> = VARIANTS.iter().map(|_| Vec::with_capacity(CALLS)).collect();
    for call in 0..CALLS {
        let run = format!("{:032x}", 1 + (call * 7_919) % RUNS as usize);
        let mut first: Option<Vec<i64>> = None;
        for (statement, times) in statements.iter().zip(&mut times) {
            let began = Instant::now();
            let rows = client.query(statement, &[&run]).expect("a variant runs");
            times.push(began.elapsed().as_secs_f64() * 1e6);
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            assert!(!ids.is_empty(), "run {run} has no events");
            assert_eq!(*first.get_or_insert_with(|| ids.clone()), ids, "the variants differ");
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let ours = medians.last().copied().unwrap_or(f64::NAN);
    let _ = writeln!(
        report,
        "## How fast a run is read\n\n\
         {EVENTS} events of {RUNS} runs in {MONTHS} months, all in memory; {CALLS} calls of each, alternating \
         in one connection, results compared.\n\n\
         | variant | median, µs | ratio to ours |\n| --- | --- | --- |"
    );
    for ((name, _), median) in VARIANTS.iter().zip(medians) {
        let _ = writeln!(report, "| {name} | {median:.0} | {:.2} |", median / ours);
    }
}

fn load(server: &Server) {
    server.create_database(DATABASE);
    server.script(
        DATABASE,
        "CREATE EXTENSION pg_meshhook_events;
         CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
         SELECT count(*) FROM setup_workflow_events();",
    );
    let mut client: Client = server.connect(DATABASE);
    client
        .batch_execute(&format!(
            "SELECT create_workflow_events_partition((date '2020-01-01' + n * interval '1 month')::date)
                 FROM generate_series(0, {MONTHS} - 1) n;
             INSERT INTO workflow_runs (id)
                 SELECT lpad(to_hex(n), 32, '0')::uuid FROM generate_series(1, {RUNS}) n;
             INSERT INTO workflow_events (run_id, ts, type, payload)
                 SELECT lpad(to_hex(1 + n % {RUNS}), 32, '0')::uuid,
                        timestamptz '2020-01-01 00:00+00' + (n % {RUNS}) * interval '{MONTHS} months' / {RUNS}
                            + (n / {RUNS}) * interval '3 minutes',
                        'node.finished', jsonb_build_object('n', n, 'body', repeat('x', 300))
                 FROM generate_series(1, {EVENTS}) n;
             ANALYZE workflow_events;
             CREATE FUNCTION meshhook_form(p_run_id uuid, p_start timestamptz DEFAULT NULL, p_end timestamptz DEFAULT NULL)
             RETURNS TABLE (id bigint, run_id uuid, ts timestamptz, type text, payload jsonb, created_at timestamptz)
             LANGUAGE plpgsql STABLE AS $$
             BEGIN
                 RETURN QUERY SELECT e.id, e.run_id, e.ts, e.type, e.payload, e.created_at
                 FROM workflow_events e
                 WHERE e.run_id = p_run_id AND (p_start IS NULL OR e.ts >= p_start) AND (p_end IS NULL OR e.ts <= p_end)
                 ORDER BY e.ts, e.id;
             END $$;"
        ))
        .expect("the events load");
}

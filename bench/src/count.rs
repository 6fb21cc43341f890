//! How fast the rows of a partition are counted, beside the plain query.

use std::fmt::Write as _;
use std::time::Instant;

use postgres::Client;
use process::Server;

use crate::report::{self, median};

/// How many events the partition has.
const EVENTS: i64 = 5_000_000;

/// How often each variant is called.
const CALLS: usize = 31;

const DATABASE: &str = "counting";

/// The partition that holds them all; there is no other.
const PARTITION: &str = "workflow_events_y2026m01";

/// A way to count: its name, what is set before, and the statement.
struct Variant {
    name: &'static str,
    workers: u32,
    sql: String,
}

/// What a variant needs.
struct Cost {
    ms: f64,
    pages: i64,
}

/// Loads the events, counts them in turn in one connection, first with all pages visible to all, then with some that are
/// not, and writes a table. A count that is wrong ends the comparison.
pub fn compare(server: &Server, report: &mut String) {
    load(server);
    let mut client = server.connect(DATABASE);
    let heap = pages_of(&mut client);
    let _ = writeln!(
        report,
        "## How fast a partition is counted\n\n\
         {EVENTS} events in one partition of {heap} pages, with the indexes that setup makes, after VACUUM; then with a row \
         changed in some pages. The variants are called in turn in one connection, {CALLS} times; medians in milliseconds, \
         as the client sees them. Pages are those that a call asks for, in memory or not.\n"
    );
    report::table(
        report,
        &[
            "pages not visible to all",
            "compared with",
            "theirs, ms",
            "ours, ms",
            "ratio",
            "their pages",
            "our pages",
        ],
    );
    let plain = format!("SELECT count(*) FROM {PARTITION}");
    let variants = [
        Variant { name: "count(*), one process", workers: 0, sql: plain.clone() },
        Variant { name: "count(*), two workers", workers: 2, sql: plain },
        Variant {
            name: "get_workflow_events_partition_stats",
            workers: 0,
            sql: "SELECT row_count FROM get_workflow_events_partition_stats()".to_owned(),
        },
    ];
    let mut lines = |changed: i64, costs: &[Cost]| {
        let [theirs @ .., ours] = costs else { return };
        for (variant, theirs) in variants.iter().zip(theirs) {
            let cells = [
                format!("{changed} ({:.1} %)", 100.0 * changed as f64 / heap as f64),
                variant.name.to_owned(),
                format!("{:.1}", theirs.ms),
                format!("{:.1}", ours.ms),
                format!("{:.1}", theirs.ms / ours.ms),
                theirs.pages.to_string(),
                ours.pages.to_string(),
            ];
            report::row(report, &cells);
        }
    };
    let clean = measure(&mut client, &variants);
    lines(0, &clean);
    let changed = change(&mut client);
    let changed_costs = measure(&mut client, &variants);
    lines(changed, &changed_costs);
    report.push('\n');
    drop(client);
    server.run("postgres", &format!("DROP DATABASE {DATABASE} WITH (FORCE)"));
}

fn pages_of(client: &mut Client) -> i64 {
    let sql = format!("SELECT pg_relation_size('{PARTITION}') / 8192");
    client.query_one(&sql, &[]).expect("a size is asked for").get(0)
}

/// Calls the variants in turn; gives the cost of each.
fn measure(client: &mut Client, variants: &[Variant]) -> Vec<Cost> {
    let mut times: Vec<Vec<f64>> = variants.iter().map(|_| Vec::with_capacity(CALLS)).collect();
    // The first round only fills the caches.
    for round in 0..=CALLS {
        for (variant, times) in variants.iter().zip(&mut times) {
            set_workers(client, variant);
            let began = Instant::now();
            let row = client.query_one(&variant.sql, &[]).expect("a variant counts");
            let took = began.elapsed().as_secs_f64() * 1e3;
            let counted: i64 = row.get(0);
            assert_eq!(counted, EVENTS, "{} counts wrong", variant.name);
            if round > 0 {
                times.push(took);
            }
        }
    }
    let cost = |(variant, times)| Cost { ms: median(times), pages: pages(client, variant) };
    variants.iter().zip(times).map(cost).collect()
}

fn set_workers(client: &mut Client, variant: &Variant) {
    let set = format!("SET max_parallel_workers_per_gather = {}", variant.workers);
    client.batch_execute(&set).expect("the setting is set");
}

/// How many pages a call asks for, its workers included.
fn pages(client: &mut Client, variant: &Variant) -> i64 {
    set_workers(client, variant);
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) {}", variant.sql);
    let plan = client.query(&explain, &[]).expect("a variant is explained");
    let lines = plan.iter().map(|row| row.get::<_, String>(0));
    // The first line is that of the top node, which includes the others.
    let buffers = lines.into_iter().find(|line| line.trim_start().starts_with("Buffers: shared"));
    let buffers = buffers.expect("a plan says its buffers");
    let numbers = buffers.split([' ', ',']).filter_map(|word| {
        let number = word.strip_prefix("hit=").or_else(|| word.strip_prefix("read="))?;
        number.parse::<i64>().ok()
    });
    numbers.sum()
}

/// Changes the first row of every fiftieth page; gives how many pages that are.
fn change(client: &mut Client) -> i64 {
    let sql = format!(
        "UPDATE {PARTITION} SET payload = payload || '{{\"changed\": true}}' \
         WHERE ctid = ANY (SELECT ('(' || page || ',1)')::tid \
                           FROM generate_series(7, pg_relation_size('{PARTITION}') / 8192 - 1, 50) page)"
    );
    client.execute(&sql, &[]).expect("rows are changed") as i64
}

/// Makes a database with one partition, and the events in it.
fn load(server: &Server) {
    server.create_database(DATABASE);
    server.script(
        DATABASE,
        "CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
         CREATE EXTENSION pg_meshhook_events;
         SELECT count(*) FROM setup_workflow_events();",
    );
    for partition in server.partitions(DATABASE) {
        server.run(DATABASE, &format!("DROP TABLE {partition}"));
    }
    let mut client = server.connect(DATABASE);
    client
        .batch_execute(&format!(
            "SET TimeZone = 'UTC';
             SELECT create_workflow_events_partition('2026-01-15'::date);
             -- Runs of 60 events; foreign keys are not what is measured.
             SET session_replication_role = replica;
             INSERT INTO {PARTITION} (run_id, ts, type, payload)
                 SELECT md5((n / 60)::text)::uuid, timestamptz '2026-01-02' + n * interval '0.5 s',
                        'node.' || (ARRAY['started', 'finished', 'failed', 'retried', 'skipped'])[1 + n % 5],
                        jsonb_build_object('node', 'step_' || n % 9, 'n', n, 'body', repeat(md5(n::text), 7))
                 FROM generate_series(1, {EVENTS}) n;
             RESET session_replication_role"
        ))
        .expect("the events load");
    client.batch_execute("VACUUM (FREEZE, ANALYZE)").expect("VACUUM runs");
    assert_eq!(server.partitions(DATABASE), [PARTITION]);
}

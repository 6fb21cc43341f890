//! How fast a wrong retention is undone, beside loading the document's CSV file again; and what looking for runs that need a
//! partition costs.

use std::fmt::Write as _;
use std::time::Instant;

use postgres::Client;
use process::Server;

use crate::report::{self, median};

/// How many events the month has.
const EVENTS: i64 = 5_000_000;

/// How many runs go on, none of which has an event in it.
const UNFINISHED: i64 = 1_000;

/// How often the month is parked and put back.
const ROUNDS: usize = 5;

/// The database, which the worker may maintain.
pub const DATABASE: &str = "undoing";

/// Loads a month that is older than the retention, has it parked by the worker and puts it back, in turn; then drops it and
/// loads it from the file as the document would. A row that is missing ends the comparison.
pub fn compare(server: &Server, report: &mut String) {
    let month = load(server);
    let mut client = server.connect(DATABASE);
    let file = server.data().with_file_name(format!("{month}.csv"));
    let file = file.display();
    execute(&mut client, &format!("COPY {month} TO '{file}' CSV HEADER"));
    let check_ms = check(&mut client);

    let (mut parking, mut restoring) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        execute(&mut client, "UPDATE meshhook_events.policy SET automatic_retention = true");
        execute(&mut client, "SELECT meshhook_events.wake_worker()");
        let parked = "meshhook_events.retired_partition WHERE state = 'detached'";
        server.wait_until("the month is parked", |_| count(&mut client, parked) == 1);
        assert_eq!(count(&mut client, "workflow_events"), 0, "the month is still to be seen");
        parking.push(began.elapsed().as_secs_f64() * 1e3);
        execute(&mut client, "UPDATE meshhook_events.policy SET automatic_retention = false");
        server.wait_until_idle();

        let began = Instant::now();
        execute(
            &mut client,
            &format!("SELECT * FROM restore_workflow_events_partition('{month}')"),
        );
        restoring.push(began.elapsed().as_secs_f64() * 1e3);
        assert_eq!(count(&mut client, "workflow_events"), EVENTS, "a row was lost");
        execute(&mut client, &format!("SELECT release_workflow_events_partition('{month}')"));
    }

    execute(&mut client, &format!("DROP TABLE {month}"));
    let began = Instant::now();
    execute(
        &mut client,
        "SELECT create_workflow_events_partition(date_trunc('month', now()) - interval '14 months')",
    );
    execute(&mut client, &format!("COPY {month} FROM '{file}' CSV HEADER"));
    let theirs = began.elapsed().as_secs_f64() * 1e3;
    assert_eq!(count(&mut client, "workflow_events"), EVENTS, "a row was lost");

    let _ = writeln!(
        report,
        "## How fast a wrong retention is undone\n\n\
         A month of {EVENTS} events, retired by the worker, and put back by `restore_workflow_events_partition`, {ROUNDS} \
         times; beside it, once, the month's CSV file loaded into a new partition. Looking whether one of {UNFINISHED} runs \
         that go on needs the month is a part of the plan, which is asked {ROUNDS} times. Medians in milliseconds, as the \
         client sees them.\n"
    );
    report::table(report, &["what", "ms", "most, ms"]);
    let mut line = |what: &str, times: &[f64]| {
        let cells = [
            what.to_owned(),
            format!("{:.1}", median(times.to_vec())),
            format!("{:.1}", report::maximum(times)),
        ];
        report::row(report, &cells);
    };
    line("ours: a parked month is put back", &restoring);
    line("`COPY … FROM` the file into a new partition", &[theirs]);
    line("ours: the plan, with the look for runs that need the month", &check_ms);
    report.push('\n');
    drop(client);
    server.run("postgres", &format!("DROP DATABASE {DATABASE} WITH (FORCE)"));
}

fn execute(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn count(client: &mut Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).expect("it counts").get(0)
}

/// How long the plan takes that says that the month is to be retired.
fn check(client: &mut Client) -> Vec<f64> {
    let sql = "SELECT count(*) FROM plan_workflow_events_maintenance() WHERE action = 'detach'";
    let ask = |client: &mut Client| {
        let began = Instant::now();
        let steps: i64 = client.query_one(sql, &[]).expect("a plan is made").get(0);
        assert_eq!(steps, 1, "the month is not to be retired");
        began.elapsed().as_secs_f64() * 1e3
    };
    // The worker looks only when it is told to.
    execute(client, "UPDATE meshhook_events.policy SET automatic_retention = true");
    // The first only fills the caches.
    let times = (0..=ROUNDS).map(|_| ask(client)).skip(1).collect();
    execute(client, "UPDATE meshhook_events.policy SET automatic_retention = false");
    times
}

/// Makes a log whose only old month has all events; gives the month's name.
fn load(server: &Server) -> String {
    server.create_database(DATABASE);
    server.script(
        DATABASE,
        "CREATE TABLE workflow_runs (id uuid PRIMARY KEY, status text NOT NULL DEFAULT 'running', finished_at timestamptz);
         CREATE EXTENSION pg_meshhook_events;
         SELECT count(*) FROM setup_workflow_events();
         UPDATE meshhook_events.policy SET retention = '12 months', automatic_retention = false, seal_after = NULL;",
    );
    let mut client = server.connect(DATABASE);
    execute(&mut client, "SET TimeZone = 'UTC'");
    let start = "date_trunc('month', now()) - interval '14 months'";
    let month: String = client
        .query_one(&format!("SELECT create_workflow_events_partition({start})"), &[])
        .expect("the month is made")
        .get(0);
    execute(
        &mut client,
        &format!(
            "INSERT INTO workflow_runs
                 SELECT md5(n::text)::uuid, 'succeeded', now() FROM generate_series(0, {EVENTS} / 60) n;
             INSERT INTO workflow_runs SELECT gen_random_uuid() FROM generate_series(1, {UNFINISHED});
             SET session_replication_role = replica;
             INSERT INTO {month} (run_id, ts, type, payload)
                 SELECT md5((n / 60)::text)::uuid, {start} + n * interval '0.5 s',
                        'node.' || (ARRAY['started', 'finished', 'failed', 'retried', 'skipped'])[1 + n % 5],
                        jsonb_build_object('node', 'step_' || n % 9, 'n', n, 'body', repeat(md5(n::text), 7))
                 FROM generate_series(1, {EVENTS}) n;
             RESET session_replication_role"
        ),
    );
    execute(&mut client, "VACUUM (FREEZE, ANALYZE)");
    month
}

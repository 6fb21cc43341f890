//! What the worker costs where there is nothing to do.

use std::fmt::Write as _;

use postgres::Client;
use process::{DEADLINE, Server, poll_until};

use crate::report::{self, maximum, median};

/// The database, which the worker may maintain from the start of the server.
pub const DATABASE: &str = "idle";

/// How many monthly partitions the log has.
const PARTITIONS: i32 = 1_000;

/// How many passes are measured, after some that find work or warm up.
const PASSES: usize = 20;
const PASSES_BEFORE: usize = 3;

/// How long the server writes nothing, before the measurement begins: its background writer notes running transactions
/// up to 15 s after something was written.
const QUIET: std::time::Duration = std::time::Duration::from_secs(17);

/// Numbers of the whole server.
struct Counters {
    wal_records: i64,
    wal_bytes: i64,
    wal_position: i64,
    next_transaction: i64,
}

impl Counters {
    /// Reads them without taking a transaction number.
    fn read(client: &mut Client) -> Self {
        let row = client
            .query_one(
                "SELECT wal_records, wal_bytes::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint, \
                 pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM pg_stat_wal",
                &[],
            )
            .expect("the counters can be read");
        Self {
            wal_records: row.get(0),
            wal_bytes: row.get(1),
            wal_position: row.get(2),
            next_transaction: row.get(3),
        }
    }
}

/// Makes the log, lets the worker look at it again and again, and writes a table.
pub fn measure(server: &mut Server, report: &mut String) {
    make_log(server);
    server.set_conf("log_min_messages", "debug1");
    server.reload();
    let mut client = server.connect(DATABASE);
    for _ in 0..PASSES_BEFORE {
        pass(server, &mut client);
    }
    client.batch_execute("VACUUM (FREEZE, ANALYZE)").expect("VACUUM runs");
    pass(server, &mut client);
    wait_until_quiet(&mut client);

    let costs_before = cpu_costs(server).len();
    let before = Counters::read(&mut client);
    for _ in 0..PASSES {
        pass(server, &mut client);
    }
    let after = Counters::read(&mut client);
    let costs = cpu_costs(server).split_off(costs_before);
    let failed: i64 = server.ask_in(
        DATABASE,
        "SELECT count(*) FROM meshhook_events.maintenance_log WHERE status IN ('failed', 'crashed', 'running')",
    );
    assert_eq!(failed, 0, "passes failed that had nothing to do\n{}", server.log());
    assert!(
        costs.is_empty() || costs.len() == PASSES,
        "{} passes were logged, not {PASSES}",
        costs.len()
    );
    drop(client);
    server.set_conf("log_min_messages", "warning");
    server.reload();
    write(report, &before, &after, &costs);
}

/// A log with many partitions, and nothing left to do.
fn make_log(server: &Server) {
    server.create_database(DATABASE);
    server.script(
        DATABASE,
        &format!(
            "CREATE TABLE workflow_runs (id uuid PRIMARY KEY);
             CREATE EXTENSION pg_meshhook_events;
             SELECT count(*) FROM setup_workflow_events();
             SELECT format('SELECT create_workflow_events_partition(%L::date)',
                           (date_trunc('month', now()) - n * interval '1 month')::date)
             FROM generate_series(0, {PARTITIONS} - 4) n \\gexec"
        ),
    );
    assert_eq!(
        server.partitions(DATABASE).len(),
        PARTITIONS as usize,
        "that many partitions were made"
    );
}

/// Wakes the worker, and waits until its process has ended: the postmaster says so.
fn pass(server: &Server, client: &mut Client) {
    let ended = || {
        server
            .log()
            .matches(&format!("unregistering background worker \"{}", worker_name()))
            .count()
    };
    let before = ended();
    client.batch_execute("SELECT meshhook_events.wake_worker()").expect("the worker is woken");
    poll_until(DEADLINE, || (ended() > before).then_some(()))
        .unwrap_or_else(|| panic!("the worker has made no pass\n{}", server.log()));
}

fn worker_name() -> String {
    format!("pg_meshhook_events worker for database {DATABASE}\"")
}

/// Waits until nothing has been written for a while.
fn wait_until_quiet(client: &mut Client) {
    client.batch_execute("CHECKPOINT").expect("CHECKPOINT runs");
    let mut since = std::time::Instant::now();
    let mut last = Counters::read(client).wal_position;
    let quiet = poll_until(DEADLINE, || {
        let now = Counters::read(client).wal_position;
        if now != last {
            (last, since) = (now, std::time::Instant::now());
        }
        (since.elapsed() >= QUIET).then_some(())
    });
    assert!(quiet.is_some(), "the server goes on writing with nothing to do");
}

/// The milliseconds of processor time that passes took, as far as the worker has logged them.
fn cpu_costs(server: &Server) -> Vec<f64> {
    let log = server.log();
    let oid: u32 = server.ask(&format!("SELECT oid FROM pg_database WHERE datname = '{DATABASE}'"));
    let line = format!("pass of database {oid}: ");
    log.split(&line)
        .skip(1)
        .filter_map(|rest| rest.split_once(" ms of CPU")?.0.parse().ok())
        .collect()
}

fn write(report: &mut String, before: &Counters, after: &Counters, costs: &[f64]) {
    let _ = writeln!(
        report,
        "## What the worker costs where there is nothing to do\n\n\
         A log with {PARTITIONS} partitions, all there; a release build; {PASSES} passes, each by a new process. \
         The first four columns are for all passes together.\n"
    );
    let mut columns =
        vec!["WAL records", "WAL bytes", "WAL position moved by, bytes", "transaction numbers"];
    let mut cells: Vec<String> = [
        after.wal_records - before.wal_records,
        after.wal_bytes - before.wal_bytes,
        after.wal_position - before.wal_position,
        after.next_transaction - before.next_transaction,
    ]
    .map(|number| number.to_string())
    .into();
    if !costs.is_empty() {
        columns.extend(["CPU of a pass, ms: least", "median", "most"]);
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        cells.extend(
            [least, median(costs.to_vec()), maximum(costs)].map(|cost| format!("{cost:.1}")),
        );
    }
    report::table(report, &columns);
    report::row(report, &cells);
    report.push('\n');
}

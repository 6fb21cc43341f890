//! What clients feel while a partition is made and another transaction is open.
//!
//! Writers insert an event and update its run every 20 ms; a holder keeps a transaction open; a second
//! later a partition is made, by one method or the other, tried again each second where it gives up.
//! What counts is the longest call of a writer.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use process::Server;

use crate::median;

/// How long the holder's transaction is open.
const HOLD: Duration = Duration::from_secs(6);

/// How often each combination is run.
const ROUNDS: usize = 3;

/// How many clients write.
const WRITERS: usize = 3;

/// Makes the database that all comparisons use.
pub fn prepare(server: &Server) {
    server.create_database("bench");
    server.script(
        "bench",
        "CREATE EXTENSION pg_meshhook_events;
         CREATE TABLE workflow_runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), updated_at timestamptz);
         INSERT INTO workflow_runs SELECT FROM generate_series(1, 100);
         SELECT count(*) FROM setup_workflow_events();",
    );
}

/// A way to make the partition of a month.
struct Method {
    name: &'static str,
    statement: fn(month: &str, next: &str, name: &str) -> String,
}

const METHODS: [Method; 2] = [
    Method {
        name: "CREATE TABLE … PARTITION OF",
        statement: |month, next, name| {
            format!(
                "CREATE TABLE {name} PARTITION OF workflow_events \
                 FOR VALUES FROM ('{month} 00:00+00') TO ('{next} 00:00+00')"
            )
        },
    },
    Method {
        name: "create_workflow_events_partition",
        statement: |month, _, _| format!("SELECT create_workflow_events_partition(date '{month}')"),
    },
];

/// What somebody else has open meanwhile.
const HOLDERS: [(&str, &str); 2] = [
    ("one read of workflow_events", "SELECT count(*) FROM workflow_events"),
    ("one insert into workflow_runs", "INSERT INTO workflow_runs DEFAULT VALUES"),
];

/// What one run showed, in milliseconds.
struct Seen {
    longest_call: f64,
    until_made: f64,
    tries: usize,
}

/// Runs all combinations, alternating, and writes a table.
pub fn compare(server: &Server, report: &mut String) {
    let _ = writeln!(
        report,
        "## What clients feel while a partition is made\n\n\
         {WRITERS} writers; a transaction of {} s open; {ROUNDS} rounds, alternating; milliseconds.\n\n\
         | open transaction | method | longest call of a writer: median | most | partition made after: median | tries |\n\
         | --- | --- | --- | --- | --- | --- |",
        HOLD.as_secs()
    );
    let mut year = 2100;
    let mut seen: Vec<Vec<Seen>> = (0..HOLDERS.len() * METHODS.len()).map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (h, (_, held)) in HOLDERS.iter().enumerate() {
            for (m, method) in METHODS.iter().enumerate() {
                year += 1;
                seen[h * METHODS.len() + m].push(run(server, held, method, year));
            }
        }
    }
    for (h, (holder, _)) in HOLDERS.iter().enumerate() {
        for (m, method) in METHODS.iter().enumerate() {
            let rounds = &seen[h * METHODS.len() + m];
            let calls: Vec<f64> = rounds.iter().map(|s| s.longest_call).collect();
            let most = calls.iter().copied().fold(0.0, f64::max);
            let made = median(rounds.iter().map(|s| s.until_made).collect());
            let tries = rounds.iter().map(|s| s.tries).max().unwrap_or(0);
            let _ = writeln!(
                report,
                "| {holder} | `{}` | {:.0} | {most:.0} | {made:.0} | {tries} |",
                method.name,
                median(calls)
            );
        }
    }
    report.push('\n');
}

fn run(server: &Server, held: &str, method: &Method, year: u32) -> Seen {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS).map(|_| writer(server, Arc::clone(&stop))).collect();

    let mut holder = server.connect("bench");
    let mut transaction = holder.transaction().expect("a transaction begins");
    transaction.simple_query(held).expect("the holder's statement runs");
    let opened = Instant::now();

    let statement = (method.statement)(
        &format!("{year}-01-01"),
        &format!("{year}-02-01"),
        &format!("workflow_events_y{year}m01"),
    );
    let conninfo = server.conninfo("bench", "postgres");
    let maker = thread::spawn(move || {
        let mut client = postgres::Client::connect(&conninfo, postgres::NoTls).expect("connects");
        thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            match client.simple_query(&statement) {
                Ok(_) => return (began.elapsed(), tries),
                // Its locks were not to be had in time: that is the promise.
                Err(e) if e.code() == Some(&postgres::error::SqlState::LOCK_NOT_AVAILABLE) => {
                    thread::sleep(Duration::from_secs(1));
                }
                Err(e) => panic!("{statement}: {e}"),
            }
        }
    });
    thread::sleep(HOLD.saturating_sub(opened.elapsed()));
    transaction.commit().expect("the holder commits");
    let (made, tries) = maker.join().expect("the partition is made");
    stop.store(true, Ordering::Relaxed);
    let longest = writers.into_iter().map(|w| w.join().expect("a writer ends")).max();
    Seen {
        longest_call: longest.unwrap_or_default().as_secs_f64() * 1_000.0,
        until_made: made.as_secs_f64() * 1_000.0,
        tries,
    }
}

/// Writes until told to stop, and gives its longest call.
fn writer(server: &Server, stop: Arc<AtomicBool>) -> thread::JoinHandle<Duration> {
    let conninfo = server.conninfo("bench", "postgres");
    thread::spawn(move || {
        let mut client = postgres::Client::connect(&conninfo, postgres::NoTls).expect("connects");
        let insert = "WITH run AS (SELECT id FROM workflow_runs LIMIT 1 OFFSET 7) \
                      INSERT INTO workflow_events (run_id, type, payload) SELECT id, 'bench', '{}' FROM run";
        let update = "UPDATE workflow_runs SET updated_at = now() \
                      WHERE id = (SELECT id FROM workflow_runs ORDER BY random() LIMIT 1)";
        let mut longest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            for statement in [insert, update] {
                let began = Instant::now();
                client.simple_query(statement).expect("a write succeeds");
                longest = longest.max(began.elapsed());
            }
            thread::sleep(Duration::from_millis(20));
        }
        longest
    })
}

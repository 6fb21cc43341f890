//! Databases come and go beside the worker, whatever it does in them or in others; and there may be many.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use process::{DEADLINE, HANDFUL, Server, figure, ms, poll_until};

/// A table of all databases that DROP DATABASE does not need, so that a session elsewhere can hold a lock that the worker waits for: a session in a
/// database would keep it from being dropped.
const SHARED: &str = "LOCK TABLE pg_catalog.pg_replication_origin";

/// What keeps a worker busy for as long as a step may take.
const SLEEPS: &str = "PERFORM pg_sleep(600);";

/// A server with a patient worker and an event log in the database `one`, which it has looked at.
fn with_log() -> Server {
    let server = Server::with_patient_worker().start();
    server.create_database("one");
    server.set_up("one");
    server.look("one");
    server
}

/// Runs a statement that must succeed, and gives how long it took.
fn timed(server: &Server, sql: &str) -> Duration {
    let mut session = server.connect("postgres");
    let begin = Instant::now();
    session.batch_execute(sql).unwrap_or_else(|error| {
        panic!("{sql}, after {:?}: {error:?}\n{}", begin.elapsed(), server.log())
    });
    begin.elapsed()
}

/// Drops `one` in that way while its worker is in the middle of something; the launcher goes on as it was.
fn drop_under_worker(server: &Server, sql: &str, worker: i32, case: &str) {
    let launcher = server.launcher();
    figure(case, "until it is dropped (PostgreSQL waits 5 s)", ms(timed(server, sql)));
    assert!(!server.workers(None).contains(&worker), "{case}");
    server.set_up("postgres");
    server.look("postgres");
    assert_eq!(server.launcher(), launcher, "{case}");
    figure(case, "lines in the log", server.assert_quiet(HANDFUL));
}

fn drop_while_it_works(sql: &str, kind: &str) {
    let server = with_log();
    server.plant("one", SLEEPS);
    let worker = server.make_worker_work("one");
    let case = format!("databases: DROP DATABASE ({kind}), its worker works");
    drop_under_worker(&server, sql, worker, &case);
}

#[test]
fn a_database_can_be_dropped_while_its_worker_works() {
    drop_while_it_works("DROP DATABASE one", "plain");
}

#[test]
fn a_database_can_be_dropped_by_force_while_its_worker_works() {
    drop_while_it_works("DROP DATABASE one WITH (FORCE)", "FORCE");
}

#[test]
fn a_database_can_be_dropped_while_its_worker_waits() {
    let server = with_log();
    let mut holder = server.connect("postgres");
    holder.batch_execute(&format!("BEGIN; {SHARED}")).unwrap();
    server.plant("one", &format!("{SHARED};"));
    let worker = server.make_worker_work("one");
    assert_eq!(server.wait_for_waiting_worker("one"), worker);
    let case = "databases: DROP DATABASE (plain), its worker waits for a lock";
    drop_under_worker(&server, "DROP DATABASE one", worker, case);
}

#[test]
fn databases_come_and_go_while_a_worker_is_busy_elsewhere() {
    let server = with_log();
    server.set_up("postgres");
    server.look("postgres");
    let launcher = server.launcher();
    let (mut created, mut dropped) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..30 {
        if server.workers(Some("one")).is_empty() {
            server.plant("one", SLEEPS);
            server.make_worker_work("one");
        }
        created = created.max(timed(&server, "CREATE DATABASE passing"));
        // With this the launcher sees the new one as well, and starts a worker for it.
        server.wake("postgres");
        dropped = dropped.max(timed(&server, "DROP DATABASE passing"));
    }
    assert_eq!(server.launcher(), launcher);
    let case = "databases: 30 are made and dropped beside a busy worker";
    figure(case, "the slowest CREATE DATABASE", ms(created));
    figure(case, "the slowest DROP DATABASE", ms(dropped));
    // A worker that was started for one that was gone says so, once.
    let lines = server.maintenance_lines();
    let gone = lines.iter().filter(|line| line.contains(" FATAL:  database ")).count();
    assert!(gone <= 30, "{lines:#?}");
    server.assert_quiet(gone + HANDFUL);
    figure(case, "lines in the log", lines.len());
}

/// The databases whose passes have ended, as the launcher says.
fn looked_at(server: &Server) -> BTreeSet<String> {
    let log = server.log();
    let ended = log
        .lines()
        .filter_map(|line| line.split_once("worker of database ")?.1.split_once(" ended"));
    ended.map(|(oid, _)| oid.to_owned()).collect()
}

/// The memory that a process has in use, in kB.
fn resident_kb(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

#[test]
fn two_hundred_databases_are_looked_at() {
    let mut server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    for i in 0..200 {
        server.create_database(&format!("d{i}"));
    }
    let with_log = [0, 50, 100, 150, 199].map(|i| format!("d{i}"));
    for database in &with_log {
        server.set_up(database);
        server.drop_month(database, 1);
    }
    let begin = Instant::now();
    server.turn_on();
    let all = poll_until(2 * DEADLINE, || (looked_at(&server).len() > 200).then_some(()));
    assert!(all.is_some(), "{} were looked at\n{}", looked_at(&server).len(), server.log());
    let case = "databases: 200, 5 with an event log";
    figure(case, "until all were looked at", ms(begin.elapsed()));
    for database in &with_log {
        assert!(server.partitions(database).contains(&server.month(1)), "{database}");
    }
    server.wait_until_idle();
    let launcher = server.launcher().expect("it runs");
    figure(case, "memory of the launcher", format!("{} kB", resident_kb(launcher)));
    // One for each partition made.
    figure(case, "lines in the log", server.assert_quiet(with_log.len() + HANDFUL));
}

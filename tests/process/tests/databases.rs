//! Several databases: which are maintained, which are left alone, and that none is held on to.

use std::time::Instant;

use process::{HANDFUL, Server, figure, ms};

/// A server with the worker off and event logs in these databases, each without next month's partition, whose name
/// is given.
fn with_gaps(databases: &[&str]) -> (Server, String) {
    let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    for database in databases {
        server.create_database(database);
        server.set_up(database);
        server.drop_month(database, 1);
    }
    let missing = server.month(1);
    (server, missing)
}

/// The lines above DEBUG that workers have written. The server doesn't put a worker's database into its lines, but its
/// process: those of the processes that `of` says yes to, by what they have said.
fn worker_lines(server: &Server, of: impl Fn(&str) -> bool) -> Vec<String> {
    let log = server.log();
    let process =
        |line: &str| line[..line.find(']').unwrap_or(0)].rsplit('[').next().map(str::to_owned);
    let by_worker = |line: &&str| line.contains("] pg_meshhook_events worker ");
    let chosen: Vec<_> =
        log.lines().filter(by_worker).filter(|line| of(line)).map(process).collect();
    let mut lines = server.maintenance_lines();
    lines.retain(|line| by_worker(&line.as_str()) && chosen.contains(&process(line)));
    lines
}

#[test]
fn every_log_is_maintained_and_a_database_without_one_left_alone() {
    let (mut server, missing) = with_gaps(&["one", "two"]);
    server.create_database("plain");
    server.turn_on_and_restart();
    server.wait_for_partition("one", &missing);
    server.wait_for_partition("two", &missing);
    // "postgres" is the other one without it.
    let no_log = |line: &str| line.contains("the extension is not installed in this database");
    server.wait_until("both others were looked at", |server| {
        server.log().lines().filter(|line| no_log(line)).count() == 2
    });
    server.wait_until_idle();
    assert_eq!(worker_lines(&server, no_log), Vec::<String>::new());
    assert_eq!(worker_lines(&server, |_| true).len(), 2, "a line for each partition made");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'meshhook_events'";
    assert_eq!(server.ask_in::<i64>("plain", schemas), 0);
}

#[test]
fn an_idle_look_at_a_log_leaves_no_line() {
    let (mut server, missing) = with_gaps(&["one"]);
    server.turn_on_and_restart();
    server.wait_for_partition("one", &missing);
    server.wait_until_idle();
    let before = worker_lines(&server, |_| true);
    assert_eq!(server.pass("one").status, "ok");
    assert_eq!(worker_lines(&server, |_| true), before);
}

#[test]
fn only_the_databases_named_are_maintained() {
    let (mut server, missing) = with_gaps(&["one", "two"]);
    server.set_conf("pg_meshhook_events.databases", "one");
    server.turn_on_and_restart();
    server.wait_for_partition("one", &missing);
    // Asking for the other does not help it.
    server.run("two", "SELECT meshhook_events.wake_worker()");
    assert_eq!(server.pass("one").status, "ok");
    assert_eq!(server.attempts("two"), []);
    assert!(!server.partitions("two").contains(&missing));

    server.set_conf("pg_meshhook_events.databases", "one, two");
    server.reload();
    server.wait_for_partition("two", &missing);
}

#[test]
fn a_named_database_that_does_not_exist_holds_up_no_other() {
    let (mut server, missing) = with_gaps(&["one"]);
    server.set_conf("pg_meshhook_events.databases", "nowhere, one");
    server.turn_on_and_restart();
    server.wait_for_partition("one", &missing);
    // It is served once it exists.
    server.create_database("nowhere");
    server.set_up("nowhere");
    server.wait_until("the new database is looked at", |server| {
        !server.attempts("nowhere").is_empty()
    });
    let lines = server.assert_quiet(HANDFUL);
    figure("databases: one that is named does not exist", "lines in the log", lines);
}

#[test]
fn a_mixed_case_name_is_given_in_quotes() {
    let (mut server, missing) = with_gaps(&["Mixed, Case", "mixed"]);
    server.set_conf("pg_meshhook_events.databases", "\"Mixed, Case\"");
    server.turn_on_and_restart();
    server.wait_for_partition("Mixed, Case", &missing);
    assert_eq!(server.attempts("mixed"), []);

    // Without quotes it is folded, as any name in SQL.
    server.set_conf("pg_meshhook_events.databases", "MIXED");
    server.reload();
    server.wait_for_partition("mixed", &missing);
}

#[test]
fn templates_and_closed_databases_are_skipped() {
    let (mut server, missing) = with_gaps(&["open", "template", "closed"]);
    server.run("postgres", "ALTER DATABASE template IS_TEMPLATE true");
    server.run("postgres", "ALTER DATABASE closed ALLOW_CONNECTIONS false");
    server.turn_on_and_restart();
    server.wait_for_partition("open", &missing);
    server.wait_until("only two are on the list", |server| {
        server.launcher_activity().is_some_and(|activity| activity.starts_with("2 databases"))
    });

    server.set_conf("pg_meshhook_events.enabled", "off");
    server.restart();
    server.run("postgres", "ALTER DATABASE closed ALLOW_CONNECTIONS true");
    assert_eq!(server.attempts("template"), []);
    assert_eq!(server.attempts("closed"), []);
}

#[test]
fn a_new_database_is_maintained_without_a_restart() {
    let server = Server::with_idle_worker();
    server.create_database("late");
    server.set_up("late");
    server.wait_until("the worker has looked at it", |server| !server.attempts("late").is_empty());
}

#[test]
fn a_database_can_be_dropped_while_the_launcher_idles() {
    let (mut server, missing) = with_gaps(&["one"]);
    server.turn_on_and_restart();
    server.wait_for_partition("one", &missing);
    server.wait_until_idle();
    let launcher = server.launcher();
    server.run("postgres", "DROP DATABASE one");
    // The launcher forgets it and goes on.
    server.set_up("postgres");
    assert_eq!(server.pass("postgres").status, "ok");
    assert_eq!(server.launcher(), launcher);
}

#[test]
fn a_database_can_be_dropped_by_force_while_its_worker_waits() {
    let server = Server::with_patient_worker().start();
    server.create_database("one");
    server.set_up("one");
    server.wait_until_idle();
    let (_holder, worker) = server.make_worker_wait("one");
    let launcher = server.launcher();
    let begin = Instant::now();
    server.run("postgres", "DROP DATABASE one WITH (FORCE)");
    let case = "databases: DROP DATABASE (FORCE), its worker waits for a lock";
    figure(case, "until it is dropped (PostgreSQL waits 5 s)", ms(begin.elapsed()));
    assert!(!server.workers(None).contains(&worker));
    server.set_up("postgres");
    assert_eq!(server.pass("postgres").status, "ok");
    assert_eq!(server.launcher(), launcher);
}

#[test]
fn every_database_has_its_turn_while_slots_are_short() {
    let databases = ["a", "b", "c", "d"];
    let (mut server, missing) = with_gaps(&databases);
    // One is the launcher's, one that of logical replication: a single one is left.
    server.set_conf("max_worker_processes", "3");
    server.turn_on_and_restart();
    for database in databases {
        server.wait_for_partition(database, &missing);
    }
    server.wait_until_idle();
    let warnings = server.log().matches("no background worker slot").count();
    assert!(warnings <= 1, "{}", server.log());
    // And what was made in each.
    let lines = server.assert_quiet(warnings + databases.len());
    figure("databases: four, and one worker slot", "lines in the log", lines);
}

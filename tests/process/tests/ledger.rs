//! The ledger: an attempt is there before its work, is closed after it, and one that a crash left open is closed by the
//! next, which then does not try at once.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use process::Server;

/// A server whose worker will wait for a lock for a long time, since a session holds it: the session.
fn with_waiting_worker() -> (Server, Client, i32) {
    let mut server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.lock_timeout", "10s")
        .conf("log_min_messages", "debug1")
        .start();
    server.set_up("postgres");
    server.drop_month("postgres", 1);
    let mut holder = server.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE").unwrap();
    server.turn_on();
    let worker = server.wait_for_waiting_worker("postgres");
    (server, holder, worker)
}

/// How often a worker of the database has ended, as the launcher says at DEBUG1.
fn looks(server: &Server) -> usize {
    let oid: u32 = server.ask("SELECT oid FROM pg_database WHERE datname = 'postgres'");
    server.log().matches(&format!("worker of database {oid} ended")).count()
}

#[test]
fn an_attempt_is_seen_by_others_while_it_works() {
    let (server, mut holder, worker) = with_waiting_worker();
    let attempt = server.attempts("postgres").remove(0);
    assert_eq!((attempt.status.as_str(), attempt.sqlstate), ("running", None));
    let entry = format!(
        "SELECT task || ' ' || role_name || ' ' || (pid = {worker}) || ' ' || (finished_at IS NULL) \
         FROM meshhook_events.maintenance_log WHERE id = {}",
        attempt.id
    );
    assert_eq!(server.ask::<String>(&entry), "maintain postgres true true");
    // What it does is seen too.
    let activity = format!("SELECT query FROM pg_stat_activity WHERE pid = {worker}");
    let making = format!("creating partition {}", server.month(1));
    assert_eq!(server.ask::<String>(&activity), making);

    holder.batch_execute("COMMIT").unwrap();
    server.wait_until("the attempt is closed", |server| {
        server
            .attempts("postgres")
            .iter()
            .any(|closed| closed.id == attempt.id && closed.status == "ok")
    });
}

#[test]
fn an_attempt_that_crashed_is_closed_as_such_and_not_repeated_at_once() {
    let (server, holder, worker) = with_waiting_worker();
    let crashed = server.attempts("postgres").remove(0);
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    // The server ends all sessions, recovers, and starts the launcher again.
    server.wait_until("the crash is over", |server| {
        let noticed = server.log().contains("terminated by signal 9");
        noticed && server.try_connect("postgres").is_ok()
    });
    drop(holder);
    server.wait_until("the attempt is closed", |server| {
        let attempts = server.attempts("postgres");
        attempts.iter().any(|attempt| attempt.id == crashed.id && attempt.status == "crashed")
    });
    // Nor does a look that somebody asks for lead to an attempt; a call by hand is free to.
    server.wait_until_idle();
    let before = looks(&server);
    server.run("postgres", "SELECT meshhook_events.wake_worker()");
    server.wait_until("the worker has looked again", |server| looks(server) > before);
    let attempts = server.attempts("postgres");
    assert_eq!(attempts[0].id, crashed.id, "no new attempt: {attempts:?}");
    let made: Vec<String> = server.all("postgres", "SELECT maintain_workflow_events_partitions()");
    assert_eq!(made, [server.month(1)]);
    // The health check says so.
    let check = "SELECT status FROM verify_workflow_events() WHERE check_name = 'worker'";
    assert_eq!(server.ask::<String>(check), "failed");
}

#[test]
fn an_attempt_that_crashed_long_ago_is_followed_by_another() {
    let server = Server::with_worker_off();
    let missing = server.drop_month("postgres", 1);
    server.run(
        "postgres",
        "INSERT INTO meshhook_events.maintenance_log (started_at, origin, task, status, role_name, pid) \
         VALUES (now() - interval '6 minutes', 'worker', 'maintain', 'running', 'postgres', 1)",
    );
    let mut server = server;
    server.turn_on();
    server.wait_for_partition("postgres", &missing);
    server.wait_until_idle();
    let statuses: Vec<_> =
        server.attempts("postgres").into_iter().map(|attempt| attempt.status).collect();
    assert!(statuses.contains(&"crashed".to_owned()) && statuses[0] == "ok", "{statuses:?}");
}

#[test]
fn the_ledger_keeps_its_last_thousand_entries() {
    let server = Server::with_idle_worker();
    server.run(
        "postgres",
        "INSERT INTO meshhook_events.maintenance_log \
             (started_at, finished_at, origin, task, status, role_name, pid) \
         SELECT now(), now(), 'function', 'create', 'ok', 'postgres', 1 FROM generate_series(1, 1500)",
    );
    assert_eq!(server.pass("postgres").status, "ok");
    let count = "SELECT count(*) FROM meshhook_events.maintenance_log";
    assert_eq!(server.ask::<i64>(count), 1000);
    // A function that writes an entry prunes as well.
    server.run("postgres", "SELECT create_workflow_events_partition(date '2020-01-01')");
    assert_eq!(server.ask::<i64>(count), 1000);
    let newest = "SELECT task FROM meshhook_events.maintenance_log ORDER BY id DESC LIMIT 1";
    assert_eq!(server.ask::<String>(newest), "create");
}

#[test]
fn a_failure_that_repeats_is_logged_once() {
    let mut server = Server::with_worker_off();
    let name = server.drop_month("postgres", 1);
    server.run("postgres", &format!("CREATE TABLE {name} (i int)"));
    server.turn_on();
    for _ in 0..3 {
        let attempt = server.pass("postgres");
        assert_eq!(
            (attempt.status.as_str(), attempt.sqlstate.as_deref()),
            ("failed", Some("42P07"))
        );
    }
    let lines = server.log().matches("maintenance of database \"postgres\" failed").count();
    assert_eq!(lines, 1, "{}", server.log());
    // Nor is it in the way of the others, and it is told when it is over.
    server.run("postgres", &format!("DROP TABLE {name}"));
    assert_eq!(server.pass("postgres").status, "ok");
    assert!(server.partitions("postgres").contains(&name));
}

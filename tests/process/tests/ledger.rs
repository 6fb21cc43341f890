//! The ledger: an attempt is there before its work, is closed after it, and one that a crash left open is closed by the
//! next, which then does not try at once.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use process::{HANDFUL, Server, figure, ms};

/// A server whose worker will wait for a lock for a long time, since a session holds it: the session.
fn with_waiting_worker() -> (Server, Client, i32) {
    let mut server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.lock_timeout", "10s")
        .start();
    server.set_up("postgres");
    server.drop_month("postgres", 1);
    let mut holder = server.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE").unwrap();
    server.turn_on();
    let worker = server.wait_for_waiting_worker("postgres");
    (server, holder, worker)
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
    assert_eq!(server.ask::<String>(&entry), "create postgres true true");
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
    let begin = Instant::now();
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    // The server ends all sessions, recovers, and starts the launcher again.
    server.wait_until("the crash is over", |server| {
        let noticed = server.log().contains("terminated by signal 9");
        noticed && server.try_connect("postgres").is_ok()
    });
    figure(
        "crash: a worker is killed (kill -9)",
        "until the server is up again",
        ms(begin.elapsed()),
    );
    drop(holder);
    server.wait_until("the attempt is closed", |server| {
        let attempts = server.attempts("postgres");
        attempts.iter().any(|attempt| attempt.id == crashed.id && attempt.status == "crashed")
    });
    // Nor does a look that somebody asks for lead to an attempt; a call by hand is free to.
    server.wait_until_idle();
    server.look("postgres");
    let attempts = server.attempts("postgres");
    assert_eq!(attempts[0].id, crashed.id, "no new attempt: {attempts:?}");
    let made: Vec<String> = server.all("postgres", "SELECT maintain_workflow_events_partitions()");
    assert_eq!(made, [server.month(1)]);
    // The health check says so.
    let check = "SELECT status FROM verify_workflow_events() WHERE check_name = 'worker'";
    assert_eq!(server.ask::<String>(check), "failed");
    figure("crash: a worker is killed (kill -9)", "lines in the log", server.assert_quiet(HANDFUL));
}

#[test]
fn an_attempt_that_crashed_long_ago_is_followed_by_another() {
    let server = Server::with_worker_off();
    let missing = server.drop_month("postgres", 1);
    server.run(
        "postgres",
        "INSERT INTO meshhook_events.maintenance_log (since, started_at, origin, task, status, role_name, pid) \
         VALUES (now(), now() - interval '6 minutes', 'worker', 'create', 'running', 'postgres', 1)",
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
             (since, started_at, finished_at, origin, task, status, role_name, pid) \
         SELECT now(), now(), now(), 'function', 'create', 'ok', 'postgres', 1 FROM generate_series(1, 1500)",
    );
    server.drop_month("postgres", 1);
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
    assert_eq!(
        server.attempts_at("postgres", "create").len(),
        1,
        "nothing was tried a second time"
    );
    let lines =
        server.log().matches("maintenance of database \"postgres\", task create, failed").count();
    assert_eq!(lines, 1, "{}", server.log());
    server.assert_quiet(HANDFUL);
    // Nor is it in the way of the others, and it is told when it is over.
    server.run("postgres", &format!("DROP TABLE {name}"));
    assert_eq!(server.pass("postgres").status, "ok");
    assert!(server.partitions("postgres").contains(&name));
}

#[test]
fn attempts_that_end_in_the_same_state_share_an_entry_that_counts_them() {
    let mut server = Server::with_worker_off();
    let name = server.drop_month("postgres", 1);
    server.run(
        "postgres",
        "CREATE ROLE meshhook; ALTER TABLE workflow_runs OWNER TO meshhook; ALTER TABLE workflow_events OWNER TO meshhook",
    );
    for partition in server.partitions("postgres") {
        server.run("postgres", &format!("ALTER TABLE {partition} OWNER TO meshhook"));
    }
    server.turn_on();
    let mut tries = 0;
    for _ in 0..3 {
        let attempt = server.pass("postgres");
        let seen = (attempt.status.as_str(), attempt.sqlstate.as_deref());
        assert_eq!(seen, ("failed", Some("42501")), "{attempt:?}");
        // Turning the worker on may have led to a pass of its own.
        assert!(attempt.tries > tries, "{attempt:?}");
        tries = attempt.tries;
        // An attempt that the worker makes by itself meanwhile has an entry of its own until it has failed.
        server
            .wait_until("one entry", |server| server.attempts_at("postgres", "create").len() == 1);
    }
    let since =
        "SELECT since < started_at FROM meshhook_events.maintenance_log WHERE origin = 'worker'";
    assert!(server.ask::<bool>(since));
    let lines = server.log().matches("task create, failed with 42501").count();
    assert_eq!(lines, 1, "{}", server.log());
    // Success is another state, and so is the same failure after it.
    server.run("postgres", "GRANT CREATE ON SCHEMA public TO meshhook");
    assert_eq!(server.pass("postgres").status, "ok");
    assert!(server.partitions("postgres").contains(&name));
    server.drop_month("postgres", 1);
    server.run("postgres", "REVOKE CREATE ON SCHEMA public FROM meshhook");
    assert_eq!(server.pass("postgres").tries, 1);
    let statuses: Vec<_> = server
        .attempts_at("postgres", "create")
        .into_iter()
        .map(|attempt| attempt.status)
        .collect();
    assert_eq!(statuses, ["failed", "ok", "failed"]);
}

#[test]
fn a_policy_that_makes_no_sense_is_written_down_for_both_tasks_and_logged_once_for_each() {
    let mut server = Server::with_worker_off();
    server.drop_month("postgres", 1);
    server.run(
        "postgres",
        "ALTER TABLE meshhook_events.policy DROP CONSTRAINT policy_premake_is_sensible; \
         UPDATE meshhook_events.policy SET premake = 0",
    );
    server.turn_on();
    for _ in 0..3 {
        server.pass("postgres");
    }
    for task in ["create", "retire"] {
        let attempts = server.attempts_at("postgres", task);
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        let seen = (attempts[0].status.as_str(), attempts[0].sqlstate.as_deref());
        assert_eq!(seen, ("failed", Some("22023")), "{attempts:?}");
        let line = format!("task {task}, failed with 22023");
        assert_eq!(server.log().matches(&line).count(), 1, "{}", server.log());
    }
    // The pass after it is mended says so.
    server.run("postgres", "UPDATE meshhook_events.policy SET premake = 3");
    server.pass("postgres");
    for task in ["create", "retire"] {
        assert_eq!(server.attempts_at("postgres", task)[0].status, "ok");
    }
}

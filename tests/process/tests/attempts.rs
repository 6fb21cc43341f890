//! What the worker's attempts survive: a launcher that is terminated, a clock that was wrong, code that never ends.

use postgres::Client;
use process::Server;

/// A server with the worker off whose log lacks the partitions of that many months.
fn with_gaps(months: i32) -> (Server, Vec<String>) {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.lock_timeout", "10s")
        .start();
    server.set_up("postgres");
    let missing = (1..=months).map(|ahead| server.drop_month("postgres", ahead)).collect();
    (server, missing)
}

/// A session with an open transaction that keeps partitions from being attached.
fn holder(server: &Server) -> Client {
    let mut session = server.connect("postgres");
    session.batch_execute("BEGIN; LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE").unwrap();
    session
}

#[test]
fn a_new_launcher_waits_for_the_worker_of_the_one_before_and_repeats_what_failed() {
    // Each of three partitions waits for the lock in vain, long enough for the server to start another launcher.
    let (mut server, missing) = with_gaps(3);
    let mut session = holder(&server);
    server.turn_on();
    let worker = server.wait_for_waiting_worker("postgres");
    let first = server.attempts("postgres").remove(0);
    let launcher = server.launcher().expect("it runs");
    assert!(server.ask::<bool>(&format!("SELECT pg_terminate_backend({launcher})")));
    let mut met = false;
    let closed = server.wait_for("the first attempt is closed", |server| {
        let workers = server.workers(Some("postgres"));
        assert!(workers.len() <= 1, "two workers in one database\n{}", server.log());
        met |= workers == [worker] && server.launcher().is_some_and(|pid| pid != launcher);
        let attempts = server.attempts("postgres");
        attempts.into_iter().find(|attempt| attempt.id == first.id && attempt.status != "running")
    });
    assert!(met, "the new launcher has not met the worker\n{}", server.log());
    assert_eq!((closed.status.as_str(), closed.sqlstate.as_deref()), ("failed", Some("55P03")));
    session.batch_execute("COMMIT").unwrap();
    // Nobody wakes it, and the next scheduled time is years away.
    for partition in &missing {
        server.wait_for_partition("postgres", partition);
    }
    server.wait_until_idle();
    let attempts = server.attempts("postgres");
    let statuses: Vec<_> = attempts.iter().map(|attempt| attempt.status.as_str()).collect();
    assert_eq!(statuses, ["ok", "failed"], "{attempts:?}");
    let overlap = "SELECT count(*) FROM meshhook_events.maintenance_log a, meshhook_events.maintenance_log b \
                   WHERE a.id < b.id AND a.origin = 'worker' AND b.origin = 'worker' AND a.finished_at > b.started_at";
    assert_eq!(server.ask::<i64>(overlap), 0, "{}", server.log());
}

#[test]
fn attempts_that_a_wrong_clock_has_dated_in_the_future_put_nothing_off() {
    for (status, finished, count) in [
        ("running", "NULL", 1),
        ("running", "NULL", 3),
        ("crashed", "now() + interval '20 years'", 5),
    ] {
        let (mut server, missing) = with_gaps(1);
        server.run(
            "postgres",
            &format!(
                "INSERT INTO meshhook_events.maintenance_log \
                     (since, started_at, finished_at, origin, task, status, role_name, pid) \
                 SELECT now(), now() + interval '20 years', {finished}, 'worker', 'create', '{status}', 'postgres', 1 \
                 FROM generate_series(1, {count})"
            ),
        );
        server.turn_on();
        server.wait_for_partition("postgres", &missing[0]);
        server.wait_until_idle();
        let statuses: Vec<_> =
            server.attempts("postgres").into_iter().map(|attempt| attempt.status).collect();
        let expected = [vec!["ok"], vec!["crashed"; count]].concat();
        assert_eq!(statuses, expected, "{status}");
    }
}

/// A database `app` of the role `tenant`, whose index on the log calls this body from now on.
fn with_body_in_index(body: &str) -> Server {
    let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    server.run("postgres", "CREATE ROLE tenant LOGIN");
    server.run("postgres", "CREATE DATABASE app OWNER tenant");
    server.run("app", "CREATE EXTENSION pg_meshhook_events");
    let function =
        "CREATE OR REPLACE FUNCTION public.slow(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS";
    let script = format!(
        "CREATE TABLE workflow_runs (id uuid PRIMARY KEY); SELECT setup_workflow_events(); \
         {function} 'BEGIN RETURN x; END'; \
         CREATE INDEX slow ON workflow_events (public.slow('x'::text)); \
         DROP TABLE {}; \
         {function} $$ BEGIN {body} RETURN x; END $$",
        server.month(1)
    );
    server.run("app", "GRANT EXECUTE ON FUNCTION setup_workflow_events() TO tenant");
    server.connect_as("app", "tenant").batch_execute(&script).unwrap();
    // Sealing would run that code too.
    server.run("app", "UPDATE meshhook_events.policy SET seal_after = NULL");
    server
}

#[test]
fn code_that_never_ends_is_cancelled() {
    let mut server = with_body_in_index("LOOP PERFORM pg_sleep(1); END LOOP;");
    server.turn_on();
    // A step has half a minute.
    let attempt = process::poll_until(2 * process::DEADLINE, || {
        server.attempts("app").into_iter().find(|attempt| attempt.status != "running")
    });
    let attempt = attempt.unwrap_or_else(|| panic!("it still runs\n{}", server.log()));
    assert_eq!(
        (attempt.status.as_str(), attempt.sqlstate.as_deref()),
        ("failed", Some("57014")),
        "{attempt:?}"
    );
    // The other databases have their turn.
    server.wait_until("the worker has gone", |server| server.workers(Some("app")).is_empty());
}

#[test]
fn code_that_never_ends_and_takes_no_cancel_is_ended() {
    let mut server = with_body_in_index(
        "LOOP BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN END; END LOOP;",
    );
    server.turn_on();
    let worker = server.wait_for("a worker", |server| server.workers(Some("app")).pop());
    let gone = process::poll_until(2 * process::DEADLINE, || {
        (!server.workers(Some("app")).contains(&worker)).then_some(())
    });
    assert!(gone.is_some(), "it still runs\n{}", server.log());
}

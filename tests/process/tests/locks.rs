//! Locks: what maintenance waits for, for how long, whom it names, and whom it never holds up.

use postgres::Client;
use process::{Mode, Server};

/// A server with the worker off whose log lacks next month's partition, and a run that is there.
fn with_gap() -> (Server, String) {
    let server = Server::with_worker_off();
    server.run(
        "postgres",
        "INSERT INTO projects (owner, name) VALUES (gen_random_uuid(), 'p');
         INSERT INTO workflow_definitions (project_id, slug, definition) SELECT id, 's', '{}' FROM projects;
         INSERT INTO workflow_runs (project_id, workflow_id) SELECT project_id, id FROM workflow_definitions",
    );
    let missing = server.drop_month("postgres", 1);
    (server, missing)
}

const NEW_RUN: &str =
    "INSERT INTO workflow_runs (project_id, workflow_id) SELECT project_id, id FROM workflow_definitions";

/// A session with an open transaction that has written a run; its process id.
fn holder(server: &Server) -> (Client, i32) {
    let mut session = server.connect("postgres");
    session.batch_execute("SET application_name = 'slow import'; BEGIN").unwrap();
    session.batch_execute(NEW_RUN).unwrap();
    let pid = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    (session, pid)
}

/// Everything that maintenance may change, as one text.
fn state(server: &Server) -> String {
    server.ask(
        "SELECT concat_ws('; ',
           (SELECT string_agg(c.oid || ' ' || relname, ', ' ORDER BY c.oid) FROM pg_class c
            WHERE relnamespace = 'public'::regnamespace),
           (SELECT string_agg(conname, ', ' ORDER BY oid) FROM pg_constraint),
           (SELECT string_agg(l::text, ', ' ORDER BY id) FROM meshhook_events.maintenance_log l),
           (SELECT string_agg(p::text, ', ') FROM meshhook_events.policy p))",
    )
}

#[test]
fn a_worker_that_waits_for_a_lock_ends_when_it_is_terminated() {
    let (mut server, missing) = with_gap();
    server.set_conf("pg_meshhook_events.lock_timeout", "10s");
    server.turn_on_and_restart();
    let (_holder, _) = holder(&server);
    server.run("postgres", "SELECT meshhook_events.wake_worker()");
    let worker = server.wait_for_waiting_worker("postgres");
    assert!(server.ask::<bool>(&format!("SELECT pg_terminate_backend({worker})")));
    server.wait_until("the worker is gone", |server| !server.workers(None).contains(&worker));
    // It ended in the middle, not at its lock timeout: it had no time to write down how it went.
    assert_eq!(server.attempts("postgres")[0].status, "running");
    assert!(!server.partitions("postgres").contains(&missing));
}

#[test]
fn a_cancelled_worker_reports_it_and_goes_on() {
    let (mut server, missing) = with_gap();
    server.set_conf("pg_meshhook_events.lock_timeout", "10s");
    server.turn_on_and_restart();
    let (mut session, _) = holder(&server);
    server.run("postgres", "SELECT meshhook_events.wake_worker()");
    let worker = server.wait_for_waiting_worker("postgres");
    assert!(server.ask::<bool>(&format!("SELECT pg_cancel_backend({worker})")));
    let attempt = server.wait_for("the attempt is closed", |server| {
        server.attempts("postgres").into_iter().find(|attempt| attempt.status == "failed")
    });
    assert_eq!(attempt.sqlstate.as_deref(), Some("57014"));
    session.batch_execute("COMMIT").unwrap();
    server.wait_for_partition("postgres", &missing);
}

#[test]
fn a_fast_shutdown_does_not_wait_for_a_worker_that_waits() {
    let (mut server, missing) = with_gap();
    server.set_conf("pg_meshhook_events.lock_timeout", "10s");
    server.turn_on_and_restart();
    // A prepared transaction holds its locks without a session, so that the worker would wait on.
    server.stop(Mode::Fast);
    server.set_conf("max_prepared_transactions", "1");
    server.start();
    let mut session = server.connect("postgres");
    session.batch_execute("BEGIN").unwrap();
    session.batch_execute(NEW_RUN).unwrap();
    session.batch_execute("PREPARE TRANSACTION 'import'").unwrap();
    drop(session);
    let again = server.drop_month("postgres", 2);
    server.run("postgres", "SELECT meshhook_events.wake_worker()");
    server.wait_for_waiting_worker("postgres");
    server.stop(Mode::Fast);

    server.set_conf("pg_meshhook_events.enabled", "off");
    server.start();
    assert_eq!(server.attempts("postgres")[0].status, "running", "it ended in the middle");
    let partitions = server.partitions("postgres");
    assert!(partitions.contains(&missing) && !partitions.contains(&again), "{partitions:?}");
}

/// An administrator's stop is no crash: the next start catches up, as after any other stop.
#[test]
fn a_worker_that_was_stopped_while_it_waited_is_followed_by_another() {
    let (mut server, missing) = with_gap();
    server.set_conf("pg_meshhook_events.lock_timeout", "10s");
    server.turn_on_and_restart();
    let (session, _) = holder(&server);
    server.run("postgres", "SELECT meshhook_events.wake_worker()");
    server.wait_for_waiting_worker("postgres");
    server.restart();
    drop(session);
    server.wait_for_partition("postgres", &missing);
}

#[test]
fn a_worker_that_can_not_lock_names_who_is_in_the_way_and_tries_again_by_itself() {
    let (mut server, missing) = with_gap();
    let mut writer = server.connect("postgres");
    writer.batch_execute("SET statement_timeout = '5s'").unwrap();
    server.turn_on_and_restart_while(|server| holder(server));
}

#[test]
fn an_open_reader_or_writer_of_events_does_not_hold_up_creation() {
    let (mut server, missing) = with_gap();
    server.turn_on_and_restart();
    server.wait_for_partition("postgres", &missing);
    server.wait_until_idle();

    let missing = server.drop_month("postgres", 1);
    let mut reader = server.connect("postgres");
    reader.batch_execute("BEGIN; SELECT count(*) FROM workflow_events").unwrap();
    let mut writer = server.connect("postgres");
    writer
        .batch_execute(
            "BEGIN; INSERT INTO workflow_events (run_id, type, payload) SELECT id, 't', '{}' FROM workflow_runs",
        )
        .unwrap();
    assert_eq!(server.pass("postgres").status, "ok");
    assert!(server.partitions("postgres").contains(&missing));
    reader.batch_execute("COMMIT").unwrap();
    writer.batch_execute("COMMIT").unwrap();
}

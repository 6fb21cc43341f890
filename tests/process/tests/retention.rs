//! Retention drops what was decided on and nothing else, whatever others do meanwhile, and comes back for what it
//! could not have.

use std::sync::{Arc, Mutex};

use postgres::error::DbError;
use postgres::{Client, Config, NoTls};
use process::Server;

/// A server with the worker off and two old partitions with an event each, whose names are given.
fn with_old_partitions() -> (Server, [String; 2]) {
    let server = Server::with_worker_off();
    let run = server.make_run("postgres");
    for ahead in [-21, -20] {
        let event = format!(
            "SELECT create_workflow_events_partition(date_trunc('month', now()) + {ahead} * interval '1 month'); \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
             VALUES ('{run}', date_trunc('month', now()) + {ahead} * interval '1 month' + interval '10 days', 't', '{{}}')"
        );
        server.run("postgres", &event);
    }
    let names = [server.month(-21), server.month(-20)];
    (server, names)
}

/// A session of the superuser, and what it is told beside its answers.
fn with_notices(server: &Server) -> (Client, Arc<Mutex<Vec<DbError>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let mut config: Config = server.conninfo("postgres", "postgres").parse().unwrap();
    let told = Arc::clone(&notices);
    config.notice_callback(move |notice| told.lock().unwrap().push(notice));
    (config.connect(NoTls).unwrap(), notices)
}

/// A transaction whose snapshot is of now, whatever is committed later.
fn begin_with_snapshot(session: &mut Client) {
    session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    session.query("SELECT count(*) FROM pg_inherits", &[]).unwrap();
}

fn dropped(session: &mut Client) -> Vec<String> {
    let rows = session.query("SELECT drop_old_workflow_events_partitions()", &[]).unwrap();
    session.batch_execute("COMMIT").unwrap();
    rows.into_iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_partition_that_was_given_to_another_table_is_kept_whatever_the_snapshot() {
    let (server, [archived, old]) = with_old_partitions();
    server.run("postgres", "CREATE TABLE archive (LIKE workflow_events) PARTITION BY RANGE (ts)");
    let (mut session, notices) = with_notices(&server);
    begin_with_snapshot(&mut session);
    let bound: String = server.ask(&format!(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = '{archived}'"
    ));
    server.run(
        "postgres",
        &format!(
            "SET TimeZone = 'UTC'; ALTER TABLE workflow_events DETACH PARTITION {archived}; \
             ALTER TABLE archive ATTACH PARTITION {archived} {bound}"
        ),
    );
    assert_eq!(dropped(&mut session), [old]);
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM archive"), 1);
    // It is no partition of ours any more, and nothing is said of it.
    let notices = notices.lock().unwrap();
    assert!(!notices.iter().any(|notice| notice.message().contains(&archived)), "{notices:?}");
}

#[test]
fn a_table_that_has_taken_the_name_of_an_old_partition_is_kept_whatever_the_snapshot() {
    let (server, [renamed, old]) = with_old_partitions();
    let oid: u32 = server.ask(&format!("SELECT '{renamed}'::regclass::oid"));
    let (mut session, notices) = with_notices(&server);
    begin_with_snapshot(&mut session);
    server.run(
        "postgres",
        &format!(
            "ALTER TABLE {renamed} RENAME TO january; \
             CREATE TABLE {renamed} AS SELECT 'precious'::text AS what"
        ),
    );
    // What is dropped is the partition, by the name that it has now.
    assert_eq!(dropped(&mut session), ["january".to_owned(), old]);
    assert_eq!(server.ask::<String>(&format!("SELECT what FROM {renamed}")), "precious");
    let left = format!("SELECT count(*) FROM pg_class WHERE oid = {oid}");
    assert_eq!(server.ask::<i64>(&left), 0);
    assert_eq!(notices.lock().unwrap().len(), 0);
}

#[test]
fn a_worker_that_met_a_reader_comes_back_by_itself() {
    let (mut server, old) = with_old_partitions();
    server.run("postgres", "UPDATE meshhook_events.policy SET retention = '12 months'");
    let mut reader = server.connect("postgres");
    reader.batch_execute("BEGIN; SELECT count(*) FROM workflow_events").unwrap();
    server.turn_on();
    let attempt = server.wait_for("an attempt", |server| {
        let attempts = server.attempts_at("postgres", "retire");
        attempts.into_iter().find(|attempt| attempt.status != "running")
    });
    assert_eq!(attempt.status, "warning", "{attempt:?}");
    for name in &old {
        assert!(server.partitions("postgres").contains(name), "{name} was dropped under a reader");
    }
    // The oldest was tried; the others need what it couldn't have.
    assert!(attempt.details.contains(&old[0]), "{attempt:?}");
    reader.batch_execute("COMMIT").unwrap();
    // Nobody wakes it, and the next scheduled time is years away.
    server.wait_until("the old partitions are gone", |server| {
        let partitions = server.partitions("postgres");
        !old.iter().any(|name| partitions.contains(name))
    });
    server.wait_until_idle();
    assert_eq!(server.attempts_at("postgres", "retire")[0].status, "ok");
    let tables =
        format!("SELECT count(*) FROM pg_class WHERE relname IN ('{}', '{}')", old[0], old[1]);
    assert_eq!(server.ask::<i64>(&tables), 0, "a detached table was left behind");
}

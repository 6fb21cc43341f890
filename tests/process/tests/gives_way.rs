//! Who gives way to whom: an autovacuum to maintenance, and maintenance to clients in a deadlock.

use process::Server;

#[test]
fn an_autovacuum_of_the_runs_gives_way_to_creation() {
    let mut server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("autovacuum_naptime", "1s")
        .conf("autovacuum_vacuum_cost_delay", "100ms")
        .conf("autovacuum_vacuum_cost_limit", "1")
        .start();
    server.set_up("postgres");
    let missing = server.drop_month("postgres", 1);
    let run = server.make_run("postgres");
    server.run(
        "postgres",
        &format!(
            "INSERT INTO workflow_runs (project_id, workflow_id) \
             SELECT project_id, workflow_id FROM workflow_runs, generate_series(1, 20000) WHERE id = '{run}'; \
             UPDATE workflow_runs SET workflow_id = workflow_id"
        ),
    );
    // At that speed it would take a quarter of an hour.
    server.wait_until("an autovacuum is at work", |server| {
        server.ask(
            "SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid \
             WHERE a.backend_type = 'autovacuum worker' AND l.relation = 'workflow_runs'::regclass \
               AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted)",
        )
    });
    server.turn_on();
    server.wait_for_partition("postgres", &missing);
    assert!(server.log().contains("canceling autovacuum task"), "{}", server.log());
}

/// A client that has changed runs and then analyses the log, as one transaction, can meet a call that has its turn on
/// the log and waits for the runs: each waits for the other. The call gives up long before the client looks for a
/// deadlock, which it does after `deadlock_timeout`, a second.
#[test]
fn maintenance_gives_way_in_a_deadlock() {
    let server = Server::with_worker_off();
    server.make_run("postgres");
    let missing = server.drop_month("postgres", 1);
    let mut client = server.connect("postgres");
    client.batch_execute("BEGIN; UPDATE workflow_runs SET workflow_id = workflow_id").unwrap();
    let conninfo = server.conninfo("postgres", "postgres");
    let call = std::thread::spawn(move || {
        let mut session = postgres::Client::connect(&conninfo, postgres::NoTls).unwrap();
        let sql = "SET pg_meshhook_events.lock_timeout = '500ms'; SELECT maintain_workflow_events_partitions()";
        let error = session.batch_execute(sql).expect_err("the runs can't be had");
        error.as_db_error().unwrap().code().code().to_owned()
    });
    server.wait_until("maintenance waits for the runs, or has given up", |server| {
        call.is_finished()
            || server.ask(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'workflow_runs'::regclass)",
            )
    });
    client.batch_execute("ANALYZE workflow_events; COMMIT").expect("the client goes on");
    assert_eq!(call.join().unwrap(), "55P03");
    assert!(!server.partitions("postgres").contains(&missing));
}

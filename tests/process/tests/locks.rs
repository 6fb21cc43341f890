//! Locks: what maintenance waits for, for how long, whom it names, and whom it never holds up.

use postgres::Client;
use postgres::error::DbError;
use process::{HANDFUL, Mode, Server, figure, ms};

const NEW_RUN: &str = "INSERT INTO workflow_runs (project_id, workflow_id) \
                       SELECT project_id, id FROM workflow_definitions";

/// A server whose log lacks next month's partition, with the worker off, a long lock timeout where `patient`, and a
/// run that is there.
fn with_gap(patient: bool) -> (Server, String) {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.lock_timeout", if patient { "10s" } else { "100ms" })
        .conf("max_prepared_transactions", "1")
        .start();
    server.set_up("postgres");
    server.make_run("postgres");
    let missing = server.drop_month("postgres", 1);
    (server, missing)
}

/// A session with an open transaction that has done this, and its process id.
fn holder(server: &Server, sql: &str) -> (Client, i32) {
    let mut session = server.connect("postgres");
    session.batch_execute("SET application_name = 'slow import'; BEGIN").unwrap();
    session.batch_execute(sql).unwrap();
    let pid = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    (session, pid)
}

/// A transaction that has written a run and belongs to no session: nothing but ROLLBACK PREPARED ends it.
fn prepared_holder(server: &Server) {
    holder(server, NEW_RUN).0.batch_execute("PREPARE TRANSACTION 'import'").unwrap();
}

/// The error of a call that must fail.
fn error_of(server: &Server, call: &str) -> DbError {
    let error = server.connect("postgres").batch_execute(call).expect_err(call);
    error.as_db_error().expect("the server has answered").clone()
}

/// Everything that maintenance may change, as one text.
fn state(server: &Server) -> String {
    server.ask(
        "SELECT concat_ws('; ', \
           (SELECT string_agg(c.oid || ' ' || relname, ', ' ORDER BY c.oid) FROM pg_class c \
            WHERE relnamespace = 'public'::regnamespace), \
           (SELECT string_agg(conname, ', ' ORDER BY oid) FROM pg_constraint), \
           (SELECT string_agg(l::text, ', ' ORDER BY id) FROM meshhook_events.maintenance_log l), \
           (SELECT string_agg(p::text, ', ') FROM meshhook_events.policy p))",
    )
}

#[test]
fn a_worker_that_waits_for_a_lock_ends_when_it_is_terminated() {
    let (mut server, missing) = with_gap(true);
    let (_session, _) = holder(&server, NEW_RUN);
    server.turn_on();
    let worker = server.wait_for_waiting_worker("postgres");
    let gone = server.terminate(worker);
    let case = "stop: pg_terminate_backend, the worker waits for a lock";
    figure(case, "until it is gone (wanted: 100 ms)", ms(gone));
    // It ended in the middle, not at its lock timeout: that would have been written down.
    assert_eq!(server.attempts("postgres")[0].status, "running");
    assert!(!server.partitions("postgres").contains(&missing));
}

#[test]
fn a_cancelled_worker_says_so_and_tries_again() {
    let (mut server, missing) = with_gap(true);
    let (mut session, _) = holder(&server, NEW_RUN);
    server.turn_on();
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
    let (mut server, missing) = with_gap(true);
    prepared_holder(&server);
    server.turn_on();
    server.wait_for_waiting_worker("postgres");
    server.set_conf("pg_meshhook_events.enabled", "off");
    let down = server.stop(Mode::Fast);
    let case = "stop: fast shutdown, the worker waits for a lock";
    figure(case, "until the server is down (wanted: 2 s)", ms(down));
    server.start();
    // It ended in the middle, not at its lock timeout.
    assert_eq!(server.attempts("postgres")[0].status, "running");
    assert!(!server.partitions("postgres").contains(&missing));
}

/// A stop that an administrator asked for is no crash: the next start catches up, as after any other.
#[test]
fn a_stop_while_a_worker_waits_does_not_put_off_the_next_start() {
    let (mut server, missing) = with_gap(true);
    prepared_holder(&server);
    server.turn_on();
    server.wait_for_waiting_worker("postgres");
    server.stop(Mode::Fast);
    server.start();
    server.run("postgres", "ROLLBACK PREPARED 'import'");
    server.wait_for_partition("postgres", &missing);
}

#[test]
fn a_worker_names_who_is_in_the_way_holds_up_nobody_and_tries_again_by_itself() {
    let (mut server, missing) = with_gap(false);
    let (mut session, pid) = holder(&server, NEW_RUN);
    let mut client = server.connect("postgres");
    client.batch_execute("SET statement_timeout = '5s'").unwrap();
    server.turn_on();
    let failed = server.wait_for("a failed attempt", |server| {
        client.batch_execute(NEW_RUN).expect("nobody waits for maintenance");
        server.attempts("postgres").into_iter().find(|attempt| attempt.status == "failed")
    });
    assert_eq!(failed.sqlstate.as_deref(), Some("55P03"));
    let named = format!("process {pid} holds RowExclusiveLock");
    assert!(failed.details.contains(&named), "{}", failed.details);
    assert!(failed.details.contains("slow import"), "{}", failed.details);
    assert!(!server.partitions("postgres").contains(&missing));
    server.wait_until("the log says it", |server| server.log().contains(&named));

    session.batch_execute("COMMIT").unwrap();
    server.wait_for_partition("postgres", &missing);
    server.wait_until_idle();
    assert_eq!(server.attempts("postgres")[0].status, "ok");
    server.assert_quiet(HANDFUL);
}

#[test]
fn open_readers_and_writers_of_events_do_not_hold_up_creation() {
    let (mut server, missing) = with_gap(false);
    let (mut reader, _) = holder(&server, "SELECT count(*) FROM workflow_events");
    let (mut writer, _) = holder(
        &server,
        "INSERT INTO workflow_events (run_id, type, payload) SELECT id, 't', '{}' FROM workflow_runs",
    );
    server.turn_on();
    server.wait_for_partition("postgres", &missing);
    reader.batch_execute("SELECT count(*) FROM workflow_events; COMMIT").unwrap();
    writer.batch_execute("COMMIT").unwrap();

    server.drop_month("postgres", 2);
    let (_reader, _) = holder(&server, "SELECT count(*) FROM workflow_events");
    let made: Vec<String> = server.all("postgres", "SELECT maintain_workflow_events_partitions()");
    assert_eq!(made, [server.month(2)]);
}

#[test]
fn a_call_that_can_not_lock_names_who_is_in_the_way_and_changes_nothing() {
    let (server, _) = with_gap(false);
    server.run(
        "postgres",
        "SELECT create_workflow_events_partition(current_date - interval '20 months')",
    );
    let writer_of_runs = [
        "SELECT maintain_workflow_events_partitions()",
        "SELECT create_workflow_events_partition(current_date - interval '5 months')",
        "SELECT setup_workflow_events()",
    ];
    let reader_of_events = ["SELECT drop_old_workflow_events_partitions()"];
    for (holds, calls) in [
        (NEW_RUN, &writer_of_runs[..]),
        ("SELECT count(*) FROM workflow_events", &reader_of_events[..]),
    ] {
        let (_session, pid) = holder(&server, holds);
        for call in calls {
            let before = state(&server);
            let error = error_of(&server, call);
            assert_eq!(error.code().code(), "55P03", "{call}: {error}");
            let detail = error.detail().unwrap_or_default();
            assert!(detail.contains(&format!("process {pid} holds ")), "{call}: {detail}");
            assert_eq!(state(&server), before, "{call}");
        }
    }
}

#[test]
fn the_first_setup_changes_nothing_where_it_can_not_lock_the_runs() {
    let server = Server::preloaded().conf("pg_meshhook_events.enabled", "off").start();
    server.script("postgres", &process::fixture("meshhook.sql"));
    server.run("postgres", "CREATE EXTENSION pg_meshhook_events");
    let (_session, pid) = holder(&server, "LOCK TABLE workflow_runs IN ROW EXCLUSIVE MODE");
    let before = state(&server);
    let error = error_of(&server, "SELECT setup_workflow_events()");
    assert_eq!(error.code().code(), "55P03", "{error}");
    let detail = error.detail().unwrap_or_default();
    assert!(detail.contains(&format!("process {pid} holds ")), "{detail}");
    assert_eq!(state(&server), before);
}

#[test]
fn a_prepared_transaction_in_the_way_is_named() {
    let (server, _) = with_gap(false);
    prepared_holder(&server);
    let error = error_of(&server, "SELECT maintain_workflow_events_partitions()");
    assert_eq!(error.code().code(), "55P03", "{error}");
    let detail = error.detail().unwrap_or_default();
    assert!(detail.contains("prepared transaction") && detail.contains("import"), "{detail}");
}

/// Anyone who may connect can take an advisory lock.
#[test]
fn a_user_without_rights_can_not_stop_maintenance_by_an_advisory_lock() {
    let (mut server, missing) = with_gap(false);
    server.run("postgres", "CREATE ROLE nobody LOGIN");
    let mut nobody = server.connect_as("postgres", "nobody");
    // What pg_locks shows to everybody while a worker or a function runs.
    let keys = "SELECT pg_advisory_lock(1296388936, 0), \
                pg_advisory_lock(1296388936, 'workflow_events'::regclass::oid::int)";
    nobody.batch_execute(keys).unwrap();
    server.turn_on();
    server.wait_for_partition("postgres", &missing);
}

/// The ledger is written last, under all locks of the call.
#[test]
fn a_locked_ledger_stops_a_call_in_time_and_nothing_is_changed() {
    let (server, _) = with_gap(false);
    server.run(
        "postgres",
        "SELECT create_workflow_events_partition(current_date - interval '20 months')",
    );
    for (table, calls) in [
        (
            "maintenance_log",
            &[
                "SELECT maintain_workflow_events_partitions()",
                "SELECT create_workflow_events_partition(current_date - interval '5 months')",
                "SELECT setup_workflow_events()",
                "SELECT drop_old_workflow_events_partitions()",
            ][..],
        ),
        ("policy", &["SELECT setup_workflow_events()"]),
    ] {
        let lock = format!("LOCK TABLE meshhook_events.{table} IN SHARE MODE");
        let (_session, _) = holder(&server, &lock);
        for call in calls {
            let before = state(&server);
            let mut client = server.connect("postgres");
            // Without a limit of its own it would be cancelled, with another code.
            client.batch_execute("SET statement_timeout = '20s'").unwrap();
            let error = client.batch_execute(call).expect_err(call);
            assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{call}: {error:?}");
            assert_eq!(state(&server), before, "{call}");
        }
    }
}

#[test]
fn a_reader_waits_no_longer_than_the_limit_while_setup_attaches_an_index() {
    let (server, _) = with_gap(false);
    // As somebody leaves it who makes the indexes of each partition by hand: setup has to attach them, and that
    // locks the index of a partition against everybody.
    server.run("postgres", "DROP INDEX workflow_events_type_idx");
    for partition in server.partitions("postgres") {
        server.run("postgres", &format!("CREATE INDEX ON {partition} (type)"));
    }
    server.run("postgres", "CREATE INDEX workflow_events_type_idx ON ONLY workflow_events (type)");
    let read = format!("SELECT count(*) FROM {}", server.month(0));
    let (_session, _) = holder(&server, &read);
    let conninfo = server.conninfo("postgres", "postgres");
    let setup = std::thread::spawn(move || {
        let mut client = Client::connect(&conninfo, postgres::NoTls).unwrap();
        let differs = "SELECT count(*) FROM setup_workflow_events() \
                       WHERE status = 'differs' AND object_name = 'workflow_events_type_idx'";
        client.query_one(differs, &[]).unwrap().get::<_, i64>(0)
    });
    server.wait_until("setup waits for the lock, or is done", |server| {
        setup.is_finished() || server.ask("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    });
    // Far more than the limit, and less than maintenance may wait for its turn.
    let mut reader = server.connect("postgres");
    reader.batch_execute("SET statement_timeout = '2s'").unwrap();
    reader.batch_execute(&read).expect("a reader is held up");
    assert_eq!(setup.join().unwrap(), 1, "the index could be attached under a reader");
}

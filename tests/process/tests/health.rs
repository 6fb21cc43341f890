//! The health check: it says so when the worker does not work, and is not wrong about what works.

use process::Server;

/// Status and detail of the row about the worker.
fn worker_row(server: &Server) -> (String, String) {
    let row = server.connect("postgres").query_one(
        "SELECT status, detail, coalesce(hint, '') FROM verify_workflow_events() WHERE check_name = 'worker'",
        &[],
    );
    let row = row.unwrap_or_else(|error| panic!("{error:?}\n{}", server.log()));
    let (status, detail, hint): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(status == "ok", hint.is_empty(), "{status}, {detail}, {hint}");
    (status, detail)
}

fn assert_warns(server: &Server, of: &str) {
    let (status, detail) = worker_row(server);
    assert!(status == "warning" && detail.contains(of), "{status}: {detail}");
}

#[test]
fn a_worker_that_does_not_work_is_told() {
    let mut server = Server::with_idle_worker();
    let (status, detail) = worker_row(&server);
    assert_eq!(status, "ok", "{detail}");

    server.set_conf("pg_meshhook_events.databases", "elsewhere, \"Postgres\"");
    server.reload();
    assert_warns(&server, "pg_meshhook_events.databases");
    server.set_conf("pg_meshhook_events.databases", "elsewhere, postgres");
    server.reload();
    assert_eq!(worker_row(&server).0, "ok");

    server.set_conf("pg_meshhook_events.enabled", "off");
    server.reload();
    assert_warns(&server, "pg_meshhook_events.enabled");
}

#[test]
fn a_worker_whose_last_success_is_long_ago_is_told() {
    let server = Server::with_idle_worker();
    assert_eq!(worker_row(&server).0, "ok");
    // The schedule's times are up to eight years apart.
    server.run(
        "postgres",
        "UPDATE meshhook_events.maintenance_log \
         SET started_at = started_at - interval '50 years', finished_at = finished_at - interval '50 years'",
    );
    assert_warns(&server, "overdue");
    assert_eq!(server.pass("postgres").status, "ok");
    assert_eq!(worker_row(&server).0, "ok");
}

#[test]
fn a_daily_worker_is_overdue_after_some_days() {
    let mut server = Server::with_idle_worker();
    let minute: f64 =
        server.ask("SELECT extract(minute FROM now() - interval '5 minutes')::float8");
    let hour: f64 = server
        .ask("SELECT extract(hour FROM now() AT TIME ZONE 'UTC' - interval '5 minutes')::float8");
    // A time that comes no more today.
    server.set_conf("pg_meshhook_events.schedule", &format!("{minute} {hour} * * *"));
    server.reload();
    for (age, status) in [("1 hour", "ok"), ("71 hours", "warning")] {
        server.run(
            "postgres",
            &format!(
                "UPDATE meshhook_events.maintenance_log SET started_at = now() - interval '{age}', \
                 finished_at = now() - interval '{age}'"
            ),
        );
        let (found, detail) = worker_row(&server);
        assert_eq!(found, status, "{age}: {detail}");
    }
}

#[test]
fn a_foreign_key_that_is_checked_at_commit_disturbs_no_probe() {
    let server = Server::with_worker_off();
    server.make_run("postgres");
    server.run(
        "postgres",
        "SELECT create_workflow_events_partition(now() - interval '60 days'); \
         ALTER TABLE workflow_events ALTER CONSTRAINT workflow_events_run_id_fkey DEFERRABLE INITIALLY DEFERRED",
    );
    let probes = "SELECT concat_ws(' ', check_name, status, detail) FROM verify_workflow_events() \
                  WHERE check_name LIKE 'event%'";
    let expected = ["60_days_ago", "30_days_ago", "now", "in_30_days"]
        .map(|when| format!("event_{when} ok inserted and read back"));
    assert_eq!(server.all::<String>("postgres", probes), expected);
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM workflow_events"), 0);

    // Nor is what the caller has not committed yet: his own event is still checked at his commit.
    let mut session = server.connect("postgres");
    let mut transaction = session.transaction().unwrap();
    transaction
        .batch_execute(
            "INSERT INTO workflow_events (run_id, type, payload) SELECT id, 't', '{}' FROM workflow_runs",
        )
        .unwrap();
    let rows = transaction.query(probes, &[]).unwrap();
    let rows: Vec<String> = rows.into_iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, expected);
    transaction.batch_execute("DELETE FROM workflow_runs").unwrap();
    transaction.commit().unwrap();
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM workflow_events"), 0);
}

//! A DEFAULT partition that the user made stops nothing, and is not looked through while it is locked.

use process::Server;

/// What PostgreSQL says at DEBUG1 where it needs not look at the rows.
const NOT_LOOKED_THROUGH: &str = "updated partition constraint for default partition \"rest\" is implied by existing constraints";

/// A server with the worker off whose log lacks next month and has a DEFAULT partition with that many events of long
/// ago, of a few hundred bytes each.
fn with_default(events: i32) -> (Server, String) {
    let server = Server::with_worker_off();
    let missing = server.drop_month("postgres", 1);
    server.make_run("postgres");
    server.run(
        "postgres",
        &format!(
            "CREATE TABLE rest PARTITION OF workflow_events DEFAULT; \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT id, timestamptz '2001-01-01' + n * interval '1 s', 't', jsonb_build_object('p', repeat('x', 300)) \
             FROM workflow_runs, generate_series(1, {events}) n"
        ),
    );
    (server, missing)
}

fn has_proof(server: &Server) -> bool {
    server
        .ask("SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = 'pg_meshhook_events_proof')")
}

#[test]
fn a_large_one_proves_that_it_holds_nothing_of_the_new_month() {
    let (mut server, missing) = with_default(30_000);
    server.turn_on();
    server.wait_for_partition("postgres", &missing);
    server.wait_until_idle();
    assert_eq!(server.log().matches(NOT_LOOKED_THROUGH).count(), 1, "{}", server.log());
    assert!(!has_proof(&server));
    assert_eq!(server.ask::<i64>("SELECT count(*) FROM rest"), 30_000);
    // It takes events as before.
    server.run(
        "postgres",
        "INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT id, now() + interval '20 years', 't', '{}' FROM workflow_runs",
    );
}

#[test]
fn a_small_one_is_looked_through() {
    let (mut server, missing) = with_default(10);
    server.turn_on();
    server.wait_for_partition("postgres", &missing);
    server.wait_until_idle();
    assert!(!server.log().contains(NOT_LOOKED_THROUGH), "{}", server.log());
}

#[test]
fn one_with_events_of_the_new_month_keeps_them_and_is_named() {
    for events in [10, 30_000] {
        let (mut server, missing) = with_default(events);
        server.run(
            "postgres",
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT id, date_trunc('month', now()) + interval '40 days', 't', '{}' FROM workflow_runs",
        );
        let farther = server.drop_month("postgres", 3);
        server.turn_on();
        // What it doesn't hold is made all the same.
        server.wait_for_partition("postgres", &farther);
        server.wait_until_idle();
        let attempt = server.attempts_at("postgres", "create").remove(0);
        assert_eq!(attempt.status, "failed", "{attempt:?}");
        assert!(
            attempt.details.contains(&missing) && attempt.details.contains("rest"),
            "{attempt:?}"
        );
        assert!(!server.partitions("postgres").contains(&missing));
        assert!(!has_proof(&server));
        assert_eq!(server.ask::<i64>("SELECT count(*) FROM rest"), i64::from(events) + 1);
    }
}

#[test]
fn a_proof_that_a_crash_left_behind_is_taken_away() {
    let (mut server, missing) = with_default(10);
    server.run(
        "postgres",
        "SELECT maintain_workflow_events_partitions(); \
         ALTER TABLE rest ADD CONSTRAINT pg_meshhook_events_proof CHECK (ts < '2030-01-01') NOT VALID",
    );
    assert!(server.partitions("postgres").contains(&missing));
    server.turn_on();
    server.wait_until("it is taken away", |server| !has_proof(server));
    server.wait_until_idle();
    assert_eq!(server.attempts_at("postgres", "create")[0].status, "ok");
}

#[test]
fn a_large_one_of_another_role_does_not_stop_creation() {
    let (mut server, missing) = with_default(30_000);
    server.run("postgres", "CREATE ROLE meshhook; GRANT CREATE ON SCHEMA public TO meshhook; \
                            ALTER TABLE workflow_runs OWNER TO meshhook; ALTER TABLE workflow_events OWNER TO meshhook");
    server.turn_on();
    server.wait_for_partition("postgres", &missing);
}

//! Retirement by the worker takes what the policy lets go and nothing else, whatever others do to a partition meanwhile.

use std::thread;

use postgres::{Client, NoTls};
use process::Server;

/// A server with the worker off, a retention of a year, and an old partition with an event, whose name is given.
fn with_old_partition(lock_timeout: &str) -> (Server, String) {
    let server = Server::preloaded()
        .conf("pg_meshhook_events.enabled", "off")
        .conf("pg_meshhook_events.lock_timeout", lock_timeout)
        .conf("deadlock_timeout", "20s")
        .start();
    server.set_up("postgres");
    let run = server.make_run("postgres");
    server.run(
        "postgres",
        &format!(
            "UPDATE meshhook_events.policy SET retention = '12 months'; \
             SELECT create_workflow_events_partition(date_trunc('month', now()) - interval '20 months'); \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
             VALUES ('{run}', date_trunc('month', now()) - interval '20 months', 't', '{{}}')"
        ),
    );
    let old = server.month(-20);
    (server, old)
}

fn exists(server: &Server, table: &str) -> bool {
    server.ask(&format!("SELECT to_regclass('{table}') IS NOT NULL"))
}

fn is_attached(server: &Server, table: &str) -> bool {
    server.ask(&format!("SELECT relispartition FROM pg_class WHERE relname = '{table}'"))
}

/// A session with an open transaction that has done this.
fn open(server: &Server, sql: &str) -> Client {
    let mut session = server.connect("postgres");
    session.batch_execute(&format!("BEGIN; {sql}")).unwrap();
    session
}

#[test]
fn a_partition_that_somebody_detaches_while_the_worker_waits_is_kept() {
    let (mut server, old) = with_old_partition("10s");
    let mut user = open(&server, "LOCK TABLE workflow_events IN SHARE UPDATE EXCLUSIVE MODE");
    server.turn_on();
    server.wait_for_waiting_worker("postgres");
    user.batch_execute(&format!("ALTER TABLE workflow_events DETACH PARTITION {old}; COMMIT"))
        .unwrap();
    server.wait_for("the attempt has ended", |server| {
        let attempts = server.attempts_at("postgres", "retire");
        attempts.into_iter().find(|attempt| attempt.status == "warning")
    });
    server.wait_until_idle();
    server.look("postgres");
    assert_eq!(server.ask::<i64>(&format!("SELECT count(*) FROM {old}")), 1);
    let notes = "SELECT count(*) FROM meshhook_events.retired_partition";
    assert_eq!(server.ask::<i64>(notes), 0, "nothing was begun, so nothing is noted");
}

#[test]
fn a_detached_table_is_kept_where_the_policy_has_changed_or_somebody_wants_it() {
    for (change, kept_for_good) in [
        ("UPDATE meshhook_events.policy SET retention = NULL", false),
        ("UPDATE meshhook_events.policy SET automatic_retention = false", false),
        ("DELETE FROM meshhook_events.retired_partition", true),
    ] {
        let (mut server, old) = with_old_partition("100ms");
        // A reader of the runs is in the way of the drop alone.
        let mut reader = open(&server, "SELECT count(*) FROM workflow_runs");
        server.turn_on();
        server.wait_until("it is detached", |server| !is_attached(server, &old));
        // From then on the worker only looks, so that no try is under way when the policy changes.
        server.wait_until("the reader counts as a longer transaction", |server| {
            server.ask(
                "SELECT bool_and(xact_start < now() - interval '1.5 s') FROM pg_stat_activity \
                 WHERE state = 'idle in transaction'",
            )
        });
        server.run("postgres", change);
        reader.batch_execute("COMMIT").unwrap();
        for _ in 0..3 {
            server.look("postgres");
        }
        assert!(exists(&server, &old), "{change}\n{}", server.log());
        server.run(
            "postgres",
            "UPDATE meshhook_events.policy SET retention = '12 months', automatic_retention = true",
        );
        if kept_for_good {
            server.look("postgres");
            assert!(exists(&server, &old), "{change}");
        } else {
            server.look("postgres");
            server.wait_until("it is dropped", |server| !exists(server, &old));
        }
    }
}

#[test]
fn what_could_not_be_dropped_is_not_detached() {
    for (hold, release) in [
        ("CREATE VIEW report AS SELECT id FROM {old}", "DROP VIEW report"),
        (
            "CREATE TABLE notes (id bigint, ts timestamptz, FOREIGN KEY (id, ts) REFERENCES {old} (id, ts))",
            "DROP TABLE notes",
        ),
    ] {
        let (mut server, old) = with_old_partition("100ms");
        server.run("postgres", &hold.replace("{old}", &old));
        server.turn_on();
        let attempt = server.wait_for("the attempt has ended", |server| {
            let attempts = server.attempts_at("postgres", "retire");
            attempts.into_iter().find(|attempt| attempt.status == "warning")
        });
        assert!(attempt.details.contains("depends on it"), "{attempt:?}");
        assert!(is_attached(&server, &old), "{hold}");
        assert_eq!(server.ask::<i64>("SELECT count(*) FROM workflow_events"), 1);
        server.run("postgres", release);
        server.look("postgres");
        server.wait_until("it is dropped", |server| !exists(server, &old));
    }
}

#[test]
fn a_detach_that_somebody_is_running_is_left_to_him() {
    let (mut server, old) = with_old_partition("100ms");
    server.run("postgres", "UPDATE meshhook_events.policy SET retention = NULL");
    let mut reader = open(&server, "SELECT count(*) FROM workflow_events");
    let conninfo = server.conninfo("postgres", "postgres");
    let detach = format!("ALTER TABLE workflow_events DETACH PARTITION {old} CONCURRENTLY");
    let user =
        thread::spawn(move || Client::connect(&conninfo, NoTls).unwrap().batch_execute(&detach));
    server.wait_until("the user's detach is pending", |server| {
        server.ask("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)")
    });
    server.turn_on();
    for _ in 0..3 {
        server.look("postgres");
    }
    assert!(is_attached(&server, &old), "{}", server.log());
    reader.batch_execute("COMMIT").unwrap();
    user.join().unwrap().expect("nobody has completed it for him");
    assert_eq!(server.ask::<i64>(&format!("SELECT count(*) FROM {old}")), 1);
}

#[test]
fn what_belongs_to_a_partition_goes_with_it() {
    let (mut server, _) = with_old_partition("100ms");
    server.run(
        "postgres",
        "ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY, \
             ADD CHECK (type <> ''), ADD COLUMN kind text GENERATED ALWAYS AS (type || '!') STORED; \
         CREATE POLICY own ON workflow_events USING (run_id IS NOT NULL) WITH CHECK (type <> 'x'); \
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
         CREATE TRIGGER watch BEFORE INSERT ON workflow_events FOR EACH ROW WHEN (NEW.type = 't') \
             EXECUTE FUNCTION nothing(); \
         CREATE INDEX ON workflow_events ((lower(type))) WHERE run_id IS NOT NULL; \
         SELECT create_workflow_events_partition(date_trunc('month', now()) - interval '19 months')",
    );
    let old = server.month(-19);
    let policies = format!("SELECT count(*) FROM pg_policy WHERE polrelid = '{old}'::regclass");
    assert_eq!(server.ask::<i64>(&policies), 1);
    server.turn_on();
    server.wait_until("it is dropped", |server| !exists(server, &old));
}

#[test]
fn what_is_still_to_be_detached_is_kept_where_the_policy_has_changed_meanwhile() {
    let (mut server, first) = with_old_partition("10s");
    server.run(
        "postgres",
        "SELECT create_workflow_events_partition(date_trunc('month', now()) - n * interval '1 month') \
         FROM generate_series(18, 19) n",
    );
    let mut holder = open(&server, "LOCK TABLE workflow_events IN SHARE UPDATE EXCLUSIVE MODE");
    server.turn_on();
    server.wait_for_waiting_worker("postgres");
    server.run("postgres", "UPDATE meshhook_events.policy SET retention = NULL");
    holder.batch_execute("COMMIT").unwrap();
    server.wait_until("the first, for which it waited, is detached", |server| {
        !exists(server, &first) || !is_attached(server, &first)
    });
    server.wait_until_idle();
    for ahead in [-19, -18] {
        let name = server.month(ahead);
        assert!(exists(&server, &name) && is_attached(&server, &name), "{name}\n{}", server.log());
    }
}

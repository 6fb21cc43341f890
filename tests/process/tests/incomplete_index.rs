//! An index that lacks rows, because CREATE INDEX CONCURRENTLY was cancelled before it validated it, is used by no native
//! read.

use postgres::Client;
use process::Server;

const RUN: &str = "00000000-0000-0000-0000-000000000001";

/// Events of the run, from one number to another, each at another instant of this month.
fn insert(from: i64, to: i64) -> String {
    format!(
        "INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT '{RUN}', date_trunc('month', now(), 'UTC') + n * interval '1 second', 't', \
                jsonb_build_object('long', repeat('x', 300)) FROM generate_series({from}, {to}) n"
    )
}

/// A log whose partition of this month has one index, which lacks 1000 of 3000 events. All of them are on pages that are
/// visible to all. The other partitions, which have none, have a complete index.
fn with_incomplete_index() -> Server {
    let server = Server::with_nothing_going_on();
    // What the index is built over waits for the lock 1.
    server.run(
        "postgres",
        &format!(
            "ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_run_id_fkey; \
             ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_pkey; \
             DROP INDEX workflow_events_run_id_idx, workflow_events_run_ts_idx, workflow_events_type_idx; \
             DO $$ DECLARE t regclass; BEGIN \
                 FOR t IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'workflow_events'::regclass \
                          AND inhrelid <> '{}'::regclass LOOP \
                     EXECUTE format('CREATE INDEX ON %s (run_id, ts)', t); \
                 END LOOP; END $$; \
             CREATE FUNCTION slow(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS \
                 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN $1; END'; \
             {}",
            server.month(0),
            insert(1, 2000)
        ),
    );
    let create =
        format!("CREATE INDEX CONCURRENTLY lacking ON {} (run_id, ts, slow(id))", server.month(0));
    let phase = |server: &Server, phase: &str| {
        let sql = format!("SELECT pid FROM pg_stat_progress_create_index WHERE phase = '{phase}'");
        server.wait_for(phase, |server| server.all::<i32>("postgres", &sql).pop())
    };
    let mut gate = server.connect("postgres");
    gate.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let mut writer = server.connect("postgres");
    let mut builder = server.connect("postgres");
    std::thread::scope(|scope| {
        let building = scope.spawn(move || builder.batch_execute(&create));
        server.wait_until("the index is being built", |server| {
            server.ask(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)",
            )
        });
        // Neither the build sees these events, nor does their writer know the index.
        writer.batch_execute(&format!("BEGIN; {}", insert(2001, 3000))).unwrap();
        drop(gate);
        let pid = phase(&server, "waiting for writers before validation");
        assert!(server.ask::<bool>(&format!("SELECT pg_cancel_backend({pid})")));
        let error = building.join().unwrap().unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
        writer.batch_execute("COMMIT").unwrap();
    });
    server.run("postgres", "VACUUM workflow_events");
    let flags =
        "SELECT indisready AND NOT indisvalid FROM pg_index WHERE indexrelid = 'lacking'::regclass";
    assert!(server.ask::<bool>(flags));
    server
}

/// How many events a replay gives, one of a single partition, and a count.
fn read(client: &mut Client) -> [i64; 3] {
    let mut one = |sql: &str| client.query_one(sql, &[]).unwrap().get(0);
    let month = "date_trunc('month', now(), 'UTC')";
    [
        one(&format!("SELECT count(*) FROM get_workflow_run_events('{RUN}')")),
        one(&format!(
            "SELECT count(*) FROM get_workflow_run_events('{RUN}', {month}, {month} + interval '20 days')"
        )),
        one("SELECT sum(row_count)::bigint FROM get_workflow_events_partition_stats()"),
    ]
}

#[test]
fn an_index_that_was_never_validated_is_not_used() {
    let server = with_incomplete_index();
    let mut client = server.connect("postgres");
    assert_eq!(read(&mut client), [3000; 3]);
    // It is this mark alone that keeps them from it.
    let mark = |is_valid| {
        let is_lacking = "indexrelid = 'lacking'::regclass";
        server.run(
            "postgres",
            &format!("UPDATE pg_index SET indisvalid = {is_valid} WHERE {is_lacking}"),
        );
    };
    mark(true);
    assert_eq!(read(&mut client), [2000; 3]);
    mark(false);
    assert_eq!(read(&mut client), [3000; 3]);
}

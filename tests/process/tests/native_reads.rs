//! A replay reads natively what the plain query would give the same caller, under the same rules, and locks no more than
//! it reads.

use std::sync::atomic::{AtomicBool, Ordering};

use postgres::Client;
use process::{Mode, Server};

/// The query that a replay stands for, of the run `$1`.
const PLAIN: &str = "SELECT coalesce(array_agg(e::text), '{}') FROM (SELECT id, run_id, ts, type, payload, created_at \
                     FROM workflow_events WHERE run_id = $1::text::uuid ORDER BY ts, id) e";
const REPLAY: &str =
    "SELECT coalesce(array_agg(e::text), '{}') FROM get_workflow_run_events($1::text::uuid) e";

fn events(client: &mut Client, sql: &str, run: &str) -> Result<Vec<String>, String> {
    match client.query_one(sql, &[&run]) {
        Ok(row) => Ok(row.get(0)),
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
            Err(format!("{} {}", error.code().code(), error.message()))
        }
    }
}

/// Both in one statement, and so with one snapshot.
fn both(run: &str) -> String {
    format!(
        "SELECT (SELECT coalesce(array_agg(e::text), '{{}}') FROM get_workflow_run_events('{run}') e), \
                (SELECT coalesce(array_agg(e::text), '{{}}') FROM (SELECT id, run_id, ts, type, payload, created_at \
                 FROM workflow_events WHERE run_id = '{run}' ORDER BY ts, id) e)"
    )
}

/// Ends writers, also where a comparison fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the statements in turn until it is over. Some of them fail beside others, with a deadlock or because a partition
/// is locked.
fn write_until(is_over: &AtomicBool, server: &Server, statements: &[String]) {
    let mut client = server.connect("postgres");
    for statement in statements.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let _ = client.batch_execute(statement);
        let _ = client.batch_execute("ROLLBACK");
    }
}

/// All that may happen to the events of a run and others.
fn writes(run: &str) -> Vec<String> {
    let insert = format!(
        "INSERT INTO workflow_events (run_id, ts, type, payload) \
         SELECT '{run}', now() - random() * interval '20 months', 'n', '{{}}' FROM generate_series(1, 5)"
    );
    vec![
        insert.clone(),
        format!("BEGIN; {insert}; SAVEPOINT s; {insert}; ROLLBACK TO s; {insert}; COMMIT"),
        format!("BEGIN; {insert}; ROLLBACK"),
        "UPDATE workflow_events SET payload = '{\"hot\": 1}' WHERE id % 7 = (random() * 7)::int".to_owned(),
        "UPDATE workflow_events SET ts = ts + interval '1 second' WHERE id % 11 = (random() * 11)::int".to_owned(),
        "DELETE FROM workflow_events WHERE id % 5 = (random() * 5)::int".to_owned(),
        "VACUUM workflow_events".to_owned(),
    ]
}

/// A log of two years of partitions beside those that setup makes, and a run with events in three of them.
fn with_two_years() -> (Server, String) {
    let server = Server::with_worker_off();
    server.run(
        "postgres",
        "SELECT create_workflow_events_partition((now() - n * interval '1 month')::timestamptz) \
         FROM generate_series(1, 24) n",
    );
    let run = server.make_run("postgres");
    server.run(
        "postgres",
        &format!(
            "INSERT INTO workflow_events (run_id, ts, type, payload) \
             SELECT '{run}', date_trunc('month', now(), 'UTC') - n * interval '1 month' + interval '10 days', 't' || n, \
                    '{{}}' FROM unnest('{{2, 3, 7}}'::int[]) n, generate_series(1, 5)"
        ),
    );
    (server, run)
}

/// The relations that this session has locked, apart from catalogs.
fn locked(client: &mut Client) -> Vec<String> {
    let sql = "SELECT relation::regclass::text FROM pg_locks \
               WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation >= 16384 ORDER BY 1";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// What is done with each partition: how many are accessed in each way.
fn accesses(client: &mut Client, arguments: &str) -> Vec<(String, i64)> {
    let sql = format!(
        "SELECT access, count(*) FROM explain_workflow_run_events({arguments}) GROUP BY 1 ORDER BY 1"
    );
    client.query(&sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn only_what_has_events_is_locked() {
    let (server, run) = with_two_years();
    let mut client = server.connect("postgres");
    // Twice, so that nothing depends on what the session remembers.
    for _ in 0..2 {
        let mut transaction = client.transaction().unwrap();
        let found: i64 = transaction
            .query_one(&format!("SELECT count(*) FROM get_workflow_run_events('{run}')"), &[])
            .unwrap()
            .get(0);
        assert_eq!(found, 15);
        let sql = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' \
                   AND relation >= 16384";
        let locks: i64 = transaction.query_one(sql, &[]).unwrap().get(0);
        // The event log, three partitions, and an index of each.
        assert_eq!(locks, 7);
        transaction.rollback().unwrap();
    }
    client.batch_execute("BEGIN").unwrap();
    client
        .execute(&format!("SELECT FROM get_workflow_run_events('{run}', now(), now())"), &[])
        .unwrap();
    // The only partition that may hold any is read at once.
    let index = format!("{}_run_ts_idx", server.month(0));
    assert_eq!(locked(&mut client), ["workflow_events", &server.month(0), &index]);
    client.batch_execute("ROLLBACK").unwrap();

    let count = server.partitions("postgres").len() as i64;
    let name = |access: &str, n| (access.to_owned(), n);
    let all = accesses(&mut client, &format!("'{run}'"));
    assert_eq!(all, [name("native", 3), name("no hit", count - 3)]);
    let now = accesses(&mut client, &format!("'{run}', now(), now()"));
    assert_eq!(now, [name("native", 1), name("skipped", count - 1)]);
}

#[test]
fn each_role_gets_what_the_plain_query_gives_it() {
    let (server, run) = with_two_years();
    server.run(
        "postgres",
        &format!(
            "INSERT INTO workflow_runs (project_id, workflow_id) SELECT project_id, id FROM workflow_definitions; \
             INSERT INTO workflow_events (run_id, ts, type, payload) \
                 SELECT id, now(), 'other', '{{}}' FROM workflow_runs WHERE id <> '{run}'; \
             CREATE SCHEMA closed; \
             CREATE ROLE nobody LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE heir LOGIN IN ROLE reader; \
             CREATE ROLE stranger LOGIN IN ROLE reader NOINHERIT; CREATE ROLE some_columns LOGIN; \
             CREATE ROLE all_columns LOGIN; CREATE ROLE every_reader LOGIN IN ROLE pg_read_all_data; \
             CREATE ROLE of_partitions LOGIN; CREATE ROLE writer LOGIN; CREATE ROLE passer LOGIN BYPASSRLS; \
             CREATE ROLE root LOGIN SUPERUSER; CREATE ROLE keeper LOGIN; \
             GRANT SELECT ON workflow_events TO reader, passer; \
             GRANT SELECT (id, run_id, ts) ON workflow_events TO some_columns; \
             GRANT SELECT (id, run_id, ts, type, payload, created_at) ON workflow_events TO all_columns; \
             GRANT INSERT, UPDATE, DELETE ON workflow_events TO writer"
        ),
    );
    for partition in server.partitions("postgres") {
        server.run("postgres", &format!("GRANT SELECT ON {partition} TO of_partitions"));
    }
    let roles = [
        "nobody",
        "reader",
        "heir",
        "stranger",
        "some_columns",
        "all_columns",
        "every_reader",
        "of_partitions",
        "writer",
        "passer",
        "root",
        "keeper",
    ];
    let protections = [
        "",
        "ALTER TABLE workflow_events ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY most ON workflow_events FOR SELECT USING (type <> 't3')",
        "CREATE POLICY heirs ON workflow_events AS RESTRICTIVE FOR SELECT TO heir USING (false)",
        "ALTER TABLE workflow_events OWNER TO keeper",
        "ALTER TABLE workflow_events FORCE ROW LEVEL SECURITY",
        "ALTER TABLE workflow_events DISABLE ROW LEVEL SECURITY",
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO reader, passer, keeper",
    ];
    let mut kinds = std::collections::BTreeSet::new();
    let mut clients: Vec<Client> =
        roles.iter().map(|role| server.connect_as("postgres", role)).collect();
    for protection in protections {
        server.run("postgres", protection);
        for (role, client) in roles.iter().zip(&mut clients) {
            for row_security in ["on", "off"] {
                client.batch_execute(&format!("SET row_security = {row_security}")).unwrap();
                let plain = events(client, PLAIN, &run);
                let replay = events(client, REPLAY, &run);
                // Without the schema the function isn't found, nor the table.
                let is_hidden = matches!(&replay, Err(error) if error.starts_with("42883"));
                if is_hidden {
                    assert!(
                        plain.as_ref().is_err_and(|error| error.starts_with("42P01")),
                        "{role}: {plain:?}"
                    );
                } else {
                    assert_eq!(
                        replay, plain,
                        "{role}, row_security {row_security}, after: {protection}"
                    );
                }
                kinds.insert(
                    plain.map_or_else(|error| error[..5].to_owned(), |rows| rows.len().to_string()),
                );
            }
        }
    }
    // All rows, some rows, none, forbidden, out of sight.
    let seen: Vec<&str> = kinds.iter().map(String::as_str).collect();
    assert_eq!(seen, ["0", "10", "15", "42501", "42P01"]);
}

#[test]
fn it_sees_what_a_stable_function_sees() {
    let (server, run) = with_two_years();
    let mut client = server.connect("postgres");
    let same = |client: &mut Client, what: &str, count: usize| {
        let plain = events(client, PLAIN, &run).unwrap();
        assert_eq!(events(client, REPLAY, &run).unwrap(), plain, "{what}");
        assert_eq!(plain.len(), count, "{what}");
    };
    let insert = format!(
        "INSERT INTO workflow_events (run_id, ts, type, payload) VALUES ('{run}', now(), 'own', '{{}}')"
    );
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&insert).unwrap();
    same(&mut client, "own row", 16);
    client.batch_execute(&format!("SAVEPOINT s; {insert}; {insert}")).unwrap();
    same(&mut client, "rows of a subtransaction", 18);
    client.batch_execute("ROLLBACK TO s").unwrap();
    same(&mut client, "after its rollback", 16);
    client.batch_execute("DELETE FROM workflow_events WHERE type = 't2'").unwrap();
    same(&mut client, "rows deleted", 11);
    // A cursor keeps the snapshot with which it was opened.
    client
        .batch_execute(&format!(
            "DECLARE ours SCROLL CURSOR FOR SELECT id FROM get_workflow_run_events('{run}'); \
             DECLARE theirs SCROLL CURSOR FOR SELECT id FROM workflow_events WHERE run_id = '{run}' ORDER BY ts, id; \
             {insert}; UPDATE workflow_events SET type = 'changed' WHERE type = 'own'"
        ))
        .unwrap();
    let fetched = |client: &mut Client, cursor: &str| -> Vec<i64> {
        let rows = client.query(&format!("FETCH ALL FROM {cursor}"), &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let ours = fetched(&mut client, "ours");
    assert_eq!(ours, fetched(&mut client, "theirs"));
    assert_eq!(ours.len(), 11);
    same(&mut client, "after the cursor", 12);
    client.batch_execute("ROLLBACK").unwrap();

    // Inside a statement that changes what is read, a stable function sees what was there before.
    client
        .batch_execute(&format!(
            "CREATE FUNCTION seen() RETURNS bigint LANGUAGE sql STABLE AS \
                 $$ SELECT count(*) FROM get_workflow_run_events('{run}') WHERE type LIKE 't%' $$"
        ))
        .unwrap();
    let sql = "UPDATE workflow_events SET type = 'x' || seen() WHERE type LIKE 't%' RETURNING type";
    let rows = client.query(sql, &[]).unwrap();
    assert!(rows.len() == 15 && rows.iter().all(|row| row.get::<_, String>(0) == "x15"));
    same(&mut client, "all changed", 15);
    // In SERIALIZABLE the query is run.
    client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").unwrap();
    same(&mut client, "serializable", 15);
    let all = accesses(&mut client, &format!("'{run}'"));
    assert_eq!(all, [("query".to_owned(), server.partitions("postgres").len() as i64)]);
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn what_a_session_remembers_is_forgotten_when_it_changes() {
    let (server, run) = with_two_years();
    let mut reader = server.connect("postgres");
    let mut owner = server.connect("postgres");
    let partition = server.month(-2);
    let renamed =
        format!("ALTER TABLE {partition} RENAME TO other; ALTER TABLE other RENAME TO {partition}");
    let changes = [
        "REINDEX TABLE CONCURRENTLY workflow_events",
        "DROP INDEX workflow_events_run_ts_idx",
        "CREATE INDEX workflow_events_run_ts_idx ON workflow_events (run_id, ts)",
        &renamed,
        "ALTER TABLE workflow_events RENAME run_id TO run",
        "ALTER TABLE workflow_events RENAME ts TO at",
        "ALTER TABLE workflow_events RENAME at TO ts",
        "ALTER TABLE workflow_events RENAME run TO run_id",
        "ALTER TABLE workflow_events ADD COLUMN note text DEFAULT 'n'",
        &format!("TRUNCATE {partition}"),
        &format!("VACUUM FULL {partition}"),
        &format!("ALTER TABLE workflow_events DETACH PARTITION {partition}"),
        "ALTER TABLE workflow_events RENAME TO gone",
        "ALTER TABLE gone RENAME TO workflow_events",
        "DROP TABLE workflow_events CASCADE",
    ];
    for change in changes {
        let _ = events(&mut reader, REPLAY, &run);
        owner.batch_execute(change).unwrap_or_else(|error| panic!("{change}: {error:?}"));
        let plain = events(&mut reader, PLAIN, &run);
        let replay = events(&mut reader, REPLAY, &run);
        match (&plain, &replay) {
            (Err(_), Err(error)) => {
                assert!(
                    error.starts_with("42P01") || error.starts_with("42703"),
                    "{change}: {error}"
                );
            }
            _ => assert_eq!(replay, plain, "{change}"),
        }
    }
}

#[test]
fn replays_beside_writers_equal_the_plain_query() {
    /// How many comparisons are made in each isolation level.
    const CHECKS: usize = 1_500;

    let (server, run) = with_two_years();
    let is_over = AtomicBool::new(false);
    let writes = writes(&run);
    let far = "FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')";
    let changes = [
        format!("REINDEX TABLE {}", server.month(-7)),
        format!("SET lock_timeout = '100ms'; TRUNCATE {}", server.month(-9)),
        format!(
            "SET lock_timeout = '100ms'; CREATE TABLE far (LIKE workflow_events INCLUDING ALL); \
                 ALTER TABLE workflow_events ATTACH PARTITION far {far}"
        ),
        "SET lock_timeout = '100ms'; ALTER TABLE workflow_events DETACH PARTITION far".to_owned(),
        "SET lock_timeout = '100ms'; DROP TABLE far".to_owned(),
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| write_until(&is_over, &server, &writes));
        scope.spawn(|| write_until(&is_over, &server, &changes));
        let _end = End(&is_over);
        let mut client = server.connect("postgres");
        // One statement, and so one snapshot, in READ COMMITTED; one of the transaction in REPEATABLE READ.
        let both = both(&run);
        let mut rows = 0;
        for level in ["READ COMMITTED", "REPEATABLE READ"] {
            for check in 0..CHECKS {
                client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
                let row = client.query_one(&both, &[]).unwrap();
                let (ours, theirs): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
                assert_eq!(ours, theirs, "check {check}, {level}");
                rows += ours.len();
                client.batch_execute("COMMIT").unwrap();
            }
        }
        assert!(rows > CHECKS, "{rows} rows were compared");
    });
}

#[test]
fn a_partition_that_is_being_detached_is_read_by_those_who_see_it() {
    let (server, run) = with_two_years();
    let partition = server.month(-3);
    let mut older = server.connect("postgres");
    older.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(events(&mut older, PLAIN, &run).unwrap().len(), 15);
    let detach = format!("ALTER TABLE workflow_events DETACH PARTITION {partition} CONCURRENTLY");
    std::thread::scope(|scope| {
        let detaching = scope.spawn(|| server.connect("postgres").batch_execute(&detach));
        server.wait_until("the detach is pending", |server| {
            server.ask::<bool>("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)")
        });
        let mut newer = server.connect("postgres");
        for (client, count) in [(&mut older, 15), (&mut newer, 10)] {
            let plain = events(client, PLAIN, &run).unwrap();
            assert_eq!(plain.len(), count);
            assert_eq!(events(client, REPLAY, &run).unwrap(), plain);
        }
        older.batch_execute("COMMIT").unwrap();
        detaching.join().unwrap().unwrap();
        for client in [&mut older, &mut newer] {
            assert_eq!(events(client, REPLAY, &run).unwrap().len(), 10);
        }
    });
}

#[test]
fn after_a_crash_it_reads_what_was_committed() {
    let (mut server, run) = with_two_years();
    let mut writer = server.connect("postgres");
    for write in writes(&run) {
        writer.batch_execute(&write).unwrap();
    }
    writer.batch_execute("BEGIN; DELETE FROM workflow_events").unwrap();
    server.stop(Mode::Immediate);
    server.start();
    let mut client = server.connect("postgres");
    let plain = events(&mut client, PLAIN, &run).unwrap();
    assert!(plain.len() > 15);
    assert_eq!(events(&mut client, REPLAY, &run).unwrap(), plain);
}

#[test]
fn on_a_standby_that_replays_it_equals_the_plain_query() {
    /// How many comparisons are made.
    const CHECKS: usize = 500;

    let (primary, run) = with_two_years();
    let standby = primary.standby();
    standby.catch_up_with(&primary);
    let is_over = AtomicBool::new(false);
    let writes = writes(&run);
    let both = both(&run);
    std::thread::scope(|scope| {
        scope.spawn(|| write_until(&is_over, &primary, &writes));
        let _end = End(&is_over);
        let mut client = standby.connect("postgres");
        let mut natively = 0;
        for _ in 0..CHECKS {
            match client.query_one(&both, &[]) {
                Ok(row) => assert_eq!(row.get::<_, Vec<String>>(0), row.get::<_, Vec<String>>(1)),
                // What it reads was cleaned up on the primary.
                Err(error) => {
                    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
                    assert!(matches!(error.code().code(), "40001" | "40P01"), "{error:?}");
                }
            }
            natively += usize::from(!accesses(&mut client, &format!("'{run}'")).is_empty());
        }
        assert_eq!(natively, CHECKS);
    });
}

#[test]
fn pages_that_are_used_again_are_not_taken_for_what_they_were() {
    let (server, first) = with_two_years();
    let mut reader = server.connect("postgres");
    let mut owner = server.connect("postgres");
    let partition = server.month(0);
    let insert = |runs: &str| {
        format!(
            "WITH run AS (INSERT INTO workflow_runs (id, project_id, workflow_id) SELECT new.id, w.project_id, w.workflow_id
                          FROM (SELECT {runs}) new (id), workflow_runs w WHERE w.id = '{first}' RETURNING id)
             INSERT INTO workflow_events (run_id, ts, type, payload) SELECT id, now(), 't', '{{}}' FROM run"
        )
    };
    let low = |n: u32| format!("0{n:031x}");
    owner
        .batch_execute(&insert(
            "overlay(md5(n::text) placing '0' from 1)::uuid FROM generate_series(1, 20000) n",
        ))
        .unwrap();
    // So often that all is remembered that may be.
    for n in 1..5 {
        events(&mut reader, REPLAY, &low(n)).unwrap();
    }
    // Nearly all pages of the index become empty, then free, and then take runs that come after those.
    let index_pages = format!("SELECT pg_relation_size('{partition}_run_ts_idx') / 8192");
    let before: i64 = server.ask(&index_pages);
    for statement in [
        "DELETE FROM workflow_events WHERE ts >= now() - interval '1 hour'",
        "VACUUM workflow_events",
        "SELECT pg_current_xact_id()",
        "VACUUM workflow_events",
        &insert("overlay(md5(n::text) placing 'f' from 1)::uuid FROM generate_series(1, 20000) n"),
    ] {
        owner.batch_execute(statement).unwrap();
    }
    let after: i64 = server.ask(&index_pages);
    assert!(after < before + before / 2, "{before} pages have become {after}: none was used again");
    owner
        .batch_execute(&insert(
            "overlay(md5('new' || n) placing '0' from 1)::uuid FROM generate_series(1, 300) n",
        ))
        .unwrap();
    let runs: Vec<String> = owner
        .query(
            &format!(
                "SELECT DISTINCT run_id::text FROM workflow_events \
                 WHERE run_id < '10000000-0000-0000-0000-000000000000' AND run_id <> '{first}'"
            ),
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(runs.len(), 300);
    for run in &runs {
        assert_eq!(events(&mut reader, REPLAY, run).unwrap().len(), 1, "run {run}");
    }
}
